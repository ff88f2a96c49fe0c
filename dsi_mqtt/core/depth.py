"""How many steps of decoding are in a chain at once: found out while it serves.

As many as the chain has nodes keep all of them busy, if all take as long and none shares its
processor. Where one node takes longest, or two share a processor, fewer steps with more sessions
each give more tokens a second, for a step costs little more with more sessions. Which it is, is
not asked but tried: for some steps another depth, and the better one stays. Trials become rare
while they change nothing.
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
        self._tried: int | None = None
        self._step = -1
        self._pause, self._until = PAUSE_MIN, PAUSE_MIN
        self._before: float | None = None
        self._measured = self._anew()

    @property
    def now(self) -> int:
        return self._kept if self._tried is None else self._tried

    def passed(self, tokens: int, sessions: int, now: float) -> None:
        """A step of `tokens` sessions came through the chain, of `sessions` that decode."""
        measured = self._measured
        if measured.settle:
            measured.settle -= 1
            measured.began, measured.sessions = now, sessions
            return
        if sessions < 2 or sessions != measured.sessions:  # noqa: PLR2004 - one needs no choice
            # Other sessions have another rate: it says nothing of the depth.
            self._measured, self._before = self._anew(), None
            self._tried = None
            return
        measured.steps += 1
        measured.tokens += tokens
        if measured.steps < WINDOW * self.now:
            return
        self._judge(measured.rate(now))

    def _judge(self, rate: float) -> None:
        if self._tried is not None:
            assert self._before is not None  # noqa: S101 - a trial follows a measurement
            if rate > self._before * GAIN:
                self._kept, self._pause = self._tried, PAUSE_MIN
            else:
                self._step = -self._step
                self._pause = min(2 * self._pause, PAUSE_MAX)
            self._tried, self._before, self._until = None, None, self._pause
        else:
            self._before = rate
            self._until -= 1
            if self._until <= 0:
                self._tried = self._other()
        self._measured = self._anew()

    def _other(self) -> int | None:
        """The depth to try; None: there is no other."""
        for step in (self._step, -self._step):
            if 1 <= self._kept + step <= self._most:
                self._step = step
                return self._kept + step
        return None

    def _anew(self) -> _Measurement:
        return _Measurement(settle=SETTLE * self.now)
