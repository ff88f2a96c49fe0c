"""What a message says of the link that it passed: a rate that lies within bounds.

A message is on its way for as long as the link needs for it, and while TCP waits for word from the
other end before it sends on: it begins with `FLIGHT_BYTES`, and twice as much each round trip. What
was sent shortly before has left that window wide, all but once (RFC 2861, as Linux does it: halved
in each retransmission timeout of silence). So the link carries at least what the message took in
all, and at most what it took besides those waits. Where those alone may be why, nothing follows
but the lower bound.

Of the way up a *mark* tells it: a beat that was sent right behind the message is back when that has
left. What it took is counted from when the message was given to the socket, or when the one before
had left it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from dsi_mqtt.core.probes import FLIGHT_BYTES
from dsi_mqtt.core.sizes import KIB

# A message of less says little: noise is a larger part of what it takes.
PASSING_BYTES: Final = 4 * KIB
# After so long without one, TCP begins anew.
QUIET_S: Final = 1.0
# Marks that never come back are forgotten when there are so many.
OUT_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Passed:
    """nbytes took so many seconds. warm: one went that way shortly before."""

    nbytes: int
    seconds: float
    warm: bool

    def bounds(self, rtt_s: float, noise_s: float) -> tuple[float, float]:
        """Bytes a second: at least and at most. noise_s: what may have other reasons."""
        waits = rounds(self.nbytes)
        if self.warm:
            waits = min(1, waits)
        spent = self.seconds - waits * rtt_s - noise_s
        seconds = max(self.seconds, noise_s)
        return self.nbytes / seconds, self.nbytes / spent if spent > 0 else math.inf


def rounds(nbytes: int) -> int:
    """How often TCP waits for word from the other end, when it begins with so many bytes."""
    return max(0, math.ceil(math.log2(nbytes / FLIGHT_BYTES + 1)) - 1)


@dataclass(frozen=True, slots=True)
class _Mark:
    at: float
    nbytes: int
    warm: bool


class Marks:
    """Beats that were sent right behind messages, by their numbers."""

    def __init__(self) -> None:
        self._out: dict[int, _Mark] = {}
        self._left_at = -math.inf  # when the newest message of which that is known had left
        self._given_at = -math.inf
        self._hidden = False  # a message went without a mark, and may be waited for

    def __len__(self) -> int:
        return len(self._out)

    def __contains__(self, number: int) -> bool:
        return number in self._out

    def sent(self, number: int | None, nbytes: int, began: float, now: float) -> None:
        """Behind a message of so many bytes, begun at `began`; None: it has no mark."""
        warm = now - self._given_at < QUIET_S
        self._given_at = now
        if number is None:
            self._hidden = True
        else:
            # What was hidden is out of the way when this one's mark is back.
            nbytes, self._hidden = (0 if self._hidden else nbytes), False
            self._out[number] = _Mark(began, nbytes, warm)
            if len(self._out) > OUT_MAX:
                del self._out[next(iter(self._out))]

    def back(self, number: int, now: float, usual_s: float) -> Passed | None:
        """A mark is back, of which one without anything before it takes `usual_s`.

        None: it tells nothing, for it may have waited behind what had no mark.
        """
        mark = self._out.pop(number)
        left_at = now - usual_s
        seconds = left_at - max(mark.at, self._left_at)
        self._left_at = max(self._left_at, left_at)
        return Passed(mark.nbytes, max(0.0, seconds), mark.warm) if mark.nbytes else None

    def forget(self, number: int) -> None:
        """It took so long that nobody waits for it any more."""
        self._out.pop(number, None)

    def lost(self) -> None:
        self._out.clear()
        self._hidden = False
