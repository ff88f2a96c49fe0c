"""The planner: which node computes which units, and where the door is, for the least score.

`plan` is pure and exact: for the same deployment, model and nodes it gives the same plan, and no
other is better, or the plan says by how much one might be. The latency model stands in
`core.problem`, the search in `core.search`, and both are explained in docs/planning.md.

What a step of decoding takes depends on how many sessions share it, and that on what it takes. So a
generation is planned for steps of one session, of two, of four and so on, until there is a
placement that the texts which come leave no wider; what it then promises says `core.cadence`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dsi_mqtt.core.aim import Aim, Texts
from dsi_mqtt.core.cadence import Rhythm, Times
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.duties import busy_along
from dsi_mqtt.core.formulation import Question, formulate
from dsi_mqtt.core.infeasible import Infeasible, Situation, explain, unpunctual
from dsi_mqtt.core.model import ModelGraph, UnitRange
from dsi_mqtt.core.placement import Chain, Plan, PlannedHop, PlannedSegment, Route, path_of
from dsi_mqtt.core.path import Path
from dsi_mqtt.core.problem import Problem
from dsi_mqtt.core.profile import NodeView
from dsi_mqtt.core.rules import Rules, check, compile_rules
from dsi_mqtt.core.schedule import BATCH_MAX
from dsi_mqtt.core.search import Outcome, best
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
        return _placed(every, deployment, expansions, basis)
    return _paced(every, deployment, expansions, basis)


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
    if path is None or not _obeys(problem, graph, path):
        return None
    found = Outcome(path, math.inf, 0, complete=False, lower=0.0)
    given = _told(problem, found, situation, deployment, question)
    return given if question.texts is None else _with_cadence(given, situation, deployment)


def _placed(
    every: Situation, deployment: Deployment, expansions: int, basis: Question
) -> Plan | Infeasible:
    """The best by the trips of its question, as they are. basis: by which it is told."""
    core = replace(every, nodes=tuple(node for node in every.nodes if not node.spare))
    complete = True
    for situation in (core, every) if len(core.nodes) < len(every.nodes) else (every,):
        problem, found = _found(situation, expansions)
        if found.path is not None:
            whole = replace(situation, rules=situation.rules.without_split())
            free = whole.problem() if situation.rules.parts else problem
            alone = free.alone(free.latency)
            planned = _told(problem, found, situation, deployment, basis)
            return replace(
                planned,
                optimal=found.complete and complete,  # spares take part only where they must
                single_node_latency_s=None if alone is None else alone[0] / 1e9,
            )
        complete = complete and found.complete
    return explain(every, proven=complete)


def _found(situation: Situation, expansions: int) -> tuple[Problem, Outcome]:
    question, problem = situation.question, situation.problem()
    found = best(problem, question.aim, expansions)
    if found.path is not None or not question.aim.rate_per_s or question.aim.latency_max_s:
        return problem, found
    widest = Aim(latency=0.0, busiest=1.0)
    problem = replace(situation, question=replace(question, aim=widest)).problem()
    return problem, best(problem, widest, max(1, expansions - found.considered))


def _told(
    problem: Problem, found: Outcome, situation: Situation, deployment: Deployment, basis: Question
) -> Plan:
    route = Route.of(problem, found, situation.question)
    return route.under_load(problem, situation.rules, basis, deployment.sla)


# --- generations ----------------------------------------------------------------------------------


def _paced(
    every: Situation, deployment: Deployment, expansions: int, basis: Question
) -> Plan | Infeasible:
    """The best for texts: see above. Where no steps are wide enough for all that come, that of the
    widest; where times are a condition, none that misses them.
    """
    last: Plan | Infeasible | None = None
    for width in _widths(deployment):
        asked = every.question.wider(width)
        situation = replace(every, question=asked)
        answer = _placed(situation, deployment, expansions, basis.wider(width))
        if isinstance(answer, Infeasible):
            if last is None or asked.trip_max_s:
                last = answer
            if answer.constraint != "rate":
                break
            continue
        last = _with_cadence(answer, replace(every, question=basis), deployment)
        cadence = last.cadence
        if cadence is not None and cadence.sustained and cadence.width <= width:
            break
    assert last is not None  # noqa: S101 - there is one width at least
    if isinstance(last, Infeasible) or last.meets_sla or not every.question.trip_max_s:
        return last
    return unpunctual(last, deployment.sla, every.question)


def _widths(deployment: Deployment) -> Iterator[int]:
    width, most = 1, min(BATCH_MAX, deployment.limits.sessions_max)
    while width < most:
        yield width
        width *= 2
    yield most


def _with_cadence(planned: Plan, situation: Situation, deployment: Deployment) -> Plan:
    """What becomes of it under the texts that come, told for steps as wide as sessions see them."""
    question, chain = situation.question, planned.chain
    part = tuple(node for node in situation.nodes if node.node in chain.nodes)
    rhythm = _Rhythms(replace(situation, nodes=part, held={}), chain).rhythm(deployment)
    cadence = rhythm.cadence(question.aim.rate_per_s, deployment.sla.percentile / 100)
    width = math.ceil(cadence.width)
    wide = replace(situation, nodes=part, held={}, question=question.wider(width))
    problem = wide.problem(every=True)
    path = path_of(problem, chain, wide.question)
    assert path is not None  # noqa: S101 - it is one of this problem
    found = Outcome(path, math.inf, planned.considered, complete=False, lower=0.0)
    told = _told(problem, found, wide, deployment, wide.question)
    return told.with_cadence(cadence, deployment.sla, planned)


@dataclass(frozen=True, slots=True)
class _Rhythms:
    """The times of one chain, from problems of its nodes alone."""

    situation: Situation
    chain: Chain

    def rhythm(self, deployment: Deployment) -> Rhythm:
        texts = self.situation.question.texts or Texts.of(deployment)
        prompt = self._times(replace(texts, new_tokens=1), 1)

        def step(width: int) -> Times:
            both = self._times(replace(texts, new_tokens=2), width)
            return Times(both.trip - prompt.trip, (both.busy - prompt.busy) * width)

        return Rhythm(texts, prompt, step, self._computing(), deployment.limits.sessions_max)

    def _computing(self) -> int:
        return len({node for _, node in self.chain.segments})

    def _times(self, texts: Texts, width: int) -> Times:
        asked = replace(self.situation.question, texts=texts).wider(width)
        problem = replace(self.situation, question=asked).problem(every=True)
        path = path_of(problem, self.chain, asked)
        assert path is not None  # noqa: S101 - it is one of this problem
        busy = busy_along(problem, *path).ravel() / 1e9
        return Times(problem.latency.along(*path) / 1e9, busy)


# --- checks ---------------------------------------------------------------------------------------


def _obeys(problem: Problem, graph: ModelGraph, path: Path) -> bool:
    door, steps = path
    starts = [0, *(step.stop for step in steps[:-1])]
    held: dict[int, set[int]] = {}
    for start, step in zip(starts, steps, strict=True):
        held.setdefault(step.node, set()).update(range(start, step.stop))
    return (
        door in problem.doors
        and all(problem.allowed[sorted(units), node].all() for node, units in held.items())
        and all(
            graph.held_bytes(units) <= problem.nodes[node].weight_bytes
            for node, units in held.items()
        )
        and all(budget.sums.along(door, steps) <= budget.limit for budget in problem.budgets)
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
