"""When which bytes of a link are at its other end: a queue, a rate and a distance.

What is taken in stands in a short queue, like a modem's, whose head crosses at the link's rate, and
is at the other end half a round trip later, in order. All connections over the link share both of
its ways. Bytes move in *cells* of a quarter of a millisecond, so that a message is there when its
last byte is, and a stream comes evenly.

Times are seconds since the link began: whole ones are the seconds of its trace.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from dsi_mqtt.core.sizes import KIB
from dsi_mqtt.sim.links import Figures, Link
from dsi_mqtt.sim.traces import Trace

# What stands in front of a way before its senders have to wait.
QUEUE_BYTES: Final = 32 * KIB
# What goes at once: what crosses in so long. Not a packet, which takes 6 ms at 2 Mbit/s: of two
# messages that came together the first would be there no sooner than much of the second.
CELL_BYTES: Final = 32
CELL_S: Final = 0.00025
# So much of what was missed, where a sender was held up and nobody woke in time, is made up for.
LATE_S: Final = 0.05

Far = TypeVar("Far")


class Course:
    """What a link is like at any time. factor: of its rate; 0: nothing crosses.

    Whoever changes it lets both ways advance to that time first.
    """

    def __init__(self, figures: Figures, trace: Trace | None = None, offset_s: int = 0) -> None:
        self.figures = figures
        self.factor = 1.0
        self._trace = trace
        self._offset_s = offset_s
        self._link = Link(figures, trace, offset_s)

    def shape(self, figures: Figures) -> None:
        """Other figures from now on; a trace still counts in their place."""
        self.figures = figures
        self._link = Link(figures, self._trace, self._offset_s)

    def byte_s(self, *, up: bool, at: float) -> tuple[float, float]:
        """Bytes a second of one way, and until when it has that rate."""
        own = self.figures.up_mbit_s if up else self.figures.down_mbit_s
        rate, until = self._link.rate(own, at)
        return rate * self.factor / 8, until

    def delay_s(self, at: float) -> float:
        return self._link.rtt_s(at) / 2


@dataclass(slots=True)
class _Cell(Generic[Far]):
    """left: bytes that have yet to cross. No data: the sender's end, which crosses like a byte."""

    far: Far
    data: memoryview
    left: float


class Way(Generic[Far]):
    """One direction of a link. `Far`: whatever stands for who is to have the bytes.

    Invariants: what is taken arrives once, whole and in order, unless it is forgotten; `now` never
    goes back by more than what an `arrived` looked ahead.
    """

    def __init__(self, course: Course, *, up: bool, queue_bytes: int = QUEUE_BYTES) -> None:
        self._course = course
        self._up = up
        self._queue_bytes = queue_bytes
        self._queue: deque[_Cell[Far]] = deque()
        self._flight: deque[tuple[float, _Cell[Far]]] = deque()
        self._queued = 0
        self._at = 0.0  # until when the head of the queue was moved on
        self._arrival = 0.0

    @property
    def room(self) -> int:
        """Bytes that may be taken in."""
        return max(0, self._queue_bytes - self._queued)

    def take(self, far: Far, data: bytes, now: float, *, held_up: bool = False) -> None:
        """Bytes enter the queue; none are the end of a sender, which has its turn like bytes.

        held_up: they would have come earlier had there been room, so that the way was never idle.
        """
        self.advance(now)
        if not self._queue:
            self._at = max(self._at, now - LATE_S if held_up else now)
        size = self._cell_bytes()
        whole = memoryview(data)
        for first in range(0, max(1, len(whole)), size):
            piece = whole[first : first + size]
            self._queue.append(_Cell(far, piece, float(max(1, len(piece)))))
        self._queued += len(whole)

    def arrived(self, now: float) -> list[tuple[Far, memoryview]]:
        """What has come to the other end by `now`, in order."""
        self.advance(now)
        found = []
        while self._flight and self._flight[0][0] <= now:
            _, cell = self._flight.popleft()
            found.append((cell.far, cell.data))
        return found

    def advance(self, now: float) -> None:
        """Lets what stands in the queue cross as far as it gets by `now`."""
        while self._queue and self._at <= now:
            rate, crossed, until = self._head()
            end = min(now, until)
            if crossed <= end:
                self._at = crossed
                self._cross(self._queue.popleft())
                continue
            self._queue[0].left -= rate * (end - self._at)
            self._at = end
            if end == now:
                break

    def next_at(self) -> float | None:
        """When something crosses or arrives next, or the rate changes before; None: never."""
        times = [self._flight[0][0]] if self._flight else []
        if self._queue:
            times.append(min(self._head()[1:]))
        first = min(times, default=math.inf)
        return first if math.isfinite(first) else None

    def forget(self, far: Far) -> None:
        """What is on its way to `far` is lost."""
        self._queue = deque(cell for cell in self._queue if cell.far is not far)
        self._flight = deque(flown for flown in self._flight if flown[1].far is not far)
        self._queued = sum(len(cell.data) for cell in self._queue)

    def _head(self) -> tuple[float, float, float]:
        """The rate, when the queue's head has crossed at that, and until when it is so."""
        rate, until = self._course.byte_s(up=self._up, at=self._at)
        crossed = self._at + self._queue[0].left / rate if rate > 0 else math.inf
        return rate, crossed, until

    def _cross(self, cell: _Cell[Far]) -> None:
        self._queued -= len(cell.data)
        self._arrival = max(self._arrival, self._at + self._course.delay_s(self._at))
        self._flight.append((self._arrival, cell))

    def _cell_bytes(self) -> int:
        rate, _ = self._course.byte_s(up=self._up, at=self._at)
        return max(CELL_BYTES, int(min(rate * CELL_S, self._queue_bytes)))
