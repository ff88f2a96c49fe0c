"""What the busiest station is busy for: bounds, chains that share the work out, and prices."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsi_mqtt.cli.bench_planner_cases import instance
from dsi_mqtt.core import duties
from dsi_mqtt.core.aim import Aim
from dsi_mqtt.core.demand import busiest_ns, halved, least_demand
from dsi_mqtt.core.duties import busy_along, busy_around, busy_between
from dsi_mqtt.core.formulation import formulate
from dsi_mqtt.core.pressure import Pressure, Slopes
from dsi_mqtt.core.problem import Problem, last_within
from dsi_mqtt.core.programme import elsewhere
from dsi_mqtt.core.rewriting import rewritten
from dsi_mqtt.core.rules import compile_rules
from dsi_mqtt.core.search import best
from dsi_mqtt.core.spread import spread
from tests.thoroughness import examples

seeds = st.integers(0, 10_000)


def problem_of(seed: int, units: int, nodes: int, codecs: int, kind: str) -> Problem:
    case = instance(seed, units, nodes, codecs, kind)
    rules = compile_rules(case.deployment, case.graph)
    return formulate(case.graph, rules, case.nodes, {}, case.question)


@settings(max_examples=examples(30))
@given(seeds, st.integers(2, 4))
def test_halves_are_the_least_busy_of_all_chains_of_two(seed: int, nodes: int) -> None:
    problem = problem_of(seed, 5, nodes, 3, "throughput")
    ways = itertools.product(range(1, 5), range(nodes), range(nodes), range(len(problem.codings)))
    chains = [
        ((one, cut, 0), (other, 5, coding))
        for cut, one, other, coding in ways
        if one != other and problem.reach[0, one] >= cut and problem.reach[cut, other] >= 5
    ]
    least, steps = halved(problem)
    assert bool(steps) == bool(chains)
    for chain in chains:
        assert least <= busiest_ns(problem, (chain[0][0], chain))
    if steps:
        assert steps in chains


@settings(max_examples=examples(30))
@given(seeds, st.integers(1, 4))
def test_no_placement_has_less_than_the_least_demand(seed: int, nodes: int) -> None:
    problem = problem_of(seed, 4, nodes, 1, "throughput")
    found = best(problem, Aim(latency=0.0, busiest=1.0), 20_000)
    least, weights = least_demand(problem)
    assert weights.sum() == pytest.approx(1.0)
    if found.path is not None:
        assert least <= busiest_ns(problem, found.path)


@settings(max_examples=examples(30), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seeds, st.data())
def test_a_chain_keeps_busy_what_its_steps_do_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, seed: int, data: st.DataObject
) -> None:
    monkeypatch.setattr(duties, "_LONG", 0)
    problem = problem_of(seed, 6, 4, 4, "throughput")
    nodes, ways = st.integers(0, 3), st.integers(0, len(problem.codings) - 1)
    stops = [*sorted(data.draw(st.sets(st.integers(1, 5)))), 6]
    steps: list[tuple[int, int, int]] = []
    for stop in stops:
        steps.append((data.draw(nodes), stop, data.draw(ways) if steps else 0))
    door = data.draw(nodes)
    one_by_one = busy_around(problem, door, steps, busy_between(problem, steps))
    assert np.array_equal(busy_along(problem, door, steps), one_by_one)


@settings(max_examples=examples(30))
@given(seeds)
def test_no_demand_beyond_the_most_is_tried(seed: int) -> None:
    problem = problem_of(seed, 12, 6, 1, "throughput")
    least, weights = least_demand(problem)
    for most in (least, 1.2 * least):
        steps = spread(problem, least, weights, most)
        start = 0
        for node, stop, _ in steps:
            work = problem.demands.compute[stop, node] - problem.demands.compute[start, node]
            assert work + problem.demands.segment <= most
            start = stop


@settings(max_examples=examples(30))
@given(seeds)
def test_work_that_is_shared_out_keeps_no_node_busy_twice_and_none_for_long(seed: int) -> None:
    problem = problem_of(seed, 24, 8, 1, "throughput")
    least, weights = least_demand(problem)
    steps = spread(problem, least, weights, problem.cap)
    if not steps:
        return
    nodes = [node for node, _, _ in steps]
    assert len(set(nodes)) == len(nodes) <= problem.max_segments
    start = 0
    for node, stop, _ in steps:
        assert start < stop <= problem.reach[start, node]
        work = problem.demands.compute[stop, node] - problem.demands.compute[start, node]
        assert work + problem.demands.segment <= least * 1.03**31
        start = stop
    assert start == problem.units


@given(st.data(), st.integers(1, 9), st.integers(1, 3))
def test_the_last_cut_within_a_limit_is_found_for_all_nodes_at_once(
    data: st.DataObject, units: int, nodes: int
) -> None:
    few = st.lists(st.integers(0, 3), min_size=units * nodes, max_size=units * nodes)
    before = np.zeros((units + 1, nodes))
    before[1:] = np.cumsum(np.array(data.draw(few)).reshape(units, nodes), axis=0)
    limits = before[:-1] + data.draw(st.integers(-5, 20))
    for cut, node in np.ndindex(units, nodes):
        known = np.searchsorted(before[:, node], limits[cut, node], side="right") - 1
        assert last_within(before, limits)[cut, node] == max(0, known)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_the_least_elsewhere_leaves_out_the_node_itself(values: list[int]) -> None:
    others = [min([*values[:node], *values[node + 1 :], np.inf]) for node in range(len(values))]
    row = np.array([values], np.float64)
    assert elsewhere(row)[0].tolist() == others
    assert row[0].tolist() == values


@settings(max_examples=examples(50))
@given(
    st.floats(0.0, 20.0),
    st.floats(0.0, 1.0),
    st.floats(0.0, 2.0),
    st.floats(0.0, 3.0),
    st.floats(0.01, 1.0),
)
def test_a_slope_is_credited_with_all_it_may_exceed(
    rate: float, latency: float, busiest: float, slope: float, share: float
) -> None:
    pressure = Pressure(Aim(latency=latency, busiest=busiest, rate_per_s=rate))
    low, high = 1e6, min(pressure.most, 1e9)
    if high <= low:
        return
    slopes = Slopes.of(pressure, low, high)
    demand = low + share * (high - low)
    excess = slope * demand - pressure.adds(demand)
    assert slopes.excesses(slope).max() >= excess - 1e-3


def test_hops_are_written_so_that_a_chain_keeps_within_its_budget() -> None:
    problem = problem_of(5, 6, 3, 4, "latency")
    (budget,) = (b for b in problem.budgets if b.field == "codecs.error")
    worst = int(budget.sums.hop.argmax())
    steps = ((0, 2, 0), (1, 4, worst), (2, 6, worst))
    tight = replace(budget, limit=float(budget.sums.hop[worst]))
    door = problem.doors[0]
    mended = rewritten(replace(problem, budgets=(tight,)), door, steps)
    assert tight.sums.along(door, steps) > tight.limit >= tight.sums.along(door, mended)
    assert [step[:2] for step in mended] == [step[:2] for step in steps]
