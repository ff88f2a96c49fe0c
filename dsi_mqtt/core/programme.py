"""Dynamic programming backwards over (cut, node): the least that can follow (`core.bounds`).

For few segments all cuts are looked at together, one segment after the other; else it goes cut by
cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from dsi_mqtt.core.problem import Cuts, Nanoseconds, Problem, Sums

# A segment costs a little more than it does, so that of equal scores the one with fewer segments
# is lower. A binary fraction: sums stay exact up to two hours of latency.
MORE: Final = 2.0**-10

# Segments that are still few; and where fees make each of them dear, and bounds are one of many.
_FEW: Final = 7
_ROUGHLY: Final = 5


@dataclass(frozen=True, slots=True, eq=False)
class Layers:
    """By how many more segments may come; where any number may, the last is for all of more.

    after[k][end, cut, node]: what is spent before the cut and the least that follows, when the node
    holds the segment before `cut` and k more may come. start[k][end, cut, node]: less what is spent
    before, the least from the start of a segment there on, when k more may come.
    """

    after: tuple[Nanoseconds, ...]
    start: tuple[Nanoseconds, ...]


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
        return cls(
            problem, spent, segment, score.leave + score.hop[:, None, None], score.arrive, many
        )

    def numbered(self, last: Nanoseconds, segments: int) -> Layers:
        """For so many segments: all cuts at once.

        last[end, cut, node]: of none. The layers end where one more segment makes nothing less.
        """
        windows = _Windows.of(self.problem.reach, len(last))
        after, start = [last], [windows.least(last, self.segment, None)]
        cuts = slice(1, self.problem.units)  # where segments may begin with less than was known
        room = np.empty(len(self.leave) * last.size)
        for _ in range(segments - 1):
            begun, leave, arrive = (part[:, cuts] for part in (start[-1], self.leave, self.arrive))
            layer = after[-1].copy()
            layer[:, cuts] = self._moved(begun, leave, arrive, room) + self.spent[cuts]
            if np.array_equal(layer, after[-1]):
                break
            after.append(layer)
            start.append(windows.least(layer, self.segment, (start[-1], cuts.stop)))
            less = np.flatnonzero((start[-1] != start[-2])[:, 1:].any(axis=(0, 2)))
            if not len(less):
                break
            cuts = slice(1 + int(less[0]), 2 + int(less[-1]))
        return Layers(tuple(after), tuple(start))

    def whole(self, last: Nanoseconds, *, roughly: bool) -> Layers:
        """For any number of segments.

        Most often few segments are the best, and their layers are the quickest way. Where fees are
        shared out to units, those of more segments are bounded by what each unit is charged at
        least; else it goes cut by cut.
        """
        if not self.problem.by_hand and not self.many:
            fees = bool(self.problem.fees.any())
            few = _ROUGHLY if fees and roughly else _FEW
            layers = self.numbered(last, few)
            if len(layers.after) < few:
                return layers
            if fees:
                return self._with_more(layers)
        problem, layer = self.problem, last.copy()
        start, room = np.empty_like(layer[:, 1:]), np.empty(len(self.leave) * layer[:, 0].size)
        ending = _Endings.of(problem, layer)
        for cut in range(problem.units - 1, -1, -1):
            np.add(ending.least(cut), self.segment[cut], out=start[:, cut])
            if cut:
                hops = self.leave[:, cut], self.arrive[:, cut]
                moved = self._moved(start[:, cut], *hops, room)
                np.add(moved, self.spent[cut], out=layer[:, cut])
        return Layers((layer,), (start,))

    def _with_more(self, layers: Layers) -> Layers:
        """The last layer with chains of more segments, whichever their nodes."""
        problem, units = self.problem, self.problem.units
        each = np.where(problem.allowed, np.diff(self.spent, axis=0), np.inf).min(axis=1)
        rest = np.zeros(units + 1)
        rest[:-1] = np.cumsum(each[::-1])[::-1]
        segment = float((self.segment + self.spent[:-1]).min())
        hop = float((self.leave.min(axis=-1) + self.arrive.min(axis=-1))[:, 1:-1].min())
        rest += len(layers.after) * (segment + hop)
        more = self.spent + rest[:, None]
        more[-1] = np.inf
        able = problem.reach > np.arange(units)[:, None]
        begun = np.where(able, more[1:] + self.segment, np.inf)
        return Layers(
            (*layers.after[:-1], np.minimum(layers.after[-1], more)),
            (*layers.start[:-1], np.minimum(layers.start[-1], begun)),
        )

    def _moved(
        self, start: Nanoseconds, leave: Nanoseconds, arrive: Nanoseconds, room: Nanoseconds
    ) -> Nanoseconds:
        """[end, …, node]: the least when another node goes on, whichever the coding.

        start[end, …, node]; leave, arrive[coding, …, node]. room: to work in, for all of them.
        """
        shape = len(leave), *start.shape
        there = room[: math.prod(shape)].reshape(shape)
        np.add(start, arrive[:, None], out=there)
        ways, ends, nodes = len(leave), len(start), start.shape[-1]
        rows = there.reshape(-1, nodes)  # a view: what is written there stands in both
        least, second, nearest = _two_least(rows)
        np.add(leave[:, None], least.reshape(*there.shape[:-1], 1), out=there)
        # Who is the nearest of all goes on to the second.
        each = leave.reshape(ways, -1, nodes)
        way, row = np.arange(ways)[:, None, None], np.arange(each.shape[1])
        own = each[way, row, nearest.reshape(ways, ends, -1)].reshape(-1)
        rows[np.arange(len(rows)), nearest] = own + second
        moved: Nanoseconds = there[0] if ways == 1 else there.min(axis=0)
        return np.minimum(moved, start) if self.problem.by_hand else moved


def elsewhere(values: Nanoseconds) -> Nanoseconds:
    """[row, node]: the least on another node; inf where there is no other."""
    least, second, nearest = _two_least(values.copy())
    found = np.repeat(least[:, None], values.shape[1], axis=1)
    found[np.arange(len(values)), nearest] = second
    return found


def _two_least(rows: Nanoseconds) -> tuple[Nanoseconds, Nanoseconds, Cuts]:
    """[row]: the least of each of `rows` [row, node], the least of the others, inf where there is
    none, and where the first is. What is least in `rows` is inf then.
    """
    flat, begins = rows.reshape(-1), np.arange(len(rows)) * rows.shape[1]
    nearest = rows.argmin(axis=1)
    places = begins + nearest
    least = flat[places]
    flat[places] = np.inf
    return least, flat[begins + rows.argmin(axis=1)], nearest


@dataclass(frozen=True, slots=True, eq=False)
class _Windows:
    """Least values over the cuts at which a segment may end, for all segments at once.

    Every window is covered by two that are as long as a power of two. one, other[cut, node]: where
    what is least in these stands in a table [power, cut, node], of which there is one for each end;
    closed: inf where there is no window.
    """

    tables: Nanoseconds
    one: Cuts
    other: Cuts
    closed: Nanoseconds

    @classmethod
    def of(cls, reach: Cuts, ends: int) -> _Windows:
        cuts, nodes = reach.shape
        starts = np.arange(cuts)[:, None]
        length = reach - starts
        power = _powers(length)
        place = power * ((cuts + 1) * nodes) + np.arange(nodes)
        last = np.maximum(reach + 1 - (1 << power), 0)
        tables = np.empty((ends, int(power.max(initial=0)) + 1, cuts + 1, nodes))
        closed = np.where(length <= 0, np.inf, 0.0)
        return cls(tables, place + (starts + 1) * nodes, place + last * nodes, closed)

    def least(
        self, values: Nanoseconds, besides: Nanoseconds, known: tuple[Nanoseconds, int] | None
    ) -> Nanoseconds:
        """[end, cut, node] of `values` [end, cut, node], which has a cut more, and `besides`.

        known: what it was with the values before, and from which cut on these are the same.
        """
        tables, least = self.tables, np.empty((len(values), *self.one.shape))
        stop = len(self.one) + 1
        if known is not None:
            least[:], stop = known
        tables[:, 0, :stop] = values[:, :stop]
        for power in range(1, tables.shape[1]):
            half = 1 << (power - 1)
            before, rows = tables[:, power - 1], min(stop, tables.shape[2] - half)
            both = before[:, :rows], before[:, half : half + rows]
            np.minimum(*both, out=tables[:, power, :rows])
        one, other = self.one[:stop], self.other[:stop]
        for found, table in zip(least[:, :stop], tables.reshape(len(tables), -1), strict=True):
            np.minimum(table.take(one), table.take(other), out=found)
        least[:, :stop] += (self.closed + besides)[:stop]
        return least


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
        found: Nanoseconds = np.minimum(flat.take(self.one[cut]), flat.take(self.other[cut]))
        found += self.closed[cut]
        return found


def _powers(length: Cuts) -> Cuts:
    """The largest power of two within each length."""
    power: Cuts = np.frexp(np.maximum(length, 1))[1] - 1
    return power
