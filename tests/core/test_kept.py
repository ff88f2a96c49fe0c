"""A topic that the leader keeps: when it is written again, and how often while others write."""

from __future__ import annotations

from itertools import pairwise

from dsi_mqtt.core.kept import REPEAT_MAX_S, REPEAT_S, Kept

TICK_S = 0.05


def written(kept: Kept, start: float, seconds: float, *, rival: bool = False) -> list[float]:
    """When it was due. rival: whoever writes rubbish as soon as it is written again."""
    times = []
    for tick in range(round(seconds / TICK_S)):
        now = start + tick * TICK_S
        if kept.due(now):
            times.append(now)
            kept.is_right()
            if rival:
                kept.is_wrong(now)
    return times


def test_what_holds_is_never_written_again() -> None:
    kept = Kept()
    assert written(kept, 0.0, 10.0) == []
    kept.is_right()
    assert written(kept, 10.0, 10.0) == []


def test_what_was_lost_is_written_once_after_a_moment() -> None:
    kept = Kept()
    kept.is_wrong(1.0)
    kept.is_wrong(1.3)
    (once,) = written(kept, 1.0, 60.0)
    assert REPEAT_S <= once - 1.0 < REPEAT_S + 2 * TICK_S


def test_ones_own_message_that_was_still_on_its_way_settles_it() -> None:
    kept = Kept()
    kept.is_wrong(1.0)
    assert not kept.due(1.0 + REPEAT_S / 2)
    kept.is_right()
    assert written(kept, 1.0, 10.0) == []


def test_what_does_not_come_back_is_written_again() -> None:
    kept = Kept()
    kept.is_wrong(1.0)
    times = [now for tick in range(200) if kept.due(now := 1.0 + tick * TICK_S)]
    assert len(times) > 1


def test_two_that_write_do_so_ever_more_slowly() -> None:
    kept = Kept()
    kept.is_wrong(0.0)
    times = written(kept, 0.0, 1000.0, rival=True)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps[0] < 3 * REPEAT_S
    assert gaps == sorted(gaps)
    assert gaps[-1] >= REPEAT_MAX_S


def test_what_a_broker_forgets_again_and_again_is_written_as_quickly_each_time() -> None:
    kept = Kept()
    for begin in range(0, 100, 10):
        kept.is_missing(float(begin))
        (once,) = written(kept, float(begin), 10.0)
        assert once - begin < REPEAT_S + 2 * TICK_S


def test_after_a_time_of_peace_it_is_quick_again() -> None:
    kept = Kept()
    kept.is_wrong(0.0)
    last = written(kept, 0.0, 300.0, rival=True)[-1]
    kept.is_right()
    begin = last + 3 * REPEAT_MAX_S
    kept.is_wrong(begin)
    (once,) = written(kept, begin, 10.0)
    assert once - begin < 2 * REPEAT_S
