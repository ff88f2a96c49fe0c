"""What of a chain goes to other nodes with a new table, and whether caches are copied there.

A unit stays where the incarnation that computes it does, whatever its segment is called and
wherever that is cut: an engine keeps caches by session and unit. What goes elsewhere and keeps
something of sessions is copied there, or computed again from the first position on; then it is
computed by the whole chain, for only its first segment is fed. So all of a table's transfers are
of one mode.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from dsi_mqtt.core.model import ModelGraph, UnitRange
from dsi_mqtt.core.node import LinkSample
from dsi_mqtt.core.table import Replica, Segment, Table, Transfer, TransferEnd, TransferMode

# Positions that are drawn while the last portion but one is on its way, about: what is copied while
# a session waits.
TAIL_POSITIONS: Final = 16
# The old chain computes until all is copied; for longer nobody should wait to be let go.
COPYING_MAX_S: Final = 20.0
_BYTES_OF_MBIT: Final = 125_000
# So many show who goes where: they are spread as evenly as sessions are.
_LANES: Final = 64


@dataclass(frozen=True, slots=True)
class Haul:
    """Units whose caches go from one node to another. position_bytes: that they keep of one
    position.
    """

    units: UnitRange
    source: tuple[str, Replica]
    target: tuple[str, Replica]
    position_bytes: int


def hauls(old: Table, new: Table, graph: ModelGraph, lane: int) -> tuple[Haul, ...]:
    """What of a session's caches goes elsewhere when it goes from one table to another."""
    before, after = _by_unit(old), _by_unit(new)
    gone = []
    for unit, segment in after.items():
        left = before.get(unit)
        kept = graph.units[unit].state_bytes if unit < len(graph.units) else 0
        if left is None or not kept:
            continue
        source, target = left.replica(lane), segment.replica(lane)
        if _member(source) != _member(target):
            gone.append((unit, kept, (left.id, source), (segment.id, target)))
    found = []
    for (source_end, target_end), run in groupby(gone, key=lambda part: part[2:]):
        units = list(run)
        # What keeps nothing between two that do goes along.
        whole = UnitRange(units[0][0], units[-1][0] + 1)
        found.append(Haul(whole, source_end, target_end, sum(part[1] for part in units)))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Transit:
    """Sessions that leave the same replicas for the same ones. share: of all sessions. hauls: none,
    where all layers stay.
    """

    share: float
    hauls: tuple[Haul, ...]


def transits(old: Table, new: Table, graph: ModelGraph) -> tuple[Transit, ...]:
    """All ways on which sessions go from one table to another."""
    alike = defaultdict(list)
    for lane in range(_LANES):
        alike[old.way(lane), new.way(lane)].append(lane)
    return tuple(
        Transit(len(lanes) / _LANES, hauls(old, new, graph, lanes[0])) for lanes in alike.values()
    )


def transfers(old: Table | None, new: Table, mode: TransferMode) -> tuple[Transfer, ...]:
    """What of the model others compute with `new` than with `old`, as far as replicas tell."""
    if old is None or old.model is None or new.model is None:
        return ()
    if old.model.digest != new.model.digest:
        return ()
    before = _by_unit(old)
    gone = [
        (unit, before[unit], segment)
        for unit, segment in _by_unit(new).items()
        if unit in before and not _holders(segment) <= _holders(before[unit])
    ]
    found = []
    for (source, target), run in groupby(gone, key=lambda part: (part[1].id, part[2].id)):
        units = [part[0] for part in run]
        ends = TransferEnd(old.epoch, source), TransferEnd(new.epoch, target)
        found.append(Transfer(UnitRange(units[0], units[-1] + 1), *ends, mode))
    return tuple(found)


def faster(
    moved: Sequence[Transit],
    links: Mapping[str, LinkSample],
    *,
    positions: int,
    sessions: float,
    recompute_s: float,
) -> TransferMode:
    """How the last of the sessions waits less: for the ends of all copies, or until all sessions
    are computed again, those of each transit one behind the other.

    links: of the nodes, as far as they are measured; what is not is taken to be fast. positions:
    of one session. sessions: by all transits, and one of each at least. recompute_s: until the new
    chain has computed these. Copies that keep an old chain for too long are not made where
    computing takes less.
    """
    going = [
        (max(1.0, sessions * transit.share), transit.hauls) for transit in moved if transit.hauls
    ]
    if not going:
        return "copy"
    position_s = _position_s(going, links)
    trips_s = max(_trips_s(found, links) for _, found in going)
    wait_s = min(TAIL_POSITIONS, positions) * position_s + trips_s
    whole_s = positions * position_s
    again_s = max(number for number, _ in going) * recompute_s
    return "recompute" if wait_s > again_s or whole_s > max(COPYING_MAX_S, again_s) else "copy"


def _position_s(
    going: Iterable[tuple[float, tuple[Haul, ...]]], links: Mapping[str, LinkSample]
) -> float:
    """Seconds for one position of all sessions: of the link that is busy longest."""
    leaving: dict[str, float] = defaultdict(float)
    coming: dict[str, float] = defaultdict(float)
    for number, haul in ((number, haul) for number, found in going for haul in found):
        leaving[haul.source[1].node] += number * haul.position_bytes
        coming[haul.target[1].node] += number * haul.position_bytes
    busy = [_seconds(n, _link(links, node).up_mbit_s) for node, n in leaving.items()]
    busy += [_seconds(n, _link(links, node).down_mbit_s) for node, n in coming.items()]
    return max(busy, default=0.0)


def _trips_s(moved: tuple[Haul, ...], links: Mapping[str, LinkSample]) -> float:
    """From the door's word to the answer: about a round trip of each end to its broker."""
    ends = {node for haul in moved for node in (haul.source[1].node, haul.target[1].node)}
    return sum((_link(links, node).rtt_ms or 0.0) / 1000 for node in ends)


def _link(links: Mapping[str, LinkSample], node: str) -> LinkSample:
    return links.get(node, LinkSample())


def _seconds(nbytes: float, mbit_s: float | None) -> float:
    return nbytes / (mbit_s * _BYTES_OF_MBIT) if mbit_s is not None and mbit_s > 0 else 0.0


def _by_unit(table: Table) -> dict[int, Segment]:
    return {unit: segment for segment in table.segments for unit in range(*segment.units)}


def _member(replica: Replica) -> tuple[str, str]:
    return replica.node, replica.incarnation


def _holders(segment: Segment) -> frozenset[tuple[str, str]]:
    return frozenset(map(_member, segment.replicas))
