"""The sites that faults are tried on."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsi_mqtt.chaos.layouts import LAYOUTS
from dsi_mqtt.chaos.reference import deployments
from dsi_mqtt.chaos.trials import TRIALS, SiteName
from dsi_mqtt.cli.chaos_run import ChaosPlan, by_site
from dsi_mqtt.sim.traces import Trace

SITES: tuple[SiteName, ...] = ("spares", "warm", "equals")


@pytest.mark.parametrize("name", SITES)
def test_whoever_dies_alone_another_may_take_over(name: SiteName) -> None:
    layout = LAYOUTS[name]
    everybody = frozenset(node.id for node in layout.nodes)
    assert layout.feasible(everybody)
    assert all(layout.feasible(everybody - {node}) for node in everybody)
    assert not layout.feasible(everybody - set(layout.parts[0][1]))
    for spec in deployments(layout):
        assert spec.policy.standbys == layout.standbys
        assert {node for part in spec.split or () for node in part.nodes} <= everybody


def test_where_nobody_is_a_spare_any_chain_is_usual() -> None:
    chain = frozenset({"city-2", "north", "south"})
    assert LAYOUTS["equals"].is_usual(chain)
    assert not LAYOUTS["equals"].is_usual(frozenset())
    assert not LAYOUTS["spares"].is_usual(chain)


def test_all_trials_are_tried_each_on_its_site_within_the_time() -> None:
    parts = by_site(ChaosPlan(TRIALS, 4200.0, 7, Path("state"), {}))
    assert [name for name, _ in parts] == list(SITES)
    assert [trial for _, part in parts for trial in part.trials] == list(TRIALS)
    assert sum(part.seconds for _, part in parts) == pytest.approx(4200.0)
    assert {part.folder for _, part in parts} == {Path("state") / name for name in SITES}


def test_on_recorded_links_every_node_has_an_equal() -> None:
    traces = {"drive": Trace((1.0,), (10.0,))}
    ((name, plan),) = by_site(ChaosPlan(TRIALS, 4200.0, 7, Path("state"), traces))
    assert name == "equals"
    assert {trial.site for trial in plan.trials} == {"equals"}
    ((name, _),) = by_site(ChaosPlan((), 60.0, 7, Path("state"), traces))
    assert name == "equals"
