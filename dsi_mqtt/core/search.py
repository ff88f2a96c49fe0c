"""Best-first search for the placement with the least latency: exact, and it says when it was not.

A path is (door, node, stop, node, stop, …): the segments placed so far, in order. A* expands the
path whose latency so far plus the least that can follow is smallest. The least that can follow
comes from a dynamic programme backwards over (cut, node), which lets a node that returns forget
what it held before: it can only be too low, so the first complete path taken is optimal.

Three things keep the search small. A path is dropped when an earlier one stands at the same cut
on the same node with the same door and leaves at least as much room on every node. Of nodes that
differ by name alone, the first unused one stands for all. And a depth-first descent, which also
decides feasibility, gives the ceiling above which nothing is worth keeping.

Among equal latencies fewer segments win, then the path whose door, nodes and stops come first:
each segment costs a thousandth of a nanosecond more than it does, and paths with equal sums are
taken in the order of their numbers, which is the order of the names.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsi_mqtt.core.memory import Loads
from dsi_mqtt.core.problem import HOP_NS, SEGMENT_NS, Flags, Nanoseconds, Problem

# Binary fractions, so that sums stay exact (up to two hours of latency).
_SEGMENT: Final = SEGMENT_NS + 2.0**-10
_CEILING: Final = float(np.finfo(np.float64).max)

Path = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search found.

    path: the best, or None. complete: nothing was cut off by the limit, so that the path is
    optimal, or None means that there is none. lower_ns: no placement is faster.
    """

    path: Path | None
    considered: int
    complete: bool
    lower_ns: float


class _Entry(NamedTuple):
    """Compared in the order of its fields; `path` is unique.

    spent: ns up to and with the last segment; loads: before it was placed.
    """

    rank: float
    least: float
    path: Path
    spent: float
    loads: Loads


def cheapest(problem: Problem, limit: int) -> Outcome:
    """The placement with the least latency, within `limit` expansions."""
    if not problem.doors or not problem.nodes:
        return Outcome(None, 0, complete=True, lower_ns=np.inf)
    bounds = _Bounds.of(problem)
    first = _descend(problem, bounds, limit)
    if first.path is None:
        return first
    tree = _Tree(problem, bounds, ceiling=first.lower_ns)
    for door in problem.doors:
        tree.plant(door)
    left = limit - first.considered
    while tree.heap and tree.considered < left:
        entry = heapq.heappop(tree.heap)
        if entry.path[-1] == problem.units and len(entry.path) > 1:
            return Outcome(
                entry.path, first.considered + tree.considered, complete=True, lower_ns=entry.least
            )
        tree.expand(entry)
    path = first.path if tree.best is None else tree.best.path
    lower = min(entry.least for entry in tree.heap)
    return Outcome(path, first.considered + tree.considered, complete=False, lower_ns=lower)


def feasible(problem: Problem, limit: int) -> Outcome:
    """Any placement. `lower_ns` is its latency: it bounds nothing."""
    if not problem.doors or not problem.nodes:
        return Outcome(None, 0, complete=True, lower_ns=np.inf)
    return _descend(problem, _Bounds.of(problem), limit)


def _descend(problem: Problem, bounds: _Bounds, limit: int) -> Outcome:
    """Depth first from the most promising door: what fits does not depend on the door."""
    tree = _Tree(problem, bounds, deepest_first=True)
    door = min(problem.doors, key=bounds.root)
    tree.plant(door)
    while tree.heap and tree.best is None:
        if tree.considered >= limit:
            return Outcome(None, tree.considered, complete=False, lower_ns=0.0)
        tree.expand(heapq.heappop(tree.heap))
    if tree.best is None:
        return Outcome(None, tree.considered, complete=True, lower_ns=np.inf)
    return Outcome(tree.best.path, tree.considered, complete=True, lower_ns=tree.best.least)


@dataclass(frozen=True, slots=True, eq=False)
class _Bounds:
    """The least that can follow, by dynamic programming.

    layers[k][door, cut, node]: compute before `cut` on the node plus the least latency from `cut`
    to the answer, when the node holds the segment before and k more may follow. Where segments
    are not bounded in number there is one layer for all k.
    roots[door]: the least latency of all.
    """

    layers: tuple[Nanoseconds, ...]
    roots: Nanoseconds
    places: dict[int, int]

    @classmethod
    def of(cls, problem: Problem) -> _Bounds:
        doors = np.array(problem.doors)
        last = _answered(problem, doors)
        if problem.segments_bounded:
            layers = [last]
            for _ in range(problem.max_segments - 1):
                layer, _ = _layer(problem, last, layers[-1])
                layers.append(layer)
            _, start = _layer(problem, last, layers[-1])
        else:
            layer, start = _layer(problem, last, None)
            layers = [layer]
        roots = _entered(problem, doors, start)
        return cls(
            tuple(layer + problem.compute for layer in layers),
            roots,
            {door: place for place, door in enumerate(problem.doors)},
        )

    def root(self, door: int) -> float:
        return float(self.roots[self.places[door]])

    def after(self, door: int, more: int) -> Nanoseconds:
        """[cut, node]; more: segments that may follow."""
        after: Nanoseconds = self.layers[min(more, len(self.layers) - 1)][self.places[door]]
        return after


def _answered(problem: Problem, doors: NDArray[np.intp]) -> Nanoseconds:
    """[door, cut, node]: latency from the last unit to the answer; inf before the last cut."""
    end = problem.units
    hop = problem.leave[end][None, :] + problem.arrive[end][doors][:, None] + HOP_NS
    hop[np.arange(len(doors)), doors] = 0.0
    answered = np.full((len(doors), end + 1, len(problem.nodes)), np.inf)
    answered[:, end, :] = hop + (problem.leave[end][doors] + HOP_NS)[:, None]
    return answered


