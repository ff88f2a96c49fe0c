"""Stop strings in a text that comes in pieces.

What may be the beginning of a stop string is held back until it is known not to be.
"""

from __future__ import annotations


class StopFinder:
    """held: what has come and is not given out yet. found: a stop string has come."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self.held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """What is certain to lie before any stop string; behind one comes nothing more."""
        if self.found:
            return ""
        text = self.held + piece
        ends = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self.found, self.held = True, ""
            return text[: min(ends)]
        kept = max((_overlap(text, stop) for stop in self._stops), default=0)
        self.held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def flush(self) -> str:
        """Nothing more comes: what was held back is text."""
        held, self.held = self.held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How much of the end of `text` begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
