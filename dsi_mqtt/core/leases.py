"""Leases of caches: a door calls out the roll of sessions that live, and nodes free the others.

A session's name is the incarnation of its door's node and a number that grows while that lives,
so that a node can tell whose it is, and a roll says up to which number it is complete. What no roll
has named for a while is freed, whatever steps come for it: anybody may publish those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.effects import CloseSessions, Effects, Transmit
from dsi_mqtt.core.message import Activation, Header, of_state
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.peers import Member
from dsi_mqtt.core.room import HeldRoom, Tally, allotted
from dsi_mqtt.core.table import Replica, Table

CALL_S: Final = 1.0
CALL_SOON_S: Final = 0.5
SILENT_S: Final = 10.0
# Doors of one deployment whose last rolls a node keeps: anybody may call out one.
DOORS_MAX: Final = 16


def session_name(incarnation: str, number: int) -> str:
    return f"{incarnation}.{number}"


# Rows of sessions, and the tables whose nodes may hold something of them.
Living = tuple[tuple[Row, ...], Collection[Table]]


class Roll:
    """The door's side. changed: a session has ended since it was called out.

    held: positions of the caches that nodes may have, by session: those that live, and those that
    have ended since it was called out. awaited: somebody waits for what these will free.
    numbers: of sessions; they must not come again in this incarnation, even in another door.
    """

    def __init__(self, deployment: str, door: Member, numbers: Iterator[int]) -> None:
        self._deployment = deployment
        self._door = door
        self._numbers = numbers
        self._called_at = float("-inf")
        self._quiet_from = float("-inf")
        self.changed = self.awaited = False
        self.newest = 0
        self.held: dict[str, int] = {}

    def name_next(self) -> str:
        """The name of a session that begins now."""
        self.newest = next(self._numbers)
        return session_name(self._door[1], self.newest)

    def tick(self, living: Callable[[], Living], now: float) -> Effects:
        """Calls it out to every node, when it is time; goes on a while after the last ended.

        living: the sessions and the tables they are on; asked only when it is time.
        """
        since = now - self._called_at
        if not self.awaited and since < (CALL_SOON_S if self.changed else CALL_S):
            return []
        rows, tables = living()
        if rows or self.changed:
            self._quiet_from = now + SILENT_S
        if now > self._quiet_from:
            return []
        self._called_at, self.changed, self.awaited = now, False, False
        live = {row.session for row in rows}
        self.held = {name: most for name, most in self.held.items() if name in live}
        return [
            Transmit(replica.node, Activation(self._header(table, segment, replica, rows)))
            for table, segment, replica in one_each(tables)
        ]

    def _header(
        self, table: Table, segment: str, replica: Replica, rows: tuple[Row, ...]
    ) -> Header:
        header = of_state(self._deployment, table.stamp, segment, self._door, replica.incarnation)
        return replace(header, attempt=self.newest, rows=rows)


def one_each(tables: Collection[Table]) -> list[tuple[Table, str, Replica]]:
    """Each node once: what it holds of a session belongs to no segment."""
    found = {}
    for table in sorted(tables, key=lambda table: table.stamp):
        for segment in table.segments:
            for replica in segment.replicas:
                found[replica.node] = (table, segment.id, replica)
    return list(found.values())


# What caches may take on this node, on the table that a step is on; None: there are to be none.
FindRoom = Callable[[], HeldRoom | None]


@dataclass(slots=True)
class _Held:
    """A session. told_at: when it began here or was last named, if ever it was `named`.

    take: the highest of its steps and copies. rooms: positions that its caches have room for, by
    segment.
    """

    told_at: float
    named: bool = False
    take: int = 0
    rooms: dict[UnitRange, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Called:
    """A door's last roll, of which a session may be that has no room here yet."""

    at: float
    live: Mapping[str, Row]
    newest: int


