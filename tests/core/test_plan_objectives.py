"""Load, throughput, cost, codecs and budgets: the planner against trying all, and a programme."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from dsi_mqtt.cli import bench_planner_brute, bench_planner_milp
from dsi_mqtt.cli.bench_planner import Exact, objective, planned
from dsi_mqtt.cli.bench_planner_cases import OBJECTIVES, Instance, instance
from dsi_mqtt.core.aim import Aim
from dsi_mqtt.core.bounds import OWN
from dsi_mqtt.core.deployment import Policy, Privacy
from dsi_mqtt.core.moving import gain
from dsi_mqtt.core.plan import Infeasible, Plan, plan
from tests.thoroughness import examples

# Enough for every search of these sizes to end by itself.
ENOUGH = 100_000


@settings(max_examples=examples(120))
@given(st.integers(0, 10**6), st.sampled_from(OBJECTIVES), st.integers(2, 3), st.integers(1, 2))
def test_it_finds_what_trying_all_finds(seed: int, kind: str, nodes: int, codecs: int) -> None:
    case = instance(seed, 3, nodes, codecs, kind)
    best = bench_planner_brute.solve(case)
    problem, found = planned(case, ENOUGH)
    event(f"{kind}: {'split' if best and best.segments > 1 else 'whole' if best else 'none'}")
    assert found.complete
    if best is None:
        assert found.path is None
    else:
        assert found.path is not None
        assert objective(case, problem, found) == pytest.approx(best.value, rel=1e-4)
        assert found.lower <= found.score


@pytest.mark.parametrize("number", range(8))
def test_it_finds_what_a_linear_programme_finds(number: int) -> None:
    exact = Exact()
    case = instance(number, 5, 3, 1 + number % 2, OBJECTIVES[number % 4])
    exact.compare(case, "milp", bench_planner_milp.solve)
    assert exact.agreed == 1
    assert max(exact.gaps, default=0.0) < 1e-3


def anywhere(seed: int, units: int, nodes: int) -> Instance:
    """Without zones and budgets, so that there is a placement, and any node may be the door."""
    case = instance(seed, units, nodes, 1, "latency", roomy=True)
    asked = replace(case.question, aim=Aim(), error_max=None, exposure_max=None)
    free = replace(case.deployment, privacy=Privacy(), policy=Policy(replicas=1))
    return replace(case, question=asked, deployment=free)


@pytest.mark.parametrize("seed", range(6))
def test_many_doors_are_bounded_together(seed: int) -> None:
    case = anywhere(seed, units=3, nodes=OWN + 3)
    problem, found = planned(case, ENOUGH)
    best = bench_planner_brute.solve(case)
    assert len(problem.doors) > OWN
    assert best is not None
    assert objective(case, problem, found) == pytest.approx(best.value, rel=1e-6)


@pytest.mark.parametrize("limit", [1, 5, 20])
def test_a_search_that_is_cut_off_says_how_far_off_it_may_be(limit: int) -> None:
    for seed in range(12):
        case = instance(seed, 5, 3, 2, OBJECTIVES[seed % 4])
        part, whole = planned(case, limit)[1], planned(case, ENOUGH)[1]
        assert part.lower <= whole.score + 1
        if part.complete:
            assert math.isclose(part.score, whole.score)


@pytest.mark.parametrize("seed", [1_000_000, 1_000_003, 1_000_008])
def test_that_one_node_is_the_cheapest_needs_no_search(seed: int) -> None:
    case = instance(seed, 80, 32, 4, "cost", roomy=True)
    _, found = planned(case, 1)
    assert found.path is not None
    assert len({found.path[0], *(step.node for step in found.path[1])}) == 1
    assert found.complete


@pytest.mark.parametrize("seed", [1_000_000, 1_000_013, 1_000_017])
def test_a_door_that_ends_its_chain_is_told_apart_without_a_search(seed: int) -> None:
    case = instance(seed, 80, 32, 4, "latency", roomy=True)
    assert planned(case, 1)[1].complete


def test_where_more_come_than_any_can_bear_it_takes_what_bears_most() -> None:
    case = anywhere(4, units=4, nodes=3)
    flood = replace(case.question, aim=Aim(rate_per_s=10_000.0))
    found = plan(case.deployment, case.graph, case.nodes, question=flood)
    widest = replace(flood, aim=Aim(latency=0.0, busiest=1.0))
    most = plan(case.deployment, case.graph, case.nodes, question=widest)
    assert isinstance(found, Plan)
    assert isinstance(most, Plan)
    assert math.isinf(found.wait_s)
    assert found.busiest_s == most.busiest_s
    assert gain(found, found, flood.aim) == 0.0


@pytest.mark.parametrize(
    ("aim", "constraint", "field"),
    [
        (Aim(rate_per_s=10_000.0, latency_max_s=1.0), "rate", "sla.rate_per_s"),
        (Aim(latency_max_s=1e-3), "latency", "sla.latency_ms"),
    ],
)
def test_a_target_that_nothing_meets_is_named_with_what_could_be_had(
    aim: Aim, constraint: str, field: str
) -> None:
    case = anywhere(4, units=4, nodes=3)
    asked = replace(case.question, aim=aim)
    found = plan(case.deployment, case.graph, case.nodes, question=asked)
    assert isinstance(found, Infeasible)
    assert (found.constraint, found.field, found.proven) == (constraint, field, True)
    if constraint == "latency":
        raised = float(found.remedy.rsplit(" ", 1)[1]) / 1000
        more = replace(asked, aim=replace(aim, latency_max_s=raised))
        assert isinstance(plan(case.deployment, case.graph, case.nodes, question=more), Plan)
