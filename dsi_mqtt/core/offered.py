"""How many requests come: what a door counts, as a rate that is steady in noise."""

from __future__ import annotations

from typing import Final

from dsi_mqtt.core.level import Level
from dsi_mqtt.core.node import DoorLoad

# A sample of a rate: so many arrivals, which come at random, differ by a quarter from the mean; or
# all of so long, where they are few.
ARRIVALS: Final = 16
SAMPLE_S: Final = 10.0
# No sample is of less: words that were held up come at once.
SPAN_MIN_S: Final = 1.0


class Offered:
    """Of one deployment. A door that begins anew counts from nothing; the level stays."""

    def __init__(self) -> None:
        self._level = Level()
        self._door: tuple[str, str] | None = None
        self._since: tuple[float, int] | None = None
        self._seen = self._answered = 0

    @property
    def rate_per_s(self) -> float:
        """0 while nothing is known."""
        return self._level.value or 0.0

    def counted(self, door: tuple[str, str], load: DoorLoad, now: float) -> None:
        """What the door, a node in one incarnation, has counted until now."""
        total = load.answered + load.held
        if self._since is None or door != self._door or load.answered < self._answered:
            self._door, self._since = door, (now, total)
            self._seen, self._answered = total, load.answered
            return
        # An answer that the broker has yet to take counts as both.
        self._seen, self._answered = max(total, self._seen), load.answered
        total = self._seen
        since, before = self._since
        arrived, span_s = total - before, now - since
        if span_s >= SPAN_MIN_S and (arrived >= ARRIVALS or span_s >= SAMPLE_S):
            # Of a silent span it is known that less than one came.
            self._level.saw(max(arrived, 0.5) / span_s)
            self._since = now, total
