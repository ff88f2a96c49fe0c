"""Paths of a search for the least score, waiting to be expanded.

A path is (door, step, step, …), a step (node, stop, coding): the segments placed so far, in order,
and how what enters each is written. To expand one is to look at every step that may come next; only
the best of them waits, and the next best takes its place when it is expanded in turn.

A path leads nowhere new, and is dropped, where another one dominates it (`core.standing`). Of nodes
that differ by name alone, their *twins*, the first unused one stands for all.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from dsi_mqtt.core.bounds import Bounds
from dsi_mqtt.core.duties import Duties
from dsi_mqtt.core.memory import Loads
from dsi_mqtt.core.path import Path, Step
from dsi_mqtt.core.pressure import Pressure
from dsi_mqtt.core.problem import Cuts, Flags, Nanoseconds, Sums
from dsi_mqtt.core.programme import MORE
from dsi_mqtt.core.standing import Stand, Standing


class Entry(NamedTuple):
    """Compared in the order of its fields; path and end together are unique.

    least: bound of all its completions; end: how it ends; spent: score up to and with the last
    segment; used: of each budget; loads, duties: before that segment was placed.
    """

    rank: float
    least: float
    path: Path
    end: int
    spent: float
    used: tuple[float, ...]
    loads: Loads
    duties: Duties
    siblings: _Siblings | None = None

    @property
    def stop(self) -> int:
        return self.path[1][-1].stop if self.path[1] else 0

    @property
    def node(self) -> int:
        return self.path[1][-1].node if self.path[1] else self.path[0]


class _Ways(NamedTuple):
    """Ways on from a path, in arrays. used[budget, way]."""

    leasts: Nanoseconds
    nodes: Cuts
    stops: Cuts
    codings: Cuts
    spents: Nanoseconds
    used: Nanoseconds


@dataclass(slots=True, eq=False)
class _Siblings:
    """The ways on from one path, the least first: only the next of them waits for its turn."""

    parent: Entry
    loads: Loads
    duties: Duties
    ways: _Ways
    units: int = 0
    at: int = 0

    def complete(self, units: int) -> list[int]:
        """Those that end the chain; they are not among the next ones."""
        self.units = units
        last: list[int] = np.flatnonzero(self.ways.stops == units).tolist()
        return last

    def next(self, ceiling: float, deepest_first: bool) -> Entry | None:
        while self.at < len(self.ways.leasts):
            way, self.at = self.at, self.at + 1
            if self.ways.leasts[way] > ceiling:
                return None
            if self.ways.stops[way] != self.units:
                return self.entry(way, deepest_first)
        return None

    def entry(self, way: int, deepest_first: bool) -> Entry:
        ways, (door, steps) = self.ways, self.parent.path
        least = float(ways.leasts[way])
        step = Step(int(ways.nodes[way]), int(ways.stops[way]), int(ways.codings[way]))
        rank = -float(len(steps) + 1) if deepest_first else least
        used = tuple(ways.used[:, way].tolist())
        return Entry(
            rank,
            least,
            (door, (*steps, step)),
            self.parent.end,
            float(ways.spents[way]),
            used,
            self.loads,
            self.duties,
            self,
        )


@dataclass(slots=True, eq=False)
class Tree:
    """Paths waiting for expansion. `best` is the best complete path seen.

    floor: no chain has a smaller sum, so that no demand beyond `cap` stays within the ceiling.
    plain: bounds without any price, where they say more of what can follow than the floor.
    priced: the score of all codings at the bounds' prices.
    """

    bounds: Bounds
    pressure: Pressure
    ceiling: float
    floor: float = -math.inf
    plain: Bounds | None = None
    deepest_first: bool = False
    considered: int = 0
    heap: list[Entry] = field(default_factory=list)
    best: Entry | None = None
    cap: float = math.inf
    priced: Sums = field(init=False)
    _seen: dict[tuple[int, int, int, int], Standing] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cap, self.priced = self.bounds.problem.cap, self.bounds.every_way()
        self._tighten()

    @property
    def loads(self) -> bool:
        """Whether demands matter."""
        return not self.pressure.idle

    def _tighten(self) -> None:
        self.cap = self.pressure.up_to(0.0, self.cap, self.ceiling - self.floor)

    def plant(self, end: int, door: int) -> None:
        least = self.bounds.root(end, door)
        if least > self.ceiling:
            return
        problem = self.bounds.problem
        rank = 0.0 if self.deepest_first else least
        spent = float(problem.score.access[door] + problem.fees[door])
        used = tuple(float(budget.sums.access[door]) for budget in problem.budgets)
        duties = Duties.at_door(problem, door)
        heapq.heappush(self.heap, Entry(rank, least, (door, ()), end, spent, used, (), duties))

    def pop(self) -> Entry:
        """The entry that is expanded next. Its next sibling takes its place among those waiting."""
        entry = heapq.heappop(self.heap)
        if entry.siblings is not None:
            self._push_next(entry.siblings)
        return entry

    def expand(self, entry: Entry) -> None:
        self.considered += 1
        admitted = self._admit(entry)
        problem, used = self.bounds.problem, len(entry.path[1])
        if admitted is None or (problem.segments_bounded and used == problem.max_segments):
            return
        cut = entry.stop
        ways = self._ways(entry, admitted[1], cut, self._stops(entry, admitted[0], cut))
        if ways is None:
            return
        siblings = _Siblings(entry, *admitted, ways)
        for last in siblings.complete(problem.units):
            self._push_complete(siblings.entry(last, self.deepest_first))
        self._push_next(siblings)

    def _push_next(self, siblings: _Siblings) -> None:
        new = siblings.next(self.ceiling, self.deepest_first)
        if new is not None:
            heapq.heappush(self.heap, new)

    def _push_complete(self, entry: Entry) -> None:
        least = self._score(entry)
        if least > self.ceiling:
            return
        rank = entry.rank if self.deepest_first else least
        new = entry._replace(rank=rank, least=least, siblings=None)
        heapq.heappush(self.heap, new)
        if self.best is None or new < self.best:
            self.best = new
            if least < self.ceiling:
                self.ceiling = least
                self._tighten()

    def _ways(self, entry: Entry, duties: Duties, cut: int, stops: Flags) -> _Ways | None:
        """All that may follow and is not above the ceiling, the least first; None: nothing."""
        least, spent = self._following(entry, duties, cut)
        found = []
        for coding, hops, priced in self._hops(entry, cut):
            total = least + priced
            open_ = stops & (total <= self.ceiling)
            nodes, rows = np.nonzero(open_.T)  # in the order of paths
            if len(rows):
                found.append(
                    self._within_budgets(
                        entry, cut, coding, (rows, nodes, total[rows, nodes]), spent + hops
                    )
                )
        if not found:
            return None
        ways = _Ways._make(np.concatenate(part, axis=-1) for part in zip(*found, strict=True))
        if len(found) == 1:  # nodes and stops are in order already
            order = np.argsort(ways.leasts, kind="stable")
        else:
            order = np.lexsort((ways.codings, ways.stops, ways.nodes, ways.leasts))
        return _Ways._make(part[..., order] for part in ways)

    def _score(self, entry: Entry) -> float:
        """Of a complete path, whatever the prices say; inf where a limit forbids it."""
        problem, (door, steps) = self.bounds.problem, entry.path
        at, end = steps[-1].node, problem.units
        for used, budget in zip(entry.used, problem.budgets, strict=True):
            if used + budget.sums.hop_of(at, door, end) > budget.limit:
                return math.inf
        total = entry.spent + problem.score.hop_of(at, door, end)
        if self.pressure.aim_is_sum:
            return total
        demand = self._duties(entry).answered(problem, at, door).most if self.loads else 0.0
        if demand > self.cap or not self.pressure.timely(
            problem.latency.along(door, steps), demand
        ):
            return math.inf
        return total + self.pressure.adds(demand)

    def _loads(self, entry: Entry) -> Loads | None:
        """With the entry's last segment; None where it cannot fit."""
        memory, steps = self.bounds.problem.memory, entry.path[1]
        if not steps:
            return () if memory.suffices((), 0) else None
        start = steps[-2].stop if len(steps) > 1 else 0
        loads = memory.after(entry.loads, steps[-1].node, start, steps[-1].stop)
        return loads if memory.suffices(loads, steps[-1].stop) else None

    def _duties(self, entry: Entry) -> Duties:
        """With the entry's last segment and the hop to it."""
        door, steps = entry.path
        if not steps or not self.loads:
            return entry.duties
        source, start = (steps[-2].node, steps[-2].stop) if len(steps) > 1 else (door, 0)
        return entry.duties.with_segment(self.bounds.problem, source, start, steps[-1])

    def _admit(self, entry: Entry) -> tuple[Loads, Duties] | None:
        """Loads and duties with the last segment; None when the path leads nowhere new."""
        loads, duties = self._loads(entry), self._duties(entry)
        if loads is None or (self.loads and duties.most > self.cap):
            return None
        if not entry.path[1]:
            return loads, duties
        if self.loads and self._least(entry, duties.most) > self.ceiling:
            return None
        paid = frozenset((entry.path[0], *(step.node for step in entry.path[1])))
        place = (entry.path[0], entry.end, entry.node, entry.stop)
        if place not in self._seen:
            problem, scored = self.bounds.problem, not self.deepest_first
            self._seen[place] = Standing(problem, scored, self.loads)
        here = Stand(entry.path, entry.spent, entry.used, loads, duties, paid)
        return (loads, duties) if self._seen[place].admits(here) else None

    def _least(self, entry: Entry, demand: float) -> float:
        """Of all its completions, which keep a station busy for so long at least."""
        prices = self.bounds.prices
        more = prices.relief(demand) - prices.relief(entry.duties.most)
        return max(entry.least + more, self._rest(entry) + self.pressure.adds(demand))

    def _rest(self, entry: Entry) -> float:
        """The least sum of all its completions, whatever demands add."""
        if self.plain is None:
            return self.floor
        (door, steps), end = entry.path, self.plain.ends[entry.end]
        after = self.plain.after(entry.end, self.plain.problem.max_segments - len(steps))
        at = entry.stop, entry.node
        rest = entry.spent + float(after[at] - self.plain.spent[at])
        if end.own is False:
            rest += float(self.plain.score.arrive[0, -1, door])
        return rest

    def _following(self, entry: Entry, duties: Duties, cut: int) -> tuple[Nanoseconds, Nanoseconds]:
        """[stop - cut - 1, node]: least and spent, but for the hop that leads there."""
        bounds, (door, steps) = self.bounds, entry.path
        problem, prices = bounds.problem, bounds.prices
        after = bounds.after(entry.end, problem.max_segments - len(steps) - 1)
        segment = problem.score.segment + MORE
        compute = problem.score.compute
        fees = problem.fees.copy()
        named = list({door, *(step.node for step in steps)})
        fees[named] = 0.0
        spent = entry.spent + segment + fees - compute[cut] + compute[cut + 1 :]
        priced = bounds.score.segment + MORE
        least = entry.spent + priced + fees - bounds.spent[cut] + after[cut + 1 :]
        least += self._paid(entry, duties) - prices.credit + prices.relief(duties.most)
        if bounds.ends[entry.end].own is False:
            least += bounds.score.arrive[0, -1, door]
        if problem.fees.any():
            left = prices.rents[-1] - prices.rents[cut:]  # [stop - cut, node]
            known = left[1:, named].sum(axis=1)[:, None]
            new = np.repeat(left[:1], len(left) - 1, axis=0)
            new[:, named] = left[0, named] - left[1:, named]
            least -= known + new
        return least, spent

    def _paid(self, entry: Entry, duties: Duties) -> float:
        """Charges of the segments placed, and of what they use of budgets."""
        charges, start, total = self.bounds.prices.charges, 0, 0.0
        for rate, used in zip(self.bounds.prices.rates, entry.used, strict=False):
            total += math.floor(rate * used)
        stations = self.bounds.prices.stations
        if stations is not None:
            for node, duty in duties.of:
                total += math.floor(float(stations[:, node] @ duty))
        for node, stop, _ in entry.path[1]:
            total += float(charges[stop, node] - charges[start, node])
            start = stop
        return total

    def _hops(self, entry: Entry, cut: int) -> list[tuple[int, Nanoseconds, Nanoseconds]]:
        """By coding, [node]: score of the hop, true and with prices; inf: none may lead."""
        problem, at = self.bounds.problem, entry.node
        stays = not entry.path[1] or problem.by_hand
        number = 1 if not entry.path[1] else len(problem.codings)
        true, priced = (
            score.leave[:number, cut, at, None]
            + score.arrive[:number, cut]
            + score.hop[:number, None]
            for score in (problem.score, self.priced)
        )
        for hops in (true, priced):
            hops[:, at] = np.inf
            if stays:
                hops[0, at] = 0.0
        if number > 1 and not problem.budgets and not self.loads:
            best = true.argmin(axis=0)
            priced = np.where(best == np.arange(number)[:, None], priced, np.inf)
            return [(k, true[k], priced[k]) for k in set(best.tolist())]
        return [(k, true[k], priced[k]) for k in range(number)]

    def _within_budgets(
        self,
        entry: Entry,
        cut: int,
        coding: int,
        steps: tuple[Cuts, Cuts, Nanoseconds],
        spent: Nanoseconds,
    ) -> _Ways:
        """The steps (rows, nodes, least) that no budget forbids, in arrays of `_Siblings`."""
        problem, at = self.bounds.problem, entry.node
        rows, nodes, leasts = steps
        used = np.empty((len(problem.budgets), len(rows)))
        within = np.ones(len(rows), np.bool_)
        for i, (budget, before) in enumerate(zip(problem.budgets, entry.used, strict=True)):
            sums = budget.sums
            way = sums.leave[coding, cut, at] + sums.arrive[coding, cut, nodes] + sums.hop[coding]
            segments = sums.compute[cut + 1 + rows, nodes] - sums.compute[cut, nodes] + sums.segment
            used[i] = before + np.where(nodes == at, 0.0, way) + segments
            within &= used[i] <= budget.limit
        if not within.all():
            rows, nodes, leasts, used = rows[within], nodes[within], leasts[within], used[:, within]
        codings = np.full(len(rows), coding, np.intp)
        spents = spent[rows, nodes]
        return _Ways(leasts, nodes, cut + 1 + rows, codings, spents, used)

    def _stops(self, entry: Entry, loads: Loads, cut: int) -> Flags:
        """[stop - cut - 1, node]: segments that may come next, twins after the first left out."""
        problem, door = self.bounds.problem, entry.path[0]
        stops: Flags = problem.stops(cut)
        for load in loads:
            stops[problem.memory.reach(load, cut) - cut :, load.node] = False
        own = self.bounds.ends[entry.end].own
        if own is not None:
            last = stops[-1].copy()
            stops[-1] = False
            if own:
                stops[-1, door] = last[door]
            else:
                stops[-1] = last
                stops[-1, door] = False
        named = {door, *(step.node for step in entry.path[1])}
        stands: set[int] = set()
        for node, twin in enumerate(problem.twins):
            if node not in named:
                if twin in stands:
                    stops[:, node] = False
                stands.add(twin)
        return stops
