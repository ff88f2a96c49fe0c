"""Copies on a simulated node's way up: one by one, and no more events than there are looks."""

from __future__ import annotations

from dsi_mqtt.core.effects import Transmit
from dsi_mqtt.sim.clock import Clock
from dsi_mqtt.sim.copying import CopyQueue
from dsi_mqtt.sim.links import Figures, Link
from tests.core.test_outgoing import copy


class Way:
    """A link of 10 Mbit/s, on which a copy takes a fifth of a second."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.link = Link(Figures(10.0, 10.0, 2.0))
        self.sent: list[Transmit] = []
        self.queue = CopyQueue(self.clock, self.link.up, self._send)

    def _send(self, one: Transmit) -> None:
        self.sent.append(one)
        self.link.up.send(one.activation.nbytes, self.clock.now)


def test_each_goes_when_the_link_is_free() -> None:
    way = Way()
    for number in range(3):
        assert not way.queue.put(copy(number))
    way.clock.run(0.1)
    assert way.sent == [copy(0)]
    way.clock.run(1.0)
    assert way.sent == [copy(0), copy(1), copy(2)]


def test_a_node_that_stands_still_and_goes_on_looks_no_more_often() -> None:
    happened = []
    for freezes in (0, 50):
        way = Way()
        for number in range(8):
            way.queue.put(copy(number))
        way.clock.run(0.1)
        for _ in range(freezes):
            way.queue.halt()
            way.queue.resume()
        way.clock.run(2.5)
        assert len(way.sent) == 8
        happened.append(way.clock.happened)
    assert happened[0] == happened[1]


def test_while_a_node_stands_still_nothing_goes() -> None:
    way = Way()
    for number in range(2):
        way.queue.put(copy(number))
    way.clock.run(0.1)
    way.queue.halt()
    way.clock.run(1.0)
    assert way.sent == [copy(0)]
    way.queue.resume()
    way.clock.run(1.0)
    assert way.sent == [copy(0), copy(1)]


def test_what_waited_is_gone_with_the_connection() -> None:
    way = Way()
    for number in range(2):
        way.queue.put(copy(number))
    way.clock.run(0.1)
    way.queue.clear()
    way.queue.put(copy(7))
    way.clock.run(2.0)
    assert way.sent == [copy(0), copy(7)]
