"""The orchestrator follows links and load while it serves, and leaves alone what is steady."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from dsi_mqtt.core.draft import places
from dsi_mqtt.core.offered import Offered
from dsi_mqtt.sim.scenario import Fault, Line, Requests, Scenario
from dsi_mqtt.sim.simulation import Simulation
from dsi_mqtt.sim.traces import Trace
from tests.sim.sites import NAME, deployment, scenario

# 64 KiB between two nodes, of three.
WIDE: dict[str, Any] = {"hidden": 16384}
AT_S = 60.0
LINE = Line(20.0, 20.0, 10.0)


def site(*faults: Fault, link: Line = LINE, rate_per_s: float = 4.0, **changes: Any) -> Scenario:
    made = scenario(*faults, rate_per_s=rate_per_s, nodes=3, duration_s=120.0, link=link)
    spec = deployment(rate_per_s=rate_per_s, **WIDE)
    return replace(made, deployments=(spec,), **changes)


def members(made: Simulation) -> set[str]:
    table = made.outcome.serving(NAME)
    assert table is not None
    return {node for _, node in places(table)}


@pytest.mark.parametrize("node", ["gw-1", "gw-2", "gw-3"])
def test_a_link_that_falls_to_a_tenth_is_left_within_five_seconds(node: str) -> None:
    steady = Simulation(site())
    steady.run()
    made = Simulation(site(Fault(AT_S, 60.0, throttle=node, factor=0.1)))
    made.run()
    moves = [d for d in made.outcome.decisions if d.at_s > AT_S]
    answers = made.outcome.answers[NAME]
    assert answers.asked == len(answers.latencies_s)
    if node in members(steady):
        assert [d.kind for d in moves] == ["remap"]
        assert moves[0].at_s <= AT_S + 5.0
        assert node not in members(made)
    else:
        assert moves == []


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_noise_of_a_third_moves_nothing_for_ten_minutes(seed: int) -> None:
    """At most once: the first placement knows of some links only."""
    random = Random(seed)
    noisy = Trace(
        tuple(20.0 * random.uniform(0.7, 1.3) for _ in range(601)),
        tuple(10.0 * random.uniform(0.7, 1.3) for _ in range(601)),
    )
    chosen = site(link=Line(trace="noisy"), duration_s=600.0, seed=seed)
    made = Simulation(chosen, {"noisy": noisy})
    made.run()
    assert made.outcome.moves(NAME) <= 1
    assert not any(d.kind != "place" for d in made.outcome.decisions if d.at_s > AT_S)


def test_a_load_that_one_node_cannot_bear_is_shared_while_it_lasts() -> None:
    """60 ms on one node without hops: at rest it is the best, at 15 a second it is nearly full."""
    chosen = scenario(nodes=3, memory_mib=70.0, duration_s=180.0, rate_per_s=0.5)
    spike = Requests(NAME, rate_per_s=15.0, from_s=AT_S, until_s=100.0)
    made = Simulation(replace(chosen, requests=(*chosen.requests, spike)))
    made.clock.run(AT_S)
    assert len(members(made)) == 1
    made.clock.run(95.0)
    assert len(members(made)) > 1
    made.run()
    assert len(members(made)) == 1
    answers = made.outcome.answers[NAME]
    assert answers.asked == len(answers.latencies_s)


def test_deployments_that_would_fill_one_node_spread_over_two() -> None:
    """Six units of 5 ms at 20 a second keep a node busy for 0.6 of the time."""
    options = {"unit_ms": 5.0, "weight_mib": 4.0}
    specs = tuple(deployment(name, rate_per_s=20.0, **options) for name in ("one", "two"))
    chosen = scenario(nodes=2, memory_mib=200.0, duration_s=60.0)
    requests = tuple(Requests(spec.name, rate_per_s=20.0, from_s=10.0) for spec in specs)
    made = Simulation(replace(chosen, deployments=specs, requests=requests))
    made.run()
    busy = {name: node.processor.busy_s for name, node in made.nodes.items()}
    assert max(busy.values()) < 1.4 * min(busy.values())
    for spec in specs:
        answers = made.outcome.answers[spec.name]
        assert answers.asked == len(answers.latencies_s)
        assert sorted(answers.latencies_s)[int(0.95 * answers.asked)] < 0.2
        assert made.outcome.moves(spec.name) <= 2


@pytest.mark.parametrize("rate_per_s", [1.0, 4.0, 12.0])
def test_the_load_that_comes_is_known(rate_per_s: float) -> None:
    """It announced little, so that what counts is what the door has counted."""
    chosen = scenario(nodes=2, memory_mib=200.0, duration_s=90.0, rate_per_s=0.1)
    requests = (Requests(NAME, rate_per_s=rate_per_s, from_s=10.0),)
    made = Simulation(replace(chosen, requests=requests))
    known = []
    heard = Offered.counted

    def counted(self: Offered, *given: Any) -> None:
        heard(self, *given)
        known.append(self.rate_per_s)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Offered, "counted", counted)
        made.run()
    assert known[-30] == pytest.approx(rate_per_s, rel=0.35)
