"""When inputs come."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from dsi_mqtt.sim.arrivals import arrivals
from dsi_mqtt.sim.scenario import Pattern, Requests

ASKED = Requests("hazards", rate_per_s=5.0, from_s=100.0)


@pytest.mark.parametrize("pattern", ["poisson", "bursts", "diurnal"])
def test_they_come_in_order_within_their_time_at_their_rate(pattern: Pattern) -> None:
    asked = replace(ASKED, arrivals=pattern, period_s=500.0)
    times = list(arrivals(asked, 1100.0, Random(1)))
    assert times == sorted(times)
    assert 100.0 <= times[0] <= times[-1] < 1100.0
    assert len(times) == pytest.approx(5000, rel=0.1)
    assert times == list(arrivals(asked, 1100.0, Random(1)))


def test_a_burst_comes_at_once() -> None:
    times = Counter(arrivals(replace(ASKED, arrivals="bursts", burst=7), 300.0, Random(2)))
    assert set(times.values()) == {7}


def test_a_day_has_its_high_and_its_low() -> None:
    asked = replace(ASKED, arrivals="diurnal", period_s=1000.0, swing=0.8)
    times = list(arrivals(asked, 1100.0, Random(3)))
    high = sum(time < 600.0 for time in times)
    assert high > 2 * (len(times) - high)
