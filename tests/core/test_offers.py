"""Placements side by side: each is the best by what it is named for, and told alike."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsi_mqtt.cli.bench_planner_cases import instance
from dsi_mqtt.core.deployment import Objective, Prices, Sla
from dsi_mqtt.core.offers import CHOSEN, Offers, offers
from dsi_mqtt.core.plan import Plan

PRICES = Prices(node_hour={"default": 0.02, "cloud": 0.6}, gib={"default": 0.0, "cloud": 0.09})


def found(seed: int, **objective: float) -> Offers:
    case = instance(seed, 5, 4, 1, "latency", roomy=True)
    nodes = [replace(node, zone="plant") if i < 2 else node for i, node in enumerate(case.nodes)]
    spec = replace(
        case.deployment,
        sla=Sla(rate_per_s=2.0),
        prices=PRICES,
        objective=Objective(**objective),
        policy=replace(case.deployment.policy, max_segments=None),
    )
    return offers(spec, case.graph, nodes)


@pytest.mark.parametrize("seed", range(8))
def test_each_is_the_best_by_what_it_is_named_for(seed: int) -> None:
    told = found(seed, latency=1.0, cost=0.5)
    every = {name: offer for offer in told.offers for name in offer.names}
    for name, at in (("latency", 0), ("throughput", 1), ("cost", 2), ("traffic", 3)):
        if name in every:
            least = min(offer.figures[at] for offer in told.offers)
            assert every[name].figures[at] == pytest.approx(least, rel=1e-3)
    assert every[CHOSEN].score == min(offer.score for offer in told.offers)
    assert not every[CHOSEN].lost
    if "one node" in every:
        assert len(every["one node"].plan.segments) == 1


@pytest.mark.parametrize("seed", range(8))
def test_what_is_beaten_in_everything_has_no_star(seed: int) -> None:
    told = found(seed, latency=1.0)
    for offer in told.offers:
        beaten = any(
            all(a <= b for a, b in zip(other.figures, offer.figures, strict=True))
            and other.figures != offer.figures
            for other in told.offers
        )
        assert offer.best or beaten


def test_no_placement_stands_twice() -> None:
    told = found(3, latency=1.0)
    places = [str(offer.plan.segments) + offer.plan.door for offer in told.offers]
    assert len(set(places)) == len(places)
    assert all(isinstance(offer.plan, Plan) for offer in told.offers)
