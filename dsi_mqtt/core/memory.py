"""Weights on nodes: what a segment adds to a node that holds others already.

A node loads a unit once, however many segments and epochs use it, and shared weights (ties) once
for all units that use them. So what a segment adds depends on what is there: the *load* of a
node is the bytes it holds and the set of ties among them, which is all the future depends on,
because a plan never returns to a unit.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.profile import NodeView


class Load(NamedTuple):
    """What a node holds: bytes, and ties as bits."""

    node: int
    used: int
    ties: int


# Loads of the nodes whose memory may still decide something, in the order of their numbers.
Loads = tuple[Load, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes that some units cannot do without.

    have: bytes free on them before the plan; need[cut]: bytes that the units from `cut` on that
    only these nodes may compute will take at least.
    """

    nodes: frozenset[int]
    have: int
    need: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """caps, base: bytes a node may hold, and what it holds before the plan.

    weights: bytes of each unit; before[cut]: of those before it; ties_of: ties of each unit, as
        bits; tie_bytes: of each tie.
    kept[node]: units held already.
    rest[cut, node]: bytes at most that the node could still be given from `cut` on.
    least[unit, node]: bytes at least that the unit adds.
    reaches[start, node]: the last cut up to which a segment from `start` fits on the node as it is.
    """

    caps: tuple[int, ...]
    base: Loads
    weights: tuple[int, ...]
    before: tuple[int, ...]
    ties_of: tuple[int, ...]
    tie_bytes: tuple[int, ...]
    kept: tuple[frozenset[int], ...]
    rest: NDArray[np.int64]
    reaches: NDArray[np.intp]
    least: NDArray[np.int64]
    groups: tuple[Group, ...]

    @property
    def free(self) -> tuple[int, ...]:
        """Bytes free on each node before the plan."""
        return tuple(cap - load.used for cap, load in zip(self.caps, self.base, strict=True))

    @classmethod
    def of(
        cls,
        graph: ModelGraph,
        nodes: Sequence[NodeView],
        held: Mapping[str, Collection[int]],
        allowed: NDArray[np.bool_],
    ) -> Memory:
        ties_of = tuple(
            sum(1 << i for i, tie in enumerate(graph.ties) if unit in tie.units)
            for unit in range(len(graph.units) if graph.ties else 0)
        ) or (0,) * len(graph.units)
        kept = tuple(frozenset(held.get(node.node, ())) for node in nodes)
        if any(kept):
            base = tuple(_base(graph, ties_of, i, units) for i, units in enumerate(kept))
        else:
            base = tuple(Load(i, 0, 0) for i in range(len(nodes)))
        caps = tuple(node.weight_bytes for node in nodes)
        weights = tuple(unit.weight_bytes for unit in graph.units)
        added = _added(graph, kept, base)
        least = _least(graph, kept)
        return cls(
            caps=caps,
            base=base,
            weights=weights,
            before=tuple(accumulate(weights, initial=0)),
            ties_of=ties_of,
            tie_bytes=tuple(tie.weight_bytes for tie in graph.ties),
            kept=kept,
            rest=_suffix_sums(np.where(allowed, added, 0)),
            reaches=_reaches(graph, added, base, caps),
            least=least,
            groups=_groups(least, allowed, base, caps),
        )

    def only(self, nodes: Sequence[int]) -> Memory:
        """With these nodes alone; groups, which are of all nodes, are left out."""
        return replace(
            self,
            caps=tuple(self.caps[node] for node in nodes),
            base=tuple(self.base[node]._replace(node=i) for i, node in enumerate(nodes)),
            kept=tuple(self.kept[node] for node in nodes),
            rest=self.rest[:, nodes],
            reaches=self.reaches[:, nodes],
            least=self.least[:, nodes],
            groups=(),
        )

    def after(self, loads: Loads, node: int, start: int, stop: int) -> Loads:
        """Loads once `node` holds `[start, stop)` too.

        A node is left out once its memory can bind no more: it could take all that is to come.
        """
        before = next((load for load in loads if load.node == node), self.base[node])
        used, ties = before.used, before.ties
        if self._adds_up(node):
            used += self.before[stop] - self.before[start]
        else:
            for unit in range(start, stop):
                used, ties = self._with(node, used, ties, unit)
        candidates = [load for load in loads if load.node != node]
        candidates.append(Load(node, used, ties))
        rest = self.rest[stop]
        return tuple(
            sorted(
                load
                for load in candidates
                if load.used + int(rest[load.node]) > self.caps[load.node]
            )
        )

    def reach(self, load: Load, start: int) -> int:
        """The last cut up to which the node could hold a segment that begins at `start`."""
        used, ties = load.used, load.ties
        if self._adds_up(load.node):
            most = self.caps[load.node] - used + self.before[start]
            return max(start, bisect.bisect_right(self.before, most) - 1)
        for unit in range(start, len(self.weights)):
            used, ties = self._with(load.node, used, ties, unit)
            if used > self.caps[load.node]:
                return unit
        return len(self.weights)

    def _adds_up(self, node: int) -> bool:
        """Whether what units add there is what they weigh."""
        return not self.tie_bytes and not self.kept[node]

    def suffices(self, loads: Loads, cut: int) -> bool:
        """False when the units from `cut` on cannot fit, whatever their order."""
        for group in self.groups:
            need = group.need[cut]
            if need and need > group.have - sum(
                load.used - self.base[load.node].used for load in loads if load.node in group.nodes
            ):
                return False
        return True

    def short(self) -> list[Group]:
        """Groups that have too little before anything is placed."""
        return [group for group in self.groups if group.need[0] > group.have]

    def covers(self, light: Loads, heavy: Loads) -> bool:
        """Whether `light` leaves room for whatever `heavy` does."""
        others = {load.node: load for load in heavy}
        for load in light:
            other = others.get(load.node)
            if other is None:
                return False
            missing = other.ties & ~load.ties
            more = self._tied_bytes(missing) if missing else 0
            if load.used + more > other.used:
                return False
        return True

    def _tied_bytes(self, ties: int) -> int:
        return sum(size for i, size in enumerate(self.tie_bytes) if ties >> i & 1)

    def _with(self, node: int, used: int, ties: int, unit: int) -> tuple[int, int]:
        if unit in self.kept[node]:
            return used, ties
        shared = ties & self.ties_of[unit]
        used += self.weights[unit]
        if shared:
            used -= self._tied_bytes(shared)
        return used, ties | self.ties_of[unit]


