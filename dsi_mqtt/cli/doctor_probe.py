"""Gathers what a broker can do by using it, below a private topic that it leaves empty.

Each probe has connections of its own, so that one which the broker cuts off spoils no other, and
answers with what was seen: a probe that fails is a fact, not an error.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from dsi_mqtt.core.checkup import STALL_MS, BrokerFacts, Echo
from dsi_mqtt.errors import BrokerRefusedError, DsiError
from dsi_mqtt.transport.base import (
    ConnectOptions,
    ControlConnection,
    DataConnection,
    Message,
    Transport,
)
from dsi_mqtt.wire.topics import ROOT

PROBE_TIMEOUT_S: Final = 5.0
# A thousand messages, each of which a control broker may save, on a slow disk.
QUEUE_TIMEOUT_S: Final = 60.0
SYS_TIMEOUT_S: Final = 1.0
MARKER_EVERY_S: Final = 0.1
_SESSION_EXPIRY_S: Final = 60
# Two messages or more at once make Nagle's algorithm wait for the acknowledgement of the first.
# Whether the receiver's kernel delays that depends on what it saw of a connection: hence several,
# and a breath between bursts. Without set_tcp_nodelay 11 to 36 of the 60 stalled, with it none.
_BURSTS: Final = (2, 3, 4, 5) * 5
_ECHO_CONNECTIONS: Final = 3
_BREATH_S: Final = 0.002

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Probe:
    """One broker under test.

    message_bytes: the payload that must come through.
    queue: how many messages the queue of a slow subscriber must hold.
    """

    transport: Transport
    url: str
    message_bytes: int
    queue: int

    async def facts(self, unseen: BrokerFacts) -> BrokerFacts:
        """`unseen` with everything that this broker shows."""
        topic = f"{ROOT}/doctor/{secrets.token_hex(8)}"
        try:
            async with self._control() as connection:
                limits = connection.limits
                version, uptime_s = await _system(connection)
        except DsiError as error:
            return replace(unseen, error=str(error))
        return replace(
            unseen,
            version=version,
            uptime_s=uptime_s,
            max_packet_size=limits.max_packet_size,
            receive_max=limits.receive_max,
            max_qos=limits.max_qos,
            message_bytes=self.message_bytes,
            message_arrived=await _attempt(self._message_arrives(f"{topic}/size"), False),
            retained_kept=await _attempt(self._retained_kept(f"{topic}/kept"), False),
            session_kept=await _attempt(self._session_kept(f"{topic}/away"), False),
            queue_tried=self.queue,
            queue_kept=await _attempt(self._queued(f"{topic}/queue"), 0, QUEUE_TIMEOUT_S),
            echo=await _attempt(self._echo(f"{topic}/echo"), None),
        )

    @asynccontextmanager
    async def _control(
        self, options: ConnectOptions | None = None
    ) -> AsyncIterator[ControlConnection]:
        connection = await self.transport.control(self.url, options or ConnectOptions())
        try:
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def _data(self, options: ConnectOptions | None = None) -> AsyncIterator[DataConnection]:
        connection = await self.transport.data(self.url, options or ConnectOptions())
        try:
            yield connection
        finally:
            await connection.close()

    async def _message_arrives(self, topic: str) -> bool:
        async with self._data() as receiver, self._data() as sender:
            await receiver.subscribe(topic)
            await sender.publish(Message(topic, bytes(self.message_bytes), qos=1))
            received = await anext(receiver.messages())
            return len(received.payload) == self.message_bytes

    async def _retained_kept(self, topic: str) -> bool:
        async with self._control() as writer:
            await writer.publish(Message(topic, b"kept", qos=1, retain=True))
            try:
                async with self._control() as reader:
                    await reader.subscribe(topic.rpartition("/")[0] + "/+", qos=1)
                    return (await anext(reader.messages())).retain
            finally:
                await writer.publish(Message(topic, b"", qos=1, retain=True))

    async def _session_kept(self, topic: str) -> bool:
        durable = ConnectOptions(
            client_id=f"dsi-doctor-{secrets.token_hex(8)}", session_expiry_s=_SESSION_EXPIRY_S
        )
        async with self._control(durable) as door:
            await door.subscribe(topic, qos=1)
        try:
            async with self._control() as device:
                await device.publish(Message(topic, b"while away", qos=1))
            async with self._control(replace(durable, clean_start=False)) as door:
                return door.session_present and bool(await anext(door.messages()))
        finally:
            async with self._control(replace(durable, session_expiry_s=0)):
                pass  # a clean start without expiry: the broker forgets the session

    async def _queued(self, topic: str) -> int:
        """How many of `queue` messages come to a subscriber that read none until all were sent."""
        slow = ConnectOptions(hold_count=1)
        async with self._data(slow) as subscriber, self._data() as publisher:
            await subscriber.subscribe(topic, qos=1)
            async with asyncio.TaskGroup() as sending:
                for _ in range(self.queue):
                    sending.create_task(_send(publisher, topic))
            # What was dropped was dropped at the end. The marker comes after all that was kept;
            # it is sent until it finds room itself.
            marking = asyncio.create_task(_mark(publisher, topic), name="doctor-marker")
            try:
                kept = 0
                async for message in subscriber.messages():
                    subscriber.acknowledge(message)
                    if message.payload == b"end":
                        break
                    kept += 1
                return kept
            finally:
                marking.cancel()
                with suppress(asyncio.CancelledError, DsiError):
                    await marking

    async def _echo(self, topic: str) -> Echo:
        samples = [
            sample for _ in range(_ECHO_CONNECTIONS) for sample in await self._echo_ms(topic)
        ]
        # The median may be a stall itself; the fastest is what the link can do.
        stalled = sum(1 for sample in samples if sample > min(samples) + STALL_MS)
        return Echo(statistics.median(samples), len(samples), stalled)

    async def _echo_ms(self, topic: str) -> list[float]:
        samples = []
        async with self._data() as connection:
            await connection.subscribe(topic)
            received = connection.messages()
            for burst in _BURSTS:
                start = time.perf_counter()
                for _ in range(burst):
                    await connection.publish(Message(topic, bytes(100)))
                for _ in range(burst):
                    await anext(received)
                samples.append(1000 * (time.perf_counter() - start))
                await asyncio.sleep(_BREATH_S)
        return samples


async def _attempt(probe: Awaitable[T], otherwise: T, timeout_s: float = PROBE_TIMEOUT_S) -> T:
    """What the probe saw, or `otherwise` where the broker stopped it."""
    try:
        async with asyncio.timeout(timeout_s):
            return await probe
    except* (DsiError, TimeoutError):
        pass
    return otherwise


async def _send(publisher: DataConnection, topic: str) -> None:
    with suppress(BrokerRefusedError):  # a full queue, from a broker that says so
        await publisher.publish(Message(topic, b"m", qos=1))


async def _mark(publisher: DataConnection, topic: str) -> None:
    while True:
        with suppress(BrokerRefusedError):
            await publisher.publish(Message(topic, b"end", qos=1))
        await asyncio.sleep(MARKER_EVERY_S)


async def _system(connection: ControlConnection) -> tuple[str | None, int | None]:
    """Version and uptime in seconds, from brokers that have `$SYS` and show it."""
    found: dict[str, str] = {}
    with suppress(DsiError, TimeoutError):
        async with asyncio.timeout(SYS_TIMEOUT_S):
            for name in ("version", "uptime"):
                await connection.subscribe(f"$SYS/broker/{name}")
            async for message in connection.messages():
                name = message.topic.rpartition("/")[2]
                found[name] = bytes(message.payload).decode(errors="replace")
                if len(found) == 2:  # noqa: PLR2004 - both
                    break
    uptime = found.get("uptime", "").partition(" ")[0]
    return found.get("version"), int(uptime) if uptime.isdecimal() else None
