"""Medians, spreads and ratios of repeats."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.cli.bench_statistics import Spread, ratio, spread

times = st.floats(min_value=0.5, max_value=1e6)
repeats = st.lists(st.lists(times, min_size=1, max_size=8), min_size=1, max_size=6)


def test_the_median_is_of_the_repeats_and_not_of_all_samples() -> None:
    # All samples together have the median 1; of three repeats the middle one has 5.
    assert spread([[1.0] * 9, [5.0], [9.0]]).median == 5.0


def test_quantiles_are_of_all_samples_together() -> None:
    found = spread([[float(n) for n in range(51)], [float(n) for n in range(51, 101)]])
    assert found.iqr == pytest.approx(50.0)
    assert found.p99 == pytest.approx(99.0)


def test_one_sample_has_no_spread() -> None:
    assert spread([[7.0]]) == Spread(7.0, 0.0, 7.0)


def test_quantiles_lie_linearly_between_ranks() -> None:
    assert spread([[0.0, 10.0]]).iqr == pytest.approx(5.0)
    assert spread([[0.0, 10.0]]).p99 == pytest.approx(9.9)


def test_the_ratio_is_of_medians_and_its_range_of_neighbours() -> None:
    # The machine was busy in the second pair: both sides slow down, the pair says 3.
    found = ratio([[20.0], [300.0], [22.0]], [[10.0], [100.0], [10.0]])
    assert found.median == pytest.approx(2.2)
    assert found.least == pytest.approx(2.0)
    assert found.most == pytest.approx(3.0)


def test_sides_with_unequal_repeats_have_no_ratio() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio([[1.0], [2.0]], [[1.0]])


@given(repeats)
def test_the_order_of_repeats_does_not_matter(samples: list[list[float]]) -> None:
    there, back = spread(samples), spread(samples[::-1])
    assert there.median == back.median
    assert there.iqr == pytest.approx(back.iqr)
    assert there.p99 == pytest.approx(back.p99)


@given(st.lists(st.tuples(times, times), min_size=1, max_size=7))
def test_the_ratio_lies_within_its_range(pairs: list[tuple[float, float]]) -> None:
    found = ratio([[ours] for ours, _ in pairs], [[baseline] for _, baseline in pairs])
    slack = 1e-9 * found.most
    assert found.least - slack <= found.median <= found.most + slack
