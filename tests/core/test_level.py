"""A level stays in noise and follows what has changed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.level import Level

NOISE = st.floats(0.7, 1.3)


def after(level: Level, *samples: float) -> float:
    for sample in samples:
        level.saw(sample)
    assert level.value is not None
    return level.value


@given(st.lists(NOISE, min_size=1), st.lists(NOISE, min_size=3, max_size=3), st.booleans())
def test_three_samples_follow_a_fall_or_rise_by_ten(
    before: list[float], then: list[float], fell: bool
) -> None:
    level, factor = Level(), 0.1 if fell else 10.0
    after(level, *(100 * noise for noise in before))
    now = after(level, *(100 * factor * noise for noise in then))
    assert 0.69 <= now / (100 * factor) <= 1.31


@given(st.lists(NOISE, min_size=1, max_size=200))
def test_noise_of_a_third_stays_within_itself(noise: list[float]) -> None:
    assert 0.69 <= after(Level(), *noise) <= 1.31


@given(st.floats(1e-6, 1e6), st.lists(st.floats(0.71, 1.42), max_size=200))
def test_what_lies_within_the_slack_never_adds_up(first: float, around: list[float]) -> None:
    """However many there are, and all on one side."""
    level = Level()
    assert level.saw(first)
    for ratio in around:
        assert level.value is not None
        assert not level.saw(ratio * level.value)
        assert not level.in_doubt


@given(st.lists(st.floats(0.85, 1.15), min_size=20, max_size=20), st.floats(1e-9, 1e9))
def test_one_sample_alone_never_moves_it_far(noise: list[float], odd: float) -> None:
    level = Level()
    before = after(level, *noise)
    assert not level.saw(odd)
    assert level.value == pytest.approx(before, rel=0.05)


@pytest.mark.parametrize("sample", [0.0, -1.0, math.inf, -math.inf, math.nan])
def test_nonsense_is_not_taken(sample: float) -> None:
    level = Level()
    assert not level.saw(sample)
    assert level.value is None
    level.saw(5.0)
    assert not level.saw(sample)
    assert level.value == pytest.approx(5.0)
    assert not level.in_doubt
