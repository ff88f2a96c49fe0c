"""A generation, read as it comes with any MQTT 5 library, here aiomqtt.

    python examples/09_stream_aiomqtt.py ["Once upon a time"] [--host …] [--port …] [--deployment …]

Messages of a stream may come twice or after a later one; a higher take tells the text anew. The
answer comes last and is complete. (The project's own client does all this: `client.generate`.)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import uuid
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

SILENT_S = 60.0


class Telling:
    """Shows each token once and in order."""

    def __init__(self) -> None:
        self.take = -1
        self.shown = 0  # tokens
        self.early: dict[int, dict[str, Any]] = {}

    def told(self, partial: dict[str, Any]) -> None:
        if partial["take"] < self.take:
            return
        if partial["take"] > self.take:
            if self.shown:
                print("\n(another door took over: anew)")
            self.take, self.shown, self.early = partial["take"], 0, {}
        self.early[partial["index"]] = partial
        while (ready := self.early.pop(self.shown, None)) is not None:
            print(ready["text"], end="", flush=True)
            self.shown += len(ready["tokens"])


async def generate(
    host: str, port: int, deployment: str, prompt: str, telling: Telling
) -> dict[str, Any]:
    """The answer. Raises TimeoutError when nothing is said for SILENT_S."""
    device, id_ = f"example-{uuid.uuid4().hex[:8]}", uuid.uuid4().bytes
    root = f"dsi/v1/deploy/{deployment}"
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's
    properties.ResponseTopic = own = f"{root}/out/{device}/stream"
    properties.CorrelationData = id_
    ask = json.dumps({"input": {"prompt": prompt, "stream": True, "max_tokens": 60}})
    async with aiomqtt.Client(host, port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.subscribe(own, qos=1)
        await client.publish(f"{root}/in/{device}", ask, qos=1, properties=properties)
        messages = aiter(client.messages)
        try:
            while True:
                message = await asyncio.wait_for(anext(messages), SILENT_S)
                said: dict[str, Any] = json.loads(message.payload)
                if said["status"] != "partial":
                    print()
                    return said
                telling.told(said)
        except BaseException:  # Ctrl-C too: without this the door would go on
            await client.publish(f"{root}/cancel/{device}", b"{}", qos=1, properties=properties)
            raise


def main() -> int:
    parser = argparse.ArgumentParser(description="Reads a generation with plain aiomqtt.")
    parser.add_argument("prompt", nargs="?", default="Once upon a time")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--deployment", default="chat")
    options = parser.parse_args()
    telling = Telling()
    asked = generate(options.host, options.port, options.deployment, options.prompt, telling)
    try:
        answer = asyncio.run(asked)
    except KeyboardInterrupt:
        return 130
    except TimeoutError:
        sys.exit(f"nothing said for {SILENT_S:.0f} s: is the deployment up?")
    except aiomqtt.MqttError as error:
        sys.exit(
            f"no MQTT broker answers at {options.host}:{options.port} ({error}); start one "
            "(dsi-mqtt up examples/chat.yaml), or give --host and --port"
        )
    if answer["status"] != "ok":
        sys.exit(f"{answer['error']['code']}: {answer['error']['message']}")
    result = answer["result"]
    if telling.shown < len(result["tokens"]):  # something was lost on the way
        print(result["text"])
    print(f"{len(result['tokens'])} tokens, ended by {result['finish_reason']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
