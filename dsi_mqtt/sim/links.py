"""The star: each node has one link to its broker, with a queue for either direction.

A message is stored and forwarded whole: it leaves when all before it has left, takes bytes over
rate, and arrives half a round trip later. What is small and must not wait (statuses, tables,
acknowledgements) goes *aside*: it takes its own time and delays nobody.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dsi_mqtt.sim.traces import Trace

BITS_PER_MBIT: Final = 1e6


@dataclass(frozen=True, slots=True)
class Disturbance:
    """From `start` to `stop` (s) the rate is `factor` of what it would be; 0: the link is cut."""

    start: float
    stop: float
    factor: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What a link is like without a trace, which counts for both directions."""

    up_mbit_s: float
    down_mbit_s: float
    rtt_ms: float


class Link:
    """Both directions, with the trace and the disturbances that they share.

    trace: in place of `figures`; offset_s: second of it at which the simulation begins.
    """

    def __init__(
        self,
        figures: Figures,
        trace: Trace | None = None,
        offset_s: int = 0,
        disturbances: Sequence[Disturbance] = (),
    ) -> None:
        self._figures = figures
        self._trace = trace
        self._offset = offset_s
        self._disturbances = tuple(disturbances)
        self.up = Direction(self, figures.up_mbit_s)
        self.down = Direction(self, figures.down_mbit_s)

    def rtt_s(self, now: float) -> float:
        if self._trace is None:
            return self._figures.rtt_ms / 1e3
        return self._trace.rtts[int(now + self._offset) % len(self._trace)] / 1e3

    def is_cut(self, now: float) -> bool:
        if not self._disturbances:
            return False
        return any(d.factor == 0 and d.start <= now < d.stop for d in self._disturbances)

    def is_cut_since(self, start: float, now: float) -> bool:
        """Whether a cut that began at `start` lasts."""
        cuts = [d.stop for d in self._disturbances if d.factor == 0 and d.start == start]
        return any(now < stop for stop in cuts)

    @property
    def steady(self) -> bool:
        """Whether its rates never change."""
        return self._trace is None and not self._disturbances

    def rate(self, own: float, now: float) -> tuple[float, float]:
        """Bits a second of a direction that has `own` Mbit/s without a trace, and until when."""
        rate, until = own * BITS_PER_MBIT, math.inf
        if self._trace is not None:
            second = int(now + self._offset)
            rate = self._trace.rates[second % len(self._trace)] * BITS_PER_MBIT
            until = float(second + 1 - self._offset)
        for d in self._disturbances:
            if d.start <= now < d.stop:
                rate, until = rate * d.factor, min(until, d.stop)
            elif now < d.start:
                until = min(until, d.start)
        return rate, until


@dataclass(frozen=True, slots=True)
class Passage:
    """Of one message: when its first bit leaves, when its last one has left, when it is there."""

    began: float
    left: float
    arrives: float


class Direction:
    """One way of a link. nbytes: sent in order; control_bytes: aside. busy_s: of the former.

    free_at: when what was sent in order has left.
    """

    def __init__(self, link: Link, mbit_s: float) -> None:
        self._link = link
        self._mbit_s = mbit_s
        self.free_at = 0.0
        self._arrived = 0.0
        self._aside = 0.0
        self.nbytes = 0
        self.control_bytes = 0
        self.busy_s = 0.0

    def mbit_s(self, now: float) -> float:
        return self._link.rate(self._mbit_s, now)[0] / BITS_PER_MBIT

    def send(self, nbytes: int, now: float) -> Passage:
        """A message that is given to the link at `now`."""
        start = max(now, self.free_at)
        left = self._left_at(nbytes, start)
        self.free_at = left
        self.nbytes += nbytes
        self.busy_s += left - start
        self._arrived = max(self._arrived, left + self._link.rtt_s(now) / 2)
        return Passage(start, left, self._arrived)

    def probe(self, nbytes: int, now: float) -> float:
        """When a message is at the other end that waits for those before it and delays none."""
        self.control_bytes += nbytes
        start = max(now, self.free_at)
        return self._left_at(nbytes, start) + self._link.rtt_s(now) / 2

    def passed(self, start: float, now: float) -> float:
        """Bytes that may have passed from `start` until `now`."""
        bits, at = 0.0, start
        while at < now:
            rate, until = self._link.rate(self._mbit_s, at)
            until = min(until, now)
            bits, at = bits + rate * (until - at), until
        return bits / 8.0

    def send_aside(self, nbytes: int, now: float) -> float:
        """The same for what waits for no other message; those that go aside keep their order."""
        self.control_bytes += nbytes
        left = self._left_at(nbytes, now)
        self._aside = max(self._aside, left + self._link.rtt_s(now) / 2)
        return self._aside

    def reset(self, now: float) -> None:
        """The connection is a new one: what was on its way is gone."""
        self.free_at = self._arrived = self._aside = now

    def _left_at(self, nbytes: int, start: float) -> float:
        bits = nbytes * 8.0
        if self._link.steady:
            return start + bits / (self._mbit_s * BITS_PER_MBIT)
        while True:
            rate, until = self._link.rate(self._mbit_s, start)
            if rate > 0 and start + bits / rate <= until:
                return start + bits / rate
            if until == math.inf:
                return math.inf
            bits -= rate * (until - start)
            start = until
