"""The least score that can follow: dynamic programming backwards over (cut, node).

It looks at each segment alone: a node that returns has forgotten what it holds, and a station that
a request comes by twice has forgotten the first time. So it can be too low, never too high.
*Prices* bring the memory back in: each unit on a node is charged for the memory it takes there, and
all nodes together are credited with what their memory is worth, which is at least what a placement
that fits can be charged. What using a node costs at all is charged in parts to its units: no more
than the whole, however often it returns.

A chain ends with the way of the answer to the door, which is nothing where the last segment is
there. *Ends* are ways to say so without a programme for each door: for one of few doors exactly;
for a set of doors as if the last node were the door; or for a chain that ends somewhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from dsi_mqtt.core.problem import Nanoseconds, Problem, Sums

# A segment costs a little more than it does, so that of equal scores the one with fewer segments
# is lower. A binary fraction: sums stay exact up to two hours of latency.
MORE: Final = 2.0**-10
# Doors that have an end of their own.
OWN: Final = 6

# (node, stop, coding of the hop there)
Steps = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """charges[cut, node]: of the units before `cut`; credit: of all nodes.

    rents[cut, node]: parts of the node's fee that the units before `cut` are charged. Whole ns.
    rates: by budget, ns for one of what it counts; what is within its limit is credited.
    stations[work/sends/gets, node]: ns for one that a request keeps the station busy; what is
        within the cap is credited. None: no price on any.
    """

    charges: Nanoseconds
    credit: float
    rents: Nanoseconds
    rates: tuple[float, ...] = ()
    stations: Nanoseconds | None = None

    @classmethod
    def none(cls, problem: Problem) -> Prices:
        shape = problem.score.compute.shape
        return cls(np.zeros(shape), 0.0, even_rents(problem))


def even_rents(problem: Problem) -> Nanoseconds:
    """Each unit that may be there is charged the same part of a node's fee."""
    rents = np.zeros((problem.units + 1, len(problem.nodes)))
    if problem.fees.any():
        able = problem.allowed.sum(axis=0)
        each = np.floor(problem.fees / np.maximum(able, 1))
        np.cumsum(np.where(problem.allowed, each, 0.0), axis=0, out=rents[1:])
    return rents


class End(NamedTuple):
    """doors: it holds for. own: the chain's last node is one of them; False: it is not; None: both,
    exactly, of one door.
    """

    doors: tuple[int, ...]
    own: bool | None


def exact(doors: Iterable[int]) -> tuple[End, ...]:
    return tuple(End((door,), None) for door in doors)


def ends_of(doors: Sequence[int]) -> tuple[End, ...]:
    """One for each of the first few, and two for all others together. doors: best ones first."""
    others = tuple(doors[OWN:])
    rest = (End(others, own=False), End(others, own=True)) if others else ()
    return (*exact(doors[:OWN]), *rest)


def nearest(roots: dict[int, float]) -> int:
    """The door with the least root; of equal ones the first."""
    return min(roots, key=lambda door: (roots[door], door))


def grouped(doors: Sequence[int]) -> tuple[End, ...]:
    """Two for all of them, unless they are few."""
    if len(doors) <= OWN:
        return exact(doors)
    return (End(tuple(doors), own=False), End(tuple(doors), own=True))


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """For the doors of `ends`, at `prices`.

    score: what is minimised, with the prices of budgets in it.
    spent[cut, node]: score, charges and rents of the units before `cut`.
    layers[k][end, cut, node]: `spent` and the least that follows, when the node holds the
    segment before `cut` and k more may come; without a bound on their number, one for all k.
    starts[end, cut, node]: the least from the start of a segment there; after the most segments.
    """

    problem: Problem
    ends: tuple[End, ...]
    prices: Prices
    score: Sums
    spent: Nanoseconds
    layers: tuple[Nanoseconds, ...]
    starts: Nanoseconds

    @classmethod
    def of(cls, problem: Problem, prices: Prices, ends: tuple[End, ...]) -> Bounds:
        score = _priced(problem, prices)
        spent = score.compute + prices.charges + prices.rents
        last = _answered(problem, score, spent, ends)
        programme = _Programme(problem, score, spent, last)
        layers: list[Nanoseconds] = []
        if problem.segments_bounded:
            layers.append(last)
            for _ in range(problem.max_segments - 1):
                layers.append(programme.layer(layers[-1])[0])
            _, starts = programme.layer(layers[-1])
        else:
            layer, starts = programme.layer(None)
            layers.append(layer)
        return cls(problem, ends, prices, score, spent, tuple(layers), starts)

    def root(self, end: int, door: int) -> float:
        """The least of all that has this door and this end, credited."""
        score = self.score
        start = self.starts[end, 0]
        there = start + score.arrive[0, 0] + score.leave[0, 0, door] + score.hop[0]
        there[door] = start[door]
        least = float(there.min()) + self.fixed(end, door)
        return least - self.prices.credit

    def roots(self) -> dict[int, float]:
        """By door, the least of all that has it."""
        least: dict[int, float] = {}
        for row, end in enumerate(self.ends):
            for door in end.doors:
                least[door] = min(self.root(row, door), least.get(door, np.inf))
        return least

    def fixed(self, end: int, door: int) -> float:
        """What a door adds to its chain: access, its fee, the answer's arrival where it is away."""
        score = self.score
        away = score.arrive[0, -1, door] if self.ends[end].own is False else 0.0
        rent = self.prices.rents[-1, door]
        return float(score.access[door] + away + self.problem.fees[door] - rent)

    def after(self, end: int, more: int) -> Nanoseconds:
        """[cut, node]: `spent` and the least that follows; more: segments that may come."""
        following: Nanoseconds = self.layers[min(more, len(self.layers) - 1)][end]
        return following

    def steps(self, end: int, door: int) -> Steps:
        """The chain that the bound stands for.

        Only without a bound on the number of segments.
        """
        score, cut, at = self.score, 0, door
        totals, steps = self.layers[0][end], []
        while cut < self.problem.units:
            ways = self.starts[end, cut] + score.arrive[:, cut]
            ways += (score.leave[:, cut, at] + score.hop)[:, None]
            if not cut:
                ways = ways[:1]
            ways[:, at] = np.inf
            if not cut or self.problem.by_hand:
                ways[0, at] = self.starts[end, cut, at]
            coding, node = np.unravel_index(int(ways.argmin()), ways.shape)
            at = int(node)
            stops = self.problem.stops(cut)[:, at]
            stop = cut + 1 + int(np.where(stops, totals[cut + 1 :, at], np.inf).argmin())
            steps.append((at, stop, int(coding)))
            cut = stop
        return tuple(steps)


