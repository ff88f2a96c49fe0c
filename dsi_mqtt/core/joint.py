"""Several deployments on the same nodes, planned together.

Each is placed as the best answer to the others: on the memory, and in the time, that they leave.
Again and again, until none gains, or for `ROUNDS`: best answers need not come to rest. Who is first
matters, so several orders are tried; of what they come to, the one is taken that refuses fewest,
then the one with the least sum of scores. It is no proven optimum. But nobody can do better beside
others than alone, so what each could have for itself bounds the sum from below.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.formulation import Question
from dsi_mqtt.core.infeasible import Infeasible
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.moving import gain
from dsi_mqtt.core.plan import Plan, plan, promised
from dsi_mqtt.core.profile import NodeView
from dsi_mqtt.core.sharing import NONE, added, capped

# Deployments of which every order is tried.
ORDERED: Final = 3
ROUNDS: Final = 8
# A score that falls by less has not fallen.
ALIKE: Final = 1e-9

Answer = Plan | Infeasible


@dataclass(frozen=True, slots=True)
class Wish:
    """A deployment to place. nodes: as they are for it while nothing else is on them."""

    deployment: Deployment
    graph: ModelGraph
    nodes: tuple[NodeView, ...]
    question: Question


@dataclass(frozen=True, slots=True)
class Together:
    """answers: in the order of the wishes. bound: share of the sum of scores that the best could
    save at most; 1 where something is refused.
    """

    answers: tuple[Answer, ...]
    bound: float


def together(wishes: Sequence[Wish]) -> Together:
    """Raises ConfigError as `plan` does."""
    alone = [plan(w.deployment, w.graph, w.nodes, question=w.question) for w in wishes]
    best: tuple[int, float] | None = None
    answers: tuple[Answer, ...] = tuple(alone)
    for order in _orders(len(wishes)):
        found = _settled(wishes, order)
        rank = (sum(isinstance(a, Infeasible) for a in found), _score(wishes, found))
        if best is None or rank < best:
            best, answers = rank, found
    refused, score = best if best is not None else (0, 0.0)
    lower = sum(
        score_s * (1 - answer.bound)
        for wish, answer in zip(wishes, alone, strict=True)
        if isinstance(answer, Plan) and math.isfinite(score_s := answer.score_s(wish.question.aim))
    )
    if refused or not math.isfinite(score):
        return Together(answers, 1.0)
    return Together(answers, max(0.0, 1 - lower / score) if score > 0 else 0.0)


def left(wishes: Sequence[Wish], answers: Sequence[Answer | None], index: int) -> Wish:
    """The wish with what the others leave of its nodes. None: not placed yet."""
    taken: dict[str, tuple[float, float, float]] = {}
    held: dict[str, int] = {}
    for i, (wish, answer) in enumerate(zip(wishes, answers, strict=True)):
        if i != index and isinstance(answer, Plan):
            for node, shares in answer.shares(wish.question.aim.rate_per_s).items():
                taken[node] = added(taken.get(node, NONE), shares)
            for node, nbytes in _held_bytes(wish, answer).items():
                held[node] = held.get(node, 0) + nbytes
    mine = wishes[index]
    return replace(
        mine,
        nodes=tuple(
            replace(
                node,
                taken=capped(taken.get(node.node, NONE)),
                weight_bytes=max(0, node.weight_bytes - held.get(node.node, 0)),
            )
            for node in mine.nodes
        ),
    )


def _orders(count: int) -> Iterator[tuple[int, ...]]:
    """All of few; of many, each first once."""
    if count <= ORDERED:
        return itertools.permutations(range(count))
    return (tuple(range(first, count)) + tuple(range(first)) for first in range(count))


def _settled(wishes: Sequence[Wish], order: Sequence[int]) -> tuple[Answer, ...]:
    """What best answers come to, or stand at after `ROUNDS`. One that is refused is asked again
    while others move.
    """
    answers: list[Answer | None] = [None] * len(wishes)
    for _ in range(ROUNDS):
        moved = False
        for index in order:
            wish = left(wishes, answers, index)
            found, known = _answer(wish), answers[index]
            now = _promised(wish, known) if isinstance(known, Plan) else None
            if now is None or (isinstance(found, Plan) and _is_better(wish, found, now)):
                moved = moved or isinstance(found, Plan) or isinstance(known, Plan | None)
                answers[index] = found
            else:
                answers[index] = now
        if not moved:
            break
    return _as_it_ends(wishes, answers)


def _as_it_ends(wishes: Sequence[Wish], answers: Sequence[Answer | None]) -> tuple[Answer, ...]:
    """Each with what it promises beside all the others."""
    ended = []
    for index, answer in enumerate(answers):
        wish = left(wishes, answers, index)
        told = _promised(wish, answer) if isinstance(answer, Plan) else answer
        ended.append(_answer(wish) if told is None else told)
    return tuple(ended)


def _answer(wish: Wish) -> Answer:
    return plan(wish.deployment, wish.graph, wish.nodes, question=wish.question)


def _promised(wish: Wish, known: Plan) -> Plan | None:
    """What a placement promises on what is left now; None: it does not fit, or misses its target.

    Of its search nothing is known any more: `Plan.bound` is that of its own, beside others.
    """
    told = promised(wish.deployment, wish.graph, wish.nodes, known.chain, question=wish.question)
    target_s = wish.question.aim.latency_max_s
    if told is None or (target_s is not None and told.within_s > target_s):
        return None
    return told


def _is_better(wish: Wish, found: Plan, known: Plan) -> bool:
    return gain(known, found, wish.question.aim) > ALIKE


def _score(wishes: Sequence[Wish], answers: Sequence[Answer]) -> float:
    return sum(
        answer.score_s(wish.question.aim)
        for wish, answer in zip(wishes, answers, strict=True)
        if isinstance(answer, Plan)
    )


def _held_bytes(wish: Wish, answer: Plan) -> Mapping[str, int]:
    """Weights, and room for the caches of its sessions."""
    units: dict[str, set[int]] = {}
    for segment in answer.segments:
        for node in segment.nodes:
            units.setdefault(node, set()).update(range(*segment.units))
    caches = {node.node: node.cache_bytes for node in wish.nodes}
    return {node: wish.graph.held_bytes(held) + caches[node] for node, held in units.items()}
