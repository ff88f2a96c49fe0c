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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from dsi_mqtt.core.problem import Cuts, Flags, Nanoseconds, Problem, Sums

# A segment costs a little more than it does, so that of equal scores the one with fewer segments
# is lower. A binary fraction: sums stay exact up to two hours of latency.
MORE: Final = 2.0**-10
# Doors that have an end of their own.
OWN: Final = 2

# Segments that are still few.
_FEW: Final = 7
# Nodes of which each pair is looked at.
_PAIRED: Final = 64

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

    score: what is minimised, with the prices of budgets in it.
    spent[cut, node]: score, charges and rents of the units before `cut`.
    layers[k][end, cut, node]: `spent` and the least that follows, when the node holds the
    segment before `cut` and k more may come; without a bound on their number, one for all k.
    begin[end, node]: the least from the start of the first segment.
    """

    problem: Problem
    ends: tuple[End, ...]
    prices: Prices
    score: Sums
    spent: Nanoseconds
    layers: tuple[Nanoseconds, ...]
    begin: Nanoseconds

    @classmethod
    def of(cls, problem: Problem, prices: Prices, ends: tuple[End, ...]) -> Bounds:
        score = _priced(problem, prices)
        spent = score.compute + prices.charges + prices.rents
        last = _answered(problem, score, spent, ends)
        busy = prices.stations is not None and bool(prices.stations.any())
        programme = _Programme.of(problem, score, spent, many=busy or bool(problem.fees.any()))
        if problem.segments_bounded:
            layers, begin = programme.numbered(last, problem.max_segments)
        else:
            layers, begin = programme.whole(last)
        return cls(problem, ends, prices, score, spent, layers, begin)

    def root(self, end: int, door: int) -> float:
        """The least of all that has this door and this end, credited."""
        return float(self._roots(end, np.array([door]))[0])

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

    def _roots(self, end: int, doors: Cuts) -> Nanoseconds:
        """[door]: with what the door adds to its chain: access, its fee, dues, and where the chain
        ends elsewhere, the arrival of the answer.
        """
        score, begin = self.score, self.begin[end]
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
        following = self.layers[-1].min(axis=0)[1:] - self.spent[1:]
        following = np.where(self.problem.allowed, following, np.inf)
        least = following.min(axis=1, keepdims=True)
        usable = np.isfinite(least)
        regrets = np.where(usable, following - np.where(usable, least, 0.0), np.inf).min(axis=0)
        roots = self.roots()
        doors = sorted(roots, key=lambda door: (roots[door], door))[:OWN]
        return sorted({*np.argsort(regrets, kind="stable")[:count].tolist(), *doors})

    def after(self, end: int, more: int) -> Nanoseconds:
        """[cut, node]: `spent` and the least that follows; more: segments that may come."""
        following: Nanoseconds = self.layers[min(more, len(self.layers) - 1)][end]
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
            totals = self.after(end, most - len(steps) - 1)[cut + 1 :]
            totals = np.where(problem.stops(cut), totals, np.inf)
            start = totals.min(axis=0) - self.spent[cut]
            ways = start + score.arrive[:, cut] + (score.leave[:, cut, at] + score.hop)[:, None]
            if not cut:
                ways = ways[:1]
            ways[:, at] = np.inf
            if not cut or problem.by_hand:
                ways[0, at] = start[at]
            coding, node = np.unravel_index(int(ways.argmin()), ways.shape)
            if not np.isfinite(ways[coding, node]):
                return ()
            at, cut = int(node), cut + 1 + int(totals[:, node].argmin())
            steps.append((at, cut, int(coding)))
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


def elsewhere(values: Nanoseconds) -> Nanoseconds:
    """[…, node]: the least on another node; inf where there is no other."""
    if values.shape[-1] == 1:
        return np.full_like(values, np.inf)
    nearest = np.partition(values, 1, axis=-1)
    least, second = nearest[..., :1], nearest[..., 1:2]
    return np.where(values == least, second, least)


@dataclass(frozen=True, slots=True, eq=False)
class _Programme:
    """arrive[coding, cut, node]; leave: with what the hop costs besides.

    segment[cut, node]: what a segment that begins there costs besides, less `spent`.
    many: that the best chains may have many segments, for no node is dear alone.
    """

    problem: Problem
    spent: Nanoseconds
    segment: Nanoseconds
    leave: Nanoseconds
    arrive: Nanoseconds
    many: bool = False

    @classmethod
    def of(cls, problem: Problem, score: Sums, spent: Nanoseconds, *, many: bool) -> _Programme:
        segment = (score.segment + MORE) - spent[:-1]
        leave = score.leave + score.hop[:, None, None]
        return cls(problem, spent, segment, leave, score.arrive, many)

    def numbered(
        self, last: Nanoseconds, segments: int
    ) -> tuple[tuple[Nanoseconds, ...], Nanoseconds]:
        """Layers for so many more segments, and what begins with the most: all cuts at once.

        The layers end where one more segment makes nothing less.
        """
        windows = _Windows.of(self.problem.reach)
        layers, inner = [last], slice(1, self.problem.units)
        for _ in range(segments - 1):
            start = windows.least(layers[-1]) + self.segment
            moved = self._moved(start[:, inner], self.leave[:, inner], self.arrive[:, inner])
            layer = last.copy()
            np.add(moved, self.spent[inner], out=layer[:, inner])
            if np.array_equal(layer, layers[-1]):
                break
            layers.append(layer)
        return tuple(layers), windows.least(layers[-1])[:, 0] + self.segment[0]

    def whole(self, last: Nanoseconds) -> tuple[tuple[Nanoseconds, ...], Nanoseconds]:
        """One layer for any number of segments, and what begins there.

        Most often few segments are the best, and their layers are the quickest way; else it goes
        cut by cut.
        """
        if not self.problem.by_hand and not self.many:
            layers, begin = self.numbered(last, _FEW)
            if len(layers) < _FEW:
                return layers, begin
        problem, layer, hops = self.problem, last.copy(), self._hops()
        furthest = problem.reach.max(axis=1).tolist()
        for cut in range(problem.units - 1, 0, -1):
            most = max(furthest[cut] - cut, 1)  # beyond it no node may go
            ends = np.where(problem.stops(cut)[:most], layer[:, cut + 1 : cut + 1 + most], np.inf)
            start = ends.min(axis=1) + self.segment[cut]
            if hops is None:
                moved = self._moved(start, self.leave[:, cut], self.arrive[:, cut])
            else:
                moved = (start[:, :, None] + hops[cut]).min(axis=1)
            layer[:, cut] = moved + self.spent[cut]
        ends = np.where(problem.stops(0), layer[:, 1:], np.inf)
        return (layer,), ends.min(axis=1) + self.segment[0]

    def _hops(self) -> Nanoseconds | None:
        """[cut, target, source]: the least score of each hop, for which many nodes are too many."""
        units, nodes = self.segment.shape
        if nodes > _PAIRED:
            return None
        hops = np.full((units, nodes, nodes), np.inf)
        for leave, arrive in zip(self.leave[:, :-1], self.arrive[:, :-1], strict=True):
            np.minimum(hops, arrive[:, :, None] + leave[:, None, :], out=hops)
        hops[:, range(nodes), range(nodes)] = 0.0 if self.problem.by_hand else np.inf
        return hops

    def _moved(self, start: Nanoseconds, leave: Nanoseconds, arrive: Nanoseconds) -> Nanoseconds:
        """[end, …, node]: the least when another node goes on, whichever the coding.

        start[end, …, node]; leave, arrive[coding, …, node].
        """
        moved: Nanoseconds = (elsewhere(start[:, None] + arrive) + leave).min(axis=1)
        return np.minimum(moved, start) if self.problem.by_hand else moved


@dataclass(frozen=True, slots=True, eq=False)
class _Windows:
    """Least values over the cuts at which a segment may end, for all segments at once.

    Every window is covered by two that are as long as a power of two. one, other[cut, node]: where
    what is least in these stands in a table [power, cut, node]; empty: there is no window.
    """

    powers: int
    one: Cuts
    other: Cuts
    empty: Flags

    @classmethod
    def of(cls, reach: Cuts) -> _Windows:
        cuts, nodes = reach.shape
        starts = np.arange(cuts)[:, None]
        length = reach - starts
        power = np.frexp(np.maximum(length, 1))[1] - 1
        table = power * (cuts + 1) * nodes + np.arange(nodes)
        last = np.maximum(reach + 1 - 2**power, 0)
        powers = int(power.max(initial=0)) + 1
        return cls(powers, table + (starts + 1) * nodes, table + last * nodes, length <= 0)

    def least(self, values: Nanoseconds) -> Nanoseconds:
        """[end, cut, node] of `values` [end, cut, node], which has a cut more."""
        table = np.empty((values.shape[0], self.powers, *values.shape[1:]))
        table[:, 0] = values
        for power in range(1, self.powers):
            half = 2 ** (power - 1)
            before = table[:, power - 1]
            np.minimum(before[:, :-half], before[:, half:], out=table[:, power, :-half])
        flat = table.reshape(len(values), -1)
        least = np.minimum(flat.take(self.one, axis=1), flat.take(self.other, axis=1))
        least[:, self.empty] = np.inf
        return least
