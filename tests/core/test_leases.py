"""Leases of caches: the door's roll, and what a node keeps of whom, within which bounds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.effects import CloseSessions, Effects, Transmit
from dsi_mqtt.core.leases import (
    CALL_S,
    CALL_SOON_S,
    DOORS_MAX,
    SILENT_S,
    HeldSessions,
    Living,
    Roll,
)
from dsi_mqtt.core.message import EdgeMark, Header
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.room import HeldRoom, NodeRoom, Tally, allotted
from dsi_mqtt.core.table import DOOR
from tests.core.build import NAME, A, B, make_table

TABLE = make_table((A, (0, 2)), (B, (2, 4)), (A, (4, 6)))


def told(effects: Effects) -> list[tuple[str, Header]]:
    return [(e.receiver, e.activation.header) for e in effects if isinstance(e, Transmit)]


def call(roll: Roll, rows: Sequence[Row], now: float) -> Effects:
    return roll.tick(lambda: (tuple(rows), [TABLE]), now)


def closed(effects: Effects) -> set[str]:
    return {name for e in effects if isinstance(e, CloseSessions) for name in e.sessions}


def test_each_node_is_told_once_a_second_and_sooner_when_a_session_has_ended() -> None:
    roll = Roll(NAME, A, count(1))
    live = [Row(roll.name_next(), 5)]
    first = told(call(roll, live, 0.0))
    assert sorted(receiver for receiver, _ in first) == ["a", "b"]
    assert all(header.rows == tuple(live) for _, header in first)
    assert call(roll, live, CALL_S - 0.1) == []
    assert told(call(roll, live, CALL_S))
    roll.changed = True
    assert call(roll, [], CALL_S + CALL_SOON_S - 0.1) == []
    assert told(call(roll, [], CALL_S + CALL_SOON_S))


def test_the_telling_goes_on_a_while_and_then_is_quiet() -> None:
    roll = Roll(NAME, A, count(1))
    assert call(roll, [], 0.0) == []
    live = [Row(roll.name_next(), 5)]
    call(roll, live, 1.0)
    assert told(call(roll, [], 2.0))
    assert told(call(roll, [], SILENT_S))
    assert call(roll, [], 2.0 + 2 * SILENT_S) == []


def test_who_lives_is_asked_only_when_it_is_time() -> None:
    asked = 0

    def living() -> Living:
        nonlocal asked
        asked += 1
        return (), [TABLE]

    roll = Roll(NAME, A, count(1))
    for tick in range(40):
        roll.tick(living, tick * 0.05)
        roll.changed |= tick == 0
    assert asked <= 4, "made up at every tick"


def test_what_has_ended_counts_until_nodes_are_told_which_is_soon_where_it_is_awaited() -> None:
    roll = Roll(NAME, A, count(1))
    ended, live = roll.name_next(), roll.name_next()
    roll.held = {ended: 200, live: 100}
    assert told(call(roll, [Row(ended, 5), Row(live, 5)], 0.0))
    roll.changed = True
    assert call(roll, [Row(live, 5)], 0.1) == []
    assert set(roll.held) == {ended, live}
    roll.awaited = True
    assert told(call(roll, [Row(live, 5)], 0.15))
    assert roll.held == {live: 100}
    assert call(roll, [Row(live, 5)], 0.2) == []


# --- nodes ------------------------------------------------------------------------------------

PART = UnitRange(2, 4)
OTHER = UnitRange(4, 6)


def room(most: int = 1000, *, sessions: int = 100, context: int = 1000) -> HeldRoom:
    """For so many positions, of one byte each in either part."""
    return HeldRoom(context, sessions, most, {PART: NodeRoom(1, 0), OTHER: NodeRoom(1, 0)})


class Held:
    """A node's sessions. closed: those that its engine is told to free."""

    def __init__(self) -> None:
        self.held = HeldSessions()
        self.closed: list[str] = []
        self.now = 0.0

    def step(self, *rows: Row, units: UnitRange = PART, within: HeldRoom | None = None) -> bool:
        """Whether it is computed."""
        header = Header("prefill", NAME, TABLE.stamp, DOOR, "s1", rows=rows)
        effects = self.held.begun(header, units, lambda: within or room(), self.now)
        self._close(effects or [])
        return effects is not None

    def call(self, *live: str, newest: int = 0, door: str = "a1") -> list[str]:
        """What is freed when a door calls out its roll."""
        rows = tuple(Row(name) for name in live)
        edge = EdgeMark(door, "b1", 0, 0)
        header = Header(
            "state", NAME, TABLE.stamp, DOOR, "s1", attempt=newest, rows=rows, edge=edge
        )
        return self._close(self.held.called(header, self.now))

    def wait(self, seconds: float) -> list[str]:
        self.now += seconds
        return self._close(self.held.tick(self.now))

    @property
    def names(self) -> set[str]:
        return set(self.held._held.get(NAME, {}))

    def _close(self, effects: Effects) -> list[str]:
        gone = sorted(closed(effects))
        self.closed += gone
        return gone


@given(
    begun=st.sets(st.integers(1, 8)),
    live=st.sets(st.integers(1, 8)),
    newest=st.integers(0, 8),
)
def test_a_node_keeps_what_lives_or_began_later(
    begun: set[int], live: set[int], newest: int
) -> None:
    node = Held()
    assert node.step(Row("b1.1"), *(Row(f"a1.{number}") for number in sorted(begun)))
    gone = node.call(*(f"a1.{number}" for number in live), newest=newest)
    assert set(gone) == {f"a1.{n}" for n in begun if n not in live and n <= newest}
    assert node.held.counts() == {NAME: len(begun) - len(gone) + 1}


