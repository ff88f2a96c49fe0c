"""The ways in which bounds are found agree, and what they look at does not change the answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsi_mqtt.cli.bench_planner import planned
from dsi_mqtt.cli.bench_planner_cases import OBJECTIVES, instance
from dsi_mqtt.core import bounds, programme, search
from dsi_mqtt.core.bounds import Bounds, Prices, exact
from dsi_mqtt.core.formulation import formulate
from dsi_mqtt.core.rules import compile_rules
from tests.thoroughness import examples

seeds = st.integers(0, 10_000)
patched = settings(
    max_examples=examples(20), suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@patched
@given(seeds, st.sampled_from(OBJECTIVES))
def test_cut_by_cut_gives_what_all_cuts_at_once_give(
    monkeypatch: pytest.MonkeyPatch, seed: int, kind: str
) -> None:
    case = instance(seed, 6, 4, 3, kind)
    rules = compile_rules(case.deployment, case.graph)
    problem = formulate(case.graph, rules, case.nodes, {}, case.question)
    if not problem.doors or problem.segments_bounded:
        return
    ends = exact(problem.doors)
    with monkeypatch.context() as patch:
        patch.setattr(programme, "_FEW", problem.units + 1)
        at_once = Bounds.of(problem, Prices.none(problem), ends)
    none = replace(problem, fees=np.zeros_like(problem.fees))
    with monkeypatch.context() as patch:
        patch.setattr(programme, "_FEW", 1)
        by_cut = Bounds.of(none, Prices.none(problem), ends)
    one, other = at_once.layers, by_cut.layers
    assert np.array_equal(one.start[-1], other.start[-1])
    assert np.array_equal(one.after[-1][:, 1:], other.after[-1][:, 1:])


@patched
@given(seeds, st.integers(1, 5))
def test_chains_of_many_segments_are_bounded_where_fees_are_shared_out(
    monkeypatch: pytest.MonkeyPatch, seed: int, few: int
) -> None:
    case = instance(seed, 8, 4, 3, "cost")
    rules = compile_rules(case.deployment, case.graph)
    problem = formulate(case.graph, rules, case.nodes, {}, case.question)
    if not problem.doors or problem.segments_bounded:
        return
    ends, prices = exact(problem.doors), Prices.none(problem)
    with monkeypatch.context() as patch:
        patch.setattr(programme, "_FEW", problem.units + 1)
        true = Bounds.of(problem, prices, ends).layers
        patch.setattr(programme, "_FEW", few)
        least = Bounds.of(problem, prices, ends).layers
    assert len(least.after) <= few
    assert (least.after[-1][:, 1:] <= true.after[-1][:, 1:]).all()
    assert (least.start[-1] <= true.start[-1]).all()


@patched
@given(seeds, st.sampled_from(OBJECTIVES))
def test_codings_that_are_nowhere_quicker_make_no_difference(seed: int, kind: str) -> None:
    case = instance(seed, 6, 4, 4, kind)
    rules = compile_rules(case.deployment, case.graph)
    problem = formulate(case.graph, rules, case.nodes, {}, case.question)
    if not problem.doors:
        return
    ends, prices = exact(problem.doors), Prices.none(problem)
    some = Bounds.of(problem, prices, ends).layers
    every = tuple(range(len(problem.codings)))
    whole = Bounds.of(replace(problem, quickest=every), prices, ends).layers
    assert np.array_equal(some.start[-1], whole.start[-1])


@patched
@given(seeds, st.sampled_from(("p95_under_load", "cost")), st.floats(0.0, 20.0))
def test_codings_that_are_nowhere_less_at_prices_of_stations_make_no_difference(
    monkeypatch: pytest.MonkeyPatch, seed: int, kind: str, rate: float
) -> None:
    monkeypatch.setattr(bounds, "_LARGE", 0)
    case = instance(seed, 6, 4, 4, kind)
    rules = compile_rules(case.deployment, case.graph)
    problem = formulate(case.graph, rules, case.nodes, {}, case.question)
    if not problem.doors:
        return
    stations = np.zeros((3, len(problem.nodes)))
    stations[:, seed % len(problem.nodes)] = rate, 0.3 * rate, 0.0
    prices = replace(Prices.none(problem), stations=stations)
    ends = exact(problem.doors)
    some = Bounds.of(problem, prices, ends)
    none = np.zeros_like(problem.quicker)
    whole = Bounds.of(replace(problem, quicker=none), prices, ends)
    assert set(some.ways) <= set(whole.ways) == set(problem.lightest)
    assert rate or some.ways == problem.quickest
    assert np.array_equal(some.layers.start[-1], whole.layers.start[-1])


@patched
@given(seeds, st.sampled_from(OBJECTIVES))
def test_tuning_prices_on_few_nodes_does_not_change_the_answer(
    monkeypatch: pytest.MonkeyPatch, seed: int, kind: str
) -> None:
    case = instance(seed, 5, 4, 2, kind)
    _, whole = planned(case, 20_000)
    with monkeypatch.context() as patch:
        patch.setattr(search, "_MANY", 2)
        _, by_halves = planned(case, 20_000)
    assert whole.complete
    assert by_halves.complete
    assert by_halves.path == whole.path
    assert by_halves.lower <= by_halves.score
