"""What a placement costs an hour, what it sends, and what leaves the trusted zones."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from dsi_mqtt.core.duties import busy_along
from dsi_mqtt.core.formulation import HOUR_S, Question, price_of
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.path import Path
from dsi_mqtt.core.problem import Problem
from dsi_mqtt.core.rules import Rules
from dsi_mqtt.core.sizes import GIB


@dataclass(frozen=True, slots=True)
class Account:
    """cost_per_hour: in the currency of the prices, at the offered rate: nodes, traffic, energy.

    sent_bytes: by node, that one request makes it send. exposure: share of the units computed
    outside of the trusted zones; exposed: which units, and in which zone.
    """

    cost_per_hour: float
    sent_bytes: dict[str, int]
    exposure: float
    exposed: tuple[tuple[UnitRange, str], ...]
    busy_s: dict[str, tuple[float, float, float]]

    @property
    def request_bytes(self) -> int:
        return sum(self.sent_bytes.values())


def account(problem: Problem, path: Path, rules: Rules, question: Question) -> Account:
    door, steps = path
    sent: defaultdict[int, float] = defaultdict(float)
    computed: defaultdict[int, float] = defaultdict(float)
    sent[door] += float(problem.bytes_at[0, -1]) / sum(trip.each for trip in question.trips)
    exposed, at, cut = [], door, 0
    for node, stop, coding in steps:
        if node != at:
            sent[at] += float(problem.bytes_at[coding, cut])
        view, demands = problem.nodes[node], problem.demands.compute
        computed[node] += float(demands[stop, node] - demands[cut, node]) / 1e9
        if not rules.trusts(view):
            exposed.append((UnitRange(cut, stop), view.zone))
        at, cut = node, stop
    if at != door:
        sent[at] += float(problem.bytes_at[0, -1])
    cost = sum(
        _cost(problem, node, sent[node], computed[node], question)
        for node in {door, *(step.node for step in steps)}
    )
    outside = sum(units.stop - units.start for units, _ in exposed)
    return Account(
        cost,
        {problem.nodes[node].node: round(nbytes) for node, nbytes in sorted(sent.items())},
        outside / problem.units,
        tuple(exposed),
        _busy_s(problem, path),
    )


def _busy_s(problem: Problem, path: Path) -> dict[str, tuple[float, float, float]]:
    """Demands are stretched by what others take of each station; this is not."""
    door, steps = path
    busy = busy_along(problem, door, steps)
    found = {}
    for node in sorted({door, *(step.node for step in steps)}):
        view = problem.nodes[node]
        free = (1 - share for share in view.taken)
        work, up, down = (
            float(ns) / 1e9 * part for ns, part in zip(busy[:, node], free, strict=True)
        )
        found[view.node] = (work, up, down)
    return found


def _cost(problem: Problem, node: int, nbytes: float, busy_s: float, question: Question) -> float:
    """busy_s: of computing, as stretched by what others take of the node."""
    view, prices, rate = problem.nodes[node], question.prices, question.aim.rate_per_s
    idle, busy = view.watts
    rent = price_of(prices.node_hour, view, "prices.node_hour") + idle / 1000 * prices.kwh
    traffic = HOUR_S * nbytes / GIB * price_of(prices.gib, view, "prices.gib")
    energy = busy_s * (1 - view.taken[0]) * max(0.0, busy - idle) / 1000 * prices.kwh
    return rent + rate * (traffic + energy)
