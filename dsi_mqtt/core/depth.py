"""How many steps of decoding are in a chain at once: found out while it serves.

As many as the chain has nodes keep all of them busy, if all take as long and none shares its
processor. Where one node takes longest, or two share a processor, fewer steps with more sessions
each give more tokens a second, for a step costs little more with more sessions. Which it is, is
not asked but tried: for some steps another depth, and the better one stays. Trials become rare
while they change nothing.

Each trial is of both neighbours, against one measurement. What a depth gives may depend on the one
before it, for steps can keep the distance from each other with which they begin: were one side
tried at a time, the depth could be fast whenever the better side is tried, and slow in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Steps of one measurement, and those that are let pass before it, for each step in the chain.
WINDOW: Final = 8
SETTLE: Final = 2
# Another depth must give so much more, for neighbours in time differ by some percent anyway.
GAIN: Final = 1.07
# Measurements from one trial to the next: at first, and at most.
PAUSE_MIN: Final = 4
PAUSE_MAX: Final = 64


@dataclass(slots=True)
class _Measurement:
    """settle: steps that do not count yet. began: when the last of them ended."""

    settle: int
    began: float = 0.0
    steps: int = 0
    tokens: int = 0
    sessions: int = 0

    def rate(self, now: float) -> float:
        return self.tokens / max(now - self.began, 1e-9)


class Depth:
    """Of one door. `now` is the depth to go by, of `nodes` at most."""

    def __init__(self, nodes: int = 1) -> None:
        self.reset(nodes)

    def reset(self, nodes: int) -> None:
        """The chain has other nodes, or as many."""
        self._most = max(1, nodes)
        self._kept = self._most
        self._before = 0.0
        self._trials: tuple[int, ...] = ()
        self._step = -1
        self._pause, self._until = PAUSE_MIN, PAUSE_MIN
        self._measured = self._anew()

    @property
    def now(self) -> int:
        return self._trials[0] if self._trials else self._kept

    def passed(self, tokens: int, sessions: int, now: float) -> None:
        """A step of `tokens` sessions came through the chain, of `sessions` that decode."""
        measured = self._measured
        if measured.settle:
            measured.settle -= 1
            measured.began, measured.sessions = now, sessions
            return
        if sessions < 2 or sessions != measured.sessions:  # noqa: PLR2004 - one needs no choice
            # Other sessions have another rate: it says nothing of the depth.
            self._trials = ()
            self._measured = self._anew()
            return
        measured.steps += 1
        measured.tokens += tokens
        if measured.steps < WINDOW * self.now:
            return
        self._judge(measured.rate(now))

    def _judge(self, rate: float) -> None:
        if not self._trials:
            self._until -= 1
            if self._until <= 0:
                self._before, self._trials = rate, self._neighbours()
        elif rate > self._before * GAIN:
            self._step = self._trials[0] - self._kept
            self._kept, self._trials = self._trials[0], ()
            self._pause = self._until = PAUSE_MIN
        else:
            self._trials = self._trials[1:]
            if not self._trials:
                self._pause = self._until = min(2 * self._pause, PAUSE_MAX)
        self._measured = self._anew()

    def _neighbours(self) -> tuple[int, ...]:
        """The depths to try, first on the side where the last gain was."""
        both = (self._kept + self._step, self._kept - self._step)
        return tuple(depth for depth in both if 1 <= depth <= self._most)

    def _anew(self) -> _Measurement:
        return _Measurement(settle=SETTLE * self.now)
