"""What a simulated node measures and tells: its telemetry, and the link as it looks from there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dsi_mqtt.core.node import LinkSample, Telemetry
from dsi_mqtt.core.sizes import KIB
from dsi_mqtt.core.worker import Worker
from dsi_mqtt.sim.links import Link

# What `worker.echo` does: a message to itself, so large, so often; how much of the last one counts.
ECHO_BYTES: Final = 64 * KIB
ECHO_FIRST_S: Final = 1.0
ECHO_EVERY_S: Final = 20.0
ECHO_KEEPS: Final = 0.7


class Vitals:
    """Of one node. nbytes: of a telemetry message."""

    def __init__(self, link: Link, nbytes: Callable[[Telemetry], int]) -> None:
        self._link = link
        self._nbytes = nbytes
        self._told: Telemetry | None = None
        self._sizes: dict[tuple[int, int], int] = {}
        self._size = 0
        self._mbit_s: float | None = None
        self._measure_at = 0.0

    def begin(self) -> None:
        """Another life: nothing is known of the link."""
        self._told = self._mbit_s = None

    def connected(self, now: float) -> None:
        self._measure_at = now + ECHO_FIRST_S

    def changed(self) -> None:
        """Something has happened that telemetry may tell of."""
        self._told = None

    def telemetry(self, machine: Worker, now: float) -> Telemetry:
        if now >= self._measure_at:
            self._measure(now)
        told = self._told
        if told is None or not self._link.steady:
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
            echo_age_s=0.0,
            link=LinkSample(self._link.rtt_s(now) * 1e3, self._mbit_s, self._mbit_s),
            segments=machine.segment_loads(),
            doors=machine.door_loads(),
        )

    def _measure(self, now: float) -> None:
        """One rate for both directions, as a message to oneself tells no more."""
        self._measure_at = now + ECHO_EVERY_S
        up, down = self._link.up, self._link.down
        up.control_bytes += ECHO_BYTES
        down.control_bytes += ECHO_BYTES
        if not up.mbit_s(now) or not down.mbit_s(now):
            return
        rate = 2 / (1 / up.mbit_s(now) + 1 / down.mbit_s(now))
        before = self._mbit_s
        self._mbit_s = rate if before is None else ECHO_KEEPS * before + (1 - ECHO_KEEPS) * rate
        self._told = None
