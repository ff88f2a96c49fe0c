"""Virtual time: what is to happen, in the order of its time and then of its being said."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any, Final

# Machines are ticked on one grid, as a process ticks every 50 ms.
TICKS_PER_S: Final = 20


class Clock:
    """The queue of events. `now` is in seconds, from 0."""

    def __init__(self) -> None:
        self.now = 0.0
        self.happened = 0
        self._due: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._number = 0

    def at(self, time: float, act: Callable[..., object], *given: object) -> None:
        """`act(*given)` at `time`, or now where that has passed; never, where it is infinite."""
        if time == math.inf:
            return
        self._number += 1
        heapq.heappush(self._due, (max(time, self.now), self._number, act, given))

    def after(self, seconds: float, act: Callable[..., object], *given: object) -> None:
        self.at(self.now + seconds, act, *given)

    def run(self, until: float) -> None:
        """Lets everything happen that is due until then, `until` included."""
        due = self._due
        while due and due[0][0] <= until:
            self.now, _, act, given = heapq.heappop(due)
            self.happened += 1
            act(*given)
        self.now = until


def tick_behind(time: float) -> int:
    """Number of the first tick after `time`."""
    return math.floor(time * TICKS_PER_S) + 1


def tick_not_before(time: float) -> int:
    """Number of the first tick at `time` or after it."""
    number = math.ceil(time * TICKS_PER_S)
    return number if number / TICKS_PER_S >= time else number + 1
