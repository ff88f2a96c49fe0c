"""What memory, budgets and stations are worth, so that the bound respects them.

The search's bound lets a node that returns forget what it holds, and a fast node is then used
again and again. Charging a price per byte, and crediting each node with its price times its free
memory, leaves every placement that fits at or below its true score and makes overfull nodes dear
(Lagrangian relaxation). Budgets have prices in the same way; those of stations are credited with
what the demand that they stand for adds at most (`core.pressure`). The prices that give the highest
bound are found by ascent: look at the chain that the bound stands for, raise the price of what it
takes too much of, lower that of what it leaves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dsi_mqtt.core.bounds import Prices, Steps
from dsi_mqtt.core.duties import busy_along
from dsi_mqtt.core.pressure import Slopes
from dsi_mqtt.core.problem import Nanoseconds, Problem

# Rounds without a higher bound after which steps are halved, and the length that ends it.
_PATIENCE: Final = 4
_SHORTEST: Final = 0.1
# Sums of weights, in whole parts of all of them, beyond which a node counts as divisible at will.
_SUMS: Final = 20_000


@dataclass(slots=True, eq=False)
class Ascent:
    """Towards shares that give the highest bound: ns for all the room of each node, for the whole
    of each budget, and where demands matter, for the least demand on each station.

    before[cut, node]: bytes that the units before it take. highest: the best bound yet, and best:
    the prices that gave it.
    """

    problem: Problem
    slopes: Slopes | None
    shares: Nanoseconds
    rooms: Nanoseconds
    before: NDArray[np.int64]
    best: Prices
    highest: float = -np.inf
    _reach: float = 1.0
    _idle: int = 0

    @classmethod
    def of(cls, problem: Problem, slopes: Slopes | None, weights: Nanoseconds | None) -> Ascent:
        """weights[node]: what an ns of work is worth there to begin with; None: nothing."""
        nodes, budgets = len(problem.nodes), len(problem.budgets)
        stations = np.zeros(0 if slopes is None else 3 * nodes)
        shares = np.concatenate([np.zeros(nodes + budgets), stations])
        before = _cumulated(problem.memory.least)
        ascent = cls(problem, slopes, shares, _rooms(problem), before, Prices.none(problem))
        if weights is not None:
            shares[nodes + budgets : 2 * nodes + budgets] = weights * ascent.scale
        return ascent

    @property
    def scale(self) -> float:
        """The demand that shares of stations are told by."""
        return 1.0 if self.slopes is None else max(float(self.slopes.ends[0]), 1.0)

    @property
    def limits(self) -> Nanoseconds:
        """Of rooms, budgets and stations, in the order of shares."""
        budgets = [budget.limit for budget in self.problem.budgets]
        known = np.concatenate([self.rooms, np.array(budgets, np.float64)])
        return np.concatenate([known, np.full(len(self.shares) - len(known), self.scale)])

    def prices(self) -> Prices:
        """Whole ns, rounded down where charged: what fits is charged no more than credited."""
        weights = self.problem.memory.least.astype(np.float64)
        limits = self.limits
        each = np.divide(self.shares, limits, out=np.zeros_like(limits), where=limits > 0)
        nodes = len(self.rooms)
        charges = np.zeros((len(weights) + 1, nodes))
        if self.shares[:nodes].any():
            np.cumsum(np.floor(weights * each[:nodes]), axis=0, out=charges[1:])
        after = nodes + len(self.problem.budgets)
        credit = float(np.ceil(self.shares[:after]).sum())
        rates = tuple(each[nodes:after])
        prices = replace(self.best, charges=charges, credit=credit, rates=rates)
        if self.slopes is None:
            return prices
        stations = each[after:].reshape(3, nodes)
        excesses = self.slopes.excesses(float(stations.sum()))
        credits_ = np.maximum.accumulate(excesses[::-1])[::-1]
        return replace(
            prices,
            credit=credit + float(credits_[0]),
            stations=stations,
            demands=tuple(self.slopes.ends[:-1].tolist()),
            credits=tuple(credits_.tolist()),
        )

    def begin(self) -> None:
        """Anew, from where the shares are: other nodes are looked at."""
        self.highest, self._reach, self._idle = -np.inf, 1.0, 0

    def learn(self, prices: Prices, bound: float) -> bool:
        """What the bound is at these prices; whether that is the highest."""
        if bound > self.highest or math.isinf(self.highest):
            self.best, self.highest, self._idle = prices, bound, 0
            return True
        self._idle += 1
        if self._idle == _PATIENCE:
            self._reach, self._idle = self._reach / 2, 0
        return False

    def climb(self, bound: float, ceiling: float, door: int, steps: Steps) -> bool:
        """A step of Polyak's, away from the chain that the bound stands for; False: there is none.

        ceiling: score of a placement.
        """
        if not np.isfinite(bound) or bound >= ceiling or self._reach < _SHORTEST:
            return False
        excess = self._excess(door, steps)
        excess[(self.shares <= 0) & (excess < 0)] = 0.0
        length = float((excess**2).sum())
        if not length:
            return False
        step = self._reach * (ceiling - bound) / length
        self.shares = np.maximum(0.0, self.shares + step * excess)
        return True

    def _excess(self, door: int, steps: Steps) -> Nanoseconds:
        """What the chain takes beyond each limit, as a share of that; of none it is nothing."""
        used = np.zeros(len(self.shares))
        if steps:
            nodes, stops, _ = np.array(steps).T
            starts = np.append(0, stops[:-1])
            taken = self.before[stops, nodes] - self.before[starts, nodes]
            np.add.at(used, nodes, taken)
        for i, budget in enumerate(self.problem.budgets if steps else ()):
            used[len(self.rooms) + i] = budget.sums.along(door, steps)
        limits = self.limits
        most = limits.copy()
        if self.slopes is not None:
            after = len(self.rooms) + len(self.problem.budgets)
            slope = float(self.shares[after:].sum()) / self.scale
            most[after:] = self.slopes.steepest(slope)
            if steps:
                used[after:] = busy_along(self.problem, door, steps).ravel()
        return np.divide(used - most, limits, out=np.zeros_like(used), where=limits > 0)


def _cumulated(weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """[cut, node]: of the units before it."""
    before = np.zeros((len(weights) + 1, weights.shape[1]), np.int64)
    np.cumsum(weights, axis=0, out=before[1:])
    return before


def _rooms(problem: Problem) -> Nanoseconds:
    """[node]: the most bytes that whole units can take of its free memory.

    Blocks of a model weigh the same, so that is often much less than what is free.
    """
    least, free = problem.memory.least, problem.memory.free
    alike: dict[bytes, list[int]] = {}
    sizes = np.where(problem.allowed, least, 0)
    for node, column in enumerate(sizes.T):
        alike.setdefault(column.tobytes(), []).append(node)
    rooms = np.empty(len(free))
    for nodes in alike.values():
        limits = [max(free[node], 0) for node in nodes]
        rooms[nodes] = _most(sizes[:, nodes[0]].tolist(), limits)
    return rooms


def _most(sizes: list[int], limits: list[int]) -> list[int]:
    """By limit, the largest sum of some of `sizes` within it; itself where there are too many."""
    total, each = sum(sizes), math.gcd(*sizes)
    known = [limit for limit in limits if limit < total and limit // each <= _SUMS]
    within = (1 << max(known, default=0) // max(each, 1) + 1) - 1
    sums = 1  # its bits are the sums that there are
    for size in sizes if known else ():
        sums |= sums << size // each & within
    most = []
    for limit in limits:
        if limit >= total or limit // each > _SUMS:
            most.append(min(limit, total))
        else:
            below = sums & (1 << limit // each + 1) - 1
            most.append((below.bit_length() - 1) * each)
    return most
