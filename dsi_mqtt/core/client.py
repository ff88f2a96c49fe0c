"""The client's side of delivery: an input is kept until its answer, and sent again until then.

A PUBACK proves nothing (a broker acknowledges what it drops, and forgets when it is killed), so
an unanswered input is sent again with the same id: after every connection, and at growing
intervals. The door answers a repeated id from memory, and answers that come twice end here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RESEND_FIRST_S: Final = 2.0
RESEND_FACTOR: Final = 2.0
RESEND_MAX_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class SendInput:
    """Publish the input of this id (again). Not acknowledged is not an error."""

    id: bytes


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The deadline has passed without an answer."""

    id: bytes


ClientEffects = list[SendInput | GiveUp]


@dataclass(slots=True)
class _Pending:
    deadline: float
    resend_at: float
    wait_s: float
    sent: bool


class PendingInputs:
    """State machine of all inputs without an answer. Ids are 16 random bytes."""

    def __init__(self) -> None:
        self._pending: dict[bytes, _Pending] = {}
        self._connected = False
        self.resent = 0
        self.repeated_answers = 0

    def __len__(self) -> int:
        return len(self._pending)

    def submitted(self, id_: bytes, deadline: float, now: float) -> ClientEffects:
        self._pending[id_] = _Pending(
            deadline, now + RESEND_FIRST_S, RESEND_FIRST_S, sent=self._connected
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
        return effects

    def disconnected(self) -> None:
        self._connected = False

    def answered(self, id_: bytes) -> bool:
        """True for the first answer of an input; a later one is counted and dropped."""
        if self._pending.pop(id_, None) is not None:
            return True
        self.repeated_answers += 1
        return False

    def withdrawn(self, id_: bytes) -> None:
        """The caller no longer waits."""
        self._pending.pop(id_, None)

    def tick(self, now: float) -> ClientEffects:
        effects: ClientEffects = []
        for id_, pending in list(self._pending.items()):
            if pending.deadline <= now:
                del self._pending[id_]
                effects.append(GiveUp(id_))
            elif self._connected and pending.resend_at <= now:
                pending.wait_s = min(pending.wait_s * RESEND_FACTOR, RESEND_MAX_S)
                pending.resend_at = now + pending.wait_s
                self.resent += 1
                effects.append(SendInput(id_))
        return effects
