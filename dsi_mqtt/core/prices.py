"""What memory is worth on each node, so that the bound respects it (Lagrangian relaxation).

The search's bound lets a node that returns forget what it holds, and a fast node is then used
again and again. Charging a price per byte, and crediting each node with its price times its free
memory, leaves every placement that fits at or below its true latency and makes overfull nodes
dear. The prices that give the highest bound are found by ascent: look at the chain that the bound
stands for, raise the price of nodes it overfills, lower that of nodes it leaves room on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from dsi_mqtt.core.bounds import Bounds, Prices
from dsi_mqtt.core.problem import Nanoseconds, Problem

_ROUNDS: Final = 40
# Rounds without a higher bound after which steps are halved, and the length that ends it.
_PATIENCE: Final = 4
_SHORTEST: Final = 0.1
# Doors that the ascent looks at together.
_DOORS: Final = 5
# Sums of weights beyond which a node counts as divisible at will.
_SUMS: Final = 500


def tuned(problem: Problem, ceiling: float) -> Prices:
    """Prices under which the bound is high. ceiling: latency of a placement, in ns.

    The bound is the least over all doors, but few doors matter: the ascent starts with the best
    one and takes in whichever is the best at the prices found so far.
    """
    problem = replace(problem, max_segments=problem.units)
    weights, rooms = problem.memory.least.astype(np.float64), _rooms(problem)
    shares = np.zeros(len(rooms))  # ns for all the room of a node
    doors: tuple[int, ...] = ()
    while len(doors) < _DOORS:
        roots = Bounds.of(problem, _prices(shares, weights, rooms), problem.doors).roots
        door = problem.doors[int(roots.argmin())]
        if door in doors:
            break
        doors += (door,)
        shares = _ascended(replace(problem, doors=doors), ceiling, shares, weights, rooms)
    return _prices(shares, weights, rooms)


def _ascended(
    problem: Problem,
    ceiling: float,
    shares: Nanoseconds,
    weights: Nanoseconds,
    rooms: Nanoseconds,
) -> Nanoseconds:
    """Shares with the highest bound on the way up from `shares` (Polyak's step)."""
    best, highest, reach, idle = shares, -np.inf, 1.0, 0
    for _ in range(_ROUNDS):
        bounds = Bounds.of(problem, _prices(shares, weights, rooms), problem.doors)
        bound = float(bounds.roots.min())
        if bound > highest:
            best, highest, idle = shares, bound, 0
        else:
            idle += 1
            if idle == _PATIENCE:
                reach, idle = reach / 2, 0
        excess = _excess(bounds, weights, rooms)
        excess[(shares <= 0) & (excess < 0)] = 0.0
        length = float((excess**2).sum())
        if not length or bound >= ceiling or reach < _SHORTEST:
            break
        shares = np.maximum(0.0, shares + reach * (ceiling - bound) / length * excess)
    return best


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


def _prices(shares: Nanoseconds, weights: Nanoseconds, rooms: Nanoseconds) -> Prices:
    """Whole nanoseconds, rounded down where charged: what fits is charged no more than credited."""
    charges = np.zeros((len(weights) + 1, len(rooms)))
    rates = np.divide(shares, rooms, out=np.zeros_like(shares), where=rooms > 0)
    np.cumsum(np.floor(weights * rates), axis=0, out=charges[1:])
    return Prices(charges, float(np.ceil(shares).sum()))


def _excess(bounds: Bounds, weights: Nanoseconds, rooms: Nanoseconds) -> Nanoseconds:
    """[node]: what the bound's chain puts on it beyond its room, as a share of that."""
    used = np.zeros(len(rooms))
    for node, start, stop in bounds.steps(bounds.doors[int(bounds.roots.argmin())]):
        used[node] += weights[start:stop, node].sum()
    return np.divide(used - rooms, rooms, out=np.zeros_like(used), where=rooms > 0)
