from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.effects import CloseSessions, Effects, Transmit
from dsi_mqtt.core.leases import CALL_S, CALL_SOON_S, SILENT_S, HeldSessions, Living, Roll
from dsi_mqtt.core.message import Header
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


@given(
    begun=st.sets(st.integers(1, 8)),
    live=st.sets(st.integers(1, 8)),
    newest=st.integers(0, 8),
)
def test_a_node_keeps_what_lives_or_began_later(
    begun: set[int], live: set[int], newest: int
) -> None:
    held = HeldSessions()
    held.begun(NAME, [Row(f"a1.{number}") for number in begun], 0.0)
    held.begun(NAME, [Row("b1.1")], 0.0)
    roll = Roll(NAME, A, iter([newest]))
    roll.name_next()
    roll.changed = True
    rows = [Row(f"a1.{number}") for number in live]
    header = next(h for r, h in told(call(roll, rows, 0.0)) if r == "b")
    gone = closed(held.called(header, 1.0))
    assert gone == {f"a1.{n}" for n in begun if n not in live and n <= newest}
    assert held.counts() == {NAME: len(begun) - len(gone) + 1}


def test_what_belongs_to_a_silent_door_goes_and_a_speaking_one_keeps_its_own() -> None:
    held = HeldSessions()
    held.begun(NAME, [Row("a1.1"), Row("b1.1")], 0.0)
    held.begun(NAME, [Row("b1.1")], 5.0)
    assert held.tick(SILENT_S - 0.1) == []
    assert closed(held.tick(SILENT_S)) == {"a1.1"}
    assert held.counts() == {NAME: 1}
    held.forget(NAME)
    assert held.counts() == {}


def test_rows_of_one_pass_requests_are_no_sessions() -> None:
    held = HeldSessions()
    held.begun(NAME, [Row()], 0.0)
    assert held.counts() == {}
