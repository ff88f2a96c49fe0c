"""Devices that promise to speak: only silence that the door could have heard counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.promises import BACK_S, STOOD_STILL_S, Promises

TICK_S = 0.1
ID = b"1"


def silent_for(
    promises: Promises, start: float, seconds: float, echo_s: float = 0.0
) -> float | None:
    """When the promise is broken, while it is asked all the time; None: it is not.

    echo_s: that echoes take.
    """
    under_way: list[float] = []
    for tick in range(round(seconds / TICK_S) + 1):
        now = start + tick * TICK_S
        while under_way and under_way[0] + echo_s <= now:
            promises.proven(under_way.pop(0), now)
        if promises.broken(now):
            return now - start
        if promises.asks(now):
            under_way.append(now)
    return None


def promised(alive_s: float = 2.0) -> Promises:
    promises = Promises()
    promises.made(ID, "cam", alive_s, 0.0)
    return promises


@given(st.floats(1.0, 5.0))
def test_a_promise_is_broken_by_as_long_a_silence(alive_s: float) -> None:
    broken = silent_for(promised(alive_s), 0.0, 10.0)
    assert broken is not None
    assert alive_s <= broken <= alive_s + 2 * TICK_S


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
    broken = silent_for(promises, 0.0, 9.0)
    assert broken is not None
    assert 2.0 <= broken <= 2.0 + 2 * TICK_S


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
    assert 2.0 + BACK_S - 2 * TICK_S <= broken <= 2.0 + BACK_S + 2 * TICK_S


@given(st.floats(STOOD_STILL_S + 0.01, 60.0))
def test_silence_while_the_process_stood_still_does_not_count(still_s: float) -> None:
    promises = promised()
    assert promises.broken(1.0) == []
    assert promises.broken(1.0 + still_s) == [], "what was said meanwhile is yet to be read"
    broken = silent_for(promises, 1.0 + still_s, 30.0)
    assert broken is not None
    assert 2.0 - TICK_S <= broken <= 2.0 + 2 * TICK_S


def test_silence_while_the_broker_stands_still_does_not_count() -> None:
    """Its connection is there, and nothing comes by it."""
    promises = promised()
    for tick in range(300):
        now = tick * TICK_S
        promises.asks(now)
        assert promises.broken(now) == []
    # It goes on: the first echo is half a minute old, and devices have their time anew.
    promises.proven(2.0, 30.0)
    broken = silent_for(promises, 30.0, 30.0)
    assert broken is not None
    assert 2.0 + BACK_S - TICK_S <= broken <= 2.0 + BACK_S + 2 * TICK_S


def test_an_echo_is_asked_for_only_when_somebody_is_overdue() -> None:
    promises = promised()
    assert not any(promises.asks(tick * TICK_S) for tick in range(20))
    asked = [tick for tick in range(20, 60) if promises.asks(tick * TICK_S)]
    assert 7 <= len(asked) <= 9, "twice a second at most"
    promises.over(ID)
    assert not promises.asks(60.0)


@given(st.floats(0.0, 0.4))
def test_an_echo_from_before_the_silence_proves_nothing(early_s: float) -> None:
    promises = promised()
    promises.proven(1.9 - early_s, 1.95)
    assert promises.broken(2.0) == []
    promises.proven(2.0, 2.05)
    assert promises.broken(2.1) == [ID]
