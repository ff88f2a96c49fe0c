"""The least score when the busiest station adds to it: a search over what that may be busy for.

A placement's score is a sum over its parts, and something that grows with the time that a request
keeps the busiest station busy: its *demand*. Of all placements whose demand is within an interval,
none is better than the least sum under the upper end and what the lower end adds. So intervals are
searched from the most promising on, each by the search for sums under a cap (`core.search`); what
that finds has a demand of its own, which cuts the interval.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from dsi_mqtt.core.aim import Aim
from dsi_mqtt.core.duties import duties_along
from dsi_mqtt.core.problem import Budget, Problem
from dsi_mqtt.core.queueing import waiting_s
from dsi_mqtt.core.search import CEILING, NOTHING, Outcome, cheapest
from dsi_mqtt.core.tree import Path

# Steps towards the demand up to which a better placement may be looked for; what is left of the
# last step is searched in vain.
_HALVINGS: Final = 12
# An interval of demands whose ends differ by less is not halved.
_NARROW: Final = 0.02


@dataclass(frozen=True, slots=True)
class Pressure:
    """What a demand adds to the score, in ns."""

    aim: Aim

    @property
    def idle(self) -> bool:
        return not self.aim.rate_per_s and not self.aim.busiest and self.target_ns is None

    @property
    def target_ns(self) -> float | None:
        return None if self.aim.latency_max_s is None else self.aim.latency_max_s * 1e9

    def wait_ns(self, demand: float) -> float:
        return waiting_s(self.aim.rate_per_s, demand / 1e9, self.aim.share) * 1e9

    def adds(self, demand: float) -> float:
        wait = self.wait_ns(demand)
        if math.isinf(wait):
            return math.inf  # it grows for ever, whatever it weighs
        return self.aim.latency * wait + self.aim.busiest * demand

    def up_to(self, low: float, high: float, most: float) -> float:
        """A demand between `low` and `high` that none with `adds` within `most` exceeds."""
        if self.adds(high) <= most:
            return high
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if self.adds(middle) <= most:
                low = middle
            else:
                high = middle
        return high


def best(problem: Problem, aim: Aim, limit: int) -> Outcome:
    """The placement with the least score, what its demand adds included.

    limit: about so many expansions.
    """
    pressure = Pressure(aim)
    if pressure.idle:
        return cheapest(problem, limit)
    if not problem.doors:
        return NOTHING
    return _Intervals(problem, pressure, limit).best()


@dataclass(slots=True, eq=False)
class _Intervals:
    """heap: (bound, low, high) of demands that are yet to be searched.

    lower: bound of those that a search was cut off in.
    """

    problem: Problem
    pressure: Pressure
    limit: int
    heap: list[tuple[float, float, float]] = field(default_factory=list)
    path: Path | None = None
    score: float = CEILING
    considered: int = 0
    lower: float = math.inf

    def best(self) -> Outcome:
        heapq.heappush(self.heap, (-math.inf, least_demand(self.problem), self._most()))
        while self.heap and self.heap[0][0] < self.score:
            if self.considered >= self.limit:
                self.lower = min(self.lower, self.heap[0][0])
                break
            _, low, high = heapq.heappop(self.heap)
            self._search(low, high)
        lower = min(self.lower, self.score)
        complete = self.lower >= self.score
        if self.path is None:
            complete = math.isinf(self.lower) and self.lower > 0
            return Outcome(None, math.inf, self.considered, complete, self.lower)
        return Outcome(self.path, self.score, self.considered, complete, lower)

    def _most(self) -> float:
        """No demand that is sustained is beyond it."""
        rate = self.pressure.aim.rate_per_s
        return math.floor(1e9 / rate) if rate else math.inf

    def _search(self, low: float, high: float) -> None:
        adds_low = self.pressure.adds(low)
        if math.isinf(adds_low):
            return
        problem = self._within(low, high)
        ceiling = min(CEILING, self.score - adds_low)
        outcome = cheapest(problem, max(1, self.limit - self.considered), ceiling=ceiling)
        self.considered += max(1, outcome.considered)
        if not outcome.complete:
            self.lower = min(self.lower, outcome.lower + adds_low)
        if outcome.path is None:
            return
        demand = busiest_ns(self.problem, outcome.path)
        if not self._take(outcome, demand) and math.isfinite(self.pressure.wait_ns(demand)):
            bound = outcome.score + self.pressure.adds(demand)
            heapq.heappush(self.heap, (bound, demand, high))
        self._below(outcome, low, demand - 1)

    def _below(self, outcome: Outcome, low: float, high: float) -> None:
        """What has less demand than the outcome and may yet be better than what is known."""
        least = outcome.score if outcome.complete else outcome.lower
        if high < low or math.isinf(least):
            return
        if self.score < CEILING:
            high = math.floor(self.pressure.up_to(low, high, self.score - least))
        if high < low:
            return
        middle = math.floor((low + high) / 2)
        if self.pressure.aim.busiest and low <= middle < high and high - low > _NARROW * high:
            heapq.heappush(self.heap, (least + self.pressure.adds(low), low, middle))
            bound = least + self.pressure.adds(middle + 1)
            heapq.heappush(self.heap, (bound, middle + 1, high))
        else:
            heapq.heappush(self.heap, (least + self.pressure.adds(low), low, high))

    def _take(self, outcome: Outcome, demand: float) -> bool:
        """Whether it is within the target; what is better than the best known is kept."""
        assert outcome.path is not None  # noqa: S101 - the caller has looked
        adds, target = self.pressure.adds(demand), self.pressure.target_ns
        if math.isinf(adds):
            return False
        if target is not None:
            latency = latency_ns(self.problem, outcome.path)
            if latency + self.pressure.wait_ns(demand) > target:
                return False
        if outcome.score + adds < self.score:
            self.path, self.score = outcome.path, outcome.score + adds
        return True

    def _within(self, low: float, high: float) -> Problem:
        problem, target = self.problem.capped(high), self.pressure.target_ns
        if target is None:
            return problem
        limit = math.floor(target - self.pressure.wait_ns(low))
        budget = Budget("sla.latency_ms", problem.latency, limit)
        return replace(problem, budgets=(*problem.budgets, budget))


def least_demand(problem: Problem) -> float:
    """In ns: no placement keeps its busiest station busy for less."""
    demands, units = problem.demands, problem.units
    if not len(problem.nodes):
        return 0.0
    each = np.diff(demands.compute, axis=0)
    least = np.where(problem.allowed, each, np.inf).min(axis=1)
    if not np.isfinite(least).all():
        return 0.0
    nodes = min(len(problem.nodes), units, problem.max_segments)
    shared = math.floor(float(least.sum() / max(nodes, 1)))
    return max(shared, float(least.max(initial=0.0)) + demands.segment)


def busiest_ns(problem: Problem, path: Path) -> float:
    """How long one request keeps the station busy that it keeps busy for longest."""
    return duties_along(problem, *path).most


def latency_ns(problem: Problem, path: Path) -> float:
    """Of one request that waits for none."""
    return problem.latency.along(*path)
