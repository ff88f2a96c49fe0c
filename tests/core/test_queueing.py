"""Waits under load: against exact formulas, and against queues played through."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsi_mqtt.core.queueing import waiting_s


def played(services: list[float], load: float, share: float, seed: int) -> float:
    """The percentile of the whole latency of a chain of stations, arrivals at random."""
    draw, now, latencies = random.Random(seed), 0.0, []
    free = [0.0] * len(services)
    for _ in range(60_000):
        now += draw.expovariate(load / max(services))
        at = now
        for station, service in enumerate(services):
            at = max(at, free[station]) + service
            free[station] = at
        latencies.append(at - now)
    return sorted(latencies)[int(share * len(latencies))]


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_chain_waits_as_its_slowest_station_does(load: float, share: float) -> None:
    services = [0.4, 1.0, 0.2, 0.9, 0.7]
    told = sum(services) + waiting_s(load / max(services), max(services), share)
    assert told == pytest.approx(played(services, load, share, seed=3), rel=0.03)


@given(load=st.floats(0.01, 0.99), share=st.floats(0.5, 0.999), service=st.floats(1e-4, 10.0))
def test_exponential_service_waits_as_the_textbook_says(
    load: float, share: float, service: float
) -> None:
    """P(W > t) = load · exp(-(1 - load) t / service)."""
    expected = max(0.0, math.log(load / (1 - share)) / (1 - load)) * service
    told = waiting_s(load / service, service, share, variation=1.0)
    assert told == pytest.approx(expected, rel=1e-5, abs=1e-9)


@example(rate=1.0, service=0.5, more=1.0, share=0.75, variation=0.0004)
@given(
    rate=st.floats(0.01, 5.0),
    service=st.floats(0.01, 5.0),
    more=st.floats(1.0, 2.0),
    share=st.floats(0.5, 0.999),
    variation=st.floats(0.0, 2.0),
)
def test_more_load_longer_service_more_variation_and_more_requests_wait_longer(
    rate: float, service: float, more: float, share: float, variation: float
) -> None:
    told = waiting_s(rate, service, share, variation)
    assert told >= 0.0
    assert waiting_s(rate * more, service, share, variation) >= told * (1 - 1e-6)
    assert waiting_s(rate, service * more, share, variation) >= told * (1 - 1e-6)
    assert waiting_s(rate, service, min(0.9999, share * more), variation) >= told * (1 - 1e-6)


@given(load=st.floats(0.06, 0.6), service=st.floats(1e-3, 10.0))
def test_up_to_one_service_time_the_wait_is_known(load: float, service: float) -> None:
    """P(W <= t) = (1 - load) exp(rate t), of constant service."""
    rate, share = load / service, min(0.95, (1 - load) * math.exp(load * 0.9))
    told = waiting_s(rate, service, share)
    assert (1 - load) * math.exp(rate * told) == pytest.approx(max(share, 1 - load))


def test_a_queue_that_grows_has_no_percentile() -> None:
    assert waiting_s(1.0, 1.0, 0.95) == math.inf
    assert waiting_s(2.0, 1.0, 0.5) == math.inf
    assert waiting_s(0.0, 1.0, 0.95) == 0.0


@pytest.mark.parametrize("short", [1e-3, 1e-6, 1e-9])
def test_close_to_full_the_wait_is_that_of_heavy_traffic(short: float) -> None:
    """Half as long as exponential service would make it: log(1/(1 - share)) / (2 (1 - load))."""
    told = waiting_s(1.0 - short, 1.0, 0.95)
    assert told == pytest.approx(math.log(1 / 0.05) / (2 * short), rel=2 * short + 1e-6)
