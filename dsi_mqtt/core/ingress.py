"""The right to an ingress: who may hold the durable MQTT session of a deployment.

The session has a fixed client id, and a broker gives it to whoever connects last. Two doors that
both reconnect would take it from each other for ever. So losing the connection is losing the
right: nobody reconnects before a nonce sent to oneself through the control connection has come
back (the control broker is there, and hears us) and the table still names this incarnation.

    absent ──(table names us)──► waiting ──(no other door holds it, or time is up)──► opening
    opening ──opened──► open ──lost──► proving ──(nonce back, still named)──► opening
       └──failed──► proving                └──(named no more)──► absent
"""

from __future__ import annotations

from typing import Final, Literal

from dsi_mqtt.core.effects import CloseIngress, EchoNonce, Effects, OpenIngress
from dsi_mqtt.core.table import Door

HAND_OVER_S: Final = 5.0
PROVE_S: Final = 1.0

State = Literal["absent", "waiting", "opening", "open", "proving"]


class Ingress:
    """State machine of one deployment's ingress on one node."""

    def __init__(self, deployment: str, hold_count: int, hold_bytes: int) -> None:
        self._deployment = deployment
        self._hold = (hold_count, hold_bytes)
        self._door: Door | None = None
        self._held_elsewhere = False
        self._due = 0.0
        self.state: State = "absent"

    @property
    def is_open(self) -> bool:
        return self.state == "open"

    def named(self, door: Door, now: float) -> Effects:
        """The serving table names this node and incarnation."""
        moved = self._door is not None and self._door != door and self.state != "absent"
        self._door = door
        if moved:
            self.state = "waiting"
            self._due = now
            return [CloseIngress(self._deployment, forget=False), *self._open_if_free(now)]
        if self.state == "absent":
            self.state = "waiting"
            self._due = now + HAND_OVER_S
        return self._open_if_free(now)

    def not_named(self, *, forget: bool) -> Effects:
        """Another door, or none, is named. `forget` ends the session at the broker."""
        if self.state == "absent":
            return []
        self.state = "absent"
        return [CloseIngress(self._deployment, forget=forget)]

    def held_elsewhere(self, held: bool, now: float) -> Effects:
        """Whether another live node reports that it has this ingress open."""
        self._held_elsewhere = held
        return self._open_if_free(now)

    def opened(self) -> Effects:
        if self.state == "opening":
            self.state = "open"
            return []
        return [CloseIngress(self._deployment, forget=False)]

    def lost(self, now: float) -> Effects:
        """The connection ended, or could not be opened."""
        if self.state not in ("opening", "open"):
            return []
        self.state = "proving"
        self._due = now + PROVE_S
        return [EchoNonce(self._deployment)]

    def nonce_returned(self) -> Effects:
        return self._open() if self.state == "proving" else []

    def tick(self, now: float) -> Effects:
        if self.state == "proving" and self._due <= now:
            self._due = now + PROVE_S
            return [EchoNonce(self._deployment)]
        return self._open_if_free(now)

    def _open_if_free(self, now: float) -> Effects:
        if self.state != "waiting" or (self._held_elsewhere and now < self._due):
            return []
        return self._open()

    def _open(self) -> Effects:
        if self._door is None:
            return []
        self.state = "opening"
        return [OpenIngress(self._deployment, self._door, *self._hold)]
