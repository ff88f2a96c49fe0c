"""One direction of a link: what it carries, as its measurements say one after the other."""

from __future__ import annotations

import math
from collections import deque
from copy import deepcopy
from statistics import median
from typing import Final, Self

from dsi_mqtt.core.level import Level
from dsi_mqtt.core.passing import Passed
from dsi_mqtt.core.probes import PROVEN_S, Probes
from dsi_mqtt.core.profile import DEFAULT_MBIT_S

BYTES_PER_MBIT: Final = 1e6 / 8
# What is assumed of a link that nobody has measured.
WORTH_BYTE_S: Final = DEFAULT_MBIT_S * BYTES_PER_MBIT

_NOISE_MAX: Final = 0.5
# What is usual is the median of so many levels, of which one is kept in so many seconds.
_USUAL: Final = 60
_USUAL_EACH_S: Final = 10.0


class Way:
    """One direction: what it carries in bytes a second, and when something last said so."""

    def __init__(self, probes: Probes) -> None:
        self._probes = probes
        self._level = Level()
        self._settled = False
        self._basis = 0  # bytes of the probes that the level is of
        self._shown = (-math.inf, 0.0)  # when traffic passed last, and what it proved
        self._past: deque[float] = deque(maxlen=_USUAL)
        self._kept_at = -math.inf
        self.at: float | None = None
        self.usual_mbit_s: float | None = None

    def kept(self) -> Self:
        """As it is now, whatever is measured from here on."""
        return deepcopy(self, {id(self._probes): self._probes})

    @property
    def mbit_s(self) -> float | None:
        """None until it is known by more than a few samples, of which one may be an accident."""
        value = self._level.value
        if value is None or not (self._settled or value >= WORTH_BYTE_S):
            return None
        return value / BYTES_PER_MBIT

    def expects(self, nbytes: int) -> float | None:
        """What so many bytes take; None: nothing was measured, or the newest samples doubt it."""
        if self._level.value is None or self._level.in_doubt:
            return None
        return nbytes / self._level.value

    @property
    def noise(self) -> float:
        """Share by which a sample may well differ from the level."""
        return min(_NOISE_MAX, 2 * self._level.wavers)

    def spends(self, newest: float) -> float:
        """Seconds a byte: as usual, but as in the newest probe where that puts it into doubt."""
        value = self._level.value
        return newest if value is None or self._level.in_doubt else 1 / value

    def seconds(self, nbytes: int) -> float:
        """What so many bytes take, as far as is known."""
        return nbytes / (self._level.value or WORTH_BYTE_S)

    def slowed(self, share: float, now: float) -> None:
        """It seems to carry that share of what was thought."""
        self.carries(share * (self._level.value or WORTH_BYTE_S), now)

    def carries(self, byte_s: float, now: float, probe: int = 0) -> bool:
        """A measurement, by a probe of so many bytes, if any; whether the level has jumped.

        A probe of twice the size says so much more that the level begins anew.
        """
        self.at = now
        if probe and probe >= 2 * self._basis:
            self._level, self._basis = Level(), probe
        jumped = self._level.saw(byte_s)
        if jumped and self._level.value is not None:
            self._basis = probe or self._basis
            self._probes.at_most(self._level.value)
        self._settled = self._settled or self._level.steady
        self._keep(now)
        return jumped

    def _keep(self, now: float) -> None:
        """One that has been slow for a while is not usually slow."""
        if self.mbit_s is not None and now >= self._kept_at + _USUAL_EACH_S:
            self._kept_at = now
            self._past.append(self.mbit_s)
            self.usual_mbit_s = median(self._past)

    def passed(self, passed: Passed, rtt_s: float, noise_s: float, now: float) -> None:
        """A message took so long: what was known already may be so, or one of the bounds is."""
        low, high = passed.bounds(rtt_s, noise_s)
        self._shown = now, low
        level = self._level.value
        if high == math.inf:
            self.carries_at_least(low, now)
        elif level is None:
            self.carries(math.sqrt(low * high), now)
        else:
            self.carries(min(max(level, low), high), now)

    def shown(self, now: float) -> float:
        """Bytes in a second that traffic has lately proven; 0: none has."""
        at, byte_s = self._shown
        return byte_s if at > now - PROVEN_S else 0.0

    def carries_at_least(self, byte_s: float, now: float, probe: int = 0) -> None:
        """A lower bound, of which those that say something new count."""
        level = self._level.value
        if byte_s >= (WORTH_BYTE_S if level is None else level):
            self.carries(byte_s, now, probe)
