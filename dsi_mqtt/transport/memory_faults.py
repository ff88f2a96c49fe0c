"""Faults on the way from the in-process broker to its subscribers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from dsi_mqtt.transport.base import Message

FaultKind = Literal["drop", "duplicate", "delay"]


@dataclass(frozen=True, slots=True)
class Passage:
    """One message on its way to one subscriber; both named by client id."""

    sender: str
    receiver: str
    message: Message


@dataclass(slots=True)
class Fault:
    """What happens to the passages that `predicate` chooses, at most `times` of them.

    A dropped QoS 1 message is acknowledged to its sender all the same, as Mosquitto does when a
    queue is full. `hits` counts the passages met.
    """

    kind: FaultKind
    predicate: Callable[[Passage], bool]
    times: int | None = None
    hits: int = 0
    _delayed: deque[Callable[[], None]] = field(default_factory=deque)

    def applies(self, passage: Passage) -> bool:
        return (self.times is None or self.hits < self.times) and self.predicate(passage)

    def treat(self, deliver: Callable[[], None]) -> None:
        self.hits += 1
        if self.kind == "delay":
            self._delayed.append(deliver)
        elif self.kind == "duplicate":
            deliver()
            deliver()

    def release(self) -> None:
        """Hands on what was delayed so far, in order."""
        while self._delayed:
            self._delayed.popleft()()

    def end(self) -> None:
        """Chooses nothing from now on; what was delayed is handed on."""
        self.times = self.hits
        self.release()
