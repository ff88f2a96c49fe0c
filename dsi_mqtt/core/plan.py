"""The planner: which node computes which units, and where the door is, for the least score.

`plan` is pure and exact: for the same deployment, model and nodes it gives the same plan, and no
other is better, or the plan says by how much one might be. The latency model stands in
`core.problem`, the search in `core.search`, and both are explained in docs/planning.md.

What a step of decoding takes depends on how many sessions share it, and that on what it takes. So a
generation is planned for steps of one session, and then for steps as wide as those of the placement
that was found, until that is one that was planned for; what each promises says `core.cadence`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

from dsi_mqtt.core.aim import Aim, Texts
from dsi_mqtt.core.cadence import Rhythm, Times
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.formulation import Question
from dsi_mqtt.core.infeasible import Infeasible, Situation, explain, unpunctual
from dsi_mqtt.core.model import ModelGraph, UnitRange
from dsi_mqtt.core.path import Path
from dsi_mqtt.core.placement import (
    Chain,
    Plan,
    PlannedHop,
    PlannedSegment,
    Route,
    path_of,
    weights_of,
)
from dsi_mqtt.core.problem import Problem
from dsi_mqtt.core.profile import NodeView
from dsi_mqtt.core.replicas import Replicating
from dsi_mqtt.core.rules import check, compile_rules
from dsi_mqtt.core.search import Outcome, best
from dsi_mqtt.core.ways import Way, Weights, busy, mean, ways_of
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
# Of one segment, where the deployment names no other number.
REPLICAS_MAX: Final = 4


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
    if path is None:
        return None
    if not _obeys(problem, graph, ways_of(path, weights_of(problem, chain))):
        return None
    given = _Asked(situation, deployment, question).as_it_is(problem, path, chain)
    return given if question.texts is None else _with_cadence(given, situation, deployment)


def _placed(
    every: Situation,
    deployment: Deployment,
    expansions: int,
    basis: Question,
    *,
    share: bool = False,
) -> Plan | Infeasible:
    """The best by the trips of its question, as they are. basis: by which it is told. share: of
    texts, also where one chain bears what comes.
    """
    core = replace(every, nodes=tuple(node for node in every.nodes if not node.spare))
    complete = True
    for situation in (core, every) if len(core.nodes) < len(every.nodes) else (every,):
        problem, found = _found(situation, expansions)
        if found.path is not None:
            whole = replace(situation, rules=situation.rules.without_split())
            free = whole.problem() if situation.rules.parts else problem
            alone = free.alone(free.latency)
            planned = _Asked(situation, deployment, basis, share).best(problem, found)
            return replace(
                planned,
                # Spares take part only where they must; replicas are found by descent alone.
                optimal=found.complete and complete and not planned.chain.replicas,
                single_node_latency_s=None if alone is None else alone[0] / 1e9,
            )
        shared = _shared(situation, deployment, expansions, basis)
        if shared is not None:
            return shared
        complete = complete and found.complete
    why = explain(every, proven=complete)
    # What several nodes for one segment could bear together, no search has proven.
    shareable = deployment.policy.replicas != 1 and len(every.nodes) > 1
    if shareable and why.constraint in ("rate", "latency"):
        return replace(why, proven=False)
    return why


def _shared(
    situation: Situation, deployment: Deployment, expansions: int, basis: Question
) -> Plan | None:
    """Where no chain meets the target that is a condition: one with replicas that does."""
    question = situation.question
    if question.aim.latency_max_s is None or deployment.policy.replicas == 1:
        return None
    wish = replace(question, aim=replace(question.aim, latency_max_s=None))
    soft = replace(situation, question=wish)
    problem, found = _found(soft, expansions)
    if found.path is None:
        return None
    planned = _Asked(soft, deployment, basis).best(problem, found)
    in_time = planned.within_s <= question.aim.latency_max_s
    return replace(planned, optimal=False) if in_time else None


def _found(situation: Situation, expansions: int) -> tuple[Problem, Outcome]:
    question, problem = situation.question, situation.problem()
    found = best(problem, question.aim, expansions)
    if found.path is not None or not question.aim.rate_per_s or question.aim.latency_max_s:
        return problem, found
    widest = Aim(latency=0.0, busiest=1.0)
    problem = replace(situation, question=replace(question, aim=widest)).problem()
    return problem, best(problem, widest, max(1, expansions - found.considered))


@dataclass(frozen=True, slots=True)
class _Asked:
    """basis: by whose load and prices a plan is told. share: texts, though one chain bears them."""

    situation: Situation
    deployment: Deployment
    basis: Question
    share: bool = False

    def told(self, problem: Problem, found: Outcome, weights: tuple[Weights, ...] = ()) -> Plan:
        route = Route.of(problem, found, self.situation.question, weights)
        return route.under_load(problem, self.situation.rules, self.basis, self.deployment.sla)

    def as_it_is(self, problem: Problem, path: Path, chain: Chain) -> Plan:
        """A chain that is given, whose path in `problem` that is; no search has looked for it."""
        found = Outcome(path, math.inf, 0, complete=False, lower=0.0)
        return self.told(problem, found, weights_of(problem, chain))

    def best(self, problem: Problem, found: Outcome) -> Plan:
        """With replicas, where one chain is not enough: it bears less than comes, or misses the
        target under the load.
        """
        planned, most = self.told(problem, found), self.deployment.policy.replicas
        question, enough = self.situation.question, planned.meets_sla and planned.sustained
        if question.texts is not None:
            # Whether their times are kept depends on how wide steps are, which is asked elsewhere.
            enough = planned.sustained and not self.share
        if enough or most == 1 or self.situation.rules.parts:
            return planned
        assert found.path is not None  # noqa: S101 - it is planned
        # What bears most was looked for by that alone: replicas are chosen by all that is asked.
        asked = self.situation.problem()
        path = path_of(asked, planned.chain, question)
        if path is None:
            return planned
        graph, aim = self.situation.graph, question.aim
        replicated = Replicating(asked, graph, aim, most or REPLICAS_MAX).best(path)
        if replicated is None:
            return planned
        outcome = Outcome(replicated.path, math.inf, found.considered, complete=False, lower=0.0)
        better = self.told(asked, outcome, replicated.weights)
        if not planned.sustained and not better.sustained:
            return min(planned, better, key=lambda plan: plan.busiest_s)
        return min(planned, better, key=lambda plan: plan.score_s(self.basis.aim))


# --- generations ----------------------------------------------------------------------------------


def _paced(
    every: Situation, deployment: Deployment, expansions: int, basis: Question
) -> Plan | Infeasible:
    """The best for texts: see above. Where times are a condition, none that misses them."""
    found, refused = _by_width(every, deployment, expansions, basis)
    if found and deployment.policy.replicas != 1 and not any(plan.meets_sla for plan in found):
        found += _by_width(every, deployment, expansions, basis, share=True)[0]
    if not found:
        return refused[-1]
    chosen = min(
        found, key=lambda one: (not one.meets_sla, one.score_s(basis.aim), -one.rate_per_s)
    )
    if chosen.meets_sla or not every.question.trip_max_s:
        return chosen
    return unpunctual(chosen, deployment.sla, every.question)


def _by_width(
    every: Situation,
    deployment: Deployment,
    expansions: int,
    basis: Question,
    *,
    share: bool = False,
) -> tuple[list[Plan], list[Infeasible]]:
    """For steps of one session, and for those that the placements found would have."""
    found: list[Plan] = []
    refused: list[Infeasible] = []
    tried, width, most = set[int](), 1, every.question.width_max
    while width not in tried:
        tried.add(width)
        situation = replace(every, question=every.question.wider(width))
        answer = _placed(situation, deployment, expansions, basis, share=share)
        if isinstance(answer, Infeasible):
            refused.append(answer)
            width = most if answer.constraint == "rate" else width
            continue
        found.append(_with_cadence(answer, replace(every, question=basis), deployment))
        width = _width_of(found[-1], most)
    return found, refused


def _width_of(planned: Plan, most: int) -> int:
    """Of steps that it would have, as a power of 2; `most` where it cannot bear what comes."""
    cadence = planned.cadence
    if cadence is None or not cadence.sustained:
        return most
    return min(most, 1 << (math.ceil(cadence.width) - 1).bit_length())


def _with_cadence(planned: Plan, situation: Situation, deployment: Deployment) -> Plan:
    """What becomes of it under the texts that come. Its times are told for one text alone, what it
    keeps busy for steps as wide as they will be.
    """
    question, chain = situation.question, planned.chain
    part = tuple(node for node in situation.nodes if node.node in chain.nodes)
    alone = replace(situation, nodes=part, held={}, question=question.as_wide(1))
    rhythm = _Rhythms(alone, chain).rhythm(deployment)
    cadence = rhythm.cadence(question.aim.rate_per_s, deployment.sla.percentile / 100)
    wide = replace(alone, question=question.as_wide(math.ceil(cadence.width)))
    told, shared = (_as_it_is(chain, each, deployment) for each in (alone, wide))
    text_s = cadence.first_within_s + rhythm.texts.steps * cadence.token_s
    return replace(
        told,
        busiest_s=shared.busiest_s,
        account=shared.account,
        optimal=planned.optimal,
        bound=planned.bound,
        considered=planned.considered,
        single_node_latency_s=planned.single_node_latency_s,
        meets_sla=cadence.meets(deployment.sla),
        wait_s=max(0.0, text_s - told.latency_s),
        cadence=cadence,
    )


def _as_it_is(chain: Chain, situation: Situation, deployment: Deployment) -> Plan:
    """The chain by the trips of the question, which it can be asked."""
    problem = situation.problem(every=True)
    path = path_of(problem, chain, situation.question)
    assert path is not None  # noqa: S101 - it is one of this problem
    return _Asked(situation, deployment, situation.question).as_it_is(problem, path, chain)


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

        sessions_max = deployment.limits.sessions_max
        ways = [(way.share, {step.node for step in way.path[1]}) for way in self._ways()]
        meeting = sum(
            share * others
            for (share, nodes), (others, beside) in product(ways, repeat=2)
            if nodes & beside
        )
        return Rhythm(texts, prompt, step, self._computing(), sessions_max, len(ways), meeting)

    def _ways(self) -> tuple[Way, ...]:
        problem = self.situation.problem(every=True)
        path = path_of(problem, self.chain, self.situation.question)
        assert path is not None  # noqa: S101 - it is one of this problem
        return ways_of(path, weights_of(problem, self.chain))

    def _computing(self) -> int:
        beside = (node for replicas in self.chain.replicas for node, _ in replicas)
        return len({*(node for _, node in self.chain.segments), *beside})

    def _times(self, texts: Texts, width: int) -> Times:
        asked = replace(self.situation.question, texts=texts).as_wide(width)
        problem = replace(self.situation, question=asked).problem(every=True)
        path = path_of(problem, self.chain, asked)
        assert path is not None  # noqa: S101 - it is one of this problem
        ways = ways_of(path, weights_of(problem, self.chain))
        kept = busy(problem, ways).ravel() / 1e9
        return Times(mean(problem.latency, ways) / 1e9, kept)


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