def _priced(problem: Problem, prices: Prices) -> Sums:
    """The score with charges for what budgets and stations are used, each rounded down: what is
    within a limit is charged no more than credited.
    """
    score = problem.score
    for budget, rate in zip(problem.budgets, prices.rates, strict=False):
        if rate:
            score += budget.sums.charged(rate)
    if prices.stations is not None:
        score += _station_charges(problem, prices.stations)
    return score


def _station_charges(problem: Problem, rates: Nanoseconds) -> Sums:
    demands, (work, sends, gets) = problem.demands, rates
    units = np.diff(demands.compute, axis=0, prepend=0.0)
    access = sends * demands.access_sends + gets * demands.access_gets
    return Sums(
        compute=np.cumsum(np.floor(work * units), axis=0),
        segment=float(np.floor(work.min() * demands.segment)),
        leave=np.floor(sends * demands.sends + work * demands.encode),
        arrive=np.floor(gets * demands.gets + work * demands.decode),
        hop=np.zeros(len(problem.codings)),
        access=np.floor(access),
    )


def _answered(
    problem: Problem, score: Sums, spent: Nanoseconds, ends: tuple[End, ...]
) -> Nanoseconds:
    """[end, cut, node]: all is computed and the answer goes out; inf before the last cut."""
    units = problem.units
    answered = np.full((len(ends), units + 1, len(problem.nodes)), np.inf)
    away = score.leave[0, units] + score.hop[0]
    for row, end in enumerate(ends):
        doors = list(end.doors)
        if end.own is None:
            answered[row, units] = away + score.arrive[0, units, doors[0]]
            answered[row, units, doors[0]] = 0.0
        elif end.own:
            answered[row, units, doors] = 0.0
        else:
            answered[row, units] = away
        answered[row, units] += spent[units]
    return answered


@dataclass(frozen=True, slots=True, eq=False)
class _Programme:
    problem: Problem
    score: Sums
    spent: Nanoseconds
    last: Nanoseconds

    def layer(self, below: Nanoseconds | None) -> tuple[Nanoseconds, Nanoseconds]:
        """One layer and its starts. below: that for one segment less, None for any number."""
        problem, spent = self.problem, self.spent
        layer = self.last.copy()
        following = layer if below is None else below
        starts = np.empty_like(self.last[:, :-1])
        segment = self.score.segment + MORE
        furthest = problem.reach.max(axis=1).tolist()
        for cut in range(problem.units - 1, -1, -1):
            stop = max(furthest[cut], cut + 1)  # beyond it no node may go
            stops = problem.stops(cut)[: stop - cut]
            ends = np.where(stops, following[:, cut + 1 : stop + 1], np.inf)
            starts[:, cut] = ends.min(axis=1) - spent[cut] + segment
            if cut:
                layer[:, cut] = self._moved(cut, starts[:, cut]) + spent[cut]
        return layer, starts

    def _moved(self, cut: int, start: Nanoseconds) -> Nanoseconds:
        """[end, node]: the least from `cut`, when another node goes on, whichever the coding."""
        score = self.score
        there = start[:, None, :] + score.arrive[:, cut]
        nearest = there.argmin(axis=2)
        least = there.min(axis=2)
        if self.problem.by_hand:
            ways = score.leave[:, cut] + (least + score.hop)[:, :, None]
            stayed: Nanoseconds = np.minimum(ways.min(axis=1), start)
            return stayed
        rows, ways_of = np.arange(there.shape[0])[:, None], np.arange(there.shape[1])
        there[rows, ways_of, nearest] = np.inf
        second = there.min(axis=2)
        ways = (least + score.hop)[:, :, None] + score.leave[:, cut]
        ways[rows, ways_of, nearest] = second + score.hop + score.leave[ways_of, cut, nearest]
        moved: Nanoseconds = ways.min(axis=1)
        return moved