class HeldSessions:
    """The node's side: the sessions its engines may hold, by deployment, those that began first."""

    def __init__(self) -> None:
        self._held: dict[str, dict[str, _Held]] = {}
        self._called: dict[str, dict[str, _Called]] = {}
        self._widest: dict[str, HeldRoom] = {}

    def counts(self) -> dict[str, int]:
        """How many there are of each deployment that has had any."""
        return {deployment: len(known) for deployment, known in self._held.items()}

    def begun(
        self, header: Header, units: UnitRange, find_room: FindRoom, now: float
    ) -> Effects | None:
        """A step is about to be computed by `units`; None: there is no room for its caches.

        What the rolls of doors name goes first: what none has named yet makes room for it.
        find_room: asked only where caches grow.
        """
        ends = _ends(header.rows)
        known = self._held.get(header.deployment, {})
        for row in header.rows:
            if row.session in known:
                known[row.session].take = max(known[row.session].take, row.take)
        grown = [
            name
            for name, end in ends.items()
            if name not in known or known[name].rooms.get(units, 0) < end
        ]
        if not grown:
            return []
        room = self._widened(header.deployment, find_room(), known)
        if room is None or max(ends.values()) > room.context:
            return None
        growing = {name: allotted(ends[name], room.context) for name in grown}
        named = {name for name in ends if self._is_named(header.deployment, name)}
        gone = _making_room(
            known, growing, ends.keys(), units, room, may_free=named.issuperset(grown)
        )
        if gone is None:
            return None
        for name in gone:
            del known[name]
        known = self._held.setdefault(header.deployment, known)
        takes = {row.session: row.take for row in header.rows}
        for name, wanted in growing.items():
            held = known.setdefault(name, _Held(now, name in named, takes[name]))
            held.rooms[units] = wanted
        return [CloseSessions(header.deployment, tuple(gone))] if gone else []

    def takes_in(self, header: Header) -> Effects | None:
        """A copy has come for a session; None: for one that has ended, or of an earlier take.

        What is held of an earlier take was left here when the session went elsewhere, and goes.
        """
        (row,) = header.rows
        door, number = _parts(row.session)
        roll = self._called.get(header.deployment, {}).get(door)
        if roll is not None:
            named = roll.live.get(row.session)
            if row.take < named.take if named is not None else number <= roll.newest:
                return None
        held = self._held.get(header.deployment, {}).get(row.session)
        if held is None or row.take == held.take:
            return []
        return self._free(header.deployment, [row.session]) if row.take > held.take else None

    def called(self, header: Header, now: float) -> Effects:
        """A door says which of its sessions live."""
        if header.edge is None:
            return []
        known = self._held.get(header.deployment, {})
        caller = header.edge.sender
        live = {row.session: row for row in header.rows if _parts(row.session)[0] == caller}
        rolls = self._called.setdefault(header.deployment, {})
        rolls.pop(caller, None)
        rolls[caller] = _Called(now, live, header.attempt)
        if len(rolls) > DOORS_MAX:
            del rolls[next(iter(rolls))]
        gone = []
        for name, session in known.items():
            door, number = _parts(name)
            if door != caller:
                continue
            if name in live:
                session.told_at, session.named = now, True
            elif number <= header.attempt:
                gone.append(name)
        return self._free(header.deployment, gone)

    def tick(self, now: float) -> Effects:
        """Frees what no roll has named for long: its door is silent, or it never had one."""
        effects: Effects = []
        for rolls in self._called.values():
            for door in [door for door, roll in rolls.items() if now - roll.at >= SILENT_S]:
                del rolls[door]
        for deployment, known in self._held.items():
            old = [name for name, held in known.items() if now - held.told_at >= SILENT_S]
            effects += self._free(deployment, old)
        return effects

    def next_tick(self) -> float:
        """The earliest time at which a tick does anything, unless an event comes before."""
        told = (held.told_at for known in self._held.values() for held in known.values())
        return min(told, default=math.inf) + SILENT_S

    def forget(self, deployment: str) -> None:
        """Its engine is gone, and all sessions with it."""
        self._held.pop(deployment, None)
        self._called.pop(deployment, None)
        self._widest.pop(deployment, None)

    def _is_named(self, deployment: str, name: str) -> bool:
        """Whether a roll has named it, be it before it had room here."""
        held = self._held.get(deployment, {}).get(name)
        roll = self._called.get(deployment, {}).get(_parts(name)[0])
        return (held is not None and held.named) or (roll is not None and name in roll.live)

    def _free(self, deployment: str, names: list[str]) -> Effects:
        for name in names:
            del self._held[deployment][name]
        return [CloseSessions(deployment, tuple(sorted(names)))] if names else []

    def _widened(
        self, deployment: str, room: HeldRoom | None, known: Mapping[str, _Held]
    ) -> HeldRoom | None:
        """As wide as it ever was for what is held: doors let it in before limits were lowered."""
        before = self._widest.get(deployment) if known else None
        if room is not None and before is not None:
            room = room.widened(before)
        if room is not None:
            self._widest[deployment] = room
        return room


def _ends(rows: Iterable[Row]) -> dict[str, int]:
    """Positions that each session of a step is to hold then."""
    found: dict[str, int] = {}
    for row in rows:
        if row.session:
            found[row.session] = max(found.get(row.session, 0), row.position + row.tokens)
    return found


def _making_room(
    known: Mapping[str, _Held],
    growing: Mapping[str, int],
    stepping: Collection[str],
    units: UnitRange,
    room: HeldRoom,
    *,
    may_free: bool,
) -> list[str] | None:
    """Sessions to free so that `growing` fit beside the others; None: they do not all the same.

    may_free: others that no roll has named.
    """
    rooms: dict[str, Mapping[UnitRange, int]] = {name: held.rooms for name, held in known.items()}
    for name, wanted in growing.items():
        rooms[name] = {**rooms.get(name, {}), units: wanted}
    tally = Tally(rooms.values())
    unnamed = (name for name, held in known.items() if not held.named and name not in stepping)
    gone: list[str] = []
    while not room.allows(tally):
        first = next(unnamed, None) if may_free else None
        if first is None:
            return None
        tally.remove(rooms[first])
        gone.append(first)
    return gone


def _parts(session: str) -> tuple[str, int]:
    """Whose it is, and its number; 0 where it has none."""
    door, _, number = session.rpartition(".")
    return door, int(number) if number.isascii() and number.isdecimal() else 0
