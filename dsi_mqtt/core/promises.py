"""Devices that have promised to speak while they wait for a generation, and which do not.

Only silence that the door could have heard counts. While its connection is away, or its process
stood still, it hears nobody; after a broker's absence devices need a while to be back, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Of a state machine that is ticked many times as often.
STOOD_STILL_S: Final = 0.5
# A client's longest pause before it connects again, and a little.
BACK_S: Final = 4.0


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

    def broken(self, now: float) -> list[bytes]:
        """The inputs whose device is silent. To be asked all the time."""
        before, self._ticked_at = self._ticked_at, now
        if not self._hears:
            self._extend(now, BACK_S)
        elif before is not None and now - before > STOOD_STILL_S:
            self._extend(now, 0.0)
        return [id_ for id_, promise in self._made.items() if promise.until <= now]

    def _extend(self, now: float, seconds: float) -> None:
        """Nobody's silence up to now counts."""
        for promise in self._made.values():
            promise.until = max(promise.until, now + promise.alive_s + seconds)
