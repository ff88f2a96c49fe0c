"""What comes: how many requests, and what generations are like, as figures steady in noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dsi_mqtt.core.aim import Texts
from dsi_mqtt.core.level import Level
from dsi_mqtt.core.node import DoorLoad

# A sample of a rate: so many arrivals, which come at random, differ by a quarter from the mean; or
# all of so long, where they are few.
ARRIVALS: Final = 16
SAMPLE_S: Final = 10.0
# No sample is of less: words that were held up come at once.
SPAN_MIN_S: Final = 1.0
# Texts of which the mean is a sample.
TEXTS: Final = 8
# More in one text is no figure.
TOKENS_MAX: Final = 1e6


@dataclass(frozen=True, slots=True)
class Coming:
    """Requests at random, a second. texts: of generations, where it is known what they are like."""

    rate_per_s: float = 0.0
    texts: Texts | None = None


class Offered:
    """Of one deployment. A door that begins anew counts from nothing; the level stays."""

    def __init__(self) -> None:
        self._level = Level()
        self._door: tuple[str, str] | None = None
        self._since: tuple[float, int] | None = None
        self._seen = self._answered = 0
        self._written: DoorLoad | None = None
        self._prompt, self._new = Level(), Level()

    @property
    def texts(self) -> Texts | None:
        """What generations are like; None while nothing is known."""
        prompt, new = self._prompt.value, self._new.value
        if prompt is None or new is None:
            return None
        return Texts(max(1, round(prompt)), max(1, round(new)))

    @property
    def rate_per_s(self) -> float:
        """0 while nothing is known."""
        return self._level.value or 0.0

    def counted(self, door: tuple[str, str], load: DoorLoad, now: float) -> None:
        """What the door, a node in one incarnation, has counted until now."""
        self._wrote(door, load)
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

    def _wrote(self, door: tuple[str, str], load: DoorLoad) -> None:
        before = self._written
        if before is None or door != self._door or load.texts < before.texts:
            self._written = load
        elif load.texts - before.texts >= TEXTS:
            texts = load.texts - before.texts
            prompt = (load.prompt_tokens - before.prompt_tokens) / texts
            new = (load.new_tokens - before.new_tokens) / texts
            if 0 < prompt <= TOKENS_MAX and 0 < new <= TOKENS_MAX:
                self._prompt.saw(prompt)
                self._new.saw(new)
            self._written = load
