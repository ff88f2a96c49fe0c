"""Who may be what its doors died of: what is known of that, and what is retained for the next door.

An input that is handed out again, for the door that had it died, is a suspect. It runs alone
(`line`), and that it does is retained at the broker first: where the door dies of it, the next one
finds the record and counts a death. A door that lives, and was only replaced, has died of nothing.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from dsi_mqtt.core.answers import Deaths
from dsi_mqtt.core.effects import Effects, WriteRecord
from dsi_mqtt.core.line import Request
from dsi_mqtt.core.peers import Member, Peers
from dsi_mqtt.core.request import Redelivery
from dsi_mqtt.core.table import Table


class Suspects:
    """Of one door. before: whose the door was until it was named; None: nobody knows."""

    def __init__(self, deployment: str, incarnation: str, peers: Peers) -> None:
        self._deployment = deployment
        self._incarnation = incarnation
        self._peers = peers
        self._deaths = Deaths()
        self.before: Member | None = None

    @property
    def any(self) -> bool:
        """Whether something is known of any input."""
        return len(self._deaths) > 0

    def of(self, key: str) -> Redelivery:
        """What is known of that input; void: nothing."""
        return self._deaths.of(key)

    # --- who is one ---------------------------------------------------------------------------

    def judge(self, request: Request, table: Table | None) -> None:
        """It is about to be admitted. table: that counts."""
        record, given = self._deaths.of(request.key), request.given
        request.deaths = max(record.count, given.deaths or 0)
        request.suspect_to = record.position
        left = given.duplicate and not self._was_handed_over(table)
        request.suspect = left or given.deaths is not None or not record.void

    def _was_handed_over(self, table: Table | None) -> bool:
        """Whether the door before lives, be it that its ingress was taken as it took too long: then
        it has not died of what it leaves.
        """
        if self.before is None or (table is not None and self.before in table.gone):
            return False
        if self._peers.has_let_go(self._deployment, self.before[1]):
            return True
        if table is None or table.door is None or table.door.orphaned:
            return False
        return self.before in self._peers.doors(self._deployment)

    def counts(self, request: Request) -> None:
        """It is about to run alone: a door that did the same, and has not let go, died of it."""
        door = self._deaths.of(request.key).door
        if door not in ("", self._incarnation):
            request.deaths += not self._peers.has_let_go(self._deployment, door)

    # --- what is retained ---------------------------------------------------------------------

    def found(self, record: Redelivery, now: float) -> Effects:
        """A record from before this door."""
        return self._cleared(self._deaths.found(record, now))

    def retain(self, request: Request, now: float) -> Effects:
        """It runs here from now on, so that the next door shall know if this one dies of it. The
        record itself is written by whoever sees to that it is.
        """
        request.recorded = True
        record = Redelivery(
            request.key, request.deaths, self._incarnation, position=request.suspect_to
        )
        return self._cleared(self._deaths.put(record, now))

    def settle(self, request: Request, now: float) -> Effects:
        """It does not run any more, and this door lives."""
        request.recorded = False
        known = self._deaths.of(request.key)
        if known.door != self._incarnation and known.count >= request.deaths:
            return []
        record = Redelivery(request.key, request.deaths, position=request.suspect_to)
        gone = self._deaths.put(record, now)
        return [*self._cleared(gone), WriteRecord(self._deployment, record)]

    def clear(self, key: str) -> Effects:
        """It has a result."""
        self._deaths.cleared(key)
        return self._cleared([key])

    def forget(self) -> Effects:
        """Nobody will ask: what is retained goes with the deployment."""
        return self._cleared(self._deaths.clear())

    def tidy(self, now: float, age_s: float, held: Container[str]) -> Effects:
        """What nobody has repeated for so long, and is not held, is forgotten."""
        unused = [key for key in self._deaths.unused(now, age_s) if key not in held]
        return [effect for key in unused for effect in self.clear(key)]

    def _cleared(self, keys: Iterable[str]) -> Effects:
        """Nothing is retained of these any more."""
        return [WriteRecord(self._deployment, Redelivery(key, 0)) for key in keys]
