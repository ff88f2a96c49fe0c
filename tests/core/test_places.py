"""Who is let in: only what the nodes' own count of caches has room for, and that soon."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.effects import Transmit
from dsi_mqtt.core.leases import HeldSessions
from dsi_mqtt.core.message import WORK, Activation, Header
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.room import HeldRoom, held_room
from tests.core.build import B
from tests.core.desk_generation import END, GRAPH, ON_B, Desk2, asking, headers, spec

LIMITS: dict[str, Any] = {"kv_mib_max": 1, "sessions_max": 3, "queue_max": 100, "idle_s": 1.0}
PART = UnitRange(3, 6)


class Limit(int):
    """Of sessions that run, from now on."""


def half(limits: dict[str, Any]) -> HeldRoom:
    whole = held_room(spec(**limits), GRAPH, [PART], [ON_B])
    assert whole is not None
    return replace(whole, nbytes=whole.nbytes // 2, sessions=whole.sessions // 2)


class Chain:
    """A door, and node b, which computes the second of two segments.

    Half of what a node allows must do: the other half is for what is lost on the way.
    """

    def __init__(self) -> None:
        self.desk = Desk2(**LIMITS)
        self.held = HeldSessions()
        self.room = half(LIMITS)
        self.steps: list[Activation] = []
        self.asked = 0

    def limit(self, sessions_max: int) -> None:
        """The deployment is published with other limits."""
        limits = {**LIMITS, "sessions_max": sessions_max}
        self.room = half(limits)
        self.desk.do(self.desk.door.spec_changed(spec(**limits), self.desk.now))

    def ask(self, prompt: int, most: int) -> None:
        self.asked += 1
        tokens = [self.asked % 5] * prompt
        self.desk.give(asking(self.asked, prompt=tokens, max_tokens=most))

    def look(self) -> None:
        """What the door has sent arrives at the node, in order."""
        for effect in self.desk.look():
            if not isinstance(effect, Transmit):
                continue
            header = effect.activation.header
            if header.kind in WORK:
                self.steps.append(effect.activation)
                self._compute(header)
            elif header.kind == "state" and effect.receiver == B[0]:
                self.held.called(header, self.desk.now)

    def _compute(self, header: Header) -> None:
        freed = self.held.begun(header, PART, lambda: self.room, self.desk.now)
        assert freed == [], "the node refuses it" if freed is None else "it frees what lives"

    def answer(self, *, ends: bool) -> None:
        """The oldest step comes through."""
        if self.steps:
            step = self.steps.pop(0)
            draws = [how is not None for how in step.header.sampling]
            token = END if ends else 40
            self.desk.drawn(step, *(token if drawn else -1 for drawn in draws))
        self.desk.write().take()


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(1, 200), st.integers(1, 255)),
            st.booleans(),
            st.sampled_from((0.05, 0.5)),
            st.integers(1, 12).map(Limit),
        ),
        max_size=80,
    )
)
def test_no_node_ever_refuses_what_its_door_lets_in(
    acts: list[tuple[int, int] | bool | float | Limit],
) -> None:
    assert ON_B.segments[1].units == PART
    chain = Chain()
    for act in acts:
        if isinstance(act, tuple):
            chain.ask(*act)
        elif isinstance(act, Limit):
            chain.limit(act)
        elif isinstance(act, bool):
            chain.answer(ends=act)
        else:
            chain.desk.wait(act)
        chain.look()


def test_where_nothing_is_kept_every_prompt_is_fed_from_its_beginning() -> None:
    desk = Desk2(sessions_max=4, idle_s=0.0)
    desk.give(asking(1, prompt=[5, 6, 7], max_tokens=1))
    desk.drawn(desk.step(), 40)
    desk.give(asking(2, prompt=[5, 6, 7, 40], max_tokens=1))
    (row,) = desk.step().header.rows
    assert (row.position, row.tokens) == (0, 4)


def test_fewer_sessions_than_are_idle_stop_nobody() -> None:
    """More idle ones than all that nodes may hold by the new limits, and nothing else has ended."""
    desk = Desk2(sessions_max=16, queue_max=100, idle_s=60.0)
    for number in range(1, 17):
        desk.give(asking(number, device=f"cam{number}", max_tokens=1))
    while steps := desk.steps():
        for step in steps:
            draws = [how is not None for how in step.header.sampling]
            desk.drawn(step, *(40 if drawn else -1 for drawn in draws))
    desk.write().take().wait(0.05)
    desk.look()
    desk.do(desk.door.spec_changed(spec(sessions_max=2, queue_max=100, idle_s=60.0), desk.now))
    desk.give(asking(99, device="new", max_tokens=1))
    for _ in range(3):
        desk.wait(0.05)
    assert [row.position for row in desk.step().header.rows] == [0]
    calls = headers(desk.look(), "state")
    assert [len(call.rows) for call in calls] == [2, 2], "told once to either node, with two idle"
