"""Bytes that caches of sessions take: what one is allotted, and what a node needs for several.

A cache has room for `ROOM_FIRST` positions at first and for twice as many whenever it is full, up
to the context. So it may be allotted about twice what it holds; and while the cache of a layer
grows, what it had is there beside what it gets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.message import Failure
from dsi_mqtt.core.model import ModelGraph, UnitRange
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.core.table import Table

ROOM_FIRST: Final = 64
# Of those that run at most: as many run, as many are idle, and twice as many have ended since nodes
# were told.
SESSIONS_HELD: Final = 4


def allotted(positions: int, context: int) -> int:
    """Positions that a cache has room for when it holds so many."""
    room = min(ROOM_FIRST, context)
    while room < positions:
        room = min(2 * room, max(positions, context))
    return room


@dataclass(frozen=True, slots=True)
class NodeRoom:
    """What a node keeps for one position, and in the layer that keeps most of it."""

    position: int
    layer: int

    def nbytes(self, rooms: Iterable[int]) -> int:
        """What caches of these positions take at most, one of them growing."""
        taken = list(rooms)
        return sum(taken) * self.position + max(taken, default=0) * self.layer


def node_room(graph: ModelGraph, units: Iterable[int]) -> NodeRoom:
    kept = [graph.units[unit].state_bytes for unit in units]
    return NodeRoom(sum(kept), max(kept, default=0))


def table_rooms(graph: ModelGraph, table: Table) -> list[NodeRoom]:
    """Of each node that computes a part of `table`."""
    units: dict[str, list[int]] = {}
    for segment in table.segments:
        for replica in segment.replicas:
            units.setdefault(replica.node, []).extend(range(*segment.units))
    return [node_room(graph, held) for held in units.values()]


class CacheRoom:
    """Whether caches fit on every node of a table."""

    def __init__(self, table: Table, graph: ModelGraph, kv_mib_max: int) -> None:
        self._context = graph.vocabulary.context if graph.vocabulary else 0
        self._nodes = table_rooms(graph, table)
        self._most_mib = kv_mib_max

    def fits(self, positions: Iterable[int]) -> bool:
        """positions: that each of the caches is to hold."""
        return self._mib(positions) <= self._most_mib

    def too_small(self, positions: int) -> Failure:
        """Why a session of so many positions never fits."""
        return Failure(
            "invalid_input",
            f"prompt and max_tokens would take {self._mib([positions]):.1f} MiB of cache on a "
            f"node, generation.kv_mib_max is {self._most_mib}; ask for less",
        )

    def _mib(self, positions: Iterable[int]) -> float:
        """On the node where they take most."""
        rooms = [allotted(held, self._context) for held in positions]
        return max((node.nbytes(rooms) for node in self._nodes), default=0) / MIB


class Tally:
    """Caches counted beside each other, as sessions come and go.

    What a cache has room for is one of few sizes, so by segment the sizes are counted.
    """

    def __init__(self, sessions: Iterable[Mapping[UnitRange, int]]) -> None:
        """sessions: of each, positions that its caches have room for, by segment."""
        self.sessions = 0
        sizes: dict[UnitRange, list[int]] = {}
        for rooms in sessions:
            self.sessions += 1
            for units, size in rooms.items():
                sizes.setdefault(units, []).append(size)
        self.sizes = {units: Counter(found) for units, found in sizes.items()}

    def remove(self, rooms: Mapping[UnitRange, int]) -> None:
        """A session that was counted has gone."""
        self.sessions -= 1
        for units, size in rooms.items():
            counted = self.sizes[units]
            counted[size] -= 1
            if not counted[size]:
                del counted[size]


@dataclass(frozen=True, slots=True)
class HeldRoom:
    """What caches may take on a node in its segments of one table, whatever steps come.

    nbytes, sessions: the most; context: positions of one. parts: by the segment that keeps it.
    """

    context: int
    sessions: int
    nbytes: int
    parts: Mapping[UnitRange, NodeRoom]

    def allows(self, tally: Tally) -> bool:
        if tally.sessions > self.sessions:
            return False
        taken = growing = 0
        for units, part in self.parts.items():
            sizes: Mapping[int, int] = tally.sizes.get(units, {})
            taken += sum(size * count for size, count in sizes.items()) * part.position
            growing = max(growing, max(sizes, default=0) * part.layer)
        return taken + growing <= self.nbytes

    def widened(self, other: HeldRoom) -> HeldRoom:
        """For the same segments, within the wider bounds of this and of `other`."""
        most = max(self.sessions, other.sessions), max(self.nbytes, other.nbytes)
        return HeldRoom(self.context, *most, self.parts)


def held_room(
    spec: Deployment, graph: ModelGraph, own: Iterable[UnitRange], tables: Iterable[Table]
) -> HeldRoom | None:
    """Twice what a door lets in, by a node's own count. None: `spec` has no sessions.

    A door keeps half of it. The other half is for what is on top for a while: what ended while a
    roll got lost, or what a door had that died, until nobody names it.
    own: the node's segments of a table. tables: on which sessions may have been let in; where more
    nodes share them than now, this one has more of each than was counted then.
    """
    if spec.kind == "one-pass" or graph.vocabulary is None:
        return None
    limits = spec.limits
    parts = {units: node_room(graph, range(*units)) for units in own}
    here = sum(part.position for part in parts.values())
    fullest = [
        max((node.position for node in table_rooms(graph, table)), default=0) for table in tables
    ]
    least = min((most for most in fullest if most > 0), default=here)
    nbytes = 2 * limits.kv_mib_max * MIB
    return HeldRoom(
        min(limits.context, graph.vocabulary.context),
        2 * SESSIONS_HELD * limits.sessions_max,
        nbytes * here // least if least < here else nbytes,
        parts,
    )


def cache_bytes(spec: Deployment, graph: ModelGraph) -> int:
    """What caches of `spec` may take on one node at most, whichever part of the model it has.

    As many sessions run as are kept idle, each over the whole context; `kv_mib_max` bounds them.
    """
    if spec.kind == "one-pass" or graph.vocabulary is None:
        return 0
    limits = spec.limits
    whole = allotted(limits.context, min(limits.context, graph.vocabulary.context))
    needed = node_room(graph, range(*graph.whole)).nbytes([whole] * (2 * limits.sessions_max))
    return min(limits.kv_mib_max * MIB, needed)
