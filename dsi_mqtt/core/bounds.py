"""The least score that can follow: dynamic programming backwards over (cut, node).

It looks at each segment alone: a node that returns has forgotten what it holds, and a station that
a request comes by twice has forgotten the first time. So it can be too low, never too high.
*Prices* bring the memory back in: each unit on a node is charged for the memory it takes there, and
all nodes together are credited with what their memory is worth, which is at least what a placement
that fits can be charged. What using a node costs at all is charged in parts to its units: no more
than the whole, however often it returns. Where there are such fees, the least of a door leaves out
what is on the door alone, of which there is one placement.

A chain ends with the way of the answer to the door, which is nothing where the last segment is
there. *Ends* are ways to say so without a programme for each door: for one of few doors exactly;
for a set of doors as if the last node were the door; or for a chain that ends somewhere else.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from dsi_mqtt.core.problem import Cuts, Nanoseconds, Problem, Sums
from dsi_mqtt.core.programme import Layers, Programme

# Doors that have an end of their own.
OWN: Final = 2
# Figures of hops of which so few take no longer to look at than to compare.
_LARGE: Final = 5_000

# (node, stop, coding of the hop there)
Steps = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """charges[cut, node]: of the units before `cut`; credit: for all that has a price.

    rents[cut, node]: parts of the node's fee that the units before `cut` are charged. Whole ns.
    dues[door]: what placements of several nodes pay in fees besides, at least.
    rates: by budget, ns for one of what it counts; what is within its limit is credited.
    stations[work/sends/gets, node]: ns for one that a request keeps the station busy; what is
        within the cap is credited. None: no price on any.
    demands, credits: what of the credit is for stations falls in steps: from the second demand on
        the second credit suffices, and so on.
    """

    charges: Nanoseconds
    credit: float
    rents: Nanoseconds
    dues: Nanoseconds
    rates: tuple[float, ...] = ()
    stations: Nanoseconds | None = None
    demands: tuple[float, ...] = ()
    credits: tuple[float, ...] = ()

    def only(self, nodes: Sequence[int]) -> Prices:
        """With these nodes alone: nothing is said to be worth more than it is."""
        return replace(
            self,
            charges=self.charges[:, nodes],
            rents=self.rents[:, nodes],
            dues=self.dues[nodes],
            stations=None if self.stations is None else self.stations[:, nodes],
        )

    def relief(self, demand: float) -> float:
        """What of the credit a placement does not need that keeps a station busy for so long."""
        if not self.credits:
            return 0.0
        step = max(0, bisect.bisect_left(self.demands, demand) - 1)
        return self.credits[0] - self.credits[min(step, len(self.credits) - 1)]

    @classmethod
    def none(cls, problem: Problem) -> Prices:
        shape = problem.score.compute.shape
        return cls(np.zeros(shape), 0.0, *_shared_fees(problem))


def _shared_fees(problem: Problem) -> tuple[Nanoseconds, Nanoseconds]:
    """`rents` and `dues`.

    Every node of several is charged a part that is hardly more than the least fee, and the door is
    one of them. Each unit that may be on a node is charged the same part of what is left.
    """
    nodes, fees = len(problem.nodes), problem.fees
    rents, dues = np.zeros((problem.units + 1, nodes)), np.zeros(nodes)
    if not fees.any():
        return rents, dues
    whole = np.zeros(nodes)
    if nodes > 1 and not problem.by_hand:
        one, other = np.argsort(fees, kind="stable")[:2]
        whole = np.minimum(fees, fees[other])
        dues = np.where(np.arange(nodes) == one, fees[other], fees[one])
    able = problem.allowed.sum(axis=0)
    each = np.floor((fees - whole) / np.maximum(able, 1))
    np.cumsum(np.where(problem.allowed, each, 0.0), axis=0, out=rents[1:])
    return rents, dues


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

    ways: codings that matter at these prices; of those alone is what follows.
    score: what is minimised, with the prices of budgets and stations in it.
    spent[cut, node]: score, charges and rents of the units before `cut`.
    """

    problem: Problem
    ends: tuple[End, ...]
    prices: Prices
    ways: tuple[int, ...]
    score: Sums
    spent: Nanoseconds
    layers: Layers

    @classmethod
    def of(
        cls, problem: Problem, prices: Prices, ends: tuple[End, ...], *, roughly: bool = False
    ) -> Bounds:
        """roughly: where they are quicker that way; they may be lower then."""
        ways = _ways(problem, prices)
        score = _priced(problem, prices, ways)
        spent = score.compute + prices.charges + prices.rents
        last = _answered(problem, score, spent, ends)
        programme = Programme.of(problem, score, spent, many=_shares_out(problem, score))
        if problem.segments_bounded:
            layers = programme.numbered(last, problem.max_segments)
        else:
            layers = programme.whole(last, roughly=roughly)
        return cls(problem, ends, prices, ways, score, spent, layers)

    @property
    def counted(self) -> int:
        """Segments up to which layers tell chains apart by their number."""
        return len(self.layers.after)

    def every_way(self) -> Sums:
        """`score` with all codings of the problem."""
        return _priced(self.problem, self.prices, tuple(range(len(self.problem.codings))))

    def root(self, end: int, door: int, most: int | None = None) -> float:
        """The least of all that has this door and this end, credited. most: as in `steps`."""
        return float(self._roots(end, np.array([door]), most)[0])

    def roots(self) -> dict[int, float]:
        """By door, the least of all that has it."""
        least: dict[int, float] = {}
        for row, end in enumerate(self.ends):
            roots = self._roots(row, np.array(end.doors)).tolist()
            for door, root in zip(end.doors, roots, strict=True):
                least[door] = min(root, least.get(door, np.inf))
        return least

    def lowest(self) -> tuple[float, int, int]:
        """The least of all: with which end and door."""
        found = []
        for row, end in enumerate(self.ends):
            roots = self._roots(row, np.array(end.doors))
            place = int(roots.argmin())
            found.append((float(roots[place]), row, end.doors[place]))
        return min(found)

    def _roots(self, end: int, doors: Cuts, most: int | None = None) -> Nanoseconds:
        """[door]: with what the door adds to its chain: access, its fee, dues, and where the chain
        ends elsewhere, the arrival of the answer.
        """
        layer = self.counted if most is None else min(most, self.counted)
        score, begin = self.score, self.layers.start[layer - 1][end, 0]
        # That one may also go from the door to the door is never less than to stay there.
        hops = float((begin + score.arrive[0, 0]).min()) + score.leave[0, 0, doors] + score.hop[0]
        least = np.minimum(hops, begin[doors]) + score.access[doors] + self.problem.fees[doors]
        least += self.prices.dues[doors] - self.prices.rents[-1, doors] - self.prices.credit
        if self.ends[end].own is False:
            least += score.arrive[0, -1, doors]
        roots: Nanoseconds = least
        return roots

    def promising(self, count: int) -> list[int]:
        """The nodes that are nearest to being the best to go on with somewhere, and a few doors."""
        following = self.layers.after[-1].min(axis=0)[1:] - self.spent[1:]
        following = np.where(self.problem.allowed, following, np.inf)
        least = following.min(axis=1, keepdims=True)
        usable = np.isfinite(least)
        regrets = np.where(usable, following - np.where(usable, least, 0.0), np.inf).min(axis=0)
        roots = self.roots()
        doors = sorted(roots, key=lambda door: (roots[door], door))[:OWN]
        return sorted({*np.argsort(regrets, kind="stable")[:count].tolist(), *doors})

    def after(self, end: int, more: int) -> Nanoseconds:
        """[cut, node]: `spent` and the least that follows; more: segments that may come."""
        following: Nanoseconds = self.layers.after[min(more, self.counted - 1)][end]
        return following

    def steps(self, end: int, door: int, most: int | None = None) -> Steps:
        """The chain that the bound stands for; none where there is none.

        most: segments of it; None: as many as there may be.
        """
        problem, score = self.problem, self.score
        most = problem.max_segments if most is None else most
        steps: list[tuple[int, int, int]] = []
        cut, at = 0, door
        while cut < problem.units:
            more = min(most - len(steps), self.counted) - 1
            start, count = self.layers.start[more][end, cut], len(score.hop) if cut else 1
            hops = score.leave[:count, cut, at] + score.hop[:count]
            moved = start + (score.arrive[:count, cut] + hops[:, None])
            moved[:, at] = np.inf
            if not cut or problem.by_hand:
                moved[0, at] = start[at]
            way, to = divmod(int(moved.argmin()), len(start))
            if math.isinf(moved[way, to]):
                return ()
            coding, at = self.ways[way] if cut and to != at else 0, to
            totals = self.layers.after[more][end, cut + 1 : int(problem.reach[cut, at]) + 1, at]
            if problem.given is not None:
                totals = np.where(problem.given[cut, cut + 1 :][: len(totals)], totals, np.inf)
            cut += 1 + int(totals.argmin())
            steps.append((at, cut, coding))
        return tuple(steps)


