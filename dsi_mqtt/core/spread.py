"""A chain that keeps many nodes about equally busy: one to begin with where demands matter.

Each node gets one segment that keeps its stations busy for no longer than a demand that is tried.
Of all nodes that could go on, the one that gets furthest does where segments are few; else the one
that takes most of what it could take at best, or where that does not reach the end, the one whose
time is filled best. Hops are written as short as budgets allow for all of them. Of demands from the
least that is possible, by steps, the least with which a chain reaches the end is looked for by
halves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from dsi_mqtt.core.bounds import Steps
from dsi_mqtt.core.problem import Budget, Cuts, Nanoseconds, Problem, last_within

# Demands that are tried, each as a multiple of the one before.
_STEPS: Final = 31
_WIDER: Final = 1.03
# How well a node is used whose segment ends the chain.
_ENDS: Final = float(np.finfo(np.float64).max)
# How much slow nodes go before fast ones that take as large a part of what they could: who comes
# last must be able to take what is left.
_SLOW_FIRST: Final = 0.25


def spread(problem: Problem, least: float, weights: Nanoseconds, most: float) -> Steps:
    """None where no demand that is tried suffices. weights[node]: as `demand.least_demand` says.
    most: demands beyond which are of no use.
    """
    filling = _Filling.of(problem, weights)
    found: Steps = ()
    tried = math.log(max(most / max(least, 1.0), 1.0), _WIDER)
    low, high = 1, 1 + min(_STEPS, math.ceil(tried) if math.isfinite(tried) else _STEPS)
    while low < high:
        middle = (low + high) // 2
        demand = min(least * _WIDER**middle, most)
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
        left = [budget.limit - float(budget.sums.access.max()) for budget in self.limited]
        unused = np.zeros(len(problem.nodes))  # -inf: it has a segment
        steps: list[tuple[int, int, int]] = []
        cut = 0
        while cut < problem.units and len(steps) < problem.max_segments:
            ways, row = trial.ways(cut)
            filled = (ways.share if by_share else ways.busy)[row] + unused
            for each, most in zip(ways.used, left, strict=True):
                filled[each[row] > most] = -1.0
            node = int(filled.argmax())
            if filled[node] < 0:
                return ()
            stop = int(ways.stops[row, node])
            for i, budget in enumerate(self.limited):
                left[i] -= budget.sums.segment_of(node, cut, stop)
            unused[node] = -np.inf
            steps.append((node, stop, self.way if steps else 0))
            cut = stop
        return tuple(steps) if cut == problem.units else ()


class _Ways(NamedTuple):
    """[row, node]: where a segment ends that takes as many units as it can, and how well it is
    used: by how busy the node is, and by its share of what it could take at best, or of few
    segments, by how far it goes. Where none may be, -1; where it ends the chain, the most.
    used[budget]: what its units use of each.
    """

    stops: Cuts
    busy: Nanoseconds
    share: Nanoseconds
    used: tuple[Nanoseconds, ...]

    @classmethod
    def of(cls, filling: _Filling, cuts: Cuts, stops: Cuts, busy: Nanoseconds) -> _Ways:
        """cuts[row]: where segments begin."""
        counts = stops - cuts[:, None]
        if filling.problem.segments_bounded:
            share = counts.astype(np.float64)
        else:
            share = (filling.worth[stops] - filling.worth[cuts, None]) * filling.parts
        ends, none = stops == filling.problem.units, counts == 0
        for used in (busy, share):
            used[ends] = _ENDS
            used[none] = -1.0
        nodes = np.arange(stops.shape[1])
        each = [budget.sums.compute for budget in filling.limited]
        return cls(stops, busy, share, tuple(sum_[stops, nodes] - sum_[cuts] for sum_ in each))


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """One demand. before, after[cut, node]: what a segment keeps its node busy for, by where it
    begins and where it ends; inf where the links are too slow. every: from all cuts, where segments
    may be many.
    """

    filling: _Filling
    demand: float
    before: Nanoseconds
    after: Nanoseconds
    every: _Ways | None = None

    @classmethod
    def of(cls, filling: _Filling, demand: float) -> _Trial:
        problem, work = filling.problem, filling.problem.demands.compute
        before = np.where(filling.gets <= demand, filling.enters - work, np.inf)
        after = np.where(filling.sends <= demand, filling.leaves + work, np.inf)
        trial = cls(filling, demand, before + problem.demands.segment, after)
        return trial if problem.segments_bounded else replace(trial, every=trial._from_all())

    def ways(self, cut: int) -> tuple[_Ways, int]:
        """With the row of those from `cut` on."""
        return (self._from(cut), 0) if self.every is None else (self.every, cut)

    def _from(self, cut: int) -> _Ways:
        """Of all cuts behind, the last that fits."""
        busy = self.after[cut + 1 :] + self.before[cut]
        may = (busy <= self.demand) & self.filling.problem.stops(cut)
        last, nodes = len(may) - 1 - may[::-1].argmax(axis=0), np.arange(may.shape[1])
        stops = cut + np.where(may[last, nodes], last + 1, 0)
        return _Ways.of(self.filling, np.array([cut]), stops[None], busy[last, nodes][None])

    def _from_all(self) -> _Ways:
        """As far as time for units goes, and from there back to where all fits."""
        problem, given = self.filling.problem, self.filling.problem.given
        work, nodes, cuts = problem.demands.compute, len(problem.nodes), np.arange(problem.units)
        limits = work[:-1] + (self.demand - problem.demands.segment)
        stops = np.minimum(problem.reach, last_within(work, limits)).reshape(-1)
        begins, node = np.repeat(cuts, nodes), np.tile(np.arange(nodes), len(cuts))
        before, after = self.before[:-1].reshape(-1), self.after.reshape(-1)
        stops = np.where(np.isinf(before), begins, np.maximum(stops, begins))
        beyond = np.flatnonzero(stops > begins)
        while len(beyond):
            end, begin = stops[beyond], begins[beyond]
            wrong = after.take(end * nodes + node[beyond]) + before[beyond] > self.demand
            if given is not None:
                wrong |= ~given[begin, end]
            beyond = beyond[wrong]
            stops[beyond] -= 1
            beyond = beyond[stops[beyond] > begins[beyond]]
        busy = after.take(stops * nodes + node) + before
        shape = len(cuts), nodes
        return _Ways.of(self.filling, cuts, stops.reshape(shape), busy.reshape(shape))


def _shortest(problem: Problem) -> int:
    """The coding of fewest bytes of which budgets allow as many hops as there may be."""
    hops = min(problem.max_segments, problem.units, len(problem.nodes)) - 1
    within = [
        way
        for way in range(len(problem.codings))
        if all(hops * budget.sums.hop[way] <= budget.limit for budget in problem.budgets)
    ]
    return min(within, key=lambda way: float(problem.bytes_at[way, 1:-1].sum()), default=0)
