"""One input, one answer, with the project's client.

python examples/01_infer.py
python examples/01_infer.py "Cows on the ring road" --url mqtt://10.0.0.1:1883
"""

from __future__ import annotations

import argparse
import asyncio
import sys

import dsi_mqtt
from dsi_mqtt.errors import DsiError


async def main() -> None:
    parser = argparse.ArgumentParser(description="Asks a running deployment one question.")
    parser.add_argument("input", nargs="?", default="Ice on the bridge")
    parser.add_argument("--url", default="mqtt://127.0.0.1:1883")
    parser.add_argument("--deployment", default="hazards")
    options = parser.parse_args()

    async with dsi_mqtt.Client(options.url) as client:
        print(await client.infer(options.deployment, options.input))


try:
    asyncio.run(main())
except DsiError as error:
    sys.exit(f"{error}")
