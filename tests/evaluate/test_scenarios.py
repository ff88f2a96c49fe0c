"""The scenarios keep the rules of a fair comparison, for every seed."""

from __future__ import annotations

import pytest

from dsi_mqtt.core.plan import Infeasible, plan
from dsi_mqtt.core.rules import check
from dsi_mqtt.errors import ConfigError
from dsi_mqtt.evaluate.scenarios import POLICY, is_constant, names, scenario, site_of, sites
from dsi_mqtt.evaluate.truth import Truth
from dsi_mqtt.sim.engine import graph_of
from dsi_mqtt.sim.simulation import Simulation

DISTURBED = tuple(name for name in names() if not is_constant(name))


@pytest.mark.parametrize("name", DISTURBED)
def test_links_load_and_nodes_are_disturbed_as_the_rules_say(name: str) -> None:
    for seed in range(1, 30):
        chosen = scenario(name, seed)
        regimes = [fault for fault in chosen.faults if fault.throttle]
        (loss,) = [fault for fault in chosen.faults if fault.kill]
        assert len({fault.throttle for fault in regimes}) == 2
        for fault in regimes:
            assert fault.for_s is not None
            assert 80 <= fault.for_s <= 150
            assert 0.05 <= fault.factor <= 0.1
        assert loss.for_s == 30.0
        assert len(chosen.requests) == 3  # the steady stream, and two spikes
        assert all(fault.at_s + (fault.for_s or 0) < chosen.duration_s for fault in chosen.faults)
        assert scenario(name, seed) == chosen
    assert scenario(name, 1) != scenario(name, 2)


@pytest.mark.parametrize("name", names())
def test_a_scenario_has_what_the_simulator_and_the_comparison_need(name: str) -> None:
    chosen, site = scenario(name, 1), site_of(name)
    (deployment,) = chosen.deployments
    assert check(deployment, graph_of(deployment)) == ()
    assert deployment.policy == POLICY
    assert deployment.sla.latency_ms is not None
    assert len(site.traced) >= 3
    steady = [group.link.trace is None for group in chosen.nodes]
    assert all(steady) == is_constant(name)
    assert bool(chosen.faults) != is_constant(name)


@pytest.mark.parametrize("name", sorted(sites()))
def test_no_node_can_do_it_alone(name: str) -> None:
    """Memory or zones force two segments or more."""
    chosen = scenario(f"{name}-constant", 1)
    truth = Truth(chosen)
    views = truth.typical(Simulation(chosen, scripts={}).nodes, (20.0,))
    question = truth.question(20.0, 21.0)
    assert all(
        isinstance(plan(truth.spec, truth.graph, (view,), question=question), Infeasible)
        for view in views
    )
    found = plan(truth.spec, truth.graph, views, question=question)
    assert not isinstance(found, Infeasible)
    assert len(found.segments) >= 2


def test_an_unknown_one_is_named() -> None:
    with pytest.raises(ConfigError, match="--scenario: there is none 'moon'; known are smart-city"):
        site_of("moon")
