"""A device with any MQTT 5 library, here aiomqtt: several questions at once, each until answered.

    python examples/03_plain_aiomqtt.py [--host 127.0.0.1] [--port 1883] [--deployment hazards]

A PUBACK says that the broker has the input, not that anybody will answer. A device that must have
an answer asks again, with the same Correlation Data: the input is then computed once, and the
remembered answer is sent again. (The project's own client does all this; see 01_infer.py.)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import uuid
from dataclasses import dataclass, field

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

REPEAT_S = 3.0
DEADLINE_S = 10.0


@dataclass
class Device:
    """One device of one deployment: its topics, and the questions still open."""

    client: aiomqtt.Client
    deployment: str
    name: str
    open: dict[bytes, asyncio.Future[bytes]] = field(default_factory=dict)

    @property
    def answers(self) -> str:
        """The Response Topic: below the device's own `out/`, or it is refused."""
        return f"dsi/v1/deploy/{self.deployment}/out/{self.name}/answers"

    async def receive(self) -> None:
        """Hands each answer to the question with its Correlation Data."""
        async for message in self.client.messages:
            correlation: bytes = getattr(message.properties, "CorrelationData", b"")
            waiting = self.open.get(correlation)
            if waiting is not None and not waiting.done():  # else: answered already
                waiting.set_result(bytes(message.payload))

    async def ask(self, payload: bytes, content_type: str) -> bytes:
        """The answer to one input. Raises TimeoutError when none came by the deadline."""
        correlation = uuid.uuid4().bytes
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's
        properties.ResponseTopic = self.answers
        properties.CorrelationData = correlation
        properties.ContentType = content_type
        topic = f"dsi/v1/deploy/{self.deployment}/in/{self.name}"
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.open[correlation] = answer
        try:
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    await self.client.publish(topic, payload, qos=1, properties=properties)
                    done, _ = await asyncio.wait([answer], timeout=REPEAT_S)
                    if done:
                        return answer.result()
        finally:
            del self.open[correlation]


QUESTIONS = [
    (json.dumps({"input": "Ice on the bridge"}).encode(), "application/json"),
    (json.dumps({"input": "Cows on the ring road", "id": "my-7"}).encode(), "application/json"),
    (b"The lights at the crossing are dark", "text/plain"),
]


async def ask_all(host: str, port: int, deployment: str) -> list[bytes]:
    version = aiomqtt.ProtocolVersion.V5
    async with aiomqtt.Client(host, port, protocol=version) as client:
        device = Device(client, deployment, f"example-{uuid.uuid4().hex[:8]}")
        await client.subscribe(device.answers, qos=1)  # before any question is asked
        async with asyncio.TaskGroup() as tasks:
            receiving = tasks.create_task(device.receive())
            answers = await asyncio.gather(*(device.ask(*question) for question in QUESTIONS))
            receiving.cancel()
    return answers


def main() -> int:
    parser = argparse.ArgumentParser(description="Asks a running deployment with plain aiomqtt.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--deployment", default="hazards")
    options = parser.parse_args()
    try:
        answers = asyncio.run(ask_all(options.host, options.port, options.deployment))
    except* TimeoutError:
        sys.exit(f"no answer within {DEADLINE_S:.0f} s: is the deployment up?")
    except* aiomqtt.MqttError as group:
        sys.exit(
            f"no MQTT broker answers at {options.host}:{options.port} ({group.exceptions[0]}); "
            "start one (dsi-mqtt up examples/hazards.yaml), or give --host and --port"
        )
    for (payload, _), answer in zip(QUESTIONS, answers, strict=True):
        print(f"{payload.decode()}\n   {answer.decode():.120}")
    return 0 if all(json.loads(answer)["status"] == "ok" for answer in answers) else 1


if __name__ == "__main__":
    sys.exit(main())
