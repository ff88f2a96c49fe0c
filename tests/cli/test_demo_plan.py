"""What the demo is to run: its gateways, and how the real model is split over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dsi_mqtt.cli.demo_run import DemoPlan
from dsi_mqtt.cli.deploy_check import planned
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.plan import Plan
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.engine.select import TierFactory
from dsi_mqtt.errors import MachineError
from tests.cli.running import Run

FILE = Path("demo")


@pytest.fixture
def asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plan that the command makes of its arguments; nothing is started."""

    def plan(*arguments: str) -> DemoPlan:
        made: list[DemoPlan] = []

        async def run_demo(plan: DemoPlan, _: object) -> None:
            made.append(plan)
            raise MachineError("it is not to run")

        monkeypatch.setattr("dsi_mqtt.cli.demo.run_demo", run_demo)
        assert run("demo", *arguments).sentence() == "it is not to run"
        (plan_made,) = made
        return plan_made

    return plan


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> ModelGraph:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return TierFactory().open(DemoPlan.make(None, None, None, None).deployment.model).graph


def chain(plan: DemoPlan, graph: ModelGraph) -> list[tuple[int, int, str]]:
    found: Plan = planned(plan.deployment, graph, plan.nodes, FILE)
    zones = {node.id: node.zone for node in plan.nodes}
    return [(part.units.start, part.units.stop, zones[part.node]) for part in found.segments]


def test_its_budgets_force_a_split_that_begins_in_the_city(asked: Any, minilm: ModelGraph) -> None:
    plan = asked()
    zones = [zone for _, _, zone in chain(plan, minilm)]
    assert zones == ["city", "roadside", "roadside"]
    assert max(node.memory_mib for node in plan.nodes) * MIB < minilm.weight_bytes(minilm.whole)


def test_without_a_weight_budget_it_is_one_segment(asked: Any, minilm: ModelGraph) -> None:
    plan = asked("--memory-cap", "none", "--inputs", "8")
    assert plan.inputs == 8
    assert chain(plan, minilm) == [(0, 8, "city")]


def test_who_is_to_die_is_told_or_nobody_is(asked: Any) -> None:
    assert asked().kill == "city"
    assert asked("--kill", "north-gw").kill == "north-gw"
    assert asked("--calm").kill is None
