"""More comes than can be served: who is refused, how early, and what it is told.

An input is refused when it comes, not at its deadline, where it is clear that its turn comes too
late. How long that takes is known only from how fast others went while some waited; as long as
that is not measured nobody is refused for it. And where as much waits as may, the device that has
most of it waiting loses its newest, whoever came last.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Final

from dsi_mqtt.core.deployment import InputLimits
from dsi_mqtt.core.message import RETRY_AFTER_MAX_S, Failure, Priority
from dsi_mqtt.core.request import Input
from dsi_mqtt.core.sizes import MIB

# Of inputs that wait for their turn. The connection that they come by holds more, so that there is
# room for those that are being refused.
WAITING_BYTES_MAX: Final = 48 * MIB
# By how much a wait must be over what an input has, for it is an estimate.
CLEARLY: Final = 1.25
# Times that the estimate is made of: at least, and at most, the newest.
TIMES_MIN: Final = 32
TIMES_MAX: Final = 128


def priority_of(given: Input, limits: InputLimits) -> Priority:
    """What an input is treated as. High is for devices that the deployment names."""
    asked = given.parsed.priority
    if asked == "high" and not any(fnmatchcase(given.device, name) for name in limits.high):
        return "normal"
    return asked


class Pace:
    """How fast inputs are served while others wait: the seconds between two that are through."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=TIMES_MAX)
        self._since: float | None = None

    def clear(self) -> None:
        """Another chain serves."""
        self._seconds.clear()
        self._since = None

    def interrupted(self) -> None:
        """Until the next one is through, time says nothing."""
        self._since = None

    def through(self, now: float, *, others_wait: bool) -> None:
        """One is. others_wait: so that what comes next has been served without a pause."""
        if self._since is not None:
            self._seconds.append(now - self._since)
        self._since = now if others_wait else None

    @property
    def each_s(self) -> float | None:
        """None while it is not known."""
        if len(self._seconds) < TIMES_MIN:
            return None
        return math.fsum(self._seconds) / len(self._seconds)

    def refuses(self, ahead: Callable[[], int], waiting: int, left_s: float) -> Failure | None:
        """What an input is told whose turn comes too late.

        ahead: how many come before it, of all that wait. left_s: that it has.
        """
        each_s = self.each_s
        if each_s is None or waiting * each_s <= left_s * CLEARLY:
            return None
        wait_s = ahead() * each_s
        if wait_s <= left_s * CLEARLY:
            return None
        sentence = (
            f"its turn would come in about {wait_s:.3g} s, and it has {left_s:.3g}; "
            "send less at a time, or later"
        )
        return Failure("overloaded", sentence, _whole_s(wait_s - left_s))

    def full(self, own: int) -> Failure:
        """What an input is told for which there is no room. own: that its device has waiting."""
        sentence = (
            f"too many inputs wait, and of none as many as of this device ({own}); "
            "send less at a time, or later"
        )
        retry = None if self.each_s is None else _whole_s(own * self.each_s)
        return Failure("overloaded", sentence, retry)


def _whole_s(seconds: float) -> int:
    return min(RETRY_AFTER_MAX_S, max(1, math.ceil(seconds)))
