"""The best placement for texts, and what a chain promises of them.

What a step of decoding takes depends on how many sessions share it, and that on what it takes. So a
generation is planned for steps of one session, and then for steps as wide as those of the placement
that was found, until that is one that was planned for; what each promises says `core.cadence`.
Several nodes serve a segment only where no placement without that keeps what is asked of times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np

from dsi_mqtt.core.aim import Texts
from dsi_mqtt.core.cadence import Rhythm, Times
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.formulation import Question
from dsi_mqtt.core.infeasible import Infeasible, Situation, unpunctual
from dsi_mqtt.core.placement import Chain, Plan, path_of, weights_of
from dsi_mqtt.core.problem import Problem
from dsi_mqtt.core.trips_plan import Asked, placed
from dsi_mqtt.core.ways import Way, busy, mean, nodes_of, ways_of


def paced(
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
        answer = placed(situation, deployment, expansions, basis, share=share)
        if isinstance(answer, Infeasible):
            refused.append(answer)
            width = most if answer.constraint == "rate" else width
            continue
        found.append(with_cadence(answer, replace(every, question=basis), deployment))
        width = _width_of(found[-1], most)
    return found, refused


def _width_of(planned: Plan, most: int) -> int:
    """Of steps that it would have, as a power of 2; `most` where it cannot bear what comes."""
    cadence = planned.cadence
    if cadence is None or not cadence.sustained:
        return most
    return min(most, 1 << (math.ceil(cadence.width) - 1).bit_length())


def with_cadence(planned: Plan, situation: Situation, deployment: Deployment) -> Plan:
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
    return Asked(situation, deployment, situation.question).as_it_is(problem, path, chain)


@dataclass(frozen=True, slots=True)
class _Rhythms:
    """The times of one chain, from problems of its nodes alone."""

    situation: Situation
    chain: Chain

    def rhythm(self, deployment: Deployment) -> Rhythm:
        texts = self.situation.question.texts or Texts.of(deployment)
        prompt = self._times(replace(texts, new_tokens=1), 1)

        @cache
        def told(width: int) -> Times:
            both = self._times(replace(texts, new_tokens=2), width)
            return Times(both.trip - prompt.trip, (both.busy - prompt.busy) * width)

        def step(width: int) -> Times:
            below, above = _told_for(width)
            low, share = told(below), (width - below) / (above - below) if above > below else 0.0
            if not share:
                return low
            high = told(above)
            return Times(
                low.trip + share * (high.trip - low.trip),
                low.busy + share * (high.busy - low.busy),
            )

        problem = self.situation.problem(every=True)
        ways = self._ways(problem, self.situation.question)
        by_way = [(way.share, {step.node for step in way.path[1]}) for way in ways]
        meeting = sum(
            share * others
            for (share, nodes), (others, beside) in product(by_way, repeat=2)
            if nodes & beside
        )
        coming = np.zeros((3, len(problem.nodes)))
        for way in ways:
            coming[:, [*nodes_of([way])]] += way.share
        places = deployment.limits.sessions_max
        return Rhythm(
            texts, prompt, step, self._computing(), places, len(ways), meeting, coming.ravel()
        )

    def _ways(self, problem: Problem, asked: Question) -> tuple[Way, ...]:
        path = path_of(problem, self.chain, asked)
        assert path is not None  # noqa: S101 - it is one of this problem
        return ways_of(path, weights_of(problem, self.chain))

    def _computing(self) -> int:
        beside = (node for replicas in self.chain.replicas for node, _ in replicas)
        return len({*(node for _, node in self.chain.segments), *beside})

    def _times(self, texts: Texts, width: int) -> Times:
        asked = replace(self.situation.question, texts=texts).as_wide(width)
        problem = replace(self.situation, question=asked).problem(every=True)
        ways = self._ways(problem, asked)
        kept = busy(problem, ways).ravel() / 1e9
        return Times(mean(problem.latency, ways) / 1e9, kept)


def _told_for(width: int) -> tuple[int, int]:
    """The widths of steps next to this one that a problem is formulated for: four to each doubling.

    Between them times follow a line, but for where a codec or a batch comes to pay; and a look at a
    chain that bears less than what comes goes through all widths that there may be.
    """
    apart = 1 << max(0, width.bit_length() - 3)
    below = width // apart * apart
    return below, below if below == width else below + apart
