"""The shell of a door, on a broker in memory: what comes in, and what is not let in."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar
from unittest.mock import patch

import pytest

from dsi_mqtt.core import events as ev
from dsi_mqtt.core.effects import Acknowledge, OpenIngress, PublishReply, WriteRecord
from dsi_mqtt.core.request import Redelivery, Reply
from dsi_mqtt.core.table import DoorPlace
from dsi_mqtt.transport.base import ConnectOptions, DataConnection, Message
from dsi_mqtt.transport.lasting import Backoff
from dsi_mqtt.transport.memory import MemoryTransport
from dsi_mqtt.transport.memory_broker import MemoryBroker
from dsi_mqtt.transport.mqtt import MqttTransport
from dsi_mqtt.wire.topics import Topics
from dsi_mqtt.worker import answering
from dsi_mqtt.worker.answering import KEEP_ALIVE_S
from dsi_mqtt.worker.doorway import Doorway
from tests.core.build import make_input

NAME: Final = "hazards"
PATIENCE_S: Final = 20.0
HOLD: Final = 4

E = TypeVar("E", bound=ev.Event)


class Porch:
    """A doorway with its broker, a device before it, and what the machine was told."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.topics = Topics()
        self._url = f"mem://{broker.name}"
        self._transport = MemoryTransport(broker)
        self._told: asyncio.Queue[ev.Event] = asyncio.Queue()
        self.doorway = Doorway(NAME, self._transport, self.topics, self._told.put_nowait)
        self.device: DataConnection

    async def open(self) -> list[ev.Event]:
        """Opens the ingress; what was told before that."""
        self.device = await self._transport.data(self._url, ConnectOptions())
        place = DoorPlace("a", "a1", self._url, "session", HOLD)
        self.doorway.open(OpenIngress(NAME, place, HOLD, 1000))
        before: list[ev.Event] = []
        while not isinstance(event := await self._next(), ev.IngressOpened):
            before.append(event)
        return before

    async def told(self, kind: type[E]) -> E:
        event = await self._next()
        assert isinstance(event, kind)
        return event

    async def _next(self) -> ev.Event:
        """Whether the door hears devices comes and goes with a connection that no test is about."""
        async with asyncio.timeout(PATIENCE_S):
            while isinstance(event := await self._told.get(), ev.HearingChanged):
                pass
            return event

    async def ask(self, payload: bytes, *, device: str = "cam", **fields: Any) -> None:
        topic = self.topics.input.name(deployment=NAME, device=device)
        await self.device.publish(Message(topic, payload, **fields))


@asynccontextmanager
async def porch(broker: MemoryBroker | None = None) -> AsyncIterator[Porch]:
    made = Porch(broker or MemoryBroker())
    try:
        yield made
    finally:
        made.doorway.close()
        await made.device.close()