def _ways(problem: Problem, prices: Prices) -> tuple[int, ...]:
    """Codings that matter at these prices; others are nowhere less, whatever the nodes."""
    for budget, rate in zip(problem.budgets, prices.rates, strict=False):
        charged = np.floor(rate * budget.sums.hop)
        if (charged != charged[0]).any():
            return tuple(range(len(problem.codings)))
    if prices.stations is None or problem.quickest == problem.lightest:
        return problem.quickest
    if problem.score.leave.size < _LARGE:
        return problem.lightest
    dear = np.flatnonzero(prices.stations[0])  # only there may more work be worse than more bytes
    some, best = list(problem.lightest), list(problem.quickest)
    beaten = problem.quicker[np.ix_(best, some)] & ~np.equal.outer(best, some)
    hops = _charged_hops(problem, prices.stations, some, dear)
    for charges, sums in zip(hops, (problem.score.leave, problem.score.arrive), strict=True):
        priced = charges + sums[:, :, dear][some]
        quick = priced[[some.index(way) for way in best]]
        beaten &= (quick[:, None] <= priced).all(axis=(2, 3))
    return tuple(np.array(some)[~beaten.any(axis=0)].tolist())


def _priced(problem: Problem, prices: Prices, ways: tuple[int, ...]) -> Sums:
    """The score of these codings with charges for what budgets and stations are used, each rounded
    down: what is within a limit is charged no more than credited.
    """
    score = problem.score.written(ways)
    for budget, rate in zip(problem.budgets, prices.rates, strict=False):
        if rate:
            score += budget.sums.written(ways).charged(rate)
    if prices.stations is None:
        return score
    demands, (work, sends, gets) = problem.demands, prices.stations
    units = np.diff(demands.compute, axis=0, prepend=0.0)
    leave, arrive = _charged_hops(problem, prices.stations, list(ways))
    leave += score.leave
    arrive += score.arrive
    access = np.floor(sends * demands.access_sends + gets * demands.access_gets)
    return Sums(
        compute=score.compute + np.cumsum(np.floor(work * units), axis=0),
        segment=score.segment + float(np.floor(work.min() * demands.segment)),
        leave=leave,
        arrive=arrive,
        hop=score.hop,
        access=score.access + access,
    )


def _charged_hops(
    problem: Problem, rates: Nanoseconds, ways: list[int], nodes: Cuts | None = None
) -> tuple[Nanoseconds, Nanoseconds]:
    """[way, cut, node]: what stations are charged for in `leave` and `arrive`.

    nodes: only these; None: all.
    """
    demands = problem.demands
    uses = (demands.sends, demands.encode), (demands.gets, demands.decode)
    work, *links = rates if nodes is None else rates[:, nodes]
    both = []
    for rate, each in zip(links, uses, strict=True):
        link, codec = (use[ways] if nodes is None else use[:, :, nodes][ways] for use in each)
        np.multiply(link, rate, out=link)  # what was chosen is a copy
        np.multiply(codec, work, out=codec)
        np.add(link, codec, out=link)
        both.append(np.floor(link, out=link))
    return both[0], both[1]


def _shares_out(problem: Problem, score: Sums) -> bool:
    """Whether what prices say is more than all else: most often work is to be shared out then."""
    own = problem.score.compute[-1].sum()
    return bool(score.compute[-1].sum() > 2 * own)


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
