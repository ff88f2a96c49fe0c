"""Whatever happens to its connections, a durable MQTT session loses nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsi_mqtt.transport.base import ConnectOptions, DataConnection, Message, Transport
from dsi_mqtt.transport.memory import MemoryTransport
from dsi_mqtt.transport.memory_broker import MemoryBroker
from dsi_mqtt.transport.mqtt import MqttTransport
from tests.thoroughness import examples

if TYPE_CHECKING:
    from dsi_mqtt.transport.mosquitto import MosquittoProcess

PATIENCE_S = 20.0

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 30)),
        st.tuples(st.just("take"), st.integers(1, 30)),
        st.tuples(st.just("acknowledge"), st.integers(0, 50)),
        st.tuples(st.sampled_from(["abort", "close", "connect"]), st.just(0)),
    ),
    max_size=30,
)


@dataclass
class Run:
    """One durable session and what it has been through."""

    transport: Transport
    url: str
    topic: str
    hold_count: int
    sender: DataConnection
    reader: DataConnection | None = None
    published: int = 0
    seen: set[int] = field(default_factory=set)
    acknowledged: set[int] = field(default_factory=set)
    held: list[Message] = field(default_factory=list)

    async def connect(self, _: int = 0) -> None:
        """Takes over where a connection is there already."""
        old = self.reader
        options = ConnectOptions(
            client_id=self.topic,
            clean_start=False,
            session_expiry_s=600,
            hold_count=self.hold_count,
        )
        self.reader = await self.transport.data(self.url, options)
        self.held.clear()
        if old is not None:
            await old.close()

    async def publish(self, number: int) -> None:
        for _ in range(number):
            assert await self.sender.publish(Message(self.topic, b"%d" % self.published, qos=1))
            self.published += 1

    async def take(self, number: int) -> None:
        """Takes what has come; what is acknowledged never comes again."""
        for _ in range(min(number, self.hold_count - len(self.held))):
            if self.reader is None or len(self.acknowledged) + len(self.held) == self.published:
                return
            message = await anext(self.reader.messages())
            value = int(bytes(message.payload))
            assert value not in self.acknowledged
            assert value not in {int(bytes(one.payload)) for one in self.held}
            assert message.duplicate or value not in self.seen
            self.seen.add(value)
            self.held.append(message)

    async def acknowledge(self, which: int) -> None:
        if self.reader is not None and self.held:
            message = self.held.pop(which % len(self.held))
            self.reader.acknowledge(message)
            self.acknowledged.add(int(bytes(message.payload)))
            for _ in range(2):  # round trips, so that the broker has heard of it
                await self.sender.publish(Message("nothing", qos=1))

    async def abort(self, _: int) -> None:
        if self.reader is not None:
            self.reader.abort()
            self.reader = None
            self.held.clear()

    async def close(self, _: int = 0) -> None:
        if self.reader is not None:
            await self.reader.close()
            self.reader = None
            self.held.clear()


async def play(
    transport: Transport, url: str, topic: str, steps: list[tuple[str, int]], hold_count: int
) -> None:
    sender = await transport.data(url, ConnectOptions())
    run = Run(transport, url, topic, hold_count, sender)
    await run.connect()
    assert run.reader is not None
    await run.reader.subscribe(topic, qos=1)
    async with asyncio.timeout(PATIENCE_S):
        for name, argument in steps:
            await getattr(run, name)(argument)
        # At the end a reader that acknowledges gets all there is, and nothing else.
        await run.connect()
        while len(run.acknowledged) < run.published:
            await run.take(1)
            await run.acknowledge(0)
        await run.publish(1)
        await run.take(1)
    assert run.seen == set(range(run.published))
    await run.close()
    await sender.close()


@given(STEPS, st.integers(1, 60))
@settings(max_examples=examples(200))
def test_in_process(steps: list[tuple[str, int]], hold_count: int) -> None:
    broker = MemoryBroker()
    asyncio.run(play(MemoryTransport(broker), "mem://broker", "durable", steps, hold_count))


_examples = iter(range(10**9))


@given(STEPS, st.integers(1, 60))
@settings(
    max_examples=examples(30),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_on_mosquitto(
    shared_mosquitto: MosquittoProcess, steps: list[tuple[str, int]], hold_count: int
) -> None:
    topic = f"durable/{next(_examples)}"
    asyncio.run(play(MqttTransport(), shared_mosquitto.url, topic, steps, hold_count))