def _base(graph: ModelGraph, ties_of: Sequence[int], node: int, units: Collection[int]) -> Load:
    if not units:
        return Load(node, 0, 0)
    ties = 0
    for unit in units:
        ties |= ties_of[unit]
    return Load(node, graph.held_bytes(units), ties)


def _added(graph: ModelGraph, kept: Sequence[Collection[int]], base: Loads) -> NDArray[np.int64]:
    """[unit, node]: bytes a unit alone would add to what the node holds before the plan."""
    added = np.empty((len(graph.units), len(kept)), np.int64)
    added[:] = np.array([unit.weight_bytes for unit in graph.units], np.int64)[:, None]
    for i, tie in enumerate(graph.ties):
        there = [load.node for load in base if load.ties >> i & 1]
        added[np.ix_(list(tie.units), there)] -= tie.weight_bytes
    for node, units in enumerate(kept):
        if units:
            added[sorted(units), node] = 0
    return added


def _suffix_sums(values: NDArray[np.int64]) -> NDArray[np.int64]:
    sums = np.zeros((len(values) + 1, values.shape[1]), np.int64)
    sums[:-1] = np.cumsum(values[::-1], axis=0)[::-1]
    return sums


def _reaches(
    graph: ModelGraph,
    added: NDArray[np.int64],
    base: Loads,
    caps: Sequence[int],
) -> NDArray[np.intp]:
    units, nodes = added.shape
    before = np.zeros((units + 1, nodes), np.int64)
    np.cumsum(added, axis=0, out=before[1:])
    room = np.array([cap - load.used for cap, load in zip(caps, base, strict=True)], np.int64)
    if not graph.ties:
        most = before[:units] + room
        if nodes and (before == before[:, :1]).all():  # as where no node holds anything
            return np.searchsorted(before[:, 0], most, side="right") - 1
        reaches = np.empty((units, nodes), np.intp)
        for node in range(nodes):
            reaches[:, node] = np.searchsorted(before[:, node], most[:, node], side="right") - 1
        return reaches
    fits = _taken(graph, added, base, before) <= room
    cuts = np.arange(units + 1)
    later = cuts[None, :] > cuts[:units, None]
    whole: NDArray[np.intp] = cuts[:units, None] + (fits & later[:, :, None]).sum(axis=1)
    return whole


def _taken(
    graph: ModelGraph, added: NDArray[np.int64], base: Loads, before: NDArray[np.int64]
) -> NDArray[np.int64]:
    """[start, stop, node]: bytes that a segment adds, shared weights counted once."""
    units, nodes = added.shape
    taken: NDArray[np.int64] = before[None, :, :] - before[:units, None, :]
    for i, tie in enumerate(graph.ties):
        # Where the node holds the tie already, `added` has left it out of every unit.
        counted = np.zeros((units, nodes), np.int64)
        for load in base:
            if not load.ties >> i & 1:
                counted[list(tie.units), load.node] = 1
        number = np.zeros((units + 1, nodes), np.int64)
        np.cumsum(counted, axis=0, out=number[1:])
        within = number[None, :, :] - number[:units, None, :]
        taken -= np.maximum(within - 1, 0) * tie.weight_bytes
    return taken


def _least(graph: ModelGraph, kept: Sequence[Collection[int]]) -> NDArray[np.int64]:
    """[unit, node]: bytes that the unit adds at least, its ties being there already."""
    alone = np.array([unit.weight_bytes for unit in graph.units], np.int64)
    for tie in graph.ties:
        alone[list(tie.units)] -= tie.weight_bytes
    least: NDArray[np.int64] = np.repeat(np.maximum(alone, 0)[:, None], len(kept), axis=1)
    for node, units in enumerate(kept):
        if units:
            least[sorted(units), node] = 0
    return least


def _groups(
    least: NDArray[np.int64], allowed: NDArray[np.bool_], base: Loads, caps: Sequence[int]
) -> tuple[Group, ...]:
    """One group for each set of nodes that some unit is restricted to."""
    begins = [0, *(np.flatnonzero((allowed[1:] != allowed[:-1]).any(axis=1)) + 1).tolist()]
    sets = [frozenset(np.flatnonzero(row).tolist()) for row in allowed[begins]]
    lengths = np.diff([*begins, len(allowed)])
    sizes = np.where(allowed, least, np.iinfo(np.int64).max).min(axis=1, initial=2**62)
    groups = []
    for nodes in dict.fromkeys(sets):
        need = np.zeros(len(sizes) + 1, np.int64)
        inside = [others <= nodes for others in sets]
        within = sizes if all(inside) else np.where(np.repeat(inside, lengths), sizes, 0)
        np.cumsum(within[::-1], out=need[1:])
        have = sum(max(0, caps[node] - base[node].used) for node in nodes)
        groups.append(Group(nodes, have, tuple(need[::-1].tolist())))
    return tuple(groups)
