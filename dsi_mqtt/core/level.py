"""The level of a figure that is measured again and again: steady in noise, quick when it changes.

A two-sided CUSUM over logarithms. Each sample is compared with the level; what lies beyond `SLACK`
adds up on its side, what lies within takes away from it, and beyond `ALARM` the level jumps to the
median of the newest samples that led there. Why not a windowed median alone: one long enough to be
steady follows late, and one short enough to be quick swings with the noise. Both are set apart:

* samples within 30 % below (43 % above) the level never add up, however many there are;
* one sample counts for at most `CLIP`, so that a single one never moves the level by itself, and
  two that lie a factor of 4 or more to one side do.

Between jumps the level goes a tenth of the way to each sample, at most `SLACK` of its distance.
"""

from __future__ import annotations

import math
from statistics import median_high, median_low
from typing import Final

SLACK: Final = math.log(1 / 0.7)
CLIP: Final = 1.5
ALARM: Final = 2.0
GAIN: Final = 0.1
AGREED: Final = 3
NEWEST: Final = 3


class Level:
    """value: None before the first sample. Samples that are no positive number are not taken."""

    def __init__(self) -> None:
        self._log: float | None = None
        self._count = 0
        self._wavers = 0.0
        self._sides = {1: _Side(), -1: _Side()}

    @property
    def value(self) -> float | None:
        return None if self._log is None else math.exp(self._log)

    @property
    def in_doubt(self) -> bool:
        """Whether the newest samples lie so far to one side that more of them would move it."""
        return any(side.total > 0 for side in self._sides.values())

    @property
    def wavers(self) -> float:
        """By how much samples differ from the level, in the mean of their logarithms."""
        return self._wavers

    @property
    def steady(self) -> bool:
        """Whether several samples have gone into it since it jumped."""
        return self._count >= AGREED

    def saw(self, sample: float) -> bool:
        """Takes a sample; whether the level has jumped, or is known for the first time."""
        if not 0 < sample < math.inf:
            return False
        value = math.log(sample)
        if self._log is None:
            self._settle(value)
            return True
        apart = value - self._log
        for sign, side in self._sides.items():
            if side.adds(sign * apart, value):
                # Of an even number the farther: noise of the former level may be the other.
                middle = median_high if sign > 0 else median_low
                self._settle(middle(side.samples[-NEWEST:]))
                return True
        self._count += 1
        self._wavers += (min(abs(apart), CLIP) - self._wavers) * max(GAIN, 1 / self._count)
        within = min(max(apart, -SLACK), SLACK)
        self._log += within * max(GAIN, 1 / self._count)  # the first few weigh the same
        return False

    def _settle(self, value: float) -> None:
        self._log, self._count = value, 1
        self._sides = {1: _Side(), -1: _Side()}


class _Side:
    """What adds up above the level, or below it."""

    def __init__(self) -> None:
        self.total = 0.0
        self.samples: list[float] = []

    def adds(self, apart: float, value: float) -> bool:
        self.total = max(0.0, self.total + min(apart, CLIP) - SLACK)
        if self.total <= 0:
            self.samples.clear()
            return False
        self.samples.append(value)
        return self.total > ALARM
