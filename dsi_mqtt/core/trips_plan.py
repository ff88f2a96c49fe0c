"""The best placement by one set of trips: spares only where they must, replicas where one chain is
not enough, and what the target of a load does to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from dsi_mqtt.core.aim import Aim
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.formulation import Question
from dsi_mqtt.core.infeasible import Infeasible, Situation, explain
from dsi_mqtt.core.path import Path
from dsi_mqtt.core.placement import Chain, Plan, Route, path_of, weights_of
from dsi_mqtt.core.problem import Problem
from dsi_mqtt.core.replicas import Replicating
from dsi_mqtt.core.search import Outcome, best
from dsi_mqtt.core.ways import Weights

# Of one segment, where the deployment names no other number.
REPLICAS_MAX: Final = 4


def placed(
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
            planned = Asked(situation, deployment, basis, share).best(problem, found)
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
    planned = Asked(soft, deployment, basis).best(problem, found)
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
class Asked:
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
