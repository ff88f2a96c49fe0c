"""The right to an ingress: who may hold the durable MQTT session of a deployment.

The session has a fixed client id, and a broker gives it to whoever connects last. Two doors that
both reconnect would take it from each other for ever. So losing the connection is losing the
right: nobody reconnects before a nonce sent to oneself through the control connection has come
back (the control broker is there, and hears us) and the table still names this incarnation.

    absent ──(table names us)──► waiting ──(no other holds it, is gone, or time is up)──► opening
    opening ──opened──► open ──lost──► proving ──(nonce back)──► opening
       └──lost: the nonce goes out a second later──► proving
    open ──(is to hold more or less, and no answer is on its way)──► opening
    any ──(named no more, nothing held)──► absent
    opening, open ──(named no more, requests held)──► the same, but lost ──► absent
    open ──(another is named, nothing held)──► the same, until that takes it: lost ──► absent
"""

from __future__ import annotations

import math
from typing import Final, Literal

from dsi_mqtt.core.effects import (
    CloseIngress,
    EchoNonce,
    Effects,
    OpenAnswers,
    OpenIngress,
    ReportStatus,
)
from dsi_mqtt.core.table import DoorPlace

HAND_OVER_S: Final = 5.0
PROVE_S: Final = 1.0
# How long an ingress that is to hold more waits for a moment in which no answer is on its way.
CALM_S: Final = 5.0

State = Literal["absent", "waiting", "opening", "open", "proving"]


class Ingress:
    """State machine of one deployment's ingress on one node.

    hold_count, hold_bytes: what the connection may hold unacknowledged.
    """

    def __init__(self, deployment: str, hold_count: int, hold_bytes: int) -> None:
        self._deployment = deployment
        self._hold = (hold_count, hold_bytes)
        self._door: DoorPlace | None = None
        self._session: tuple[str, str] | None = None
        self._held_elsewhere = False
        self._due = 0.0
        self._anew_by = math.inf
        self._lets_go = False
        self.state: State = "absent"

    @property
    def is_open(self) -> bool:
        return self.state == "open"

    @property
    def is_held(self) -> bool:
        """Open, and not for another to take."""
        return self.is_open and not self._lets_go

    @property
    def waits(self) -> bool:
        return self.state == "waiting"

    @property
    def is_connected(self) -> bool:
        return self.state in ("opening", "open")

    def named(self, door: DoorPlace, now: float) -> Effects:
        """The serving table names this node and incarnation."""
        self._door, self._lets_go = door, False
        if self.is_other_than(door):  # the session has another name or place now
            former: Effects = [CloseIngress(self._deployment, forget=True)]
            self._session = None
            return [*former, *(self._open() if self.is_connected else [])]
        begins = self.state == "absent"
        if begins:
            self.state = "waiting"
            self._due = now + HAND_OVER_S
        if self.state == "waiting" and door.orphaned:
            self._due = now
        opens = self._open_if_free(now)
        # What the door before passes on is answered meanwhile.
        return opens if opens or not begins else [OpenAnswers(self._deployment, door)]

    def is_other_than(self, door: DoorPlace) -> bool:
        """Whether it was opened, and as another session: that one gets every input as well, and
        nobody will read them.
        """
        return self._session not in (None, (door.ingress, door.session))

    def is_left_behind(self, door: DoorPlace) -> bool:
        """Whether `door`, another node's, has another session than was opened here. By its name
        alone: the broker's address is that by which the other node reaches it.
        """
        return self._session is not None and self._session[1] != door.session

    def holds(self, count: int, now: float) -> None:
        """So many inputs it is to hold from now on, which a connection is told when it begins."""
        if count != self._hold[0]:
            self._hold = (count, self._hold[1])
            self._anew_by = now + CALM_S if self.is_connected else math.inf

    def anew(self, now: float, *, calm: bool) -> Effects:
        """Opens it again, if it is to hold more or less. What it holds comes once more, and is
        known. calm: no answer is on its way: what has one meanwhile would be new when it comes.
        """
        if self._door is None or not self.is_connected or self._anew_by == math.inf:
            return []
        return self._open() if calm or self._anew_by <= now else []

    def finishing(self) -> None:
        """Named no more: what is connected stays until another takes it, nothing is sought."""
        self._door = None
        if self.state in ("waiting", "proving"):
            self.state = "absent"

    def lets_go(self, lets_go: bool, /) -> Effects:
        """Whether another may take it, while it stays open here."""
        before, self._lets_go = self._lets_go, lets_go
        return [] if before == lets_go else [ReportStatus()]

    def not_named(self, *, forget: bool) -> Effects:
        """Another door, or none, is named. `forget` ends the session at the broker."""
        self._door, self.state = None, "absent"
        return [CloseIngress(self._deployment, forget=forget)]

    def held_elsewhere(self, held: bool, now: float) -> Effects:
        """Whether another live node reports that it has this ingress open."""
        self._held_elsewhere = held
        return self._open_if_free(now)

    def opened(self) -> Effects:
        if self.is_connected:
            self.state = "open"
            return []
        return [CloseIngress(self._deployment, forget=False)]

    def lost(self, now: float) -> Effects:
        """The connection ended, or could not be opened."""
        if not self.is_connected:
            return []
        if self._door is None:
            self.state = "absent"
            return []
        had_it = self.state == "open"
        self.state = "proving"
        self._due = now + PROVE_S
        # A broker that refuses the session, but answers on control, must not be asked in a loop.
        return [EchoNonce(self._deployment)] if had_it else []

    def nonce_returned(self) -> Effects:
        return self._open() if self.state == "proving" else []

    def tick(self, now: float) -> Effects:
        if self.state == "proving" and self._due <= now:
            self._due = now + PROVE_S
            return [EchoNonce(self._deployment)]
        return self._open_if_free(now)

    def next_tick(self) -> float:
        """The earliest time at which a tick does anything, unless an event comes before."""
        if self._anew_by < math.inf and self.is_connected:
            return -math.inf
        return self._due if self.state in ("waiting", "proving") else math.inf

    def _open_if_free(self, now: float) -> Effects:
        if self.state != "waiting" or (self._held_elsewhere and now < self._due):
            return []
        return self._open()

    def _open(self) -> Effects:
        if self._door is None:
            return []
        self.state, self._anew_by = "opening", math.inf
        self._session = (self._door.ingress, self._door.session)
        return [OpenIngress(self._deployment, self._door, *self._hold)]
