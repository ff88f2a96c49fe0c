"""What a placement costs an hour, what it sends, and what leaves the trusted zones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from dsi_mqtt.core.formulation import HOUR_S, Question, price_of
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.problem import Problem
from dsi_mqtt.core.rules import Rules
from dsi_mqtt.core.sizes import GIB
from dsi_mqtt.core.ways import Way, busy, nodes_of


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


def account(problem: Problem, ways: Sequence[Way], rules: Rules, question: Question) -> Account:
    """Of the mean request."""
    sent: defaultdict[int, float] = defaultdict(float)
    computed: defaultdict[int, float] = defaultdict(float)
    exposed: dict[tuple[UnitRange, str], None] = {}
    outside = 0.0
    for way in ways:
        (door, steps), share, cut = way.path, way.share, 0
        at = door
        answer = float(problem.bytes_at[0, -1])
        sent[door] += share * answer / sum(trip.each for trip in question.trips)
        for node, stop, coding in steps:
            if node != at:
                sent[at] += share * float(problem.bytes_at[coding, cut])
            view, demands = problem.nodes[node], problem.demands.compute
            computed[node] += share * float(demands[stop, node] - demands[cut, node]) / 1e9
            if not rules.trusts(view):
                exposed[UnitRange(cut, stop), view.zone] = None
                outside += share * (stop - cut)
            at, cut = node, stop
        if at != door:
            sent[at] += share * answer
    cost = sum(
        _cost(problem, node, sent[node], computed[node], question) for node in nodes_of(ways)
    )
    return Account(
        cost,
        {problem.nodes[node].node: round(nbytes) for node, nbytes in sorted(sent.items())},
        outside / problem.units,
        tuple(exposed),
        _busy_s(problem, ways),
    )


def _busy_s(problem: Problem, ways: Sequence[Way]) -> dict[str, tuple[float, float, float]]:
    """Demands are stretched by what others take of each station; this is not."""
    kept = busy(problem, ways)
    found = {}
    for node in sorted(nodes_of(ways)):
        view = problem.nodes[node]
        free = (1 - share for share in view.taken)
        work, up, down = (
            float(ns) / 1e9 * part for ns, part in zip(kept[:, node], free, strict=True)
        )
        found[view.node] = (work, up, down)
    return found


def _cost(
    problem: Problem, node: int, nbytes: float, computed_s: float, question: Question
) -> float:
    """computed_s: of computing, as stretched by what others take of the node."""
    view, prices, rate = problem.nodes[node], question.prices, question.aim.rate_per_s
    idle, busy = view.watts
    rent = price_of(prices.node_hour, view, "prices.node_hour") + idle / 1000 * prices.kwh
    traffic = HOUR_S * nbytes / GIB * price_of(prices.gib, view, "prices.gib")
    energy = computed_s * (1 - view.taken[0]) * max(0.0, busy - idle) / 1000 * prices.kwh
    return rent + rate * (traffic + energy)
