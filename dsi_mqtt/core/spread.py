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
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from dsi_mqtt.core.bounds import Steps
from dsi_mqtt.core.problem import Budget, Cuts, Flags, Nanoseconds, Problem

# Demands that are tried, each as a multiple of the one before.
_STEPS: Final = 31
_WIDER: Final = 1.03
# Units that are looked at first.
_LOOKED_AT: Final = 12
# How much slow nodes go before fast ones that take as large a part of what they could: who comes
# last must be able to take what is left.
_SLOW_FIRST: Final = 0.25


def spread(problem: Problem, least: float, weights: Nanoseconds) -> Steps:
    """None where no demand that is tried suffices. weights[node]: as `demand.least_demand` says."""
    filling = _Filling.of(problem, weights)
    found: Steps = ()
    low, high = 1, _STEPS + 1
    while low < high:
        middle = (low + high) // 2
        demand = min(least * _WIDER**middle, problem.cap)
        trial = _Trial.of(filling, demand)
        steps = filling.chain(trial, by_share=True)
        if not steps and not problem.segments_bounded:
            steps = filling.chain(trial, by_share=False)
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
        # A unit that no node may compute ends every chain, whatever it is worth.
        each[~problem.allowed.any(axis=1)] = 0.0
        worth = np.concatenate([[0.0], np.cumsum(each.min(axis=1))])
        parts = np.maximum(weights, np.finfo(np.float64).tiny) ** -(1 + _SLOW_FIRST)
        ends = demands.decode[way], demands.encode[way]
        return cls(problem, way, *ends, gets, sends, limited, worth, parts)

    def chain(self, trial: _Trial, *, by_share: bool) -> Steps:
        """None where it does not reach the end."""
        problem = self.problem
        used = [float(budget.sums.access.max()) for budget in self.limited]
        unused = np.ones(len(problem.nodes), np.bool_)
        steps: list[tuple[int, int, int]] = []
        cut = 0
        while cut < problem.units and len(steps) < problem.max_segments:
            ways = trial.ways(cut)
            filled = np.where(unused, ways.share if by_share else ways.busy, -1.0)
            if self.limited:
                filled[~self._within(cut, ways.stops, used)] = -1.0
            node = int(filled.argmax())
            if filled[node] < 0:
                return ()
            stop = int(ways.stops[node])
            for i, budget in enumerate(self.limited):
                used[i] += budget.sums.segment_of(node, cut, stop)
            unused[node] = False
            steps.append((node, stop, self.way if steps else 0))
            cut = stop
        return tuple(steps) if cut == problem.units else ()

    def _within(self, cut: int, stops: Cuts, used: Sequence[float]) -> Flags:
        """[node]: whether budgets allow its segment."""
        nodes = np.arange(len(stops))
        within = np.ones(len(stops), np.bool_)
        for budget, so_far in zip(self.limited, used, strict=True):
            there = budget.sums.compute
            within &= there[stops, nodes] - there[cut] + so_far <= budget.limit
        return within


class _Ways(NamedTuple):
    """[…, node]: where a segment ends that takes as many units as it can, and how well it is used:
    by how busy the node is, and by its share of what it could take at best, or of few segments, by
    how far it goes. Where none may be, -1; where it ends the chain, infinite.
    """

    stops: Cuts
    busy: Nanoseconds
    share: Nanoseconds

    @classmethod
    def of(cls, filling: _Filling, cuts: Cuts, counts: Cuts, busy: Nanoseconds) -> _Ways:
        """cuts, counts, busy[…, node]: where segments begin, of how many units at most they are."""
        stops = cuts + counts
        if filling.problem.segments_bounded:
            share = counts.astype(np.float64)
        else:
            share = (filling.worth[stops] - filling.worth[cuts]) * filling.parts
        ends, none = stops == filling.problem.units, counts == 0
        for used in (busy, share):
            used[ends] = np.inf
            used[none] = -1.0
        return cls(stops, busy, share)


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """One demand. before, after[cut, node]: what a segment keeps its node busy for, by where it
    begins and where it ends; inf where the links are too slow. all_ways[cut, node]: where segments
    may be many.
    """

    filling: _Filling
    demand: float
    before: Nanoseconds
    after: Nanoseconds
    all_ways: _Ways | None = None

    @classmethod
    def of(cls, filling: _Filling, demand: float) -> _Trial:
        problem, work = filling.problem, filling.problem.demands.compute
        before = np.where(filling.gets <= demand, filling.enters - work, np.inf)
        after = np.where(filling.sends <= demand, filling.leaves + work, np.inf)
        trial = cls(filling, demand, before + problem.demands.segment, after)
        return trial if problem.segments_bounded else replace(trial, all_ways=trial._every())

    def ways(self, cut: int) -> _Ways:
        if self.all_ways is not None:
            return _Ways(*(part[cut] for part in self.all_ways))
        problem, most = self.filling.problem, _LOOKED_AT
        while True:
            most = min(most, problem.units - cut)
            busy = self.after[cut + 1 : cut + 1 + most] + self.before[cut]
            may = (busy <= self.demand) & problem.stops(cut, most)
            if cut + most == problem.units or not may[-1].any():
                break
            most *= 4
        last, nodes = most - 1 - may[::-1].argmax(axis=0), np.arange(may.shape[1])
        counts = np.where(may[last, nodes], last + 1, 0)
        return _Ways.of(self.filling, np.full_like(counts, cut), counts, busy[last, nodes])

    def _every(self) -> _Ways:
        """From each cut: by one unit more, until no node has the time."""
        problem = self.filling.problem
        units, work, segment = problem.units, problem.demands.compute, problem.demands.segment
        begins = np.repeat(np.arange(units)[:, None], len(problem.nodes), axis=1)
        counts, busy = np.zeros_like(begins), np.zeros(begins.shape)
        for count in range(1, units + 1):
            cuts = units + 1 - count
            spent = self.after[count:] + self.before[:cuts]
            may = (spent <= self.demand) & (problem.reach[:cuts] - begins[:cuts] >= count)
            if problem.given is not None:
                may &= problem.given.diagonal(count)[:, None]
            if may.any():
                np.copyto(counts[:cuts], count, where=may)
                np.copyto(busy[:cuts], spent, where=may)
            elif ((work[count:] - work[:cuts]).min(axis=1) + segment > self.demand).all():
                break
        return _Ways.of(self.filling, begins, counts, busy)


def _shortest(problem: Problem) -> int:
    """The coding of fewest bytes of which budgets allow as many hops as there may be."""
    hops = min(problem.max_segments, problem.units, len(problem.nodes)) - 1
    within = [
        way
        for way in range(len(problem.codings))
        if all(hops * budget.sums.hop[way] <= budget.limit for budget in problem.budgets)
    ]
    return min(within, key=lambda way: float(problem.bytes_at[way, 1:-1].sum()), default=0)
