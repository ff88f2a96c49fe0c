"""Devices that have promised to speak while they wait for a generation, and which do not.

Only silence that the door could have heard counts. While its connection is away, or its process
stood still, it hears nobody; after a broker's absence devices need a while to be back, too. And a
broker may stand still with all connections open: so before a promise counts as broken, the door
sends itself an *echo* by the way that devices' words come, and hears it soon.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

# Of a state machine that is ticked many times as often.
STOOD_STILL_S: Final = 0.5
# A client's longest pause before it connects again, and a little.
BACK_S: Final = 4.0
# From an echo to the next one, and the way that an echo may take where devices are heard.
ECHO_S: Final = 0.5
ECHO_SLOW_S: Final = 0.5


@dataclass(slots=True)
class _Promise:
    device: str
    alive_s: float
    until: float


class Promises:
    """By the id of the input that waits."""

    def __init__(self) -> None:
        self._made: dict[bytes, _Promise] = {}
        self._hears = True
        self._ticked_at: float | None = None
        self._asked_at = -math.inf
        self._proven_at = -math.inf

    def made(self, id_: bytes, device: str, alive_s: float, now: float) -> None:
        """The device will speak every `alive_s` at least."""
        self._made[id_] = _Promise(device, alive_s, now + alive_s)

    def over(self, id_: bytes) -> None:
        """Nothing is waited for any more."""
        self._made.pop(id_, None)

    def spoke(self, device: str, now: float) -> None:
        for promise in self._made.values():
            if promise.device == device:
                promise.until = now + promise.alive_s

    def hearing(self, *, hears: bool) -> None:
        """Whether the door hears what devices say."""
        self._hears = hears

    def proven(self, asked_at: float, now: float) -> None:
        """The echo that was asked for then has come."""
        if now - asked_at > ECHO_SLOW_S:
            self._extend(now, BACK_S)
        else:
            self._proven_at = max(self._proven_at, asked_at)

    def asks(self, now: float) -> bool:
        """Whether an echo is to be sent now: somebody is overdue."""
        if not self._hears or now < self._asked_at + ECHO_S:
            return False
        if all(now < promise.until for promise in self._made.values()):
            return False
        self._asked_at = now
        return True

    def broken(self, now: float) -> list[bytes]:
        """The inputs whose device is silent though it would be heard. To be asked all the time."""
        before, self._ticked_at = self._ticked_at, now
        if not self._hears:
            self._extend(now, BACK_S)
        elif before is not None and now - before > STOOD_STILL_S:
            self._extend(now, 0.0)
        heard = min(now, self._proven_at)
        return [id_ for id_, promise in self._made.items() if promise.until <= heard]

    def _extend(self, now: float, seconds: float) -> None:
        """Nobody's silence up to now counts."""
        for promise in self._made.values():
            promise.until = max(promise.until, now + promise.alive_s + seconds)
