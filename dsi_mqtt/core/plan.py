"""The planner: which node computes which units, and where the door is, for the least score.

`plan` is pure and exact: for the same deployment, model and nodes it gives the same plan, and no
other is better, or the plan says by how much one might be. The latency model stands in
`core.problem`, the search in `core.search`, and both are explained in docs/planning.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.formulation import Question
from dsi_mqtt.core.infeasible import Infeasible, Situation
from dsi_mqtt.core.model import ModelGraph, UnitRange
from dsi_mqtt.core.placement import Chain, Plan, PlannedHop, PlannedSegment, path_of, weights_of
from dsi_mqtt.core.problem import Problem
from dsi_mqtt.core.profile import NodeView
from dsi_mqtt.core.rules import check, compile_rules
from dsi_mqtt.core.texts_plan import paced, with_cadence
from dsi_mqtt.core.trips_plan import Asked, placed
from dsi_mqtt.core.ways import Way, ways_of
from dsi_mqtt.errors import ConfigError

__all__ = [
    "Chain",
    "Infeasible",
    "Plan",
    "PlannedHop",
    "PlannedSegment",
    "check",
    "plan",
    "promised",
]

# Expansions after which the search gives the best it has; less than a second.
EXPANSIONS: Final = 5_000
IDLE: Final = Question()


def plan(
    deployment: Deployment,
    graph: ModelGraph,
    nodes: Sequence[NodeView],
    *,
    held: Mapping[str, Iterable[UnitRange]] | None = None,
    expansions: int = EXPANSIONS,
    question: Question = IDLE,
    told: Question | None = None,
) -> Plan | Infeasible:
    """The best placement that satisfies the deployment, or why there is none.

    nodes: those that may be given work, in any order; draining and offline ones are left out.
    Spares among them take part only when there is no placement without them.
    held: by node, units it goes on holding until the plan serves (make before break); they take
        memory, shared with what the plan gives the node.
    expansions: limit of the search; beyond it `Plan.optimal` may be False.
    question: what is asked of it besides; by default the least latency of one row at rest. A load
        that nothing sustains is answered with the placement that sustains most, unless there is a
        target to meet.
    told: by whose load and prices its wait and account are told, where not by those of `question`.

    Raises ConfigError when the deployment contradicts itself or the model (see `rules.check`),
    or when a node is given twice or its `unit_s` does not match the model.
    """
    rules = compile_rules(deployment, graph)
    _require_matching(graph, nodes)
    kept = {
        node: frozenset(unit for units in ranges for unit in range(*units) if unit in graph.whole)
        for node, ranges in (held or {}).items()
    }
    every = Situation(graph, rules, tuple(nodes), kept, question)
    basis = question if told is None else told
    if question.texts is None:
        return placed(every, deployment, expansions, basis)
    return paced(every, deployment, expansions, basis)


def promised(
    deployment: Deployment,
    graph: ModelGraph,
    nodes: Sequence[NodeView],
    chain: Chain,
    *,
    question: Question = IDLE,
) -> Plan | None:
    """What `chain` promises, whatever would be better; None where it breaks the rules.

    Cuts given by hand and the number of segments do not count. Raises ConfigError as `plan` does.
    """
    rules = compile_rules(deployment, graph).without_split()
    _require_matching(graph, nodes)
    situation = Situation(graph, rules, tuple(nodes), {}, question)
    problem = situation.problem(every=True)
    path = path_of(problem, chain, question)
    if path is None:
        return None
    if not _obeys(problem, graph, ways_of(path, weights_of(problem, chain))):
        return None
    given = Asked(situation, deployment, question).as_it_is(problem, path, chain)
    return given if question.texts is None else with_cadence(given, situation, deployment)


# --- checks ---------------------------------------------------------------------------------------


def _obeys(problem: Problem, graph: ModelGraph, ways: Sequence[Way]) -> bool:
    held: dict[int, set[int]] = {}
    for way in ways:
        start = 0
        for step in way.path[1]:
            held.setdefault(step.node, set()).update(range(start, step.stop))
            start = step.stop
    return (
        all(way.path[0] in problem.doors for way in ways)
        and all(problem.allowed[sorted(units), node].all() for node, units in held.items())
        and all(
            graph.held_bytes(units) <= problem.nodes[node].weight_bytes
            for node, units in held.items()
        )
        and all(
            budget.sums.along(*way.path) <= budget.limit
            for budget in problem.budgets
            for way in ways
        )
    )


def _require_matching(graph: ModelGraph, nodes: Sequence[NodeView]) -> None:
    names = set()
    for node in nodes:
        if node.node in names:
            raise ConfigError(f"node {node.node}: is given twice; give each node once")
        names.add(node.node)
        if len(node.unit_s) != len(graph.units):
            raise ConfigError(
                f"node {node.node}: unit_s has {len(node.unit_s)} values for the "
                f"{len(graph.units)} units of the model; give one per unit"
            )
