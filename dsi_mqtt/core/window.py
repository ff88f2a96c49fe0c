"""What was counted within the last so many seconds."""

from __future__ import annotations

from collections import deque


class Window:
    """Amounts by time, those of the half-open last `span_s` seconds. Times never go back."""

    def __init__(self, span_s: float) -> None:
        self._span_s = span_s
        self._entries: deque[tuple[float, int]] = deque()
        self._total = 0

    def add(self, amount: int, now: float) -> None:
        self.total(now)  # what is too old goes, so that nothing piles up where nobody asks
        self._entries.append((now, amount))
        self._total += amount

    def total(self, now: float) -> int:
        """Of what was added after `now - span_s`."""
        while self._entries and self._entries[0][0] <= now - self._span_s:
            self._total -= self._entries.popleft()[1]
        return self._total
