"""Best-first search for the placement with the least score: exact, and it says when it was not.

Paths (`core.tree`) are expanded in the order of what the whole chain takes at least: the score so
far and the least that can follow (`core.bounds`). That least is never too high, so the first
complete path taken is optimal.

What keeps the search small, besides what a tree does for itself:

* the *ceiling*: the score of a placement that is known. Nothing above it is kept. The first one
  comes from a descent, depth first, which also decides feasibility;
* *prices* of what is used up (`core.prices`), once a short search without them has not sufficed.

Among equal scores fewer segments win, then the path whose door, nodes and stops come first in
the order of names: paths with equal bounds are taken in that order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np

from dsi_mqtt.core.aim import Aim
from dsi_mqtt.core.bounds import Bounds, Prices, Steps, ends_of, exact, grouped, nearest
from dsi_mqtt.core.demand import HALVES, halved, least_demand
from dsi_mqtt.core.duties import busy_around, busy_between
from dsi_mqtt.core.memory import Loads
from dsi_mqtt.core.path import Path, Step
from dsi_mqtt.core.pressure import Pressure, Slopes
from dsi_mqtt.core.prices import Ascent
from dsi_mqtt.core.problem import Budget, Nanoseconds, Problem
from dsi_mqtt.core.programme import MORE
from dsi_mqtt.core.rewriting import rewritten
from dsi_mqtt.core.spread import spread
from dsi_mqtt.core.tree import Tree

# Rounds of tuning prices, of which each costs about as much as an expansion or a few. They may take
# half of the limit, and the first of it; not so where demands count, of which the least is known.
ROUNDS: Final = 80
_FIRST: Final = 8
# Units times nodes of problems that are searched after a few rounds already: their trees are small
# and their expansions quick. Where so many of those do not suffice, prices are tuned after all.
_SMALL: Final = 128
_BRIEFLY: Final = 4
_SOON: Final = 128
# Nodes of which so many are looked at half by half.
_MANY: Final = 48
# Expansions for fewer of which no tree is planted: its bounds cost as much as some.
_WORTHWHILE: Final = 4
CEILING: Final = float(np.finfo(np.float64).max)
# A cap that is lower by less is not worth new arrays.
_NARROWER: Final = 0.98
AT_REST: Final = Aim()
# Segments of chains that share the work out and are quick besides.
_SHARED: Final = (HALVES + 1,)
# Rounds in which their least demand is known well enough.
_ROUGHLY: Final = 4


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search found.

    path: the best, or None. score: its score, with what tells equal ones apart. complete:
    nothing was cut off by the limit, so that the path is optimal, or None means that there is
    none. lower: no placement has less.
    """

    path: Path | None
    score: float
    considered: int
    complete: bool
    lower: float


NOTHING: Final = Outcome(None, np.inf, 0, complete=True, lower=np.inf)


