"""A retained topic that the leader keeps: whether it holds what it should, and when to write it.

The broker is shared, and may lose what it retained: anybody may clear a topic or write rubbish on
it. Then the leader writes it again, after a moment in which its own last message may still be on
its way back, and at ever longer intervals while somebody else goes on writing.
"""

from __future__ import annotations

from typing import Final

REPEAT_S: Final = 0.5
REPEAT_MAX_S: Final = 64.0


class Kept:
    """State machine of one topic. What it sees are messages on the topic, its own among them."""

    def __init__(self) -> None:
        self._wrong_since: float | None = None
        self._wait_s = REPEAT_S
        self._written = float("-inf")

    def is_right(self) -> None:
        """The newest message on the topic is what it should hold."""
        self._wrong_since = None

    def is_wrong(self, now: float) -> None:
        """Somebody has cleared the topic, or written something else there."""
        if self._wrong_since is None:
            self._wrong_since = now

    def is_missing(self, now: float) -> None:
        """It is not among what the broker retains: nobody else writes, so nobody is outwaited."""
        self._wrong_since, self._written, self._wait_s = now, float("-inf"), REPEAT_S

    def due(self, now: float) -> bool:
        """Whether to write it now; who asks then does."""
        if self._wrong_since is None:
            return False
        if now - self._written > REPEAT_MAX_S + self._wait_s:
            self._wait_s = REPEAT_S  # there has been peace
        if now - max(self._wrong_since, self._written) < self._wait_s:
            return False
        self._written = now
        self._wait_s = min(2 * self._wait_s, REPEAT_MAX_S)
        return True
