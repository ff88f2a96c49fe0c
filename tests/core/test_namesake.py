"""Nodes of one name at one broker: one stays, and it is the one that is retained."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.effects import GiveWay, ReportStatus
from dsi_mqtt.core.namesake import Namesake
from dsi_mqtt.core.node import NodeState, NodeStatus

What = Literal["connect", "publish", "deliver", "cut"]
Act = tuple[What, int]
TURN: tuple[What, ...] = ("connect", "publish", "deliver")


def status(incarnation: str, state: NodeState = "online") -> NodeStatus:
    return NodeStatus("a", incarnation, state)


@dataclass
class Bearer:
    """One that bears the name. to_say: its status is yet to be published."""

    incarnation: str
    machine: Namesake
    connected: bool = False
    gone: bool = False
    to_say: bool = False
    inbox: deque[NodeStatus] = field(default_factory=deque)

    def hear(self) -> None:
        for effect in self.machine.heard(self.inbox.popleft()):
            if isinstance(effect, GiveWay):
                self.gone, self.connected = True, False  # closed, without a will
            self.to_say |= isinstance(effect, ReportStatus)


class Town:
    """The broker's one topic, and all that bear its name; none does anything by itself."""

    def __init__(self, count: int) -> None:
        names = [f"{'bcad'[number]}1" for number in range(count)]
        self.bearers = [Bearer(name, Namesake(name)) for name in names]
        self.retained: NodeStatus | None = None
        self.first_words: list[str] = []

    @property
    def left(self) -> list[str]:
        return [bearer.incarnation for bearer in self.bearers if not bearer.gone]

    def act(self, act: Act) -> None:
        what, number = act
        bearer = self.bearers[number % len(self.bearers)]
        if bearer.gone:
            return
        if what == "connect" and not bearer.connected:
            bearer.inbox.clear()
            bearer.inbox.extend([self.retained] if self.retained is not None else [])
            bearer.machine.connected()
            bearer.connected = bearer.to_say = True
        elif what == "publish" and bearer.connected and bearer.to_say:
            bearer.to_say = False
            if bearer.incarnation not in self.first_words:
                self.first_words.append(bearer.incarnation)
            self._pass_on(status(bearer.incarnation))
        elif what == "deliver" and bearer.connected and bearer.inbox:
            bearer.hear()
        elif what == "cut" and bearer.connected:
            bearer.connected = False
            self._pass_on(status(bearer.incarnation, "offline"))

    def settle(self) -> None:
        """All come, or come back, and everything said is heard."""
        for _ in range(200):
            for number in range(len(self.bearers)):
                for what in TURN:
                    self.act((what, number))
        assert not any(bearer.inbox or bearer.to_say for bearer in self.bearers if not bearer.gone)

    def _pass_on(self, said: NodeStatus) -> None:
        self.retained = said
        for bearer in self.bearers:
            if bearer.connected:
                bearer.inbox.append(said)


def acts(*kinds: What) -> st.SearchStrategy[list[Act]]:
    return st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 3)), max_size=40)


@given(st.integers(1, 4), acts(*TURN))
def test_of_those_that_begin_at_once_one_stays_and_is_retained(count: int, done: list[Act]) -> None:
    town = Town(count)
    for act in done:
        town.act(act)
    town.settle()
    assert town.left == [town.first_words[-1]]
    assert town.retained == status(town.left[0])


@given(acts(*TURN), acts(*TURN, "cut"))
def test_a_connection_that_is_lost_leaves_one_as_well(begun: list[Act], done: list[Act]) -> None:
    town = Town(2)
    for act in begun:
        town.act(act)
    for number in (0, 1):  # whoever is cut off before its first word is another matter, below
        for what in (*TURN, "deliver", "deliver"):
            town.act((what, number))
    for act in done:
        town.act(act)
    town.settle()
    (left,) = town.left
    assert town.retained == status(left)


@given(st.integers(1, 4), acts(*TURN, "cut"))
def test_never_two_stay_whatever_is_lost(count: int, done: list[Act]) -> None:
    town = Town(count)
    for act in done:
        town.act(act)
    town.settle()
    assert len(town.left) <= 1
    assert not town.left or town.retained == status(town.left[0])


def test_what_an_earlier_life_left_ends_nobody() -> None:
    machine = Namesake("b1")
    machine.connected()
    assert machine.heard(status("c1")) == []  # retained, of a broker that lost the newest
    assert machine.heard(status("b1")) == []
    assert machine.heard(status("c1")) == [ReportStatus()]  # it has woken, and hears who it is now
    assert machine.heard(status("a1", "offline")) == [ReportStatus()]
    assert machine.heard(status("a1", "draining")) == [GiveWay()]


def test_one_that_was_cut_off_gives_way_once_its_heir_speaks() -> None:
    machine = Namesake("b1")
    machine.connected()
    machine.heard(status("b1"))
    machine.connected()
    assert machine.heard(status("a1")) == []  # may be gone by now
    assert machine.heard(status("b1")) == []
    assert machine.heard(status("a1")) == [GiveWay()]
