"""A simulated node's connections: one to each broker, lost and opened again.

Each has a number, which is another one whenever it comes or goes: what was on its way by a
connection that has another number now, is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dsi_mqtt.core import events as ev
from dsi_mqtt.core.node import NodeStatus
from dsi_mqtt.sim.connecting import Tries
from dsi_mqtt.sim.place import Place
from dsi_mqtt.sim.scenario import BrokerName

if TYPE_CHECKING:
    from dsi_mqtt.sim.node import Node

BOTH: Final[tuple[BrokerName, ...]] = ("control", "data")
# Before a connection is opened again that was lost for want of a link.
RECONNECTS_S: Final = 1.0


class Connections:
    """Of one node, through all its lives. What there is stands in the node, which often asks:
    `connected`, `hears_data` and their numbers.
    """

    def __init__(self, node: Node, place: Place) -> None:
        self._node = node
        self._clock = place.clock
        self._broker = place.broker
        self._journal = place.journal
        self._random = place.random
        self._tries: dict[BrokerName, Tries] = {}

    def control_gone(self) -> None:
        """The broker has gone."""
        self._end_control()
        if not self._node.frozen:
            self._node.misses_control()
            self._retry("control")

    def data_gone(self) -> None:
        self._end_data()
        if not self._node.frozen:
            self._retry("data")

    def lose(self, will: NodeStatus) -> None:
        """Both, and the brokers notice."""
        if self._node.hears_data:
            self._end_data()
        if self._node.connected:
            self._end_control()
            self._broker.lost(self._node, will)

    def open(self, life: int, *wanted: BrokerName) -> None:
        """As soon as there is a link, and a broker, in this life."""
        node = self._node
        there = {"control": node.connected, "data": node.hears_data}
        missing = [name for name in wanted if not there[name]]
        if node.machine is None or life != node.life or not missing:
            return
        if node.link.is_cut(self._clock.now) or node.frozen:
            self._clock.after(RECONNECTS_S, self.open, life, *missing)
            return
        for name in missing:
            if not self._broker.is_there(name):
                self._retry(name)
        self._opened([name for name in missing if self._broker.is_there(name)])

    def _opened(self, names: list[BrokerName]) -> None:
        node, now = self._node, self._clock.now
        if not (node.connected or node.hears_data):
            node.link.up.reset(now)
            node.link.down.reset(now)
        for name in names:
            self._tries_of(name).connected(now)
        if "data" in names:
            node.hears_data = True
            node.data_number += 1
            node.data_opened()
        if "control" in names:
            node.connected = True
            node.control_number += 1
            self._journal.write(now, "connected", node=node.name, life=node.life)
            node.control_opened()
        if "data" in names:
            node.handle(ev.DataReconnected())

    def _end_control(self) -> None:
        node = self._node
        node.connected = False
        node.control_number += 1
        node.control_ended()
        self._journal.write(self._clock.now, "lost", node=node.name)

    def _end_data(self) -> None:
        self._node.hears_data = False
        self._node.data_number += 1
        self._node.data_ended()

    def _retry(self, name: BrokerName) -> None:
        wait_s = self._tries_of(name).wait_s(self._clock.now)
        self._clock.after(wait_s, self.open, self._node.life, name)

    def _tries_of(self, name: BrokerName) -> Tries:
        if name not in self._tries:
            self._tries[name] = Tries(self._random(f"node {self._node.name} {name}"))
        return self._tries[name]
