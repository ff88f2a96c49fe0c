"""Copies of caches at one node: those it sends at a door's word, and those it takes in.

    door ── copy this ──► source ── the copy ──► target ── done: it holds n positions ──► door

Whoever cannot answers the door instead: `stale` with the positions that it has where some before
are missing, `stale` without where it does not hold the units, or has no room. A copy for a session
that has ended is dropped, one that is anything else than its header says is `lost`.

Doors ask for little at a time, but anybody may ask: so what is in the engine's hands at once is
bounded here, and what waits for the way out in `outgoing`. Nothing is repeated, and no step waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

from dsi_mqtt.core.activation import Row, Tensor
from dsi_mqtt.core.effects import Effects, ExportState, ImportState, Transmit
from dsi_mqtt.core.events import StateExported, StateImported, StateStale
from dsi_mqtt.core.holdings import Holdings
from dsi_mqtt.core.leases import HeldSessions
from dsi_mqtt.core.message import Activation, Copy, EdgeMark, Header, MessageKind
from dsi_mqtt.core.model import ModelGraph, UnitRange
from dsi_mqtt.core.room import HeldRoom, held_room
from dsi_mqtt.core.sizes import KIB, MIB
from dsi_mqtt.core.table import DOOR, Replica

# The one tensor of a copy.
STATE: Final = "state"
# What one may take, unless it is of a single position, and all together that are in the engine's
# hands at once: doors ask for less.
COPY_BYTES_MAX: Final = 8 * MIB
JOBS_MAX: Final = 64
# What engines write beside the positions themselves: once, and for each unit again.
FRAME_BYTES: Final = 4 * KIB


def copy_bytes_max(graph: ModelGraph, units: UnitRange, positions: int) -> int:
    """What a copy of so many positions of `units` is at most, as an engine writes it."""
    kept = sum(unit.state_bytes for unit in graph.units[slice(*units)])
    return positions * kept + FRAME_BYTES * (1 + units.stop - units.start)


@dataclass(frozen=True, slots=True)
class _Job:
    """In the engine's hands. nbytes: that it may take."""

    header: Header
    nbytes: int


