"""Copies of caches on a node's way up: one by one, each when nothing else waits for the link."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from dsi_mqtt.core.effects import Transmit
from dsi_mqtt.sim.clock import Clock
from dsi_mqtt.sim.links import Direction


class CopyQueue:
    """Of one node, through all its lives. send: puts one on the link."""

    def __init__(self, clock: Clock, up: Direction, send: Callable[[Transmit], None]) -> None:
        self._clock = clock
        self._up = up
        self._send = send
        self._waiting: deque[Transmit] = deque()
        self._halted = False

    def put(self, copy: Transmit) -> None:
        self._waiting.append(copy)
        if len(self._waiting) == 1:
            self._wait()

    def clear(self) -> None:
        self._waiting.clear()
        self._halted = False

    def halt(self) -> None:
        """The node stands still."""
        self._halted = True

    def resume(self) -> None:
        self._halted = False
        self._wait()

    def _wait(self) -> None:
        if self._waiting:
            self._clock.at(self._up.free_at, self._due, self._waiting[0])

    def _due(self, copy: Transmit) -> None:
        if self._halted or not self._waiting or self._waiting[0] is not copy:
            return
        if self._up.free_at <= self._clock.now:
            self._send(self._waiting.popleft())
        self._wait()