def test_what_belongs_to_a_silent_door_goes_and_a_speaking_one_keeps_its_own() -> None:
    node = Held()
    node.step(Row("a1.1"), Row("b1.1"))
    node.now = 5.0
    node.call("b1.1", door="b1")
    assert node.wait(SILENT_S - 5.1) == []
    assert node.wait(0.1) == ["a1.1"]
    assert node.held.counts() == {NAME: 1}
    node.held.forget(NAME)
    assert node.held.counts() == {}


def test_steps_alone_keep_nothing_for_anybody_may_publish_them() -> None:
    node = Held()
    for _ in range(10):
        node.step(Row("a1.999999"))
        node.call("a1.1", newest=1)
        gone = node.wait(SILENT_S / 10)
    assert gone == ["a1.999999"], "no roll has ever named it"


def test_rows_of_one_pass_requests_are_no_sessions() -> None:
    node = Held()
    assert node.step(Row())
    assert node.held.counts() == {}


@given(
    steps=st.lists(
        st.tuples(
            st.integers(1, 30),
            st.integers(0, 1100),
            st.sampled_from((PART, OTHER)),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_whatever_steps_come_caches_stay_within_their_bounds(
    steps: list[tuple[int, int, UnitRange, bool]],
) -> None:
    """The engine's own stores, as the node tells it to begin and to free them."""
    node, stores = Held(), dict[tuple[str, UnitRange], int]()
    for number, position, units, called in steps:
        name = f"a1.{number}"
        if node.step(Row(name, position, 1), units=units, within=room(2000, sessions=8)):
            assert position < 1000, "beyond the context"
            taken = max(stores.get((name, units), 0), allotted(position + 1, 1000))
            stores[name, units] = taken
        stores = {key: positions for key, positions in stores.items() if key[0] in node.names}
        assert sum(stores.values()) <= 2000
        assert len(node.names) <= 8
        if called:
            node.call(name, newest=0)


def test_what_is_named_makes_what_is_not_go_and_is_never_harmed() -> None:
    node = Held()
    assert node.step(Row("a1.1", 0, 100))
    node.call("a1.1", newest=1)
    for number in range(2, 9):
        node.step(Row(f"a1.{number}", 0, 100))
    assert "a1.8" not in node.names, "there was room for seven"
    assert node.step(Row("a1.1", 100, 400))
    assert (node.closed, "a1.1" in node.names) == (["a1.2", "a1.3", "a1.4"], True)
    assert not node.step(Row("a1.9", 0, 300))
    assert node.closed == ["a1.2", "a1.3", "a1.4"]


def test_a_step_that_needs_no_more_room_is_computed_when_all_is_full() -> None:
    node = Held()
    assert node.step(Row("a1.1", 0, 512))
    assert node.step(Row("a1.2", 0, 256))
    assert not node.step(Row("a1.2", 256, 1))
    assert node.step(Row("a1.1", 511, 1), Row("a1.2", 255, 1))


def test_lower_limits_end_nothing_that_was_let_in_before() -> None:
    node = Held()
    assert node.step(Row("a1.1", 0, 60), Row("a1.2", 0, 60), within=room(600))
    node.call("a1.1", "a1.2", newest=2)
    less = room(100, sessions=1)
    assert node.step(Row("a1.1", 60, 200), within=less)
    assert node.call(newest=2) == ["a1.1", "a1.2"]
    assert not node.step(Row("a1.3", 0, 200), within=less)


def test_what_a_roll_names_before_it_has_room_gets_it() -> None:
    """Steps that no door has sent fill all there is, at once again whenever some is freed."""
    node = Held()
    few = room(sessions=8)
    for number in range(8):
        assert node.step(Row(f"zz.{number}", 0, 1), within=few)
    assert not node.step(Row("a1.1", 0, 50), within=few)
    node.call("a1.1", "zz.9", newest=1)
    assert not node.step(Row("zz.9", 0, 1), within=few), "another door's is not for it to name"
    assert node.step(Row("a1.1", 0, 50), within=few)
    assert node.closed == ["zz.0"]
    assert not node.step(Row("zz.10", 0, 1), within=few)
    node.call("a1.1", "a1.2", newest=2)
    assert node.step(Row("a1.2", 0, 50), within=few), "and what it named stays"
    assert node.names >= {"a1.1", "a1.2"}


def test_a_roll_that_is_long_past_names_nobody() -> None:
    node = Held()
    few = room(sessions=1)
    node.call("a1.1", newest=1)
    node.wait(SILENT_S)
    assert node.step(Row("zz.1"), within=few)
    assert not node.step(Row("a1.1"), within=few)


def test_rolls_that_anybody_calls_out_are_kept_within_bounds() -> None:
    node = Held()
    few = room(sessions=1)
    node.call("a1.1", newest=1)
    for number in range(DOORS_MAX):
        node.call(f"f{number}.1", newest=1, door=f"f{number}")
    assert node.step(Row("zz.1"), within=few)
    assert not node.step(Row("a1.1"), within=few)
    assert node.step(Row("f1.1"), within=few)


@given(st.lists(st.tuples(st.sampled_from((PART, OTHER)), st.integers(1, 900)), min_size=1))
def test_a_tally_that_sessions_have_left_counts_like_a_new_one(
    caches: list[tuple[UnitRange, int]],
) -> None:
    sessions = [{units: size} for units, size in caches]
    tally = Tally(sessions)
    within = room(2000, sessions=5)
    for number, rooms in enumerate(sessions):
        assert within.allows(tally) == within.allows(Tally(sessions[number:]))
        assert tally.sessions == len(sessions) - number
        tally.remove(rooms)
    assert not any(tally.sizes.values())
