"""Control messages as events: what each means, and what is not believed."""

from __future__ import annotations

import pytest

from dsi_mqtt.core import events as ev
from dsi_mqtt.core.node import NodeStatus
from dsi_mqtt.errors import WireError
from dsi_mqtt.transport.base import Message
from dsi_mqtt.wire.topics import Topics
from dsi_mqtt.worker.reader import NONCE, READ, ControlReader

TOPICS = Topics()


def read(topic: str, payload: bytes) -> ev.Event | None:
    return ControlReader(TOPICS, "a").event(Message(topic, payload))


def status(node: str) -> bytes:
    return TOPICS.status.payload.encode(NodeStatus(node, "i1", "online"))


def test_a_status_says_who_lives_and_its_removal_that_nobody_knows() -> None:
    topic = TOPICS.status.name(node="b")
    arrived = read(topic, status("b"))
    assert isinstance(arrived, ev.StatusArrived)
    assert arrived.status.node == "b"
    assert read(topic, b"") == ev.StatusRemoved("b")


def test_what_comes_back_to_the_node_is_its_nonce_or_the_end_of_what_is_retained() -> None:
    topic = TOPICS.echo.name(node="a")
    assert read(topic, NONCE + b"hazards") == ev.NonceReturned("hazards")
    assert read(topic, READ) == ev.RetainedRead()
    assert read(topic, b"echo:1:") is None


@pytest.mark.parametrize("name", ["c", "", "x" * 100])
def test_nobody_speaks_for_another_node(name: str) -> None:
    with pytest.raises(WireError, match="calls itself"):
        read(TOPICS.status.name(node="b"), status(name))


def test_a_name_that_no_node_can_have_is_not_remembered() -> None:
    with pytest.raises(WireError, match="calls itself"):
        read(TOPICS.status.name(node="x" * 100), status("x" * 100))
