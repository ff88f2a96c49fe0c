"""Copies of caches on a node's way up: one by one, each when nothing else waits for the link."""

from __future__ import annotations

from collections.abc import Callable

from dsi_mqtt.core.effects import Transmit
from dsi_mqtt.core.outgoing import OutgoingCopies
from dsi_mqtt.sim.clock import Clock
from dsi_mqtt.sim.links import Direction


class CopyQueue:
    """Of one node, through all its lives. send: puts one on the link."""

    def __init__(self, clock: Clock, up: Direction, send: Callable[[Transmit], None]) -> None:
        self._clock = clock
        self._up = up
        self._send = send
        self._waiting = OutgoingCopies()
        self._halted = False
        # The one look that is to come: what others were said before comes to nothing.
        self._looks = 0
        self._looks_next = False

    def put(self, copy: Transmit) -> list[Transmit]:
        """Has it wait; what its door is told instead."""
        told = self._waiting.put(copy, self._clock.now)
        self._wait()
        return told

    def clear(self) -> None:
        self._waiting.clear()
        self._halted = self._looks_next = False

    def halt(self) -> None:
        """The node stands still."""
        self._halted = True

    def resume(self) -> None:
        self._halted = False
        self._wait()

    def _wait(self) -> None:
        if self._waiting and not self._looks_next:
            self._looks += 1
            self._looks_next = True
            self._clock.at(self._up.free_at, self._look, self._looks)

    def _look(self, number: int) -> None:
        if number != self._looks or not self._looks_next:
            return
        self._looks_next = False
        if self._halted:
            return
        if self._up.free_at <= self._clock.now:
            taken = self._waiting.take(self._clock.now)
            if taken is not None:
                self._send(taken.copy)
        self._wait()
