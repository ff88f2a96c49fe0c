"""What texts are promised, held against a chain that serves them event by event."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.core.aim import Texts
from dsi_mqtt.core.cadence import Cadence, Rhythm, Times
from tests.core.rhythms import Chain, Played, played, within

SHARE = 0.95
LOADS = (0.1, 0.4, 0.7)


def reading(least: tuple[float, ...], each: float) -> Callable[[int], tuple[float, ...]]:
    """Steps that take as long as their weights are read, until arithmetic takes longer."""
    return lambda width: tuple(max(alone, each * width) for alone in least)


CHAINS = {
    "one node": Chain((0.2,), reading((0.02,), 0.005), 0.001, 50),
    "three nodes": Chain((0.1,) * 3, reading((0.02,) * 3, 0.005), 0.003, 50),
    "slow hops": Chain((0.1,) * 2, reading((0.01,) * 2, 0.002), 0.05, 50),
    "one is slower": Chain((0.3, 0.05), reading((0.05, 0.01), 0.004), 0.002, 40),
}
# Where texts wait for a place before they wait for a node.
FULL = {
    "few places": Chain((0.02,) * 4, reading((0.002,) * 4, 0.004), 0.009, 30, 16),
    "long texts": Chain((0.02,) * 2, reading((0.002,) * 2, 0.004), 0.009, 150, 16),
}


def rhythm(chain: Chain) -> Rhythm:
    hops = (len(chain.prompt_s) + 1) * chain.hop_s

    def times(work: tuple[float, ...]) -> Times:
        return Times(sum(work) + hops, np.array(work))

    return Rhythm(
        Texts(64, chain.new_tokens),
        times(chain.prompt_s),
        lambda width: times(chain.step_s(width)),
        len(chain.prompt_s),
        chain.sessions_max,
    )


def side_by_side(
    load: float, chains: dict[str, Chain] = CHAINS
) -> list[tuple[str, Cadence, Played]]:
    """load: of the most that the chain is said to bear."""
    found = []
    for name, chain in chains.items():
        asked = rhythm(chain)
        rate = load * asked.cadence(0.01, SHARE).rate_per_s
        found.append((name, asked.cadence(rate, SHARE), played(chain, rate, texts=250)))
    return found


@pytest.mark.parametrize("load", LOADS)
def test_first_tokens_come_as_forecast(load: float) -> None:
    errors = {}
    for name, told, seen in side_by_side(load):
        assert told.first_s == pytest.approx(median(seen.firsts), rel=0.1), name
        errors[name] = told.first_within_s / within(seen.firsts, SHARE) - 1
    assert median(map(abs, errors.values())) <= 0.15, errors
    assert max(map(abs, errors.values())) <= 0.4, errors


def test_texts_wait_for_a_place_as_forecast() -> None:
    for name, told, seen in side_by_side(0.8, FULL):
        waited = within(seen.firsts, SHARE)
        assert waited > 3 * told.first_s, name
        assert told.first_within_s == pytest.approx(waited, rel=0.3), name
        assert told.token_s == pytest.approx(seen.token_s, rel=0.1), name


@pytest.mark.parametrize("load", LOADS)
def test_tokens_come_as_forecast(load: float) -> None:
    errors = {name: told.token_s / seen.token_s - 1 for name, told, seen in side_by_side(load)}
    assert median(map(abs, errors.values())) <= 0.1, errors
    assert max(map(abs, errors.values())) <= 0.25, errors


def test_sessions_that_go_different_ways_hold_each_other_up_less() -> None:
    def halved(times: Times) -> Times:
        return Times(times.trip, np.repeat(times.busy, 2) / 2)

    alone = replace(rhythm(CHAINS["one node"]), sessions_max=32)
    apart = replace(
        alone,
        prompt=halved(alone.prompt),
        step=lambda width: halved(alone.step(width)),
        nodes=2,
        sessions_max=64,
        ways=2,
        meeting=0.5,
    )
    one, two = alone.cadence(0.7, SHARE), apart.cadence(1.4, SHARE)
    assert two.rate_per_s == pytest.approx(2 * one.rate_per_s, rel=0.1)
    assert two.token_s == pytest.approx(one.token_s, rel=0.1)
    assert two.first_within_s == pytest.approx(one.first_within_s, rel=0.1)


def test_what_is_said_to_be_borne_is_borne_and_hardly_more() -> None:
    for name, chain in CHAINS.items():
        most = rhythm(chain).cadence(0.01, SHARE).rate_per_s
        assert played(chain, 0.8 * most).waiting < chain.sessions_max / 2, name
        assert played(chain, 2 * most, texts=1500).waiting > chain.sessions_max, name


def test_a_text_that_is_alone_takes_what_its_trips_take() -> None:
    for chain in CHAINS.values():
        told = rhythm(chain).cadence(1e-9, SHARE)
        hops = (len(chain.prompt_s) + 1) * chain.hop_s
        assert told.token_s == pytest.approx(sum(chain.step_s(1)) + hops, rel=1e-3)
        assert told.first_s == pytest.approx(sum(chain.prompt_s) + hops, rel=1e-3)
        assert told.width == pytest.approx(1.0, abs=1e-3)


def test_nothing_is_promised_of_more_texts_than_can_be_borne() -> None:
    asked = rhythm(CHAINS["one node"])
    most = asked.cadence(0.01, SHARE).rate_per_s
    told = asked.cadence(1.01 * most, SHARE)
    assert not told.sustained
    assert math.isinf(told.first_within_s)
    assert math.isfinite(told.token_within_s)


@pytest.mark.parametrize("load", [0.5, 0.9, 0.99, 2.0, 5.0])
def test_no_token_is_told_quicker_than_a_turn(load: float) -> None:
    wide = rhythm(CHAINS["one node"])
    asked = Rhythm(Texts(64, 1000), wide.prompt, wide.step, wide.nodes, sessions_max=8)
    told = asked.cadence(load * asked.cadence(0.01, SHARE).rate_per_s, SHARE)
    assert told.token_s >= asked.step(1).trip * 0.999
    assert told.width <= 8


def test_steps_that_take_no_time_at_all_are_forecast_too() -> None:
    nothing = Times(0.0, np.zeros(3))
    told = Rhythm(Texts(64, 10), nothing, lambda _: nothing, 1, 4).cadence(1.0, SHARE)
    assert told.first_s == 0.0
    assert told.token_s == pytest.approx(0.0, abs=1e-9)


def test_few_places_for_sessions_bound_what_is_borne() -> None:
    wide = rhythm(CHAINS["slow hops"])
    narrow = Rhythm(wide.texts, wide.prompt, wide.step, wide.nodes, sessions_max=2)
    fewer = narrow.cadence(0.01, SHARE).rate_per_s
    assert fewer < wide.cadence(0.01, SHARE).rate_per_s / 4


def test_a_text_of_one_token_has_no_steps() -> None:
    chain = CHAINS["one node"]
    asked = rhythm(chain)
    told = Rhythm(Texts(64, 1), asked.prompt, asked.step, 1, 8).cadence(1.0, SHARE)
    assert told.sessions == 0
    assert told.rate_per_s == pytest.approx(1 / 0.2)


@given(
    rates=st.tuples(st.floats(0.01, 5), st.floats(0.01, 5)),
    name=st.sampled_from(sorted(CHAINS)),
)
@settings(max_examples=30)
def test_more_texts_are_promised_no_less(rates: tuple[float, float], name: str) -> None:
    few, many = (rhythm(CHAINS[name]).cadence(rate, SHARE) for rate in sorted(rates))
    assert many.sessions >= few.sessions - 1e-9
    assert many.rate_per_s <= few.rate_per_s + 1e-9
    assert many.first_within_s >= few.first_within_s * 0.95
    assert few.sustained or not many.sustained
