"""What memory is worth on each node, so that the bound respects it (Lagrangian relaxation).

The search's bound lets a node that returns forget what it holds, and a fast node is then used
again and again. Charging a price per byte, and crediting each node with its price times its free
memory, leaves every placement that fits at or below its true latency and makes overfull nodes
dear. The prices that give the highest bound are found by ascent: look at the chain that the bound
stands for, raise the price of nodes it overfills, lower that of nodes it leaves room on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from dsi_mqtt.core.bounds import Bounds, End, Prices, even_rents, exact, grouped, nearest
from dsi_mqtt.core.duties import duties_along
from dsi_mqtt.core.problem import Nanoseconds, Problem

_ROUNDS: Final = 40
# Rounds without a higher bound after which steps are halved, and the length that ends it.
_PATIENCE: Final = 4
_SHORTEST: Final = 0.1
# Doors that the ascent looks at together.
_DOORS: Final = 5
# Sums of weights beyond which a node counts as divisible at will.
_SUMS: Final = 500


def tuned(problem: Problem, doors: Sequence[int], ceiling: float) -> Prices:
    """Prices under which the bound is high. ceiling: score of a placement, in ns.

    The bound is the least over all doors, but few doors matter: the ascent starts with the best
    one and takes in whichever is the best at the prices found so far.
    """
    looked: tuple[int, ...] = ()
    ascent = _Ascent(problem, (), _rooms(problem), even_rents(problem))
    shares = np.zeros(len(ascent.limits))
    while len(looked) < _DOORS:
        roots = Bounds.of(problem, ascent.prices(shares), grouped(doors)).roots()
        door = nearest(roots)
        if door in looked:
            break
        looked = (*looked, door)
        ascent = replace(ascent, ends=exact(looked))
        shares = ascent.best(shares, ceiling)
    return ascent.prices(shares)


@dataclass(frozen=True, slots=True, eq=False)
class _Ascent:
    """Towards shares that give the highest bound: ns for all the room of each node, for the whole
    of each budget, and where there is a cap, for each station kept busy up to it.
    """

    problem: Problem
    ends: tuple[End, ...]
    rooms: Nanoseconds
    rents: Nanoseconds

    @property
    def limits(self) -> Nanoseconds:
        """Of rooms, budgets and stations, in the order of shares."""
        budgets = [budget.limit for budget in self.problem.budgets]
        stations = [self.problem.cap] * (3 * len(self.rooms) if self.capped else 0)
        return np.concatenate([self.rooms, np.array(budgets + stations, np.float64)])

    @property
    def capped(self) -> bool:
        return bool(np.isfinite(self.problem.cap))

    def best(self, shares: Nanoseconds, ceiling: float) -> Nanoseconds:
        """On the way up from `shares`: Polyak's step, halved when it does not help for a while."""
        best = shares
        highest, reach, idle = -np.inf, 1.0, 0
        for _ in range(_ROUNDS):
            bounds = Bounds.of(self.problem, self.prices(shares), self.ends)
            roots = bounds.roots()
            door = nearest(roots)
            bound = roots[door]
            if bound > highest:
                best, highest, idle = shares, bound, 0
            else:
                idle += 1
                if idle == _PATIENCE:
                    reach, idle = reach / 2, 0
            if not np.isfinite(bound) or bound >= ceiling or reach < _SHORTEST:
                break
            excess = self.excess(bounds, door)
            excess[(shares <= 0) & (excess < 0)] = 0.0
            length = float((excess**2).sum())
            if not length:
                break
            shares = np.maximum(0.0, shares + reach * (ceiling - bound) / length * excess)
        return best

    def prices(self, shares: Nanoseconds) -> Prices:
        """Whole ns, rounded down where charged: what fits is charged no more than credited."""
        weights = self.problem.memory.least.astype(np.float64)
        each = np.divide(shares, self.limits, out=np.zeros_like(shares), where=self.limits > 0)
        nodes = len(self.rooms)
        charges = np.zeros((len(weights) + 1, nodes))
        np.cumsum(np.floor(weights * each[:nodes]), axis=0, out=charges[1:])
        after = nodes + len(self.problem.budgets)
        return Prices(
            charges,
            float(np.ceil(shares).sum()),
            self.rents,
            tuple(each[nodes:after]),
            each[after:].reshape(3, nodes) if self.capped else None,
        )

    def excess(self, bounds: Bounds, door: int) -> Nanoseconds:
        """What the bound's chain takes beyond each limit, as a share of that."""
        weights, used, start = self.problem.memory.least, np.zeros(len(self.limits)), 0
        end = next(i for i, end in enumerate(bounds.ends) if door in end.doors)
        steps = bounds.steps(end, door)
        for node, stop, _ in steps:
            used[node] += weights[start:stop, node].sum()
            start = stop
        for i, budget in enumerate(self.problem.budgets):
            used[len(self.rooms) + i] = budget.sums.along(door, steps)
        if self.capped:
            after = len(self.rooms) + len(self.problem.budgets)
            busy = used[after:].reshape(3, -1)
            for node, duty in duties_along(self.problem, door, steps).of:
                busy[:, node] = duty
        over, limits = used - self.limits, self.limits
        return np.divide(over, limits, out=np.zeros_like(used), where=limits > 0)


def _rooms(problem: Problem) -> Nanoseconds:
    """[node]: the most bytes that whole units can take of its free memory.

    Blocks of a model weigh the same, so that is often much less than what is free.
    """
    rooms = []
    for node, free in enumerate(problem.memory.free):
        sums = {0}
        for unit in np.flatnonzero(problem.allowed[:, node]).tolist():
            size = int(problem.memory.least[unit, node])
            sums |= {total + size for total in sums if total + size <= free}
            if len(sums) > _SUMS:
                sums = {max(free, 0)}
                break
        rooms.append(max(sums))
    return np.array(rooms, np.float64)
