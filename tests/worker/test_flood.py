"""A door that is flooded, on a broker in memory: it reads on, whatever its limits become."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from dsi_mqtt.core import effects as fx
from dsi_mqtt.core import events as ev
from dsi_mqtt.core.deployment import Deployment, InputLimits
from dsi_mqtt.core.node import Capabilities
from dsi_mqtt.core.request import Reply
from dsi_mqtt.core.table import BrokerUrls
from dsi_mqtt.core.worker import Worker
from dsi_mqtt.transport.base import ConnectOptions, Message
from dsi_mqtt.transport.memory import MemoryTransport
from dsi_mqtt.transport.memory_broker import MemoryBroker
from dsi_mqtt.wire.topics import Topics
from dsi_mqtt.worker.doorway import Doorway
from tests.core.build import NAME, A, B, document, make_graph, make_spec, make_table

PATIENCE_S: Final = 60.0
LIMIT: Final = 700
FLOOD: Final = 1100


def limited(queue_max: int) -> Deployment:
    return replace(make_spec(deadline_ms=600_000.0), input=InputLimits(queue_max=queue_max))


class Flooded:
    """A node's machine behind the doorway of its door. Nothing comes back from its chain."""

    def __init__(self, broker: MemoryBroker, queue_max: int) -> None:
        self.topics = Topics()
        self.url = f"mem://{broker.name}"
        self.transport = MemoryTransport(broker)
        self.told: asyncio.Queue[ev.Event] = asyncio.Queue()
        self.doorway = Doorway(NAME, self.transport, self.topics, self.told.put_nowait)
        self.worker = Worker(
            *A,
            zone="zone",
            capabilities=Capabilities(weight_bytes=1000),
            brokers=BrokerUrls(self.url, self.url),
        )
        self.now = 0.0
        self.replies: list[Reply] = []
        self.openings = 0
        table = make_table((B, (0, 6)), door=A)
        assert table.door is not None
        table = replace(table, door=replace(table.door, ingress=self.url))
        self.do(ev.SpecArrived(limited(queue_max)))
        self.do(ev.ModelOpened(NAME, make_graph()))
        self.do(ev.TableArrived(NAME, document(table)))

    def do(self, event: ev.Event) -> None:
        acts: dict[type[Any], Callable[[Any], None]] = {
            fx.OpenIngress: self._open,
            fx.Acknowledge: self.doorway.acknowledge,
            fx.PublishReply: self._publish,
        }
        for effect in self.worker.handle(event, self.now):
            acts.get(type(effect), lambda _: None)(effect)

    def _open(self, effect: fx.OpenIngress) -> None:
        self.openings += 1
        self.doorway.open(effect)

    def _publish(self, effect: fx.PublishReply) -> None:
        self.replies.append(effect.reply)
        self.doorway.publish(effect)

    async def until(self, met: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not met():
                self.do(await self.told.get())
                while not self.told.empty():
                    self.do(self.told.get_nowait())
                self.do(ev.Ticked())

    @property
    def held(self) -> int:
        (load,) = self.worker.door_loads()
        return load.held

    @property
    def is_open(self) -> bool:
        return all(door.ingress_open for door in self.worker.status().doors)


async def test_a_flood_is_refused_by_the_limit_that_a_new_file_gives_and_holds_nobody_up() -> None:
    flooded = Flooded(MemoryBroker(), 1)
    await flooded.until(lambda: flooded.is_open)
    devices = await flooded.transport.data(flooded.url, ConnectOptions())
    answers = await flooded.transport.data(flooded.url, ConnectOptions(hold_count=60_000))
    await answers.subscribe(f"dsi/v1/deploy/{NAME}/out/#", qos=0)

    async def ask(device: str, number: int) -> None:
        topic = flooded.topics.input.name(deployment=NAME, device=device)
        body = b'{"id": "%d", "input": %d}' % (number, number)
        await devices.publish(Message(topic, body, qos=1))

    for number in range(3):
        await ask("flood", number)
    await flooded.until(lambda: flooded.held == 3)
    flooded.do(ev.SpecArrived(limited(LIMIT)))
    flooded.do(ev.Ticked())
    await flooded.until(lambda: flooded.is_open)
    assert flooded.openings == 2
    flooding = asyncio.gather(*(ask("flood", number) for number in range(3, FLOOD)))
    await flooded.until(lambda: len(flooded.replies) >= FLOOD - LIMIT - 4 and flooding.done())
    await ask("cam", FLOOD)
    await flooded.until(lambda: flooded.held == LIMIT + 4)
    refused = [reply.failure and (reply.device, reply.failure.code) for reply in flooded.replies]
    assert refused == [("flood", "overloaded")] * (FLOOD + 1 - LIMIT - 4)
    assert flooded.openings == 2
    flooded.doorway.close()
    await devices.close()
    await answers.close()