def best(problem: Problem, aim: Aim, limit: int, *, rounds: int = ROUNDS) -> Outcome:
    """The placement with the least score, what its demand adds included.

    limit: expansions, and rounds of tuning prices, of which there are at most `rounds`.
    """
    if not problem.doors:
        return NOTHING
    first = 0 if aim.busiest else min(limit, _FIRST)
    rounds = min(rounds, max(limit // 2, first))
    return _Search(problem, Pressure(aim), limit, rounds).outcome()


def cheapest(problem: Problem, limit: int, *, rounds: int = ROUNDS) -> Outcome:
    """The placement with the least sum."""
    return best(problem, AT_REST, limit, rounds=rounds)


def feasible(problem: Problem, limit: int) -> Outcome:
    """Any placement; its score need not be the least."""
    if not problem.doors:
        return NOTHING
    return _Search(problem, Pressure(AT_REST), limit, 0).descended(problem.doors[0])


class _Offered(NamedTuple):
    """What is the same of a chain whichever its door is. used: of each budget."""

    steps: Steps
    score: float
    used: tuple[float, ...]
    busy: Nanoseconds | None

    @classmethod
    def of(cls, problem: Problem, steps: Steps, *, loads: bool) -> _Offered:
        used = tuple(budget.sums.between(steps) for budget in problem.budgets)
        busy = busy_between(problem, steps) if loads else None
        return cls(steps, problem.score.between(steps), used, busy)


@dataclass(slots=True, eq=False)
class _Search:
    """path, score: of the best placement known. lower: no placement has less.

    floor: no placement has a smaller sum. ceiling: what costs more is of no use.
    offered: by door and chain, whether it obeys.
    """

    problem: Problem
    pressure: Pressure
    limit: int
    rounds: int
    path: Path | None = None
    score: float = math.inf
    considered: int = 0
    lower: float = -math.inf
    floor: float = -math.inf
    ceiling: float = CEILING
    offered: dict[tuple[int, Steps], bool] = field(default_factory=dict)

    def outcome(self) -> Outcome:
        low, weights = (0.0, np.empty(0)) if self.pressure.idle else least_demand(self.problem)
        self._limit(low)
        none, ends = Prices.none(self.problem), grouped(self.problem.doors)
        root = Bounds.of(self.problem, none, ends, roughly=True)
        self.floor, end, door = root.lowest()
        if not math.isfinite(self.floor) or math.isinf(self.pressure.adds(low)):
            return NOTHING
        self.lower = self.floor + self.pressure.adds(low)
        alone = self.problem.alone(self.problem.score, self.problem.fees)
        if alone is not None:
            self._offer(alone[1], ((alone[2], self.problem.units, 0),))
        if self.problem.fees.any():
            self._offer_doors(low)
        if self.score > self.lower:
            self._offer_chains(root, end, door)
        shared = self.pressure.rises or (self.path is None and not self.pressure.idle)
        if shared and self.score > self.lower:
            self._spread(door, low, weights)
        if self.path is None:
            found = self.descended(nearest(root.roots()))
            if found.path is None and (not found.complete or self._free):
                return found
        return self._proven(root, low, weights if self.pressure.aim.busiest else None)

    def _proven(self, root: Bounds, low: float, weights: Nanoseconds | None) -> Outcome:
        """Prices and a search: the best placement. low, weights: as of `_priced`."""
        tune = self.rounds > 0 and self.score > self.lower
        if tune and self._is_small:
            found = self._searched(self._priced(root, low, weights, _BRIEFLY), _SOON)
            if found.complete:
                return found
            self.considered, self.lower = found.considered, found.lower
        bounds = self._priced(root, low, weights, self.rounds) if tune else root
        return self._searched(bounds, self.limit)

    @property
    def _is_small(self) -> bool:
        return self.problem.units * len(self.problem.nodes) <= _SMALL

    @property
    def _free(self) -> bool:
        """Whether a door that has no placement says that none has."""
        plain = not self.problem.budgets and not np.isfinite(self.problem.cap)
        return plain and self.ceiling == CEILING

    @property
    def _highest(self) -> float:
        """Nothing above it is of use."""
        return min(self.score, self.ceiling)

    @property
    def _target(self) -> float:
        """What bounds are to come up to."""
        return self._highest if self._highest < CEILING else 2 * abs(self.lower)

    def _limit(self, low: float) -> None:
        """The problem with what load and target forbid. low: the least demand."""
        target, pressure = self.pressure.target_ns, self.pressure
        if math.isfinite(pressure.most):
            self.problem = self.problem.capped(pressure.most)
        if target is None:
            return
        if pressure.target_is_ceiling:
            self.ceiling = target + self.problem.units * MORE
            return
        limit = math.floor(target - min(pressure.wait_ns(low), target))
        budget = Budget("sla.latency_ms", self.problem.latency, limit)
        self.problem = replace(self.problem, budgets=(*self.problem.budgets, budget))

    def _offer(self, door: int, steps: Steps) -> bool:
        """Keeps a chain that obeys everything and is better than the best known; whether it obeys.

        It is tried with the doors at its ends too, and written otherwise where it is over a budget.
        """
        if (door, steps) not in self.offered:
            self.offered[door, steps] = self._tried(door, steps)
        return self.offered[door, steps]

    def _tried(self, door: int, steps: Steps) -> bool:
        if not steps or not _holds(self.problem, steps):
            return False
        steps, obeys = rewritten(self.problem, door, steps), False
        offered = _Offered.of(self.problem, steps, loads=not self.pressure.idle)
        for other in {door, steps[0][0], steps[-1][0]}.intersection(self.problem.doors):
            score = self._score(other, offered)
            obeys |= score <= self.ceiling
            if score < self.score and score <= self.ceiling:
                self.path = other, tuple(Step._make(step) for step in steps)
                self.score = score
        return obeys

    def _offer_chains(
        self, bounds: Bounds, end: int, door: int, nodes: Sequence[int] | None = None
    ) -> Steps:
        """Offers the chain that the bound stands for, which it gives, and as long as one is no
        placement, one of fewer segments: it returns to fewer nodes and goes over less of a budget.

        nodes: those of the bounds, where they are not all.
        """
        names = range(len(self.problem.nodes)) if nodes is None else nodes
        chains: list[Steps] = []
        most = self.problem.max_segments
        if bounds.counted > 1:
            most = min(most, bounds.counted)
        while most:
            found = bounds.steps(end, door, most)
            chains.append(tuple((names[at], stop, way) for at, stop, way in found))
            if self._offer(names[door], chains[-1]) or bounds.counted == 1:
                break
            most = max(0, len(found) - 1)
            if most and bounds.root(end, door, most) >= self.score:
                break
        return chains[0]

    def _offer_doors(self, low: float) -> None:
        """All that are on one node, their door; bounds with fees leave them out. low: the least
        demand.
        """
        problem = self.problem
        score = problem.score
        totals = score.access + score.compute[-1] + score.segment + problem.fees
        for door in sorted(problem.doors, key=lambda door: float(totals[door])):
            if float(totals[door]) + self.pressure.adds(low) > self._highest:
                break
            if problem.stops(0)[-1, door]:
                self._offer(door, ((door, problem.units, 0),))

    def _spread(self, door: int, low: float, weights: Nanoseconds) -> None:
        """Offers chains that share the work out: between two nodes, among few, and among all where
        only demands count or few do not suffice. low: the least demand, by these weights.
        """
        most = self.problem.max_segments
        few = () if self.pressure.aim.busiest else [count for count in _SHARED if count < most]
        if most > 1 and self._offer(door, halved(self.problem)[1]) and most == HALVES:
            return
        longest = self._longest(low)
        for count in (*few, most):
            if count == most and few and self.path is not None:
                break
            problem = replace(self.problem, max_segments=count)
            least, by = (low, weights) if count == most else least_demand(problem, _ROUGHLY)
            self._offer(door, spread(problem, least, by, longest))

    def _score(self, door: int, offered: _Offered) -> float:
        """Inf where a limit forbids the chain."""
        problem, steps = self.problem, offered.steps
        for budget, used in zip(problem.budgets, offered.used, strict=True):
            if used + budget.sums.around(door, steps) > budget.limit:
                return math.inf
        total = offered.score + problem.score.around(door, steps) + len(steps) * MORE
        if problem.fees.any():
            total += sum(float(problem.fees[node]) for node in {door, *(step[0] for step in steps)})
        if self.pressure.aim_is_sum:
            return total
        demand = 0.0
        if offered.busy is not None:
            demand = float(busy_around(problem, door, steps, offered.busy).max())
        if demand > problem.cap or not self._timely(door, steps, demand):
            return math.inf
        return total + self.pressure.adds(demand)

    def _timely(self, door: int, steps: Steps, demand: float) -> bool:
        """Whether it meets the target, where there is one."""
        if self.pressure.target_ns is None:
            return True
        return self.pressure.timely(self.problem.latency.along(door, steps), demand)

    def _longest(self, low: float) -> float:
        """The most that a placement keeps a station busy for that is better than the best known.

        low: the least demand.
        """
        cap = self.problem.cap
        if self.pressure.idle or self._highest == CEILING:
            return cap
        return self.pressure.up_to(low, cap, self._highest - self.floor)

    def _tighten(self, low: float) -> None:
        """Leaves out what a placement that is known is better than."""
        high = self._longest(low)
        if high < _NARROWER * self.problem.cap:
            self.problem = self.problem.capped(math.floor(high))

    def _priced(self, root: Bounds, low: float, weights: Nanoseconds | None, rounds: int) -> Bounds:
        """Bounds at prices under which they are high.

        Prices are tuned on few nodes, which is quicker; what the bound then is for all shows which
        others matter.
        """
        self._tighten(low)
        idle = self.pressure.idle
        slopes = None if idle else Slopes.of(self.pressure, low, self.problem.cap)
        ascent = Ascent.of(self.problem, slopes, weights)
        nodes = len(self.problem.nodes)
        few = set(range(nodes)) if nodes <= _MANY else set(root.promising(_MANY // 2))
        bounds = replace(root, prices=ascent.prices())
        if weights is None:
            bound, end, door = bounds.lowest()
            if not ascent.climb(bound, self._target, door, bounds.steps(end, door)):
                return bounds
        most = min(self.considered + rounds, self.limit)
        while (left := most - self.considered) > 0 and self.lower < self._highest:
            best = self._climb(ascent, few, left if len(few) == nodes else (left + 1) // 2)
            whole = len(few) == nodes
            if not whole:
                best = Bounds.of(self.problem, ascent.best, root.ends, roughly=True)
                self.considered += 1
            bound, end, door = best.lowest()
            if bound > self.lower:
                bounds, self.lower = best, bound
            if whole:  # its chain has been offered
                break
            steps = self._offer_chains(best, end, door)
            more = {door, *(step[0] for step in steps)} - few
            if not more:
                break
            few |= more
        return bounds

    def _climb(self, ascent: Ascent, few: set[int], rounds: int) -> Bounds:
        """The highest bounds as if there were only these nodes. Chains on the way are offered."""
        nodes = sorted(few)
        some = self.problem.only(nodes)
        ends = grouped(some.doors)
        ascent.begin()
        best = None
        for _ in range(rounds):
            self.considered += 1
            prices = ascent.prices()
            bounds = Bounds.of(some, prices.only(nodes), ends, roughly=True)
            bound, end, door = bounds.lowest()
            if ascent.learn(prices, bound):
                best = bounds
            steps = self._offer_chains(bounds, end, door, nodes)
            if self.considered == self.limit:
                break
            if not ascent.climb(bound, self._target, nodes[door], steps):
                break
        assert best is not None  # noqa: S101 - the first one is the highest yet
        return best

    def descended(self, door: int) -> Outcome:
        """The first placement found depth first. What fits does not depend on the door."""
        bounds = Bounds.of(self.problem, Prices.none(self.problem), exact([door]))
        tree = Tree(bounds, self.pressure, self.ceiling, deepest_first=True)
        tree.considered = self.considered
        tree.plant(0, door)
        while tree.heap and tree.best is None and tree.considered < self.limit:
            tree.expand(tree.pop())
        self.considered = tree.considered
        if tree.best is None:
            lower = self.lower if tree.heap else math.inf
            return Outcome(None, math.inf, self.considered, not tree.heap, lower)
        self.path, self.score = tree.best.path, tree.best.least
        return Outcome(self.path, self.score, self.considered, complete=False, lower=self.lower)

    def _told_apart(self, bounds: Bounds) -> Bounds:
        """Bounds at the same prices, of the doors that may be the best one by one."""
        self._tighten(0.0)
        doors = _near(bounds.roots(), self._highest)
        if not doors:
            self.lower = self.score
            return bounds
        ends = ends_of(doors)
        if ends == bounds.ends and not self.problem.fees.any():
            return bounds
        bounds = Bounds.of(self.problem, bounds.prices, ends)
        self.considered += 1
        bound, end, door = bounds.lowest()
        self.lower = max(self.lower, bound)
        if self.lower < self._highest:
            self._offer_chains(bounds, end, door)
        return bounds

    def _searched(self, bounds: Bounds, expansions: int) -> Outcome:
        """The best placement, or the best known after so many expansions, or at the limit."""
        limit = min(self.limit, self.considered + expansions)
        left = limit - self.considered
        if self.lower < self._highest and left >= (1 if self.rounds else _WORTHWHILE):
            bounds = self._told_apart(bounds)
        if left < _WORTHWHILE or self.lower > self.score:
            complete = self.lower >= self.score
            lower = min(self.lower, self.score)
            return Outcome(self.path, self.score, self.considered, complete, lower)
        plain = None
        if not self.pressure.idle and not self.problem.fees.any():
            plain = Bounds.of(self.problem, Prices.none(self.problem), bounds.ends)
        tree = Tree(bounds, self.pressure, self._highest, self.floor, plain)
        tree.considered = self.considered
        for row, end in enumerate(bounds.ends):
            for door in end.doors:
                tree.plant(row, door)
        while tree.heap and tree.considered < limit:
            entry = tree.pop()
            if entry.stop == self.problem.units:
                return Outcome(entry.path, entry.least, tree.considered, True, entry.least)
            tree.expand(entry)
        if tree.best is not None:
            self.path, self.score = tree.best.path, tree.best.least
        lower = max(self.lower, tree.heap[0].least) if tree.heap else self.score
        complete = lower >= self.score
        return Outcome(self.path, self.score, tree.considered, complete, min(lower, self.score))


def _near(roots: dict[int, float], ceiling: float) -> list[int]:
    """Doors that may be those of a better placement, the most promising first."""
    near = sorted((least, door) for door, least in roots.items() if least <= ceiling)
    return [door for _, door in near]


def _holds(problem: Problem, steps: Steps) -> bool:
    """Whether there are few enough segments, and room on nodes that return for all of theirs."""
    if len(steps) > problem.max_segments:
        return False
    loads: Loads = ()
    start = 0
    for node, stop, _ in steps:
        before = next((load for load in loads if load.node == node), None)
        if before is not None and problem.memory.reach(before, start) < stop:
            return False
        loads = problem.memory.after(loads, node, start, stop)
        start = stop
    return True
