"""What each policy does, on a small site."""

from __future__ import annotations

from functools import cache

import pytest

from dsi_mqtt.evaluate.forecast import share_late
from dsi_mqtt.evaluate.playing import FIXED, Played, play_scenario
from dsi_mqtt.evaluate.policies import NAMES, Name
from dsi_mqtt.evaluate.truth import Truth
from dsi_mqtt.sim.simulation import Simulation
from tests.evaluate.small import FROM_S, UNTIL_S, site

TARGET_S = 0.3


@cache
def games() -> dict[Name, Played]:
    return play_scenario(site(), {}, stopwatch=lambda: 0.0)


def test_all_policies_play_the_same_inputs() -> None:
    assert set(games()) == set(NAMES)
    asked = [sorted([*one.asked_at, *one.failed_at]) for one in games().values()]
    assert all(times == asked[0] for times in asked)
    assert len(asked[0]) > 50


def moved_at(name: Name, to: str) -> list[float]:
    return [d.at_s for d in games()[name].decisions if to in d.chain and d.kind != "place"]


def test_the_causal_oracle_moves_two_seconds_after_the_link_fell() -> None:
    first = moved_at("causal-oracle", "far")[0]
    assert FROM_S + 2 <= first <= FROM_S + 3
    back = next(at for at in moved_at("causal-oracle", "near") if at > first)
    assert UNTIL_S + 2 <= back <= UNTIL_S + 3


def test_the_clairvoyant_moves_in_time() -> None:
    assert FROM_S - 1 <= moved_at("clairvoyant", "far")[0] <= FROM_S
    assert games()["clairvoyant"].violations(TARGET_S) == 0


@pytest.mark.parametrize("name", ["static-start", "static-hindsight", "cloud", "edge"])
def test_fixed_placements_do_not_move(name: Name) -> None:
    assert [d.kind for d in games()[name].decisions] == ["place"]
    assert games()[name].placement


def test_the_best_in_hindsight_is_no_worse_than_any_other_fixed_one() -> None:
    best = games()["static-hindsight"]
    assert "far" in best.placement  # the only one of the servers whose link stays as it is
    others: tuple[Name, ...] = ("static-start", "cloud", "edge")
    assert all(best.violations(TARGET_S) <= games()[o].violations(TARGET_S) for o in others)


def test_cloud_takes_what_zones_allow_and_edge_takes_none() -> None:
    assert "0:1 gate → 1:4 cloud" in games()["cloud"].placement
    assert "cloud" not in games()["edge"].placement


def test_only_adaptive_pays_for_what_it_measures_and_says() -> None:
    for name, one in games().items():
        assert (one.control_bytes > 0) == (name == "adaptive")


def test_prices_are_those_of_the_nodes_in_use() -> None:
    assert games()["cloud"].cost > 5 * games()["edge"].cost > 0


def test_the_estimate_that_ranks_placements_is_near_what_is_simulated() -> None:
    truth = Truth(site())
    nodes = Simulation(site(), scripts={}).nodes
    usual = truth.typical(nodes, range(0, 42, 3))
    for name, choose in FIXED:
        placement = choose(truth, usual)
        assert placement is not None
        simulated = games()[name].violations(TARGET_S) / games()[name].asked
        assert abs(share_late(truth, nodes, placement) - simulated) < 0.12


def test_it_is_repeatable_from_the_seed() -> None:
    again = play_scenario(site(), {}, stopwatch=lambda: 0.0)
    assert again == games()
