"""The activation port: what it lets through, and what it says about the rest."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Final

import pytest

from dsi_mqtt.core.activation import Tensor
from dsi_mqtt.core.message import Activation, Copy, Header
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.transport.base import ConnectOptions, DataConnection, Message
from dsi_mqtt.transport.memory import MemoryTransport
from dsi_mqtt.transport.memory_broker import MemoryBroker
from dsi_mqtt.wire.activation import encode
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
