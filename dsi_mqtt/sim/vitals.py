"""What a simulated node measures and tells: its telemetry, and the link as it looks from there.

The meter is the worker's own (`core.link`). What it would see happen at its socket is known here
beforehand, for a link is first come, first served; so it is told in order whenever somebody asks.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Final

from dsi_mqtt.core.link import ACKNOWLEDGED_BYTES, LinkMeter
from dsi_mqtt.core.node import Telemetry
from dsi_mqtt.core.probes import FLIGHT_BYTES, Probe
from dsi_mqtt.core.sizes import KIB, MIB
from dsi_mqtt.core.worker import Worker
from dsi_mqtt.sim.clock import Clock
from dsi_mqtt.sim.links import Link, Passage

# As `worker.echo` does it.
PROBE_S: Final = 0.5
PROBE_OVERHEAD: Final = 110
# An activation comes in chunks, whose first says when the others began to come; and each in pieces.
CHUNK_BYTES: Final = 256 * KIB
# What is queued before a socket counts as full (`transport.mqtt_stream`).
QUEUED_BYTES: Final = MIB
# After so long a meter of a link that never changes and that nothing passes knows what it will.
SETTLED_S: Final = 60.0


class Vitals:
    """Of one node. nbytes: of a telemetry message."""

    def __init__(self, link: Link, clock: Clock, nbytes: Callable[[Telemetry], int]) -> None:
        self._link = link
        self._clock = clock
        self._queued: deque[tuple[float, int]] = deque()  # when it has left, and its bytes
        self._coming: deque[tuple[Passage, int]] = deque()
        self._nbytes = nbytes
        self._told: Telemetry | None = None
        self._sizes: dict[tuple[int, int], int] = {}
        self._size = 0
        self._meter = LinkMeter(PROBE_OVERHEAD)
        self._to_come: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()
        self._connected_at = 0.0
        self._probe_at = math.inf
        self._used = False

    def begin(self) -> None:
        """Another life: nothing is known of the link."""
        self._meter = LinkMeter(PROBE_OVERHEAD)
        self._to_come.clear()
        self._queued.clear()
        self._coming.clear()
        self._told, self._probe_at, self._used = None, math.inf, False

    def connected(self, now: float) -> None:
        self._meter.lost()
        self._to_come.clear()
        self._queued.clear()
        self._coming.clear()
        self._connected_at = self._probe_at = now

    def changed(self) -> None:
        """Something has happened that telemetry may tell of."""
        self._told = None

    # --- what passes --------------------------------------------------------------------------

    def sends(self, nbytes: int, given: float, passage: Passage) -> None:
        """Given to the link at that time; what waits behind too much finds a full socket."""
        self._used = True
        self._until(given)
        if self._is_full(given):
            self._at(passage.began, self._meter.took)
        else:
            self._meter.emptied()
        self._queued.append((passage.left, nbytes))
        self._meter.wrote(nbytes)
        mark = self._meter.behind(nbytes, given, given)
        if mark is not None:
            self._goes(mark, given)

    def _is_full(self, now: float) -> bool:
        while self._queued and self._queued[0][0] <= now:
            self._queued.popleft()
        return sum(nbytes for _, nbytes in self._queued) > QUEUED_BYTES

    def receives(self, nbytes: int, passage: Passage) -> None:
        self._used = True
        self._coming.append((passage, nbytes))
        train = str(next(self._order))
        spent = passage.left - passage.began
        if nbytes > CHUNK_BYTES and passage.left < math.inf:
            rest = nbytes - CHUNK_BYTES

            def begins(at: float) -> None:
                self._meter.arrived(CHUNK_BYTES, at, train=train, goes_on=True)

            self._at(passage.arrives - spent * rest / nbytes, begins)
        else:
            rest = nbytes
        behind = max(0, rest - FLIGHT_BYTES)
        pieces = behind, spent * behind / nbytes

        def ends(at: float) -> None:
            self._meter.arrived(rest, at, train=train, goes_on=False, pieces=pieces)

        self._at(passage.arrives, ends)

    # --- what is told -------------------------------------------------------------------------

    def telemetry(self, machine: Worker, now: float) -> Telemetry:
        if not self._is_settled(now):
            self._measure(now)
            self._told = None
        told = self._told
        if told is None:
            told = self._told = self._tell(machine, now)
            parts = len(told.segments), len(told.doors)
            if parts not in self._sizes:  # with so many parts it has always about as many bytes
                self._sizes[parts] = self._nbytes(told)
            self._size = self._sizes[parts]
        self._link.up.control_bytes += self._size
        return told

    def _tell(self, machine: Worker, now: float) -> Telemetry:
        return Telemetry(
            machine.node,
            machine.incarnation,
            sequence=0,
            cpu=0.0,
            rss_bytes=0,
            peak_rss_bytes=0,
            memory_free_bytes=0,
            echo_age_s=self._meter.age_s(now),
            link=self._meter.sample(now),
            segments=machine.segment_loads(),
            doors=machine.door_loads(),
        )

    # --- probes -------------------------------------------------------------------------------

    def _is_settled(self, now: float) -> bool:
        """Whether measuring on would find nothing new."""
        idle = self._link.steady and not self._used
        return idle and now > self._connected_at + SETTLED_S

    def _measure(self, now: float) -> None:
        self._until(now)
        if self._probe_at <= now:
            self._probe(now)
            self._probe_at = now + PROBE_S
        else:
            self._meter.watch(now, self._arriving(now))

    def _probe(self, now: float) -> None:
        for probe in self._meter.due(now, full=self._is_full(now), arriving=self._arriving(now)):
            self._goes(probe, now)

    def _arriving(self, now: float) -> tuple[int, float]:
        """Of the message that is there in part: bytes behind its first piece, and seconds."""
        while self._coming and self._coming[0][0].arrives <= now:
            self._coming.popleft()
        if not self._coming:
            return 0, 0.0
        passage, nbytes = self._coming[0]
        first = min(FLIGHT_BYTES, nbytes)
        comes = passage.began + first / nbytes * (passage.left - passage.began)
        if nbytes <= FLIGHT_BYTES or comes >= now or passage.left == math.inf:
            return 0, 0.0
        return int(self._link.down.passed(comes, now)), now - comes

    def _goes(self, probe: Probe, now: float) -> None:
        """Up, and down behind what is on its way there by then."""
        there = self._link.up.probe(probe.nbytes, now)
        if there < math.inf:
            self._clock.at(there, self._returns, probe, self._connected_at)

    def _returns(self, probe: Probe, connected_at: float) -> None:
        if connected_at == self._connected_at:
            nbytes = ACKNOWLEDGED_BYTES if probe.kind == "up" else probe.nbytes
            back = self._link.down.probe(nbytes, self._clock.now)
            self._at(back, partial(self._meter.back, probe.number))

    def _at(self, time: float, tell: Callable[[float], None]) -> None:
        if time < math.inf:
            heapq.heappush(self._to_come, (time, next(self._order), tell))

    def _until(self, now: float) -> None:
        while self._to_come and self._to_come[0][0] <= now:
            at, _, tell = heapq.heappop(self._to_come)
            tell(at)
