"""Leases of caches: a door calls out the roll of sessions that live, and nodes free the others.

A session's name is the incarnation of its door's node and a number that grows while that lives,
so that a node can tell whose it is, and a roll says up to which number it is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.effects import CloseSessions, Effects, Transmit
from dsi_mqtt.core.message import Activation, EdgeMark, Header
from dsi_mqtt.core.peers import Member
from dsi_mqtt.core.table import DOOR, Replica, Table

CALL_S: Final = 1.0
CALL_SOON_S: Final = 0.5
SILENT_S: Final = 10.0


def session_name(incarnation: str, number: int) -> str:
    return f"{incarnation}.{number}"


# Rows of sessions, and the tables whose nodes may hold something of them.
Living = tuple[tuple[Row, ...], Collection[Table]]


class Roll:
    """The door's side. changed: a session has ended since it was called out.

    numbers: of sessions; they must not come again in this incarnation, even in another door.
    """

    def __init__(self, deployment: str, door: Member, numbers: Iterator[int]) -> None:
        self._deployment = deployment
        self._door = door
        self._numbers = numbers
        self._called_at = float("-inf")
        self._quiet_from = float("-inf")
        self.changed = False
        self.newest = 0

    def name_next(self) -> str:
        """The name of a session that begins now."""
        self.newest = next(self._numbers)
        return session_name(self._door[1], self.newest)

    def tick(self, living: Callable[[], Living], now: float) -> Effects:
        """Calls it out to every node, when it is time; goes on a while after the last ended.

        living: the sessions and the tables they are on; asked only when it is time.
        """
        since = now - self._called_at
        if since < (CALL_SOON_S if self.changed else CALL_S):
            return []
        rows, tables = living()
        if rows or self.changed:
            self._quiet_from = now + SILENT_S
        if now > self._quiet_from:
            return []
        self._called_at, self.changed = now, False
        return [
            Transmit(replica.node, Activation(self._header(table, segment, replica, rows)))
            for table, segment, replica in _one_each(tables)
        ]

    def _header(
        self, table: Table, segment: str, replica: Replica, rows: tuple[Row, ...]
    ) -> Header:
        return Header(
            "state",
            self._deployment,
            table.stamp,
            DOOR,
            segment,
            attempt=self.newest,
            door=self._door[0],
            rows=rows,
            edge=EdgeMark(self._door[1], replica.incarnation, 0, 0),
        )


def _one_each(tables: Collection[Table]) -> list[tuple[Table, str, Replica]]:
    """Each node once: what it holds of a session belongs to no segment."""
    found = {}
    for table in sorted(tables, key=lambda table: table.stamp):
        for segment in table.segments:
            for replica in segment.replicas:
                found[replica.node] = (table, segment.id, replica)
    return list(found.values())


@dataclass(slots=True)
class _Door:
    heard_at: float
    sessions: set[str] = field(default_factory=set)


class HeldSessions:
    """The node's side: the sessions its engines may hold, by deployment and their doors."""

    def __init__(self) -> None:
        self._doors: dict[tuple[str, str], _Door] = {}

    def counts(self) -> dict[str, int]:
        """How many there are of each deployment that has had any."""
        found: dict[str, int] = {}
        for (deployment, _), door in self._doors.items():
            found[deployment] = found.get(deployment, 0) + len(door.sessions)
        return found

    def begun(self, deployment: str, rows: Iterable[Row], now: float) -> None:
        """A step is about to be computed."""
        for row in rows:
            if row.session:
                key = (deployment, row.session.rpartition(".")[0])
                door = self._doors.setdefault(key, _Door(now))
                door.heard_at = now
                door.sessions.add(row.session)

    def called(self, header: Header, now: float) -> Effects:
        """A door says which of its sessions live."""
        if header.edge is None:
            return []
        door = self._doors.get((header.deployment, header.edge.sender))
        if door is None:
            return []
        door.heard_at = now
        live = {row.session for row in header.rows}
        gone = {name for name in door.sessions - live if _number(name) <= header.attempt}
        door.sessions -= gone
        return [CloseSessions(header.deployment, tuple(sorted(gone)))] if gone else []

    def tick(self, now: float) -> Effects:
        """Frees what belongs to doors that are silent."""
        effects: Effects = []
        for key, door in list(self._doors.items()):
            if now - door.heard_at >= SILENT_S:
                del self._doors[key]
                if door.sessions:
                    effects.append(CloseSessions(key[0], tuple(sorted(door.sessions))))
        return effects

    def forget(self, deployment: str) -> None:
        """Its engine is gone, and all sessions with it."""
        self._doors = {key: door for key, door in self._doors.items() if key[0] != deployment}


def _number(session: str) -> int:
    number = session.rpartition(".")[2]
    return int(number) if number.isascii() and number.isdecimal() else 0
