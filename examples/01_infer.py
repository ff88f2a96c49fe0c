"""One input, one answer, with the project's client.

python examples/01_infer.py
python examples/01_infer.py "Cows on the ring road" --url mqtt://10.0.0.1:1883
"""

from __future__ import annotations

import argparse
import asyncio
import sys

import dsi_mqtt
from dsi_mqtt.errors import BrokerUnreachableError, DsiError


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Asks a running deployment one question.")
    parser.add_argument("input", nargs="?", default="Ice on the bridge")
    parser.add_argument("--url", default="mqtt://127.0.0.1:1883")
    parser.add_argument("--deployment", default="hazards")
    return parser.parse_args()


async def main(options: argparse.Namespace) -> None:
    async with dsi_mqtt.Client(options.url) as client:
        print(await client.infer(options.deployment, options.input))


options = arguments()
try:
    asyncio.run(main(options))
except BrokerUnreachableError:
    sys.exit(
        f"no MQTT broker answers at {options.url}; start one (dsi-mqtt up examples/hazards.yaml), "
        "or give --url mqtt://HOST:PORT"
    )
except DsiError as error:
    sys.exit(f"{error}")
