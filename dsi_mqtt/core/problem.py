"""A placement problem in arrays: what the search reads.

Times are integral nanoseconds in float64. Sums of them are exact in any order up to 104 days, so
equal latencies are equal, infinity is at hand, and no bound needs a tolerance.

Latency of one reference row, for links that form a star (each node has one to its home broker):

    leave(n, bytes)  = rtt_n / 2 + bytes / up_n
    arrive(n, bytes) = rtt_n / 2 + bytes / down_n
    hop(a, b, bytes) = leave(a, bytes) + arrive(b, bytes) + HOP_S, or 0 when a is b
    latency = arrive(door, input) + HOP_S              the input reaches the door
            + hop(door, first, input)
            + Σ (SEGMENT_S + Σ unit seconds)           each segment
            + Σ hop(segment, next, boundary)
            + hop(last, door, result)
            + leave(door, result) + HOP_S              the answer leaves it
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dsi_mqtt.core.memory import Memory
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.profile import NodeView
from dsi_mqtt.core.rules import Rules

# A message through the broker beyond rtt and rate: encoding, the broker itself, decoding.
HOP_S: Final = 0.5e-3
# A segment beyond its units: one more call of the engine and its queue.
SEGMENT_S: Final = 0.3e-3

Nanoseconds = NDArray[np.float64]
Flags = NDArray[np.bool_]


def nanoseconds(seconds: float) -> float:
    return float(np.rint(seconds * 1e9))


HOP_NS: Final = nanoseconds(HOP_S)
SEGMENT_NS: Final = nanoseconds(SEGMENT_S)


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Nodes are numbered in the order of their names, cuts from 0 to the number of units.

    doors: nodes that may be the door.
    allowed[unit, node]: privacy, pins and the split let the node compute the unit.
    compute[cut, node]: ns of the units before `cut`.
    leave, arrive[cut, node]: ns of what crosses `cut` out of and into the node.
    stops[start, stop, node]: the node, holding nothing else of this plan, may be given
        `[start, stop)` as one segment.
    twins[node]: nodes with the same number cannot be told apart but by name.
    by_hand: the cuts are given, and neighbours may share a node.
    """

    nodes: tuple[NodeView, ...]
    units: int
    doors: tuple[int, ...]
    max_segments: int
    by_hand: bool
    bytes_at: tuple[int, ...]
    allowed: Flags
    compute: Nanoseconds
    leave: Nanoseconds
    arrive: Nanoseconds
    stops: Flags
    twins: tuple[int, ...]
    memory: Memory

    @property
    def segments_bounded(self) -> bool:
        """Whether `max_segments` can exclude anything."""
        return self.max_segments < self.units and not self.by_hand

    def compute_ns(self, node: int, start: int, stop: int) -> float:
        """Of a segment, with its fixed cost."""
        return float(self.compute[stop, node] - self.compute[start, node]) + SEGMENT_NS

    def hop_ns(self, source: int, target: int, cut: int) -> float:
        if source == target:
            return 0.0
        return float(self.leave[cut, source] + self.arrive[cut, target]) + HOP_NS

    def ingress_ns(self, door: int) -> float:
        return float(self.arrive[0, door]) + HOP_NS

    def egress_ns(self, door: int) -> float:
        return float(self.leave[self.units, door]) + HOP_NS

    def single_node_ns(self) -> float | None:
        """The least latency with everything in one segment; None: no node may and can."""
        end = self.units
        able = np.flatnonzero(self.stops[0, end])
        doors = np.array(self.doors, np.intp)
        if not len(able) or not len(doors):
            return None
        there = self.leave[0][doors, None] + self.arrive[0][None, able]
        back = self.leave[end][None, able] + self.arrive[end][doors, None]
        hops = np.where(doors[:, None] == able[None, :], 0.0, there + back + 2 * HOP_NS)
        access = self.arrive[0][doors] + self.leave[end][doors] + 2 * HOP_NS
        return float((hops + access[:, None] + self.compute[end][able]).min()) + SEGMENT_NS


# By node, units that it goes on holding.
Held = Mapping[str, Collection[int]]


def build(graph: ModelGraph, rules: Rules, nodes: Sequence[NodeView], held: Held) -> Problem:
    """The problem of placing `graph` on `nodes`; unusable ones are left out.

    held: by node, units it goes on holding while it takes up its part of the plan.
    """
    known = tuple(sorted((n for n in nodes if n.usable), key=lambda node: node.node))
    units = len(graph.units)
    bytes_at = (
        graph.input_bytes,
        *(graph.boundary_bytes(cut) for cut in range(1, units)),
        graph.result_bytes,
    )
    rows = [rules.may_compute(unit, known) for unit in range(units)]
    allowed = np.array(rows, np.bool_).reshape(units, len(known))
    memory = Memory.of(graph, known, held, allowed)
    seconds = np.array([node.unit_s for node in known]).reshape(len(known), units)
    compute = np.zeros((units + 1, len(known)))
    np.cumsum(np.rint(seconds.T * 1e9), axis=0, out=compute[1:])
    leave, arrive = _transfers(known, bytes_at)
    stops = _stops(rules, allowed) & memory.fits
    return Problem(
        nodes=known,
        units=units,
        doors=tuple(i for i, node in enumerate(known) if rules.may_be_door(node)),
        max_segments=rules.max_segments,
        by_hand=bool(rules.parts),
        bytes_at=bytes_at,
        allowed=allowed,
        compute=compute,
        leave=leave,
        arrive=arrive,
        stops=stops,
        twins=_twins(rules, known, allowed, held),
        memory=memory,
    )


def _transfers(
    nodes: Sequence[NodeView], bytes_at: Sequence[int]
) -> tuple[Nanoseconds, Nanoseconds]:
    sizes = np.array(bytes_at, np.float64)[:, None]
    half_trip = np.array([node.link.rtt_ms for node in nodes]) * 0.5e6
    # One Mbit/s is one bit per microsecond: 8,000 ns a byte.
    leave = half_trip + sizes * 8e3 / np.array([node.link.up_mbit_s for node in nodes])
    arrive = half_trip + sizes * 8e3 / np.array([node.link.down_mbit_s for node in nodes])
    return np.rint(leave), np.rint(arrive)


def _stops(rules: Rules, allowed: Flags) -> Flags:
    """Segments that privacy, pins and the split allow, memory aside."""
    units, nodes = allowed.shape
    barred = np.zeros((units + 1, nodes), np.int64)
    np.cumsum(~allowed, axis=0, out=barred[1:])
    stops: Flags = barred[None, :, :] == barred[:units, None, :]
    cuts = np.arange(units + 1)
    stops &= (cuts[None, :] > cuts[:units, None])[:, :, None]
    if rules.parts:
        given = np.zeros((units, units + 1), np.bool_)
        for part in rules.parts:
            given[part.units] = True
        stops &= given[:, :, None]
    return stops


def _twins(rules: Rules, nodes: Sequence[NodeView], allowed: Flags, held: Held) -> tuple[int, ...]:
    numbers: dict[object, int] = {}
    twins = []
    for i, node in enumerate(nodes):
        key = (
            node.weight_bytes,
            node.unit_s,
            node.link,
            rules.may_be_door(node),
            allowed[:, i].tobytes(),
            frozenset(held.get(node.node, ())),
        )
        twins.append(numbers.setdefault(key, len(numbers)))
    return tuple(twins)
