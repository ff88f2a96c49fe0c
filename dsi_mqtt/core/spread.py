"""A chain that keeps many nodes about equally busy: one to begin with where demands matter.

Each node gets one segment that keeps its stations busy for no longer than a demand that is tried,
and of all nodes that could go on, the one whose time is filled best does; where segments are few,
the one that gets furthest. Tried are demands from the least that is possible, by steps, until a
chain reaches the end.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from dsi_mqtt.core.bounds import Steps
from dsi_mqtt.core.problem import Problem

# Demands that are tried, each as a multiple of the one before.
_TRIES: Final = 16
_WIDER: Final = 1.06


def spread(problem: Problem, least: float) -> Steps:
    """Plainly written; none where no demand that is tried suffices."""
    demand = least
    for _ in range(_TRIES):
        demand *= _WIDER
        steps = _filled(problem, min(demand, problem.cap))
        if steps:
            return steps
    return ()


def _filled(problem: Problem, demand: float) -> Steps:
    demands, units = problem.demands, problem.units
    work = demands.compute
    few = problem.segments_bounded
    leaves = (demands.sends[0] <= demand)[1:]
    leaves[-1] = True
    arrives = demands.gets[0] <= demand
    unused = np.ones(len(problem.nodes), np.bool_)
    columns = np.arange(len(unused))
    steps: list[tuple[int, int, int]] = []
    cut = 0
    while cut < units and len(steps) < problem.max_segments:
        busy = work[cut + 1 :] - (work[cut] - demands.segment)
        may = (busy <= demand) & problem.stops(cut) & leaves[cut:] & (arrives[cut] & unused)
        furthest = len(busy) - 1 - may[::-1].argmax(axis=0)
        filled = np.where(
            may[furthest, columns], furthest if few else busy[furthest, columns], -1.0
        )
        filled[may[-1]] = np.inf  # it ends the chain
        node = int(filled.argmax())
        if filled[node] < 0:
            return ()
        cut += 1 + int(furthest[node])
        unused[node] = False
        steps.append((node, cut, 0))
    return tuple(steps) if cut == units else ()