def _layer(
    problem: Problem, last: Nanoseconds, below: Nanoseconds | None
) -> tuple[Nanoseconds, Nanoseconds]:
    """One layer, and the least latency from the start of a first segment on each node.

    below: the layer for one segment less; None: the number is not bounded.
    """
    layer = last.copy()
    after = last.copy() if below is None else below
    totals = after + problem.compute
    start = np.empty((len(last), len(problem.nodes)))
    for cut in range(problem.units - 1, -1, -1):
        ends = np.where(problem.stops[cut, cut + 1 :], totals[:, cut + 1 :], np.inf)
        start = ends.min(axis=1) - problem.compute[cut] + _SEGMENT
        if cut:
            layer[:, cut] = _moved(problem, cut, start)
            if below is None:
                totals[:, cut] = layer[:, cut] + problem.compute[cut]
    return layer, start


def _moved(problem: Problem, cut: int, start: Nanoseconds) -> Nanoseconds:
    """[door, node]: the least latency from `cut` when another node goes on."""
    there = start + problem.arrive[cut]
    rows = np.arange(len(there))
    nearest = there.argmin(axis=1)
    least = np.repeat(there[rows, nearest][:, None], there.shape[1], axis=1)
    if not problem.by_hand:
        there[rows, nearest] = np.inf
        least[rows, nearest] = there.min(axis=1)
    moved: Nanoseconds = problem.leave[cut] + HOP_NS + least
    return np.minimum(moved, start) if problem.by_hand else moved


def _entered(problem: Problem, doors: NDArray[np.intp], start: Nanoseconds) -> Nanoseconds:
    """[door]: the least latency from the input's arrival at the door."""
    there = (start + problem.arrive[0]).min(axis=1) + problem.leave[0][doors] + HOP_NS
    here = start[np.arange(len(doors)), doors]
    entered: Nanoseconds = np.minimum(there, here) + problem.arrive[0][doors] + HOP_NS
    return entered


@dataclass(slots=True, eq=False)
class _Tree:
    """Paths waiting for expansion. `best` is the best complete path seen."""

    problem: Problem
    bounds: _Bounds
    ceiling: float = _CEILING
    deepest_first: bool = False
    heap: list[_Entry] = field(default_factory=list)
    best: _Entry | None = None
    considered: int = 0
    _seen: dict[Path, list[tuple[int, Loads]]] = field(default_factory=dict)

    def plant(self, door: int) -> None:
        least = self.bounds.root(door)
        if least <= self.ceiling:
            entry = _Entry(0.0, least, (door,), self.problem.ingress_ns(door), ())
            heapq.heappush(self.heap, entry if self.deepest_first else entry._replace(rank=least))

    def expand(self, entry: _Entry) -> None:
        self.considered += 1
        loads = self._admit(entry)
        if loads is None:
            return
        problem, path = self.problem, entry.path
        cut, at = (path[-1], path[-2]) if len(path) > 1 else (0, path[0])
        used = len(path) // 2
        if problem.segments_bounded and used == problem.max_segments:
            return
        after = self.bounds.after(path[0], problem.max_segments - used - 1)
        begun = entry.spent + self._hops(path, cut, at) + _SEGMENT - problem.compute[cut]
        leasts = np.where(self._stops(path, loads, cut), begun + after[cut + 1 :], np.inf)
        rows, nodes = np.nonzero(leasts <= self.ceiling)
        spents = begun[nodes] + problem.compute[cut + 1 + rows, nodes]
        for row, node, least, spent in zip(
            rows.tolist(),
            nodes.tolist(),
            leasts[rows, nodes].tolist(),
            spents.tolist(),
            strict=True,
        ):
            self._push(least, (*path, node, cut + 1 + row), spent, loads)

    def _push(self, least: float, path: Path, spent: float, loads: Loads) -> None:
        rank = -float(path[-1]) if self.deepest_first else least
        entry = _Entry(rank, least, path, spent, loads)
        better = self.best is None or (least, path) < (self.best.least, self.best.path)
        if path[-1] == self.problem.units and better:
            self.best = entry
            self.ceiling = min(self.ceiling, least)
        heapq.heappush(self.heap, entry)

    def _admit(self, entry: _Entry) -> Loads | None:
        """The loads with the entry's last segment; None when the path leads nowhere new."""
        path = entry.path
        if len(path) == 1:
            return () if self.problem.memory.suffices((), 0) else None
        start = path[-3] if len(path) > 3 else 0  # noqa: PLR2004 - (door, node, stop, node, stop)
        memory = self.problem.memory
        loads = memory.after(entry.loads, path[-2], start, path[-1])
        if not memory.suffices(loads, path[-1]):
            return None
        used = len(path) // 2 if self.problem.segments_bounded else 0
        seen = self._seen.setdefault((path[0], path[-2], path[-1]), [])
        if any(less <= used and memory.covers(light, loads) for less, light in seen):
            return None
        seen.append((used, loads))
        return loads

    def _hops(self, path: Path, cut: int, at: int) -> Nanoseconds:
        """[node]: ns from `at`, which holds what crosses `cut`; inf to where no hop may lead."""
        hops: Nanoseconds = self.problem.leave[cut, at] + self.problem.arrive[cut] + HOP_NS
        stays = len(path) == 1 or self.problem.by_hand
        hops[at] = 0.0 if stays else np.inf
        return hops

    def _stops(self, path: Path, loads: Loads, cut: int) -> Flags:
        """[stop - cut - 1, node]: segments that may come next, twins after the first left out."""
        problem = self.problem
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
