"""Connecting again, on a clock and with waits that are the test's."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.errors import (
    BrokerRefusedError,
    BrokerUnreachableError,
    ConfigError,
    ConnectionLostError,
    DsiError,
    TransportError,
)
from dsi_mqtt.transport.base import ConnectOptions, Message, Will
from dsi_mqtt.transport.lasting import Backoff, keep_connected
from dsi_mqtt.transport.memory import MemoryControlConnection, MemoryTransport
from dsi_mqtt.transport.memory_broker import MemoryBroker
from dsi_mqtt.transport.together import first_of

BACKOFF = Backoff(first_s=1.0, last_s=30.0, settled_s=10.0)

Session = Callable[[MemoryControlConnection], Awaitable[None]]


@dataclass
class Site:
    """A broker, and a clock that runs only while somebody waits."""

    broker: MemoryBroker = field(default_factory=MemoryBroker)
    now: float = 0.0
    told: list[tuple[TransportError, float]] = field(default_factory=list)
    opened: list[MemoryControlConnection] = field(default_factory=list)
    before_connecting: list[Exception] = field(default_factory=list)
    password: str = "right"
    on_sleep: Callable[[], Awaitable[None]] = field(default=lambda: asyncio.sleep(0))

    async def connect(self) -> MemoryControlConnection:
        if self.before_connecting:
            raise self.before_connecting.pop(0)
        options = ConnectOptions(
            client_id="kept", username="u", password=self.password, will=Will("will", b"")
        )
        connection = await MemoryTransport(self.broker).control("mem://broker", options)
        self.opened.append(connection)
        return connection

    async def sleep(self, seconds: float) -> None:
        await self.on_sleep()
        self.now += seconds

    async def keep(self, session: Session) -> None:
        await keep_connected(
            self.connect,
            session,
            backoff=BACKOFF,
            on_wait=lambda error, wait_s: self.told.append((error, wait_s)),
            sleep=self.sleep,
            clock=lambda: self.now,
            rng=random.Random(1),
        )

    @property
    def waits(self) -> list[float]:
        return [wait_s for _, wait_s in self.told]


async def lost(_: MemoryControlConnection) -> None:
    raise ConnectionLostError("gone")


def sessions(*plan: Session) -> Session:
    """Runs the sessions of the plan one after the other, one on each connection."""
    left = list(plan)

    async def session(connection: MemoryControlConnection) -> None:
        await left.pop(0)(connection)

    return session


async def over(_: MemoryControlConnection) -> None:
    return


async def test_a_lost_connection_is_followed_by_a_new_one() -> None:
    site = Site()

    await site.keep(sessions(lost, lost, over))

    assert len(site.opened) == len(set(map(id, site.opened))) == 3
    assert [str(error) for error, _ in site.told] == ["gone", "gone"]


async def test_a_session_notices_its_brokers_end_by_itself() -> None:
    site = Site()

    async def reads(connection: MemoryControlConnection) -> None:
        site.broker.kill()
        site.broker.start()
        async for _ in connection.messages():
            pass

    await site.keep(sessions(reads, over))

    assert isinstance(site.told[0][0], ConnectionLostError)


async def test_waits_double_up_to_the_last_while_nobody_answers() -> None:
    site = Site(before_connecting=[BrokerUnreachableError("nobody") for _ in range(9)])

    await site.keep(over)

    steps = [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]
    assert len(site.waits) == len(steps)
    for wait_s, step in zip(site.waits, steps, strict=True):
        assert step / 2 <= wait_s <= step
    assert len({wait_s / step for wait_s, step in zip(site.waits, steps, strict=True)}) == 9


async def test_a_refusal_waits_at_the_slow_end_and_is_told() -> None:
    site = Site(broker=MemoryBroker(users={"u": "right"}), password="wrong")
    telling: list[TransportError] = []

    async def mend() -> None:
        telling.append(site.told[-1][0])
        site.password = "right"

    site.on_sleep = mend
    await site.keep(over)

    assert isinstance(telling[0], BrokerRefusedError)
    assert len(site.waits) == 1
    assert site.waits[0] >= BACKOFF.last_s / 2


async def test_a_settled_session_starts_the_waits_over() -> None:
    site = Site()

    async def settled(_: MemoryControlConnection) -> None:
        site.now += BACKOFF.settled_s
        raise ConnectionLostError("gone")

    await site.keep(sessions(lost, lost, lost, settled, lost, over))

    for wait_s, step in zip(site.waits, [1.0, 2.0, 4.0, 1.0, 2.0], strict=True):
        assert step / 2 <= wait_s <= step


async def test_two_that_take_one_session_from_each_other_slow_down() -> None:
    """A hundred take-overs in ten seconds were seen without this."""
    site = Site()
    ends = 0

    async def until_taken_over(connection: MemoryControlConnection) -> None:
        nonlocal ends
        ends += 1
        if site.now < 60.0:
            async for _ in connection.messages():
                pass

    async with asyncio.TaskGroup() as group:
        group.create_task(site.keep(until_taken_over))
        group.create_task(site.keep(until_taken_over))

    assert ends < 25


async def test_a_loss_inside_a_task_group_is_a_loss() -> None:
    site = Site()

    async def grouped(connection: MemoryControlConnection) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(lost(connection))
            group.create_task(lost(connection))

    await site.keep(sessions(grouped, over))

    assert [type(error) for error, _ in site.told] == [ConnectionLostError]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        BrokerRefusedError("no right to publish"),
        ExceptionGroup("both", [ConnectionLostError("gone"), ValueError("a bug")]),
    ],
)
async def test_any_other_error_ends_it_and_sends_the_will(error: Exception) -> None:
    site = Site()
    watcher = await MemoryTransport(site.broker).control("mem://broker", ConnectOptions())
    await watcher.subscribe("will")

    async def fails(_: MemoryControlConnection) -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        await site.keep(fails)

    assert raised.value is error
    assert site.told == []
    async with asyncio.timeout(5):
        assert (await anext(watcher.messages())).topic == "will"


async def test_an_error_of_another_kind_while_connecting_ends_it() -> None:
    site = Site(before_connecting=[ConfigError("no URL")])
    with pytest.raises(ConfigError):
        await site.keep(over)


@pytest.mark.parametrize("how", ["return", "cancel"])
async def test_at_its_own_end_the_connection_is_closed_without_a_will(how: str) -> None:
    site = Site()
    watcher = await MemoryTransport(site.broker).control("mem://broker", ConnectOptions())
    await watcher.subscribe("#")
    began = asyncio.Event()

    async def session(_: MemoryControlConnection) -> None:
        began.set()
        if how == "cancel":
            await asyncio.Event().wait()

    keeping = asyncio.create_task(site.keep(session))
    await began.wait()
    if how == "cancel":
        keeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await keeping
    else:
        await keeping

    assert not site.broker.connected("kept")
    await watcher.publish(Message("fence"))
    assert (await anext(watcher.messages())).topic == "fence"


async def test_cancelled_while_it_waits_it_is_cancelled() -> None:
    site = Site(before_connecting=[BrokerUnreachableError("nobody")])
    waiting = asyncio.Event()

    async def forever() -> None:
        waiting.set()
        await asyncio.Event().wait()

    site.on_sleep = forever
    keeping = asyncio.create_task(site.keep(over))
    await waiting.wait()
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    assert site.opened == []


async def test_a_cancellation_that_comes_with_the_loss_still_ends_it() -> None:
    site = Site()
    inside = asyncio.Event()

    async def read(connection: MemoryControlConnection) -> None:
        inside.set()
        async for _ in connection.messages():
            pass

    async def session(connection: MemoryControlConnection) -> None:
        await first_of(read(connection), asyncio.sleep(3600))

    keeping = asyncio.create_task(site.keep(session))
    await inside.wait()
    await asyncio.sleep(0)
    site.broker.kill()
    await asyncio.sleep(0)
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    assert len(site.opened) == 1


@given(st.integers(1, 10_000), st.integers())
def test_waits_stay_within_bounds(failures: int, seed: int) -> None:
    backoff = Backoff()
    wait_s = backoff.wait_s(failures, random.Random(seed))
    assert backoff.first_s / 2 <= wait_s <= backoff.last_s


def test_the_default_report_is_one_sentence(caplog: pytest.LogCaptureFixture) -> None:
    from dsi_mqtt.transport.lasting import log_wait

    error: DsiError = BrokerUnreachableError("no MQTT broker answers at h:1883; start it")
    assert isinstance(error, TransportError)
    log_wait(error, 0.25)
    assert "no MQTT broker answers at h:1883" in caplog.text
    assert "0.2 s" in caplog.text
