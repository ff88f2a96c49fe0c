"""The client's side of delivery: an input is kept until its answer, and sent again until then.

A PUBACK proves nothing (a broker acknowledges what it drops, and forgets when it is killed), so
an unanswered input is sent again with the same id: after every connection, and at growing
intervals. The door answers a repeated id from memory, and answers that come twice end here.

A *generation* runs for long and can be cancelled: nobody reads on when its caller leaves, so the
cancel is sent until it is answered, or long enough. While any runs, its door is told at every
`ALIVE_EVERY_S` that this device lives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

RESEND_FIRST_S: Final = 2.0
RESEND_FACTOR: Final = 2.0
RESEND_MAX_S: Final = 15.0
CANCEL_EVERY_S: Final = 1.0
CANCEL_FOR_S: Final = 10.0
ALIVE_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class SendInput:
    """Publish the input of this id (again). Not acknowledged is not an error."""

    id: bytes


@dataclass(frozen=True, slots=True)
class Abandon:
    """The deadline has passed without an answer."""

    id: bytes


@dataclass(frozen=True, slots=True)
class SendCancel:
    """Publish (again) that the generation of this id is wanted no more."""

    id: bytes
    deployment: str


@dataclass(frozen=True, slots=True)
class SendAlive:
    """Publish that this device lives and waits for tokens."""

    deployment: str


ClientEffect = SendInput | Abandon | SendCancel | SendAlive
ClientEffects = list[ClientEffect]


@dataclass(slots=True)
class _Pending:
    """generates: the deployment, of a generation."""

    deadline: float
    resend_at: float
    wait_s: float
    sent: bool
    generates: str | None


@dataclass(slots=True)
class _Leaving:
    deployment: str
    until: float
    resend_at: float


class PendingInputs:
    """State machine of all inputs without an answer. Ids are 16 random bytes."""

    def __init__(self) -> None:
        self._pending: dict[bytes, _Pending] = {}
        self._leaving: dict[bytes, _Leaving] = {}
        self._connected = False
        self._alive_at = 0.0
        self.resent = 0
        self.repeated_answers = 0

    def __len__(self) -> int:
        return len(self._pending)

    def submitted(
        self, id_: bytes, deadline: float, now: float, *, generates: str | None = None
    ) -> ClientEffects:
        """generates: the deployment, where the input asks for a generation."""
        self._pending[id_] = _Pending(
            deadline, now + RESEND_FIRST_S, RESEND_FIRST_S, self._connected, generates
        )
        return [SendInput(id_)] if self._connected else []

    def connected(self, now: float) -> ClientEffects:
        """What was on its way may be lost: everything goes out again."""
        self._connected = True
        effects: ClientEffects = []
        for id_, pending in self._pending.items():
            pending.wait_s = RESEND_FIRST_S
            pending.resend_at = now + pending.wait_s
            self.resent += pending.sent
            pending.sent = True
            effects.append(SendInput(id_))
        self._alive_at = now
        for leaving in self._leaving.values():
            leaving.resend_at = now
        return effects + self.tick(now)

    def disconnected(self) -> None:
        self._connected = False

    def heard(self, id_: bytes, now: float) -> None:
        """Something came of this input: its door has it, and sending it again may wait."""
        pending = self._pending.get(id_)
        if pending is not None:
            pending.resend_at = now + pending.wait_s

    def answered(self, id_: bytes) -> bool:
        """True for the first answer of an input; a later one is counted and dropped."""
        if self._leaving.pop(id_, None) is not None:
            return False
        if self._pending.pop(id_, None) is not None:
            return True
        self.repeated_answers += 1
        return False

    def left(self, id_: bytes, now: float) -> ClientEffects:
        """The caller no longer waits. The door of a generation is to know."""
        pending = self._pending.pop(id_, None)
        return [] if pending is None else self._leave(id_, pending, now)

    def tick(self, now: float) -> ClientEffects:
        effects: ClientEffects = []
        for id_, pending in list(self._pending.items()):
            if pending.deadline <= now:
                del self._pending[id_]
                effects += [Abandon(id_), *self._leave(id_, pending, now)]
            elif self._connected and pending.resend_at <= now:
                pending.wait_s = min(pending.wait_s * RESEND_FACTOR, RESEND_MAX_S)
                pending.resend_at = now + pending.wait_s
                self.resent += 1
                effects.append(SendInput(id_))
        for id_, leaving in list(self._leaving.items()):
            if leaving.until <= now:
                del self._leaving[id_]
            elif self._connected and leaving.resend_at <= now:
                leaving.resend_at = now + CANCEL_EVERY_S
                effects.append(SendCancel(id_, leaving.deployment))
        return effects + self._alive(now)

    def next_tick(self) -> float:
        """The earliest time at which a tick does anything, unless something else comes before."""
        due = [pending.deadline for pending in self._pending.values()]
        if self._connected:
            due += [pending.resend_at for pending in self._pending.values()]
            due += [leaving.resend_at for leaving in self._leaving.values()]
            if any(pending.generates for pending in self._pending.values()):
                due.append(self._alive_at)
        due += [leaving.until for leaving in self._leaving.values()]
        return min(due, default=math.inf)

    def _leave(self, id_: bytes, pending: _Pending, now: float) -> ClientEffects:
        if pending.generates is None or not pending.sent:
            return []
        self._leaving[id_] = _Leaving(pending.generates, now + CANCEL_FOR_S, now + CANCEL_EVERY_S)
        return [SendCancel(id_, pending.generates)] if self._connected else []

    def _alive(self, now: float) -> ClientEffects:
        if not self._connected or now < self._alive_at:
            return []
        self._alive_at = now + ALIVE_EVERY_S
        running = {pending.generates for pending in self._pending.values() if pending.generates}
        return [SendAlive(deployment) for deployment in sorted(running)]
