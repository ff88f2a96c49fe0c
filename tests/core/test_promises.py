"""Devices that promise to speak: only silence that the door could have heard counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.promises import BACK_S, STOOD_STILL_S, Promises

TICK_S = 0.1
ID = b"1"


def silent_for(promises: Promises, start: float, seconds: float) -> float | None:
    """When the promise is broken, while it is asked all the time; None: it is not."""
    for tick in range(round(seconds / TICK_S) + 1):
        now = start + tick * TICK_S
        if promises.broken(now):
            return now - start
    return None


def promised(alive_s: float = 2.0) -> Promises:
    promises = Promises()
    promises.made(ID, "cam", alive_s, 0.0)
    return promises


@given(st.floats(1.0, 5.0))
def test_a_promise_is_broken_by_as_long_a_silence(alive_s: float) -> None:
    broken = silent_for(promised(alive_s), 0.0, 10.0)
    assert broken is not None
    assert alive_s <= broken <= alive_s + TICK_S


@given(st.lists(st.floats(0.0, 1.9), max_size=20))
def test_who_speaks_in_time_keeps_it(pauses: list[float]) -> None:
    promises, now = promised(), 0.0
    for pause in pauses:
        assert silent_for(promises, now, pause) is None
        now += pause
        promises.spoke("cam", now)
    assert silent_for(promises, now, 1.9) is None


def test_another_device_speaks_for_nobody_else() -> None:
    promises = promised()
    promises.spoke("car", 1.9)
    assert promises.broken(2.0) == [ID]


def test_what_is_over_is_not_waited_for() -> None:
    promises = promised()
    promises.over(ID)
    promises.over(b"never made")
    assert promises.broken(9.0) == []


@given(st.floats(0.0, 30.0))
def test_silence_while_nobody_can_be_heard_does_not_count(away_s: float) -> None:
    """Afterwards devices have their time anew, and a while to be back."""
    promises = promised()
    promises.hearing(hears=False)
    assert silent_for(promises, 0.0, away_s) is None
    promises.hearing(hears=True)
    start = (round(away_s / TICK_S) + 1) * TICK_S
    broken = silent_for(promises, start, 30.0)
    assert broken is not None
    assert 2.0 + BACK_S - 2 * TICK_S <= broken <= 2.0 + BACK_S + TICK_S


@given(st.floats(STOOD_STILL_S + 0.01, 60.0))
def test_silence_while_the_process_stood_still_does_not_count(still_s: float) -> None:
    promises = promised()
    assert promises.broken(1.0) == []
    assert promises.broken(1.0 + still_s) == [], "what was said meanwhile is yet to be read"
    broken = silent_for(promises, 1.0 + still_s, 30.0)
    assert broken is not None
    assert 2.0 - TICK_S <= broken <= 2.0 + TICK_S
