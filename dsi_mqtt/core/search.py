"""Best-first search for the placement with the least latency: exact, and it says when it was not.

A path is (door, node, stop, node, stop, …): the segments placed so far, in order. A* expands the
path for which the latency so far and the least that can follow (`core.bounds`) is smallest. That
least is never too high, so the first complete path taken is optimal.

What keeps the search small:

* the *ceiling*: the latency of a placement that is known. Nothing above it is kept. The first one
  comes from a descent, depth first, which also decides feasibility;
* *dominance*: a path is dropped when another with the same door stands at the same cut on the
  same node, is no slower, and leaves at least as much room on every node;
* *twins*: of nodes that differ by name alone, the first unused one stands for all;
* *prices* of memory (`core.prices`), once a short search without them has not sufficed.

Among equal latencies fewer segments win, then the path whose door, nodes and stops come first in
the order of names: paths with equal bounds are taken in that order.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from dsi_mqtt.core.bounds import SEGMENT, Bounds, Prices
from dsi_mqtt.core.memory import Loads
from dsi_mqtt.core.prices import tuned
from dsi_mqtt.core.problem import HOP_NS, Flags, Nanoseconds, Problem

# Expansions without prices; tuning them costs about as much as this many.
UNPRICED: Final = 60
# Expansions of the second descent, which has prices to follow but may not find the way down.
_DESCENT: Final = 200
_CEILING: Final = float(np.finfo(np.float64).max)

Path = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search found.

    path: the best, or None. latency_ns: its latency, with what tells equal ones apart. complete:
    nothing was cut off by the limit, so that the path is optimal, or None means that there is
    none. lower_ns: no placement is faster.
    """

    path: Path | None
    latency_ns: float
    considered: int
    complete: bool
    lower_ns: float


class _Entry(NamedTuple):
    """Compared in the order of its fields; `path` is unique.

    least: bound of all its completions; spent: ns up to and with the last segment; loads: before
    that was placed.
    """

    rank: float
    least: float
    path: Path
    spent: float
    loads: Loads


class _Stand(NamedTuple):
    """A path that has been expanded. tight: its loaded nodes, as bits."""

    spent: float
    path: Path
    loads: Loads
    tight: int


def cheapest(problem: Problem, limit: int, *, unpriced: int = UNPRICED) -> Outcome:
    """The placement with the least latency, within `limit` expansions.

    unpriced: how many of them before memory gets prices.
    """
    if not problem.doors:
        return Outcome(None, np.inf, 0, complete=True, lower_ns=np.inf)
    bounds = Bounds.of(problem, Prices.none(problem), problem.doors)
    door = problem.doors[int(bounds.roots.argmin())]
    known = _descend(bounds, door, _CEILING, limit)
    if known.path is None:
        return known
    known = _ascend(bounds, known, min(limit, known.considered + unpriced))
    if known.complete or known.considered >= limit:
        return known
    priced = Bounds.of(problem, tuned(problem, known.latency_ns), problem.doors)
    door = problem.doors[int(priced.roots.argmin())]
    better = _descend(priced, door, known.latency_ns, min(_DESCENT, limit - known.considered))
    return _ascend(priced, _merged(known, better), limit)


def feasible(problem: Problem, limit: int) -> Outcome:
    """Any placement; its latency need not be the least."""
    if not problem.doors:
        return Outcome(None, np.inf, 0, complete=True, lower_ns=np.inf)
    door = problem.doors[0]
    return _descend(Bounds.of(problem, Prices.none(problem), (door,)), door, _CEILING, limit)


def _merged(known: Outcome, other: Outcome) -> Outcome:
    considered = known.considered + other.considered
    best = known if other.path is None or known.latency_ns <= other.latency_ns else other
    return Outcome(best.path, best.latency_ns, considered, complete=False, lower_ns=known.lower_ns)


def _descend(bounds: Bounds, door: int, ceiling: float, limit: int) -> Outcome:
    """The first placement found depth first. What fits does not depend on the door."""
    tree = _Tree(bounds, ceiling, deepest_first=True)
    tree.plant(door)
    while tree.heap and tree.best is None:
        if tree.considered >= limit:
            return Outcome(None, np.inf, tree.considered, complete=False, lower_ns=0.0)
        tree.expand(heapq.heappop(tree.heap))
    if tree.best is None:
        return Outcome(None, np.inf, tree.considered, complete=True, lower_ns=np.inf)
    best = tree.best
    return Outcome(best.path, best.least, tree.considered, complete=False, lower_ns=0.0)


def _ascend(bounds: Bounds, known: Outcome, limit: int) -> Outcome:
    """The best placement, given a known one; the best seen once `limit` is reached."""
    tree = _Tree(bounds, known.latency_ns, considered=known.considered)
    for door in bounds.doors:
        tree.plant(door)
    while tree.considered < limit:
        entry = heapq.heappop(tree.heap)
        if entry.path[-1] == bounds.problem.units and len(entry.path) > 1:
            return Outcome(entry.path, entry.least, tree.considered, True, entry.least)
        tree.expand(entry)
    lower = max(known.lower_ns, tree.heap[0].least)
    if tree.best is None:
        return Outcome(known.path, known.latency_ns, tree.considered, False, lower)
    return Outcome(tree.best.path, tree.best.least, tree.considered, False, lower)


