"""The planner against brute force: the least latency, or proof that there is no placement."""

from __future__ import annotations

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from dsi_mqtt.core.infeasible import Situation
from dsi_mqtt.core.plan import Infeasible, check
from dsi_mqtt.core.rules import compile_rules
from dsi_mqtt.core.search import cheapest
from dsi_mqtt.errors import ConfigError
from tests.core.plan_cases import (
    Case,
    cases,
    found_path,
    oracle,
)
from tests.thoroughness import examples


@settings(max_examples=examples(400))
@given(cases())
def test_plan_is_what_brute_force_finds(case: Case) -> None:
    best = oracle(case)
    if check(case.deployment, case.graph):
        event("contradiction")
        assert best is None
        with pytest.raises(ConfigError):
            case.planned()
        return
    found = case.planned()
    if isinstance(found, Infeasible):
        event(f"infeasible: {found.constraint}")
        assert best is None
        assert found.proven
        return
    event(f"segments: {len(found.segments)}")
    event(f"returns: {len({s.node for s in found.segments}) < len(found.segments)}")
    assert best is not None
    assert round(found.latency_s * 1e9) == best.latency_ns
    assert found_path(found) == best.path
    assert found.optimal
    assert found.bound == 0


@settings(max_examples=examples(150))
@given(cases(rules=False))
def test_plan_without_rules_is_what_brute_force_finds(case: Case) -> None:
    best, found = oracle(case), case.planned()
    if isinstance(found, Infeasible):
        assert best is None
        assert found.constraint in ("no_nodes", "links", "memory", "unfit")
    else:
        assert best is not None
        assert (round(found.latency_s * 1e9), found_path(found)) == (best.latency_ns, best.path)


@settings(max_examples=examples(150))
@given(cases())
def test_prices_of_memory_change_the_way_and_not_the_result(case: Case) -> None:
    if check(case.deployment, case.graph):
        return
    problem = situation(case).problem()
    plain, priced = cheapest(problem, 10_000), cheapest(problem, 10_000, rounds=0)
    assert (priced.path, priced.score) == (plain.path, plain.score)


@settings(max_examples=examples(150))
@given(cases(), st.integers(1, 30), st.integers(0, 30))
def test_search_that_gives_up_says_how_far_off_it_may_be(
    case: Case, limit: int, rounds: int
) -> None:
    if check(case.deployment, case.graph):
        return
    problem = situation(case).problem()
    full = cheapest(problem, 10_000)
    part = cheapest(problem, limit, rounds=rounds)
    assert part.considered <= limit
    if full.path is None:
        assert part.path is None
    else:
        assert part.lower <= full.score <= part.score
        # Which of equal ones comes first may be what was cut off.
        assert part.score == full.score or not part.complete


def situation(case: Case) -> Situation:
    held = {name: {u for r in ranges for u in range(*r)} for name, ranges in case.held.items()}
    rules = compile_rules(case.deployment, case.graph)
    return Situation(case.graph, rules, case.nodes, held)
