"""How long placements keep stations busy: of one that is known, and of the best there can be."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from dsi_mqtt.core.duties import duties_along
from dsi_mqtt.core.path import Path
from dsi_mqtt.core.problem import Nanoseconds, Problem

_ROUNDS: Final = 24


def busiest_ns(problem: Problem, path: Path) -> float:
    """How long one request keeps the station busy that it keeps busy for longest."""
    return duties_along(problem, *path).most


def latency_ns(problem: Problem, path: Path) -> float:
    """Of one request that waits for none."""
    return problem.latency.along(*path)


def least_demand(problem: Problem) -> tuple[float, Nanoseconds]:
    """In ns: no placement keeps its busiest station busy for less; and why: [node], weights whose
    sum is 1.

    Whatever weights nodes have, the busiest works no less than all of them on the weighted mean,
    and that no less than if each unit were where it takes the least of it. Weights are raised where
    too much would go, and lowered elsewhere.
    """
    nodes = len(problem.nodes)
    each = np.where(problem.allowed, np.diff(problem.demands.compute, axis=0), np.inf)
    least = each.min(axis=1, initial=np.inf)
    if not np.isfinite(least).all():
        return 0.0, np.full(nodes, 1 / max(nodes, 1))
    means = np.where(problem.allowed, each, 0.0).sum(axis=0) / problem.units
    weights = 1 / np.maximum(means, 1.0)
    weights /= weights.sum()
    best, highest, length = weights, 0.0, 0.5
    units = np.arange(problem.units)
    for _ in range(_ROUNDS):
        there = (weights * each).argmin(axis=1)
        works = np.bincount(there, each[units, there], nodes)
        bound = float(weights @ works)
        if bound > highest:
            best, highest = weights, bound
        else:
            length *= 0.7
        if not bound:
            break
        weights = weights * (np.maximum(works, 0.1 * bound) / bound).clip(max=10.0) ** length
        weights /= weights.sum()
    alone = float(least.max()) + problem.demands.segment
    return max(math.floor(highest), alone), best
