"""Placements side by side: the one that would be chosen, and what else could be had.

Each is the best by something else (the slower requests' latency, throughput, money, traffic,
exposure) or with one node alone. All are told under the same load and prices, so that they compare.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dsi_mqtt.core.aim import Aim
from dsi_mqtt.core.deployment import Deployment, Prices
from dsi_mqtt.core.draft import planned_places
from dsi_mqtt.core.formulation import Question, question_of
from dsi_mqtt.core.infeasible import Infeasible
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.plan import Plan, plan
from dsi_mqtt.core.profile import NodeView

CHOSEN: Final = "chosen"
# Of two figures that differ by less, neither is better.
_ALIKE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Offer:
    """names: by what it is the best. score: by which the chosen one was chosen; infinite where its
    load is not sustained. lost: why it was not chosen; empty of the chosen one.
    best: none of the others is as good in everything and better in something.
    """

    names: tuple[str, ...]
    plan: Plan
    score: float
    lost: str = ""
    best: bool = True

    @property
    def slow_s(self) -> float:
        """What most of the requests stay within, under the load."""
        return self.plan.within_s

    @property
    def rate_per_s(self) -> float:
        return self.plan.rate_per_s

    @property
    def figures(self) -> tuple[float, ...]:
        """What counts, less being better."""
        account = self.plan.account
        assert account is not None  # noqa: S101 - every plan has one
        return (
            self.slow_s,
            self.plan.busiest_s,
            account.cost_per_hour,
            float(account.request_bytes),
            account.exposure,
        )


@dataclass(frozen=True, slots=True)
class Offers:
    """The chosen one first. refused: by name, why there is none."""

    offers: tuple[Offer, ...]
    refused: tuple[tuple[str, Infeasible], ...]


def offers(deployment: Deployment, graph: ModelGraph, nodes: Sequence[NodeView]) -> Offers:
    """What these nodes could do for the deployment; its target is a condition.

    Raises ConfigError when the deployment contradicts itself, the model or its prices.
    """
    asked = condition(deployment)
    found: dict[object, Offer] = {}
    refused: list[tuple[str, Infeasible]] = []
    for name, spec, question in _questions(deployment, asked):
        answer = plan(spec, graph, nodes, question=question, told=asked)
        if isinstance(answer, Infeasible):
            refused.append((name, answer))
            continue
        place = (answer.door, planned_places(answer), tuple(h.codecs for h in answer.hops))
        if place in found:
            known = found[place]
            found[place] = replace(known, names=(*known.names, name))
        else:
            found[place] = Offer((name,), answer, answer.score_s(asked.aim))
    every = list(found.values())
    chosen = next((offer for offer in every if CHOSEN in offer.names), None)
    judged = [
        replace(
            offer,
            lost="" if offer is chosen else _lost(offer, chosen, asked.aim),
            best=not any(_dominates(other, offer) for other in every),
        )
        for offer in every
    ]
    return Offers(tuple(judged), tuple(refused))


def condition(deployment: Deployment) -> Question:
    """What a deployment asks for, with its target as a condition."""
    question, sla = question_of(deployment), deployment.sla
    if deployment.kind == "generation":
        asked = (("prefill", sla.first_token_ms), ("decode", sla.token_ms))
        limits = tuple((phase, ms / 1000) for phase, ms in asked if ms is not None)
        return replace(question, trip_max_s=limits)
    return replace(question, aim=Aim.of(deployment, hard=True))


def _questions(
    deployment: Deployment, asked: Question
) -> Iterator[tuple[str, Deployment, Question]]:
    aim, prices = asked.aim, asked.prices
    load = Aim(rate_per_s=aim.rate_per_s, share=aim.share)
    yield CHOSEN, deployment, asked
    yield "latency", deployment, replace(asked, aim=load)
    yield "throughput", deployment, replace(asked, aim=replace(load, latency=0.0, busiest=1.0))
    if prices.node_hour or prices.gib or prices.kwh:
        yield "cost", deployment, replace(asked, aim=replace(load, latency=0.0, cost=1.0))
    if deployment.privacy.units:
        yield "exposure", deployment, replace(asked, aim=replace(load, latency=0.0, exposure=1.0))
    rate = aim.rate_per_s or 1.0
    each_byte = replace(asked, prices=Prices(gib={"default": 1.0}))
    traffic = Aim(latency=0.0, cost=1.0, rate_per_s=rate, share=aim.share)
    yield "traffic", deployment, replace(each_byte, aim=traffic)
    alone = replace(deployment, policy=replace(deployment.policy, max_segments=1), split=None)
    yield "one node", alone, replace(asked, aim=load)


def _dominates(other: Offer, offer: Offer) -> bool:
    pairs = list(zip(other.figures, offer.figures, strict=True))
    no_worse = all(a <= b + _ALIKE * abs(b) for a, b in pairs)
    return no_worse and any(a < b - _ALIKE * abs(b) for a, b in pairs)


def _lost(offer: Offer, chosen: Offer | None, aim: Aim) -> str:
    if math.isinf(offer.plan.wait_s):
        return f"bears {offer.rate_per_s:.3g} requests a second, {aim.rate_per_s:g} come"
    if aim.latency_max_s is not None and offer.slow_s > aim.latency_max_s:
        return f"misses the target of {aim.latency_max_s * 1000:g} ms"
    if chosen is None:
        return ""
    if chosen.score <= 0:
        return "is no better"
    more = offer.score / chosen.score - 1
    return f"scores {more:.1%} worse" if more > _ALIKE else "is as good, and comes later by name"
