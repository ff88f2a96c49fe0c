"""The activation port: what it lets through, and what it says about the rest."""

from __future__ import annotations

import logging
from typing import Final

import pytest

from dsi_mqtt.core.message import Activation, Header
from dsi_mqtt.transport.base import ConnectOptions, Message
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
