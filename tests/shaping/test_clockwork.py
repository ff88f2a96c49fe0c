"""A link's clockwork on a clock that the tests turn."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.shaping.clockwork import CELL_S, LATE_S, QUEUE_BYTES, Course, Way
from dsi_mqtt.sim.links import Figures
from dsi_mqtt.sim.traces import Trace

# A byte in a microsecond, 10 ms of distance.
USUAL = Figures(up_mbit_s=8.0, down_mbit_s=4.0, rtt_ms=20.0)


def way(course: Course, *, up: bool = True) -> Way[str]:
    return Way(course, up=up)


def turns(of: Way[str], until: float, now: float = 0.0) -> Iterator[tuple[float, str, bytes]]:
    """What arrives and when, as an alarm set by `next_at` finds it."""
    while (due := of.next_at()) is not None and due <= until:
        yield from ((due, far, bytes(data)) for far, data in of.arrived(due))


def last_at(of: Way[str], until: float = 100.0) -> float:
    return max(at for at, _, _ in turns(of, until))


def test_a_message_takes_its_bytes_over_the_rate_and_half_a_round_trip() -> None:
    up, down = way(Course(USUAL)), way(Course(USUAL), up=False)
    up.take("b", bytes(8_000), 1.0)
    down.take("b", bytes(8_000), 1.0)
    assert last_at(up) == pytest.approx(1.0 + 0.008 + 0.010)
    assert last_at(down) == pytest.approx(1.0 + 0.016 + 0.010)


def test_all_that_shares_a_way_waits_for_what_came_before() -> None:
    shared = way(Course(USUAL))
    shared.take("large", bytes(20_000), 0.0)
    shared.take("small", b"x", 0.001)
    arrived = [(at, far) for at, far, _ in turns(shared, 1.0)]
    at, far = arrived[-1]
    assert far == "small"
    assert at == pytest.approx(0.020_001 + 0.010)
    assert {far for _, far in arrived[:-1]} == {"large"}


def test_a_stream_comes_evenly_and_not_at_its_end() -> None:
    even = way(Course(USUAL))
    even.take("b", bytes(20_000), 0.0)
    times = [at for at, _, _ in turns(even, 1.0)]
    gaps = [b - a for a, b in pairwise(times)]
    assert max(gaps) <= CELL_S + 1e-9


def test_room_is_short_and_comes_back_as_bytes_cross() -> None:
    short = way(Course(USUAL))
    short.take("b", bytes(QUEUE_BYTES), 0.0)
    assert short.room == 0
    short.advance(0.010)
    assert short.room == pytest.approx(10_000, abs=1_000)
    short.arrived(1.0)
    assert short.room == QUEUE_BYTES


def test_who_was_held_up_loses_nothing_by_waking_late() -> None:
    late, idle = way(Course(USUAL)), way(Course(USUAL))
    for one, held_up in ((late, True), (idle, False)):
        one.take("b", bytes(10_000), 0.0)
        one.arrived(0.015)  # it has been idle for 5 ms
        one.take("b", bytes(10_000), 0.015, held_up=held_up)
    assert last_at(late) == pytest.approx(0.020 + 0.010)
    assert last_at(idle) == pytest.approx(0.025 + 0.010)


def test_what_is_made_up_for_has_an_end() -> None:
    late = way(Course(USUAL))
    late.take("b", b"x", 0.0)
    late.arrived(10.0)
    late.take("b", bytes(1_000), 10.0, held_up=True)
    assert last_at(late) == pytest.approx(10.0 - LATE_S + 0.001 + 0.010)


def test_nothing_crosses_a_cut_and_all_goes_on_behind_it() -> None:
    course = Course(USUAL)
    cut = way(course)
    cut.take("b", bytes(10_000), 0.0)
    cut.advance(0.004)
    course.factor = 0.0
    before = sum(len(data) for _, data in cut.arrived(50.0))
    assert before <= 4_000
    assert cut.next_at() is None
    cut.advance(60.0)
    course.factor = 1.0
    after = list(turns(cut, 100.0))
    assert before + sum(len(data) for _, _, data in after) == 10_000
    assert after[-1][0] == pytest.approx(60.0 + 0.006 + 0.010)


def test_a_trickle_is_a_share_of_the_rate() -> None:
    course = Course(USUAL)
    course.factor = 0.01
    slow = way(course)
    slow.take("b", bytes(1_000), 0.0)
    assert last_at(slow) == pytest.approx(0.1 + 0.010)


def test_a_trace_is_played_second_by_second_and_begins_anew() -> None:
    trace = Trace(rates=(8.0, 0.0, 0.08), rtts=(20.0, 20.0, 40.0))
    played = way(Course(USUAL, trace))
    played.take("b", bytes(30_000), 0.985)  # 15 kB by the end of the first second
    # 10 kB in the third, whose last byte comes from further away and is not overtaken.
    assert last_at(played) == pytest.approx(3.0 + 0.020, abs=0.001)


def test_a_later_second_of_a_trace_can_come_first() -> None:
    trace = Trace(rates=(0.0, 8.0), rtts=(20.0, 20.0))
    played = way(Course(USUAL, trace, offset_s=1))
    played.take("b", bytes(1_000), 0.0)
    assert last_at(played) == pytest.approx(0.001 + 0.010)


def test_figures_that_change_count_from_then_on() -> None:
    course = Course(USUAL)
    changed = way(course)
    changed.take("b", bytes(10_000), 0.0)
    changed.advance(0.005)
    course.shape(Figures(up_mbit_s=80.0, down_mbit_s=80.0, rtt_ms=0.0))
    assert last_at(changed) == pytest.approx(0.0055, abs=0.0101)
    assert changed.next_at() is None


def test_what_is_forgotten_never_comes_and_holds_up_nobody() -> None:
    shared = way(Course(USUAL))
    shared.take("gone", bytes(20_000), 0.0)
    shared.take("there", bytes(1_000), 0.0)
    shared.arrived(0.012)
    shared.forget("gone")
    left = list(turns(shared, 1.0, 0.012))
    assert {far for _, far, _ in left} == {"there"}
    assert left[-1][0] <= 0.012 + 0.001 + 0.010 + CELL_S
    assert shared.room == QUEUE_BYTES


@given(
    pieces=st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.integers(0, QUEUE_BYTES),
            st.floats(0.0, 0.1),
            st.booleans(),
        ),
        max_size=20,
    ),
    rate=st.floats(0.1, 200.0),
    rtt_ms=st.floats(0.0, 100.0),
    early=st.floats(0.0, 0.001),
)
def test_everything_arrives_once_in_order_and_never_too_soon(
    pieces: list[tuple[str, int, float, bool]], rate: float, rtt_ms: float, early: float
) -> None:
    of: Way[str] = way(Course(Figures(rate, rate, rtt_ms)))
    sent: dict[str, bytes] = {}
    came: dict[str, bytes] = {}
    now = 0.0
    total, first = 0, None
    for number, (far, size, wait, held_up) in enumerate(pieces):
        now += wait
        for to, found in of.arrived(now + early):
            came[to] = came.get(to, b"") + bytes(found)
        data = bytes([number]) * size
        of.take(far, data, now, held_up=held_up)
        sent[far] = sent.get(far, b"") + data
        total += size
        first = now if first is None else first
    end = now
    for at, to, rest in turns(of, 1e9, now):
        came[to] = came.get(to, b"") + rest
        end = at
    assert {far: data for far, data in came.items() if data} == {
        far: data for far, data in sent.items() if data
    }
    if first is not None and total:
        assert end - first >= total * 8 / rate / 1e6 - LATE_S - early - 1e-6
    assert of.room == QUEUE_BYTES
