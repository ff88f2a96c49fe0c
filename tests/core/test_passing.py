"""What messages that pass say of a link: bounds, from which TCP's own waits are taken."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.passing import OUT_MAX, PASSING_BYTES, QUIET_S, Marks, Passed, rounds
from dsi_mqtt.core.probes import FLIGHT_BYTES

FAR_S = 0.08
NOISE_S = 0.001


@given(
    nbytes=st.integers(PASSING_BYTES, 10_000_000),
    byte_s=st.floats(1e3, 1e9),
    rtt_s=st.floats(0.0, 0.5),
    warm=st.booleans(),
    share=st.floats(0.0, 1.0),
)
def test_what_the_link_carries_lies_within_the_bounds_however_often_tcp_waited(
    nbytes: int, byte_s: float, rtt_s: float, warm: bool, share: float
) -> None:
    waits = min(1, rounds(nbytes)) if warm else rounds(nbytes)
    taken = nbytes / byte_s + share * waits * rtt_s
    low, high = Passed(nbytes, taken, warm).bounds(rtt_s, NOISE_S)
    assert low <= byte_s * (1 + 1e-9)
    assert high >= byte_s * (1 - 1e-9)


def test_tcp_waits_once_more_for_each_doubling() -> None:
    assert [rounds(FLIGHT_BYTES * times) for times in (1, 3, 7, 15)] == [0, 1, 2, 3]
    assert rounds(FLIGHT_BYTES + 1) == 1


def test_what_waits_alone_explain_has_no_upper_bound() -> None:
    assert Passed(3 * FLIGHT_BYTES, FAR_S, warm=False).bounds(FAR_S, NOISE_S)[1] == math.inf
    assert Passed(3 * FLIGHT_BYTES, 2 * FAR_S, warm=False).bounds(FAR_S, NOISE_S)[1] < math.inf


# --- marks ------------------------------------------------------------------------------------


def test_a_message_that_waits_behind_another_is_counted_from_when_that_had_left() -> None:
    """Both were given at once; the way of each takes 1 s, and there and back 0.1."""
    marks = Marks()
    marks.sent(1, 50_000, 0.0, 0.0)
    marks.sent(2, 50_000, 0.0, 0.0)
    first, second = marks.back(1, 1.1, 0.1), marks.back(2, 2.1, 0.1)
    assert first is not None
    assert second is not None
    assert [first.seconds, second.seconds] == pytest.approx([1.0, 1.0])


def test_what_may_have_waited_behind_an_unmarked_message_says_nothing() -> None:
    marks = Marks()
    marks.sent(None, 50_000, 0.0, 0.0)
    marks.sent(1, 50_000, 0.0, 0.0)
    marks.sent(2, 50_000, 0.0, 0.0)
    assert marks.back(1, 2.1, 0.1) is None
    known = marks.back(2, 3.1, 0.1)
    assert known is not None
    assert known.seconds == pytest.approx(1.0)


@pytest.mark.parametrize(("pause", "warm"), [(0.9 * QUIET_S, True), (1.1 * QUIET_S, False)])
def test_after_a_pause_tcp_begins_anew(pause: float, warm: bool) -> None:
    marks = Marks()
    marks.sent(1, 50_000, 0.0, 0.0)
    marks.back(1, 0.2, 0.1)
    marks.sent(2, 50_000, pause, pause)
    known = marks.back(2, pause + 0.2, 0.1)
    assert known is not None
    assert known.warm is warm


def test_marks_that_never_come_back_are_bounded() -> None:
    marks = Marks()
    for number in range(3 * OUT_MAX):
        marks.sent(number, 50_000, float(number), float(number))
    assert len(marks) == OUT_MAX
    assert 0 not in marks
    marks.lost()
    assert len(marks) == 0
