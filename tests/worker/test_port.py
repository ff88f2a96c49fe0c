"""The activation port: what it lets through, and what it says about the rest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

import pytest

from dsi_mqtt.core.activation import Row, Tensor
from dsi_mqtt.core.copies import PATIENCE_S
from dsi_mqtt.core.message import Activation, Copy, Header
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.outgoing import WAITING_BYTES_MAX
from dsi_mqtt.transport.base import ConnectOptions, DataConnection, Message
from dsi_mqtt.transport.memory import MemoryTransport
from dsi_mqtt.transport.memory_broker import MemoryBroker
from dsi_mqtt.wire.activation import encode
from dsi_mqtt.wire.header import decode, header_of
from dsi_mqtt.wire.topics import Topics
from dsi_mqtt.worker.port import NAMES_MAX, ActivationPort
from tests.core.build import make_table, make_work

TOPIC: Final = "dsi/v1/act/b/a/hazards/request"


class Port:
    """A port with what it has told."""

    def __init__(self) -> None:
        self.arrived: list[Activation] = []
        self.broke: list[Header] = []
        self.port = ActivationPort(
            "b",
            Topics(),
            arrived=self.arrived.append,
            broke=self.broke.append,
            clock=lambda: 0.0,
        )


async def test_what_is_no_activation_is_counted_and_logged_ever_more_seldom(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = Port()
    with caplog.at_level(logging.WARNING):
        for number in range(100):
            made.port.receive(Message(TOPIC, b"nonsense %d" % number))
    assert (made.port.unreadable, made.arrived, made.broke) == (100, [], [])
    assert [r.args[0] for r in caplog.records if isinstance(r.args, tuple)] == [
        1, 2, 4, 8, 16, 32, 64
    ]  # fmt: skip
    assert TOPIC in caplog.text


async def test_what_is_damaged_but_named_is_told_and_not_counted() -> None:
    made = Port()
    activation = make_work(make_table(), "s1", 7)
    (message,) = encode(activation)
    made.port.receive(Message(TOPIC, message[:-1] + bytes([message[-1] ^ 1])))
    made.port.receive(Message(TOPIC, message))
    assert made.port.unreadable == 0
    assert [header.request for header in made.broke] == [activation.header.request]
    assert made.arrived == [activation]


@pytest.mark.parametrize("kib", [20, 100])
async def test_what_is_called_behind_an_activation_goes_behind_all_of_it(kib: int) -> None:
    """Small ones are written at once, large ones by their task."""
    broker = MemoryBroker()
    connection = await MemoryTransport(broker).data(f"mem://{broker.name}", ConnectOptions())
    await connection.subscribe("mark")
    await connection.subscribe("dsi/v1/act/#")
    told: list[int] = []

    def behind(over: DataConnection, nbytes: int, began: float) -> None:
        told.append(nbytes)
        assert began == 7.0
        over.publish_soon(Message("mark"))

    port = ActivationPort(
        "b",
        Topics(),
        arrived=lambda _: None,
        broke=lambda _: None,
        clock=lambda: 7.0,
        behind=behind,
        chunk_bytes=16 * 1024,
    )
    port.attach(connection)
    sending = asyncio.ensure_future(port.send_waiting(connection))
    tensor = Tensor("x", "uint8", (kib * 1024,), bytes(kib * 1024))
    work = Activation(make_work(make_table(), "s1").header, (tensor,))
    port.send("a", work)
    topics = []
    async for message in connection.messages():
        topics.append(message.topic)
        if message.topic == "mark":
            break
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await connection.close()
    assert told == [work.nbytes]
    assert len(topics) - 1 == -(-kib // 16)


async def test_what_comes_meanwhile_passes_between_the_chunks_of_a_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = MemoryBroker()
    connection = await MemoryTransport(broker).data(f"mem://{broker.name}", ConnectOptions())
    await connection.subscribe("dsi/v1/act/#")
    made, table = Port(), make_table()
    port = ActivationPort(
        "b",
        Topics(),
        arrived=made.arrived.append,
        broke=made.broke.append,
        clock=lambda: 0.0,
        chunk_bytes=1024,
    )
    port.attach(connection)
    large = Tensor("x", "uint8", (100 * 1024,), bytes(100 * 1024))
    work = Activation(make_work(table, "s1").header, (large,))
    moved = Copy(UnitRange(3, 6), table.stamp, "s1")
    cache = Activation(replace(work.header, kind="state", copy=moved), (large,))
    written = 0

    async def drained() -> None:
        """The socket takes bytes again; half through the copy another activation comes."""
        nonlocal written
        written += 1
        if written == 50:
            port.send("a", work)

    monkeypatch.setattr(connection, "drained", drained)
    port.send("a", cache)
    sending = asyncio.ensure_future(port.send_waiting(connection))
    kinds = []
    async for message in connection.messages():
        kinds.append(message.topic.rpartition("/")[2])
        if len(kinds) == 200:
            break
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await connection.close()
    assert kinds == ["state"] * 50 + ["request"] * 100 + ["state"] * 50


class CopyingPort:
    """A port on a connection whose socket takes a chunk of 1 KiB whenever `ready` says so."""

    def __init__(self, connection: DataConnection, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.ready = asyncio.Semaphore(0)
        self.connection = connection
        self.port = ActivationPort(
            "b",
            Topics(),
            arrived=lambda _: None,
            broke=lambda _: None,
            clock=lambda: self.now,
            chunk_bytes=1024,
        )
        self.port.attach(connection)
        monkeypatch.setattr(connection, "drained", self.ready.acquire)

    def send(self, number: int, kib: int) -> None:
        """A copy for session `number`, that came of an order of the same number."""
        data, table = bytes(kib * 1024), make_table()
        header = Header(
            "state", "hazards", table.stamp, "s1", "s0", number.to_bytes(16, "big"), 1, "door",
            rows=(Row(f"a1.{number}", 0, 5, 1),),
            copy=Copy(UnitRange(3, 6), table.stamp, "s0"),
        )  # fmt: skip
        tensor = Tensor("state", "uint8", (len(data),), data)
        self.port.send("a", Activation(header, (tensor,)))


async def published(connection: DataConnection, many: int) -> list[tuple[str, int]]:
    """The kind of each message, and the number of its order."""
    told: list[tuple[str, int]] = []
    async for message in connection.messages():
        header = header_of(decode(message.payload)[0])
        told.append((header.kind, int.from_bytes(header.request, "big")))
        if len(told) == many:
            break
    return told


@pytest.fixture
async def copying(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[CopyingPort]:
    broker = MemoryBroker()
    connection = await MemoryTransport(broker).data(f"mem://{broker.name}", ConnectOptions())
    await connection.subscribe("dsi/v1/act/#")
    made = CopyingPort(connection, monkeypatch)
    sending = asyncio.ensure_future(made.port.send_waiting(connection))
    yield made
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await connection.close()


async def test_a_copy_that_its_door_waits_for_no_longer_ends_where_it_is(
    copying: CopyingPort,
) -> None:
    copying.send(1, kib=9)
    copying.send(2, kib=9)
    for _ in range(4):
        copying.ready.release()
    assert await published(copying.connection, 4) == [("state", 1)] * 4
    copying.now = PATIENCE_S
    copying.send(3, kib=3)
    for _ in range(8):
        copying.ready.release()
    # One chunk waits for the socket already.
    assert await published(copying.connection, 4) == [("state", 1)] + [("state", 3)] * 3


async def test_a_copy_that_is_too_much_is_refused_at_once(copying: CopyingPort) -> None:
    """Whoever asks for copies does not fill a node's memory."""
    half = WAITING_BYTES_MAX // 1024 // 2
    for number in range(1, 6):
        copying.send(number, kib=half)
    refused = [("stale", number) for number in (3, 4, 5)]
    assert await published(copying.connection, 3) == refused


async def test_the_names_of_those_it_answers_are_bounded() -> None:
    """Whoever sends nonsense chooses who is told of it."""
    made, broker = Port(), MemoryBroker()
    connection = await MemoryTransport(broker).data(f"mem://{broker.name}", ConnectOptions())
    made.port.attach(connection)
    header = make_work(make_table(), "s1").header
    for number in range(2 * NAMES_MAX + 5):
        made.port.send(f"door-{number}", Activation(header))
    assert 0 < len(made.port._names) <= NAMES_MAX
    await connection.close()
