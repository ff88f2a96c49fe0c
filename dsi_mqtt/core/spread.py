"""A chain that keeps many nodes about equally busy: one to begin with where demands matter.

Each node gets one segment that keeps its stations busy for no longer than a demand that is tried.
Of all nodes that could go on, the one that gets furthest does where segments are few; else the one
that takes most of what it could take at best, or where that does not reach the end, the one whose
time is filled best. Hops are written as short as budgets allow for all of them. Of demands from the
least that is possible, by steps, the least with which a chain reaches the end is looked for by
halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dsi_mqtt.core.bounds import Steps
from dsi_mqtt.core.problem import Budget, Flags, Nanoseconds, Problem

# Demands that are tried, each as a multiple of the one before.
_STEPS: Final = 31
_WIDER: Final = 1.03
# How much slow nodes go before fast ones that take as large a part of what they could: who comes
# last must be able to take what is left.
_SLOW_FIRST: Final = 0.25
# Units that are looked at first.
_LOOKED_AT: Final = 12


def spread(problem: Problem, least: float, weights: Nanoseconds) -> Steps:
    """None where no demand that is tried suffices. weights[node]: as `demand.least_demand` says."""
    filling = _Filling.of(problem, weights)
    found: Steps = ()
    low, high = 1, _STEPS + 1
    while low < high:
        middle = (low + high) // 2
        demand = min(least * _WIDER**middle, problem.cap)
        steps = filling.chain(demand, by_share=True)
        if not steps and not problem.segments_bounded:
            steps = filling.chain(demand, by_share=False)
        if steps:
            found, high = steps, middle
        else:
            low = middle + 1
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Filling:
    """way: how hops are written. enters, leaves[cut, node]: work at a segment's ends; gets,
    sends[cut, node]: on the links there. limited: budgets that segments use.
    worth[cut]: of the units before it, the work on the nodes where it weighs least; parts[node]:
    what takes one to how well it is used.
    """

    problem: Problem
    way: int
    enters: Nanoseconds
    leaves: Nanoseconds
    gets: Nanoseconds
    sends: Nanoseconds
    limited: tuple[Budget, ...]
    worth: Nanoseconds
    parts: Nanoseconds

    @classmethod
    def of(cls, problem: Problem, weights: Nanoseconds) -> _Filling:
        way, demands = _shortest(problem), problem.demands
        gets, sends = demands.gets[way].copy(), demands.sends[way].copy()
        sends[-1] = 0.0  # the last may be the door
        limited = tuple(b for b in problem.budgets if b.sums.compute.any())
        each = np.where(problem.allowed, weights * np.diff(demands.compute, axis=0), np.inf)
        worth = np.concatenate([[0.0], np.cumsum(each.min(axis=1))])
        parts = np.maximum(weights, np.finfo(np.float64).tiny) ** -(1 + _SLOW_FIRST)
        ends = demands.decode[way], demands.encode[way]
        return cls(problem, way, *ends, gets, sends, limited, worth, parts)

    def chain(self, demand: float, *, by_share: bool) -> Steps:
        """None where it does not reach the end."""
        problem, work = self.problem, self.problem.demands.compute
        units, few = problem.units, problem.segments_bounded
        slow = np.where((self.gets <= demand)[:-1], self.enters[:-1], np.inf)
        slow += problem.demands.segment - work[:-1]
        after = np.where(self.sends <= demand, self.leaves + work, np.inf)
        used = [float(budget.sums.access.max()) for budget in self.limited]
        columns = np.arange(len(problem.nodes))
        steps: list[tuple[int, int, int]] = []
        cut = 0
        while cut < units and len(steps) < problem.max_segments:
            most, busy, may = self._ways(cut, after, slow, demand, used)
            furthest = len(busy) - 1 - may[::-1].argmax(axis=0)
            if few:
                filled = furthest
            elif by_share:
                filled = (self.worth[cut + 1 + furthest] - self.worth[cut]) * self.parts
            else:
                filled = busy[furthest, columns]
            filled = np.where(may[furthest, columns], filled, -1.0)
            if cut + most == units:
                filled[may[-1]] = np.inf  # it ends the chain
            node = int(filled.argmax())
            if filled[node] < 0:
                return ()
            stop = cut + 1 + int(furthest[node])
            for i, budget in enumerate(self.limited):
                used[i] += budget.sums.segment_of(node, cut, stop)
            slow[:, node] = np.inf
            steps.append((node, stop, self.way if steps else 0))
            cut = stop
        return tuple(steps) if cut == units else ()

    def _ways(
        self, cut: int, after: Nanoseconds, slow: Nanoseconds, demand: float, used: Sequence[float]
    ) -> tuple[int, Nanoseconds, Flags]:
        """How many units are looked at; [stop - cut - 1, node]: how busy they keep the node, and
        whether they may be its segment.
        """
        problem, most = self.problem, _LOOKED_AT
        while True:
            most = min(most, problem.units - cut)
            busy = after[cut + 1 : cut + 1 + most] + slow[cut]
            may = (busy <= demand) & problem.stops(cut, most)
            for budget, so_far in zip(self.limited, used, strict=True):
                there = budget.sums.compute
                may &= there[cut + 1 : cut + 1 + most] - there[cut] <= budget.limit - so_far
            if cut + most == problem.units or not may[-1].any():
                return most, busy, may
            most *= 4


def _shortest(problem: Problem) -> int:
    """The coding of fewest bytes of which budgets allow as many hops as there may be."""
    hops = min(problem.max_segments, problem.units, len(problem.nodes)) - 1
    within = [
        way
        for way in range(len(problem.codings))
        if all(hops * budget.sums.hop[way] <= budget.limit for budget in problem.budgets)
    ]
    return min(within, key=lambda way: float(problem.bytes_at[way, 1:-1].sum()), default=0)
