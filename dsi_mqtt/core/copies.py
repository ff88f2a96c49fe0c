"""A door's copies of caches: how its sessions go from the nodes of one table to those of the next.

A session whose layers go elsewhere stays on its table while the bulk of its caches is copied,
portion after portion, and decodes on. When little is missing it waits at a token boundary for the
last portion, and goes on with the next table. Layers that stay with their node do not move.

    bulk ──(little is missing, between two steps)──► tail ──(all is there)──► on the next table
      └────────────── refused, late, torn, a node gone ──┴──► fed again, on the next table

No text depends on a copy: a session without one is fed its own tokens from the first on. What may
be left of it on its new nodes, from before it went elsewhere, counts for nothing then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import inf
from typing import Final

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.effects import Effects, Transmit
from dsi_mqtt.core.message import Activation, Copy, Header, of_state
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.peers import Member
from dsi_mqtt.core.schedule import Schedule
from dsi_mqtt.core.session import Session
from dsi_mqtt.core.sizes import KIB
from dsi_mqtt.core.steps import attempt_id
from dsi_mqtt.core.table import Stamp, Table
from dsi_mqtt.core.transfers import COPYING_MAX_S, TAIL_POSITIONS, Haul, hauls

# Of one order, and how many are under way at once, so that steps pass between them on a slow link.
PORTION_BYTES: Final = 256 * KIB
ORDERS_MAX: Final = 4
# What may be missing when a session begins to wait.
TAIL_BYTES: Final = 64 * KIB
PATIENCE_S: Final = 3.0
PAUSE_MAX_S: Final = 1.0
AGAIN_S: Final = 0.05
FAILED_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class _Order:
    id: bytes
    last: int
    until: float


@dataclass(slots=True, eq=False)
class _Hauling:
    """How far a haul is. copied: positions that the target holds. failed: orders in a row that came
    to nothing.
    """

    haul: Haul
    copied: int = 0
    failed: int = 0
    not_before: float = -inf
    order: _Order | None = None

    def is_nearly_there(self, fed: int) -> bool:
        missing = fed - self.copied
        few = missing <= TAIL_POSITIONS or missing * self.haul.position_bytes <= TAIL_BYTES
        return few and self.order is None


@dataclass(slots=True, eq=False)
class _Copying:
    """table: the next one. waits_since: at its token boundary."""

    session: Session
    table: Table
    haulings: list[_Hauling]
    since: float
    waits_since: float = field(default=inf)

    def is_late(self, now: float) -> bool:
        failed = any(hauling.failed >= FAILED_MAX for hauling in self.haulings)
        late = now - self.since >= COPYING_MAX_S or now - self.waits_since >= PAUSE_MAX_S
        return failed or late


class Copies:
    """door: whom nodes answer. numbers: of orders, unlike those of steps."""

    def __init__(self, door: Member, numbers: Iterator[int], schedule: Schedule) -> None:
        self._door = door
        self._numbers = numbers
        self._schedule = schedule
        self._copyings: dict[str, _Copying] = {}
        self._orders: dict[bytes, _Hauling] = {}

    def __len__(self) -> int:
        return len(self._copyings)

    def tables(self) -> list[Table]:
        """Those that are still used by what is copied from there."""
        found = [copying.session.table for copying in self._copyings.values()]
        return [table for table in found if table is not None]

    def stamps(self) -> set[Stamp]:
        return {table.stamp for table in self.tables()}

    # --- a session's way ----------------------------------------------------------------------

    def go_over(
        self, session: Session, table: Table, graph: ModelGraph, now: float, *, whole: bool
    ) -> None:
        """A session that is due goes to `table`, or is copied there first; see above.

        whole: no node of its own table is gone, as far as is known.
        """
        before = self._copyings.get(session.name)
        if before is not None and before.table.stamp == table.stamp:
            return
        moved = hauls(session.table, table, graph, session.lane) if session.table else ()
        self.forget(session)
        if moved and whole and self._may_copy(session, table, again=before is not None):
            known = {hauling.haul: hauling.copied for hauling in before.haulings} if before else {}
            haulings = [_Hauling(haul, _known(haul, known)) for haul in moved]
            self._copyings[session.name] = _Copying(session, table, haulings, now)
            return
        session.table = table
        if moved:
            session.fed = 0

    def give_up(self, session: Session) -> None:
        """It is fed again instead."""
        copying = self._copyings.get(session.name)
        if copying is None or copying.session is not session:
            return
        self.forget(session)
        session.recomputes = copying.table.stamp
        if session.state == "moving":
            self._schedule.line_up(session, first=True)

    def give_up_on(self, gone: set[Stamp]) -> None:
        """Nodes of these tables are gone."""
        for copying in list(self._copyings.values()):
            used = copying.session.table
            if used is not None and used.stamp in gone:
                self.give_up(copying.session)

    def forget(self, session: Session) -> None:
        """It has ended, or another table serves."""
        copying = self._copyings.get(session.name)
        if copying is None or copying.session is not session:
            return
        del self._copyings[session.name]
        for hauling in copying.haulings:
            self._over(hauling)

    def table_changed(self, table: Table) -> None:
        """Who waited for the last portion goes on meanwhile, and is copied to `table`."""
        for copying in self._copyings.values():
            if copying.table.stamp != table.stamp and copying.session.state == "moving":
                copying.waits_since = inf
                self._schedule.line_up(copying.session, first=True)

    # --- orders -------------------------------------------------------------------------------

    def pump(self, now: float) -> Effects:
        """Has more copied; sessions whose boundary it is wait, or go on."""
        for copying in list(self._copyings.values()):
            self._look(copying, now)
        effects: Effects = []
        for copying in sorted(self._copyings.values(), key=lambda c: c.waits_since):
            for hauling in copying.haulings:
                if len(self._orders) < ORDERS_MAX and self._is_due(copying, hauling, now):
                    effects.append(self._ordered(copying, hauling, now))
        return effects

    def came(self, header: Header, now: float) -> bool:
        """Whether a message is about an order, and what follows from it."""
        hauling = self._orders.get(header.request)
        if hauling is None:
            return False
        order = hauling.order
        self._over(hauling)
        have = next((row.position for row in header.rows), None)
        if header.kind == "done" and order is not None:
            hauling.copied, hauling.failed = order.last, 0
        else:
            hauling.copied = min(hauling.copied, have) if have is not None else hauling.copied
            hauling.not_before = now + AGAIN_S * 2**hauling.failed
            hauling.failed += 1
        return True

    # --- parts --------------------------------------------------------------------------------

    def _may_copy(self, session: Session, table: Table, *, again: bool) -> bool:
        """Of tables that follow each other quickly the last need say nothing of the first."""
        modes = {transfer.mode for transfer in table.transfers}
        wanted = "copy" in modes or again
        fresh = session.fed > 0 and not session.request.suspect
        return wanted and "recompute" not in modes and fresh and session.recomputes != table.stamp

    def _look(self, copying: _Copying, now: float) -> None:
        session = copying.session
        for hauling in copying.haulings:
            if hauling.order is not None and hauling.order.until <= now:
                self._over(hauling)
                hauling.failed += 1
        if copying.is_late(now):
            self.give_up(session)
            return
        nearly = all(hauling.is_nearly_there(session.fed) for hauling in copying.haulings)
        if nearly and session.state == "ready":
            self._schedule.hold(session)
            copying.waits_since = now
        if session.state == "moving" and all(h.copied >= session.fed for h in copying.haulings):
            self.forget(session)
            session.table = copying.table
            self._schedule.line_up(session, first=True)

    def _is_due(self, copying: _Copying, hauling: _Hauling, now: float) -> bool:
        fed = copying.session.fed
        if hauling.order is not None or hauling.copied >= fed or hauling.not_before > now:
            return False
        # The last of it is copied once, at the boundary.
        return copying.session.state == "moving" or not hauling.is_nearly_there(fed)

    def _ordered(self, copying: _Copying, hauling: _Hauling, now: float) -> Transmit:
        session, haul = copying.session, hauling.haul
        most = max(1, PORTION_BYTES // haul.position_bytes)
        last = min(session.fed, hauling.copied + most)
        order = _Order(attempt_id(self._door, next(self._numbers)), last, now + PATIENCE_S)
        hauling.order = order
        self._orders[order.id] = hauling
        used = session.table
        assert used is not None  # noqa: S101 - who is copied comes from somewhere
        segment, source = haul.source
        header = replace(
            of_state(used.model_name, used.stamp, segment, self._door, source.incarnation),
            request=order.id,
            attempt=1,
            rows=(Row(session.name, hauling.copied, last - hauling.copied, session.take),),
            lane=session.lane,
            copy=Copy(haul.units, copying.table.stamp, haul.target[0]),
        )
        return Transmit(source.node, Activation(header))

    def _over(self, hauling: _Hauling) -> None:
        if hauling.order is not None:
            self._orders.pop(hauling.order.id, None)
            hauling.order = None


def _known(haul: Haul, known: dict[Haul, int]) -> int:
    """What of it is at its target already, by other orders."""
    ends = haul.source[1].incarnation, haul.target[1].incarnation
    found = [
        copied
        for other, copied in known.items()
        if (other.source[1].incarnation, other.target[1].incarnation) == ends
        and other.units.start <= haul.units.start
        and haul.units.stop <= other.units.stop
    ]
    return max(found, default=0)