class Caches:
    """State machine. `incarnation`: of this node."""

    def __init__(self, incarnation: str, holdings: Holdings, sessions: HeldSessions) -> None:
        self._incarnation = incarnation
        self._holdings = holdings
        self._sessions = sessions
        self._numbers = 0
        self._jobs: dict[int, _Job] = {}

    def asked(self, activation: Activation, now: float) -> Effects:
        """A door's word, or the copy that came of it."""
        header = activation.header
        if header.copy is None or len(header.rows) != 1 or not self._is_for_this(header):
            return []
        nbytes = self._bytes_max(header, header.copy)
        if nbytes is None or not self._has_hands_for(nbytes):
            return [to_door(header, "stale")]
        if header.source == DOOR:
            return self._export(_Job(header, nbytes), header.copy)
        return self._import(_Job(header, nbytes), header.copy, activation, now)

    def exported(self, event: StateExported) -> Effects:
        """Sends it on; to whom is looked up anew, for the table may be gone."""
        header = self._over(event.job)
        if header is None or header.copy is None:
            return []
        target = self._target(header, header.copy)
        if target is None:
            return [to_door(header, "stale")]
        copy = header.copy
        told = Header(
            "state",
            header.deployment,
            copy.stamp,
            header.target,
            copy.segment,
            header.request,
            header.attempt,
            door=header.door,
            rows=header.rows,
            edge=EdgeMark(self._incarnation, target.incarnation, 0, 0),
            lane=header.lane,
            copy=copy,
        )
        state = Tensor(STATE, "uint8", (len(event.blob),), event.blob)
        return [Transmit(target.node, Activation(told, (state,)))]

    def imported(self, event: StateImported) -> Effects:
        header = self._over(event.job)
        if header is None:
            return []
        (row,) = header.rows
        has = Row(row.session, row.position + row.tokens, 0, row.take)
        return [to_door(header, "done", (has,))]

    def stale(self, event: StateStale) -> Effects:
        header = self._over(event.job)
        if header is None:
            return []
        (row,) = header.rows
        has = () if event.have is None else (Row(row.session, event.have, 0, row.take),)
        return [to_door(header, "stale", has)]

    def model_closed(self, deployment: str) -> Effects:
        """Its engine is gone: nothing of it will be answered."""
        gone = [n for n, job in self._jobs.items() if job.header.deployment == deployment]
        return [to_door(self._jobs.pop(number).header, "stale") for number in gone]

    # --- parts --------------------------------------------------------------------------------

    def _export(self, job: _Job, copy: Copy) -> Effects:
        header = job.header
        (row,) = header.rows
        if self._target(header, copy) is None:
            return [to_door(header, "stale")]
        number, last = self._begun(job), row.position + row.tokens
        return [
            ExportState(number, header.deployment, row.session, copy.units, row.position, last),
        ]

    def _import(self, job: _Job, copy: Copy, activation: Activation, now: float) -> Effects:
        header, tensors = job.header, activation.tensors
        (row,) = header.rows
        if [(tensor.name, tensor.dtype) for tensor in tensors] != [(STATE, "uint8")]:
            return [to_door(header, "lost")]
        blob = tensors[0].data
        if len(blob) > job.nbytes:
            return [to_door(header, "lost")]
        gone = self._sessions.takes_in(header)
        if gone is None:
            return []
        segment = self._holdings.ready(header.deployment, header.stamp, header.target)
        assert segment is not None  # noqa: S101 - `asked` has looked
        room = partial(room_for, self._holdings, self._incarnation, header)
        freed = self._sessions.begun(header, segment.segment.units, room, now)
        if freed is None:
            return [*gone, to_door(header, "stale")]
        number, last = self._begun(job), row.position + row.tokens
        taken = ImportState(
            number, header.deployment, row.session, copy.units, row.position, last, blob
        )
        return [*gone, *freed, taken]

    def _begun(self, job: _Job) -> int:
        self._numbers += 1
        self._jobs[self._numbers] = job
        return self._numbers

    def _over(self, number: int) -> Header | None:
        job = self._jobs.pop(number, None)
        return job.header if job else None

    def _has_hands_for(self, nbytes: int) -> bool:
        held = sum(job.nbytes for job in self._jobs.values())
        return not held or (len(self._jobs) < JOBS_MAX and held + nbytes <= COPY_BYTES_MAX)

    def _bytes_max(self, header: Header, copy: Copy) -> int | None:
        """What a copy may take; None: this node does not hold the units, or it is too much."""
        (row,) = header.rows
        graph = self._holdings.graph(header.deployment)
        if graph is None or row.tokens < 1 or not self._holds(header, copy):
            return None
        nbytes = copy_bytes_max(graph, copy.units, row.tokens)
        return nbytes if row.tokens == 1 or nbytes <= COPY_BYTES_MAX else None

    def _is_for_this(self, header: Header) -> bool:
        return header.edge is not None and header.edge.receiver == self._incarnation

    def _holds(self, header: Header, copy: Copy) -> bool:
        """Whether this node computes the units, by the segment that the header names."""
        held = self._holdings.ready(header.deployment, header.stamp, header.target)
        if held is None:
            return False
        units = held.segment.units
        return units.start <= copy.units.start and copy.units.stop <= units.stop

    def _target(self, header: Header, copy: Copy) -> Replica | None:
        """Who computes them by the other table, if that is known here and is of this model."""
        table = self._holdings.table(header.deployment, copy.stamp)
        own = self._holdings.table(header.deployment, header.stamp)
        segment = table.segment(copy.segment) if table else None
        if table is None or own is None or segment is None or table.model != own.model:
            return None
        if not (segment.units.start <= copy.units.start and copy.units.stop <= segment.units.stop):
            return None
        return segment.replica(header.lane)


def room_for(holdings: Holdings, incarnation: str, header: Header) -> HeldRoom | None:
    """What caches of sessions on a header's table may take here; None: there are to be none."""
    name = header.deployment
    spec, graph = holdings.spec(name), holdings.graph(name)
    table = holdings.table(name, header.stamp)
    if spec is None or graph is None or table is None:
        return None
    own = [
        segment.units
        for segment in table.segments
        if any(replica.incarnation == incarnation for replica in segment.replicas)
    ]
    # Those of another model, which it replaced or falls back to, let in no session of this one.
    tables = [
        known
        for known in holdings.tables(name)
        if known.model is not None and known.model.digest == graph.digest
    ]
    return held_room(spec, graph, own, tables)


def to_door(header: Header, kind: MessageKind, rows: tuple[Row, ...] = ()) -> Transmit:
    return Transmit(header.door, Activation(header.told_door(kind, rows)))