async def test_inputs_at_qos_0_are_dropped_beyond_what_is_in_hand(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with porch() as made:
        await made.open()
        for number in range(HOLD + 3):
            await made.ask(b"%d" % number)
        await made.ask(b"98", qos=1)
        given = [(await made.told(ev.InputArrived)).input for _ in range(HOLD + 1)]
        assert [i.parsed.body for i in given] == [b"0", b"1", b"2", b"3", b"98"]
        assert caplog.text.count("publish at QoS 1") == 1
        made.doorway.acknowledge(Acknowledge(NAME, given[0].receipt))
        await made.ask(b"99")
        assert (await made.told(ev.InputArrived)).input.parsed.body == b"99"


async def test_inputs_at_qos_0_have_room_for_a_number_of_bytes() -> None:
    async with porch() as made:
        await made.open()
        for number in range(3):
            await made.ask(b"[%d, %s]" % (number, b"1" * 450))
        await made.ask(b"98", qos=1)
        given = [(await made.told(ev.InputArrived)).input for _ in range(3)]
        assert [i.parsed.body[:2] for i in given] == [b"[0", b"[1", b"98"]


async def test_a_priority_comes_with_the_input_or_as_a_user_property() -> None:
    async with porch() as made:
        await made.open()
        await made.ask(b'{"input": 1, "priority": "low"}', qos=1)
        await made.ask(b"1", qos=1, user_properties=(("priority", "high"),))
        given = [(await made.told(ev.InputArrived)).input for _ in range(2)]
        assert [i.parsed.priority for i in given] == ["low", "high"]


async def test_a_door_hears_devices_while_its_connection_is_there() -> None:
    broker = MemoryBroker()
    async with porch(broker) as made:
        made.doorway.open(OpenIngress(NAME, DoorPlace("a", "a1", made._url, "s", HOLD), HOLD, 1000))
        made.device = await made._transport.data(made._url, ConnectOptions())
        heard: list[bool] = []
        async with asyncio.timeout(PATIENCE_S):
            while len(heard) < 3:
                event = await made._told.get()
                if isinstance(event, ev.HearingChanged):
                    heard.append(event.hears)
                    if len(heard) == 1:
                        broker.stop()
                    elif len(heard) == 2:
                        broker.start()
        assert heard == [True, False, True]


async def test_a_silent_end_is_noticed_on_each_of_a_door_s_connections_as_on_the_node_s() -> None:
    """Else a node that is back, and is named again, waits for the end of what is long broken."""
    async with porch() as made:
        asked: list[ConnectOptions] = []
        connect = made._transport.data

        async def data(url: str, options: ConnectOptions) -> DataConnection:
            asked.append(options)
            return await connect(url, options)

        with patch.object(made._transport, "data", data):
            await made.open()
        by_id = {o.client_id: o.keep_alive_s for o in asked}
        assert by_id["session"] == KEEP_ALIVE_S
        assert KEEP_ALIVE_S in [o.keep_alive_s for o in asked if not o.client_id]


async def test_an_answer_that_waits_for_the_broker_waits_once_and_goes_out() -> None:
    broker = MemoryBroker()
    async with porch(broker) as made:
        await made.open()
        broker.kill()
        await made.told(ev.IngressLost)
        given = make_input(1)
        effects = [
            PublishReply(NAME, bytes([n]), Reply.result(given, "text/plain", b"x")) for n in (1, 2)
        ]
        for _ in range(50):
            for effect in effects:
                made.doorway.publish(effect)
        assert len(made.doorway._answering._leaving._order) == 2
        broker.start()
        told = [await made.told(ev.ReplyPublished) for _ in effects]
        assert [event.request for event in told] == [b"\1", b"\2"]
        async with asyncio.timeout(PATIENCE_S):
            await made.doorway._answering._leaving.empty()


async def test_answers_leave_before_there_is_an_ingress() -> None:
    """What the door before passes on is answered while that holds the ingress."""
    async with porch() as made:
        made.device = await made._transport.data(made._url, ConnectOptions())
        made.doorway.open_answers(DoorPlace("a", "a1", made._url, "session", HOLD))
        reply = Reply.result(make_input(1), "text/plain", b"x")
        made.doorway.publish(PublishReply(NAME, b"\1", reply))
        assert (await made.told(ev.ReplyPublished)).request == b"\1"
        await made.ask(b"1", qos=1)
        await made.open()
        await made.ask(b"2", qos=1)
        assert (await made.told(ev.InputArrived)).input.parsed.body == b"2"


async def test_a_connection_for_answers_that_cannot_be_made_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A node that was short of memory answered every input to itself, until it ended."""
    monkeypatch.setattr(answering, "RECONNECT", Backoff(first_s=0.001, last_s=0.001))
    tried = 0
    connect = MemoryTransport.data

    async def short_of_memory(
        self: MemoryTransport, url: str, options: ConnectOptions
    ) -> DataConnection:
        nonlocal tried
        if options.keep_alive_s == KEEP_ALIVE_S and options.clean_start:
            tried += 1
            if tried == 1:
                raise MemoryError
        return await connect(self, url, options)

    monkeypatch.setattr(MemoryTransport, "data", short_of_memory)
    async with porch() as made:
        await made.open()
        reply = Reply.result(make_input(1), "text/plain", b"x")
        made.doorway.publish(PublishReply(NAME, b"\1", reply))
        assert (await made.told(ev.ReplyPublished)).request == b"\1"
    assert tried == 2
    assert caplog.text.count("answers of hazards: MemoryError") == 1


@pytest.mark.e2e
async def test_more_inputs_that_wait_than_a_door_may_hold_do_not_keep_it_out(
    control_broker: str,
) -> None:
    """A broker answers a subscription behind what the MQTT session kept, which is not read at the
    bound; so the next door of a busy deployment never opened.
    """
    name, count = f"busy-{secrets.token_hex(4)}", 4 * HOLD
    transport, topics = MqttTransport(), Topics()
    told: asyncio.Queue[ev.Event] = asyncio.Queue()
    doorway = Doorway(name, transport, topics, told.put_nowait)
    place = DoorPlace("a", "a1", control_broker, f"session-{name}", HOLD)
    kept = ConnectOptions(place.session, clean_start=False, session_expiry_s=60)
    session = await transport.data(control_broker, kept)
    await session.subscribe(topics.input.filter(deployment=name), qos=1)
    await session.close()
    device = await transport.data(control_broker, ConnectOptions())
    for number in range(count):
        topic = topics.input.name(deployment=name, device="cam")
        await device.publish(Message(topic, b"%d" % number, qos=1))
    doorway.open(OpenIngress(name, place, HOLD, 1_000_000))
    came: list[bytes] = []
    opened = False
    async with asyncio.timeout(PATIENCE_S):
        while len(came) < count or not opened:
            event = await told.get()
            opened |= isinstance(event, ev.IngressOpened)
            if isinstance(event, ev.InputArrived):
                came.append(event.input.parsed.body)
                doorway.acknowledge(Acknowledge(name, event.input.receipt))
    assert came == [b"%d" % number for number in range(count)]
    doorway.close()
    await doorway.forget()
    await device.close()


async def test_the_session_that_is_forgotten_is_the_one_before_the_next_is_opened(
    control_broker: str,
) -> None:
    name = f"renamed-{secrets.token_hex(4)}"
    transport, topics = MqttTransport(), Topics()
    told: asyncio.Queue[ev.Event] = asyncio.Queue()
    doorway = Doorway(name, transport, topics, told.put_nowait)
    before = DoorPlace("a", "a1", control_broker, f"before-{name}", HOLD)
    after = DoorPlace("a", "a1", control_broker, f"after-{name}", HOLD)

    async def opened(place: DoorPlace) -> None:
        doorway.open(OpenIngress(name, place, HOLD, 1_000_000))
        async with asyncio.timeout(PATIENCE_S):
            while not isinstance(await told.get(), ev.IngressOpened):
                pass

    async def is_kept(place: DoorPlace) -> bool:
        kept = ConnectOptions(place.session, clean_start=False, session_expiry_s=60)
        connection = await transport.data(control_broker, kept)
        await connection.close()
        return connection.session_present

    await opened(before)
    doorway.close()
    forgetting = doorway.forget()
    await opened(after)
    await forgetting
    doorway.close()
    assert not await is_kept(before)
    assert await is_kept(after)


@pytest.mark.parametrize(
    "payload",
    [
        b"rubbish",
        b"{}",
        b'{"key": "cam/i/1", "count": -3}',
        b'{"key": "cam/i/2", "count": 2}',
        b'{"key": "%s", "count": 2}' % (b"x" * 1_100_000),
    ],
    ids=["no JSON", "nothing", "negative", "of another input", "too large"],
)
async def test_a_record_that_no_door_wrote_is_ignored_with_a_warning(
    payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with porch() as made:
        await made.open()
        good = Redelivery("cam/i/1", 2)
        made.doorway.publish(WriteRecord(NAME, good))
        await made.told(ev.RecordWritten)
        rubbish = made.topics.redelivery.name(deployment=NAME, key="0123456789abcdef")
        await made.device.publish(Message(rubbish, payload, qos=1, retain=True))
        with caplog.at_level(logging.WARNING):
            assert await made.open() == [ev.RecordFound(NAME, good)]
        assert f"{rubbish} is ignored" in caplog.text
