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

_ROUNDS: Final = 60
# Rounds without a higher bound after which steps are halved.
_PATIENCE: Final = 4


def tuned(problem: Problem, door: int, ceiling: float) -> Prices:
    """Prices under which the bound is high. ceiling: latency of a placement, in ns."""
    problem = replace(problem, max_segments=problem.units)
    weights = problem.memory.least.astype(np.float64)
    free = np.array(problem.memory.free, np.float64)
    shares = np.zeros(len(free))  # ns for the whole free memory of a node
    best, highest, reach, idle = Prices.none(problem), -np.inf, 1.0, 0
    for _ in range(_ROUNDS):
        prices = _prices(shares, weights, free)
        bounds = Bounds.of(problem, prices, (door,))
        bound = bounds.root(door)
        if bound > highest:
            best, highest, idle = prices, bound, 0
        else:
            idle += 1
            if idle == _PATIENCE:
                reach, idle = reach / 2, 0
        excess = _excess(bounds, door, weights, free)
        excess[(shares <= 0) & (excess < 0)] = 0.0
        length = float((excess**2).sum())
        if not length or bound >= ceiling:
            break
        shares = np.maximum(0.0, shares + reach * (ceiling - bound) / length * excess)
    return best


def _prices(shares: Nanoseconds, weights: Nanoseconds, free: Nanoseconds) -> Prices:
    """Whole nanoseconds, rounded down where charged: what fits is charged no more than credited."""
    charges = np.zeros((len(weights) + 1, len(free)))
    rates = np.divide(shares, free, out=np.zeros_like(shares), where=free > 0)
    np.cumsum(np.floor(weights * rates), axis=0, out=charges[1:])
    return Prices(charges, float(np.ceil(shares).sum()))


def _excess(bounds: Bounds, door: int, weights: Nanoseconds, free: Nanoseconds) -> Nanoseconds:
    """[node]: what the bound's chain puts on it beyond its free memory, as a share of that."""
    used = np.zeros(len(free))
    for node, start, stop in bounds.steps(door):
        used[node] += weights[start:stop, node].sum()
    return np.divide(used - free, free, out=np.zeros_like(used), where=free > 0)