@dataclass(slots=True, eq=False)
class _Tree:
    """Paths waiting for expansion. `best` is the best complete path seen."""

    bounds: Bounds
    ceiling: float
    deepest_first: bool = False
    considered: int = 0
    heap: list[_Entry] = field(default_factory=list)
    best: _Entry | None = None
    _seen: dict[Path, list[_Stand]] = field(default_factory=dict)

    def plant(self, door: int) -> None:
        least = self.bounds.root(door)
        if least <= self.ceiling:
            rank = 0.0 if self.deepest_first else least
            spent = self.bounds.problem.ingress_ns(door)
            heapq.heappush(self.heap, _Entry(rank, least, (door,), spent, ()))

    def expand(self, entry: _Entry) -> None:
        self.considered += 1
        loads = self._admit(entry)
        problem, path = self.bounds.problem, entry.path
        used = len(path) // 2
        if loads is None or (problem.segments_bounded and used == problem.max_segments):
            return
        cut, at = (path[-1], path[-2]) if used else (0, path[0])
        after = self.bounds.after(path[0], problem.max_segments - used - 1)
        paid = self._paid(path) - self.bounds.prices.credit
        begun = entry.spent + self._hops(path, cut, at) + SEGMENT
        leasts = begun + paid - self.bounds.spent[cut] + after[cut + 1 :]
        stops = self._stops(path, loads, cut)
        rows, nodes = np.nonzero(np.where(stops, leasts, np.inf) <= self.ceiling)
        spents = begun[nodes] - problem.compute[cut, nodes] + problem.compute[cut + 1 + rows, nodes]
        for row, node, least, spent in zip(
            rows.tolist(),
            nodes.tolist(),
            leasts[rows, nodes].tolist(),
            spents.tolist(),
            strict=True,
        ):
            self._push(least, (*path, node, cut + 1 + row), spent, loads)

    def _push(self, least: float, path: Path, spent: float, loads: Loads) -> None:
        problem = self.bounds.problem
        if path[-1] == problem.units:
            # Complete: what it takes, whatever the prices say.
            least = spent + problem.hop_ns(path[-2], path[0], path[-1]) + problem.egress_ns(path[0])
            if least > self.ceiling:
                return
        rank = -float(len(path)) if self.deepest_first else least
        entry = _Entry(rank, least, path, spent, loads)
        heapq.heappush(self.heap, entry)
        if path[-1] == problem.units and (self.best is None or entry < self.best):
            self.best = entry
            self.ceiling = min(self.ceiling, least)

    def _admit(self, entry: _Entry) -> Loads | None:
        """The loads with the entry's last segment; None when the path leads nowhere new."""
        path, memory = entry.path, self.bounds.problem.memory
        if len(path) == 1:
            return () if memory.suffices((), 0) else None
        start = path[-3] if len(path) > 3 else 0  # noqa: PLR2004 - (door, node, stop, node, stop)
        loads = memory.after(entry.loads, path[-2], start, path[-1])
        if not memory.suffices(loads, path[-1]):
            return None
        here = _Stand(entry.spent, path, loads, sum(1 << load.node for load in loads))
        seen = self._seen.setdefault((path[0], path[-2], path[-1]), [])
        if any(self._dominates(other, here) for other in seen):
            return None
        seen.append(here)
        return loads

    def _dominates(self, other: _Stand, here: _Stand) -> bool:
        if other.tight & ~here.tight:
            return False
        problem = self.bounds.problem
        if not self.deepest_first and (other.spent, other.path) > (here.spent, here.path):
            return False
        if problem.segments_bounded and len(other.path) > len(here.path):
            return False
        return problem.memory.covers(other.loads, here.loads)

    def _paid(self, path: Path) -> float:
        """Charges of the segments placed."""
        charges = self.bounds.prices.charges
        starts = (0, *path[2::2])
        return sum(
            float(charges[stop, node] - charges[start, node])
            for node, start, stop in zip(path[1::2], starts, path[2::2], strict=False)
        )

    def _hops(self, path: Path, cut: int, at: int) -> Nanoseconds:
        """[node]: ns from `at`, which has what crosses `cut`; inf to where no hop may lead."""
        problem = self.bounds.problem
        hops: Nanoseconds = problem.leave[cut, at] + problem.arrive[cut] + HOP_NS
        stays = len(path) == 1 or problem.by_hand
        hops[at] = 0.0 if stays else np.inf
        return hops

    def _stops(self, path: Path, loads: Loads, cut: int) -> Flags:
        """[stop - cut - 1, node]: segments that may come next, twins after the first left out."""
        problem = self.bounds.problem
        stops: Flags = problem.stops[cut, cut + 1 :].copy()
        for load in loads:
            stops[problem.memory.reach(load, cut) - cut :, load.node] = False
        named = {path[0], *path[1::2]}
        stands: set[int] = set()
        for node, twin in enumerate(problem.twins):
            if node not in named:
                if twin in stands:
                    stops[:, node] = False
                stands.add(twin)
        return stops
