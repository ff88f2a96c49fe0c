"""Deployments that share nodes, and have to leave one at once: each goes where it stays."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsi_mqtt.core.deployment import Deployment, Generation, Policy, Sla, SplitPart
from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.sim.scenario import Group, Line, Operation, Requests, Scenario
from tests.sim.sites import run

DRAINED_S, BACK_S, ENDS_S = 20.0, 26.0, 34.0
LINK = Line(10.0, 10.0, 2.0)
PARTS = (
    SplitPart("0:2", ("city", "city-spare")),
    SplitPart("2:4", ("north", "road-spare")),
    SplitPart("4:6", ("south", "road-spare")),
)
SPARES = ("city-spare", "road-spare")
OPTIONS = {"units": 6, "weight_mib": 0.5}


def site(seed: int) -> Scenario:
    """A one-pass deployment and one that generates, cut alike; a node of both is drained."""
    names = ("city", "north", "south", *SPARES)
    policy = Policy(cooldown_s=1.0, min_gain=0.15)
    one_pass = Deployment(
        "hazards",
        ModelSpec(tier="fake", options={**OPTIONS, "unit_ms": 1, "hidden": 2048}),
        split=PARTS,
        policy=policy,
        sla=Sla(rate_per_s=20.0, deadline_ms=30_000.0),
    )
    generating = replace(
        one_pass,
        name="chat",
        kind="generation",
        model=ModelSpec(tier="fake", options={**OPTIONS, "unit_ms": 0.5}),
        generation=Generation(context=256, max_tokens=48, idle_s=0.0, kv_mib_max=4),
        sla=Sla(deadline_ms=30_000.0),
    )
    return Scenario(
        tuple(Group(n, spare=n in SPARES, link=LINK, slowdown=3.0, spread=0.3) for n in names),
        (one_pass, generating),
        (
            Requests("hazards", rate_per_s=20.0, from_s=10.0),
            Requests("chat", rate_per_s=2.0, new_tokens=48, prompt_tokens=8, from_s=10.0),
        ),
        operations=(Operation(DRAINED_S, drain="north", for_s=BACK_S - DRAINED_S),),
        duration_s=ENDS_S,
        seed=seed,
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_a_drained_node_costs_each_deployment_one_table_and_one_on_the_way_back(seed: int) -> None:
    made = run(site(seed))
    moved = [d for d in made.outcome.decisions if d.at_s >= DRAINED_S and d.kind != "keep"]
    away = sorted(d.deployment for d in moved if d.at_s < BACK_S)
    back = sorted(d.deployment for d in moved if d.at_s >= BACK_S)
    assert (away, back) == (["chat", "hazards"], ["chat", "hazards"])
    for answers in made.outcome.answers.values():
        assert answers.asked == len(answers.latencies_s)
