"""Dynamic programming backwards over (cut, node): the least that can follow (`core.bounds`).

For few segments all cuts are looked at together, one segment after the other; else it goes cut by
cut. Arrays of all cuts begin with the node here, so that the least of all nodes is that of a few
long rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from dsi_mqtt.core.problem import Cuts, Nanoseconds, Problem, Sums

# A segment costs a little more than it does, so that of equal scores the one with fewer segments
# is lower. A binary fraction: sums stay exact up to two hours of latency.
MORE: Final = 2.0**-10

# Segments that are still few.
_FEW: Final = 7
# Values that are looked at in one go: what processors keep near.
_NEAR: Final = 2**17


@dataclass(frozen=True, slots=True, eq=False)
class Programme:
    """leave, arrive[coding, cut, node]; leave: with what the hop costs besides.

    segment[cut, node]: what a segment that begins there costs besides, less `spent`.
    many: that the best chains may have many segments, for work is to be shared out.
    """

    problem: Problem
    spent: Nanoseconds
    segment: Nanoseconds
    leave: Nanoseconds
    arrive: Nanoseconds
    many: bool = False

    @classmethod
    def of(cls, problem: Problem, score: Sums, spent: Nanoseconds, *, many: bool) -> Programme:
        segment = (score.segment + MORE) - spent[:-1]
        leave, arrive = score.leave + score.hop[:, None, None], score.arrive
        charged = score.hop - problem.score.hop
        if (charged == charged[0]).all():  # what is nowhere slower is nowhere dearer
            ways = list(problem.quickest)
            leave, arrive = leave[ways], arrive[ways]
        return cls(problem, spent, segment, leave, arrive, many)

    def numbered(
        self, last: Nanoseconds, segments: int
    ) -> tuple[tuple[Nanoseconds, ...], Nanoseconds]:
        """Layers for so many more segments, and what begins with the most: all cuts at once.

        last[end, cut, node]: of none. The layers end where one more segment makes nothing less.
        """
        ends, cuts, nodes = last.shape
        windows = _Windows.of(self.problem.reach, ends)
        segment, spent = (_rows(part, ends) for part in (self.segment, self.spent))
        inner = slice(ends, ends * (cuts - 1))
        leave, arrive = (
            np.stack([_rows(part, ends)[:, inner] for part in parts], axis=1)
            for parts in (self.leave, self.arrive)
        )
        ended = np.ascontiguousarray(last.transpose(2, 1, 0)).reshape(nodes, -1)
        layers = [ended]
        start = windows.least(ended) + segment
        for _ in range(segments - 1):
            layer = ended.copy()
            moved = self._moved(start[:, inner], leave, arrive)
            np.add(moved, spent[:, inner], out=layer[:, inner])
            if np.array_equal(layer, layers[-1]):
                break
            layers.append(layer)
            start = windows.least(layer) + segment
        found = (layer.reshape(nodes, cuts, ends).transpose(2, 1, 0) for layer in layers)
        return tuple(map(np.ascontiguousarray, found)), start[:, :ends].T

    def whole(self, last: Nanoseconds) -> tuple[tuple[Nanoseconds, ...], Nanoseconds]:
        """One layer for any number of segments, and what begins there.

        Most often few segments are the best, and their layers are the quickest way. Where fees are
        shared out to units, those of more segments are bounded by what each unit is charged at
        least; else it goes cut by cut.
        """
        if not self.problem.by_hand and not self.many:
            layers, begin = self.numbered(last, _FEW)
            if len(layers) < _FEW or self.problem.fees.any():
                return self._with_more(layers, begin)
        problem, layer = self.problem, last.copy()
        ending = _Endings.of(problem, layer)
        start = ending.least(problem.units - 1) + self.segment[-1]
        for cut in range(problem.units - 1, 0, -1):
            moved = self._elsewhere(start, cut)
            np.add(moved, self.spent[cut], out=layer[:, cut])
            start = ending.least(cut - 1) + self.segment[cut - 1]
        return (layer,), start

    def _with_more(
        self, layers: tuple[Nanoseconds, ...], begin: Nanoseconds
    ) -> tuple[tuple[Nanoseconds, ...], Nanoseconds]:
        """The last layer with chains of more segments, whichever their nodes."""
        if len(layers) < _FEW:
            return layers, begin
        problem, units = self.problem, self.problem.units
        each = np.where(problem.allowed, np.diff(self.spent, axis=0), np.inf).min(axis=1)
        rest = np.zeros(units + 1)
        rest[:-1] = np.cumsum(each[::-1])[::-1]
        segment = float((self.segment + self.spent[:-1]).min())
        hop = float((self.leave.min(axis=-1) + self.arrive.min(axis=-1))[:, 1:-1].min())
        rest += _FEW * (segment + hop)
        more = self.spent + rest[:, None]
        more[-1] = np.inf
        whole = np.minimum(layers[-1], more)
        return (*layers[:-1], whole), np.minimum(begin, rest[0] + segment)

    def _moved(self, start: Nanoseconds, leave: Nanoseconds, arrive: Nanoseconds) -> Nanoseconds:
        """[node, row]: the least when another node goes on, whichever the coding.

        start[node, row]; leave, arrive[node, coding, row].
        """
        codings, moved = leave.shape[1], None
        some = max(1, _NEAR // max(1, start.size))
        for first in range(0, codings, some):
            ways = slice(first, first + some)
            found = elsewhere(start[:, None] + arrive[:, ways])
            found += leave[:, ways]
            for way in range(found.shape[1]):
                one = found[:, way]
                moved = one if moved is None else np.minimum(moved, one, out=moved)
        assert moved is not None  # noqa: S101 - there is a plain coding at least
        return np.minimum(moved, start) if self.problem.by_hand else moved

    def _elsewhere(self, start: Nanoseconds, cut: int) -> Nanoseconds:
        """[end, node]: the same at one cut. start[end, node]."""
        there = start[None] + self.arrive[:, cut, None]
        if there.shape[-1] == 1:
            there = np.full_like(there, np.inf)
        else:
            nearest = np.partition(there, 1, axis=-1)
            least = nearest[..., :1]
            there = np.where(there == least, nearest[..., 1:2], least)
        there += self.leave[:, cut, None]
        moved: Nanoseconds = there.min(axis=0)
        return np.minimum(moved, start) if self.problem.by_hand else moved


def _rows(part: Nanoseconds, ends: int) -> Nanoseconds:
    """[node, (cut, end)] of `part` [cut, node], the same for each end."""
    return np.repeat(part.T, ends, axis=1)


def elsewhere(values: Nanoseconds) -> Nanoseconds:
    """[node, …]: the least on another node; inf where there is no other."""
    if len(values) == 1:
        return np.full_like(values, np.inf)
    least, second = _two_least(values)
    return np.where(values == least, second, least)


def _two_least(values: Nanoseconds) -> tuple[Nanoseconds, Nanoseconds]:
    """[…] of two nodes or more [node, …]: halves are put together until one is left."""
    half = len(values) // 2
    one, other = values[:half], values[half : 2 * half]
    low, high = np.minimum(one, other), np.maximum(one, other)
    if len(values) % 2:
        high[0] = np.minimum(high[0], np.maximum(low[0], values[-1]))
        low[0] = np.minimum(low[0], values[-1])
    while half > 1:
        odd, half = half % 2, half // 2
        seconds = np.minimum(high[:half], high[half : 2 * half])
        np.minimum(seconds, np.maximum(low[:half], low[half : 2 * half]), out=seconds)
        least = np.minimum(low[:half], low[half : 2 * half])
        if odd:
            seconds[0] = np.minimum(seconds[0], np.maximum(least[0], low[-1]))
            seconds[0] = np.minimum(seconds[0], high[-1])
            least[0] = np.minimum(least[0], low[-1])
        low, high = least, seconds
    return low[0], high[0]


@dataclass(frozen=True, slots=True, eq=False)
class _Windows:
    """Least values over the cuts at which a segment may end, for all segments at once.

    Every window is covered by two that are as long as a power of two. one, other[node, cut]: where
    what is least in these stands in the table [power, node, cut, end]; closed[node, (cut, end)]: inf where
    there is no window.
    """

    table: Nanoseconds
    one: Cuts
    other: Cuts
    closed: Nanoseconds

    @classmethod
    def of(cls, reach: Cuts, ends: int) -> _Windows:
        cuts, nodes = reach.shape
        starts, reach = np.arange(cuts), reach.T
        length = reach - starts
        power = _powers(length)
        table = (power * nodes + np.arange(nodes)[:, None]) * (cuts + 1)
        last = np.maximum(reach + 1 - (1 << power), 0)
        closed = np.repeat(np.where(length <= 0, np.inf, 0.0), ends, axis=1)
        room = np.empty((int(power.max(initial=0)) + 1, nodes, cuts + 1, ends))
        return cls(room, table + (starts + 1), table + last, closed)

    def least(self, values: Nanoseconds) -> Nanoseconds:
        """[node, (cut, end)] of `values` [node, (cut, end)], which has a cut more."""
        powers, nodes, cuts, ends = self.table.shape
        table = self.table.reshape(powers, nodes, cuts * ends)
        table[0] = values
        for power in range(1, powers):
            half = ends << (power - 1)
            before = table[power - 1]
            np.minimum(before[:, :-half], before[:, half:], out=table[power, :, :-half])
        flat = table.reshape(-1, ends)
        least = np.minimum(flat.take(self.one, axis=0), flat.take(self.other, axis=0))
        found = least.reshape(self.closed.shape)
        found += self.closed
        return found


@dataclass(frozen=True, slots=True, eq=False)
class _Endings:
    """The same from the last cut backwards, each cut as soon as what follows is known.

    layer[end, cut, node]: what is known; table[power, cut, end, node]: of the cuts from `cut` on.
    one, other[cut, end, node]: as in `_Windows`. given: cuts by hand, which are looked through.
    """

    problem: Problem
    layer: Nanoseconds
    table: Nanoseconds
    one: Cuts
    other: Cuts
    closed: Nanoseconds

    @classmethod
    def of(cls, problem: Problem, layer: Nanoseconds) -> _Endings:
        ends, cuts, nodes = layer.shape
        reach, starts = problem.reach, np.arange(cuts - 1)[:, None]
        length = reach - starts
        power = _powers(length)
        place = np.arange(ends)[:, None] * nodes + np.arange(nodes)
        base = power * cuts
        last = np.maximum(reach + 1 - (1 << power), starts + 1)
        one, other = (
            ((base + first) * (ends * nodes))[:, None] + place for first in (starts + 1, last)
        )
        powers = int(power.max(initial=0)) + 1
        table = np.empty((0 if problem.by_hand else powers, cuts, ends, nodes))
        return cls(problem, layer, table, one, other, np.where(length <= 0, np.inf, 0.0))

    def least(self, cut: int) -> Nanoseconds:
        """[end, node]: over the stops of segments that begin at `cut`."""
        if self.problem.by_hand:
            stops = self.problem.stops(cut)
            least: Nanoseconds = np.where(stops, self.layer[:, cut + 1 :], np.inf).min(axis=1)
            return least
        new, table = cut + 1, self.table
        table[0, new] = self.layer[:, new]
        for power in range(1, len(table)):
            half = 1 << (power - 1)
            if new + 2 * half > table.shape[1]:
                break
            before = table[power - 1]
            np.minimum(before[new], before[new + half], out=table[power, new])
        flat = table.reshape(-1)
        found = np.minimum(flat.take(self.one[cut]), flat.take(self.other[cut]))
        found += self.closed[cut]
        return found


def _powers(length: Cuts) -> Cuts:
    """The largest power of two within each length."""
    power: Cuts = np.frexp(np.maximum(length, 1))[1] - 1
    return power
