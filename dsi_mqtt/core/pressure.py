"""What the busiest station of a placement adds to its score.

A placement's score is a sum over its parts, and something that grows with its *demand*: the time
that a request keeps the busiest station busy. A search for sums takes that in by prices on stations
(`core.prices`): where they come to `slope` together, a chain that is charged for all it uses has
been charged for at most `slope` times its demand. So what it is charged, less the most by which
`slope` times a demand may exceed what that demand adds, is never too much.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from dsi_mqtt.core.aim import Aim
from dsi_mqtt.core.problem import Nanoseconds
from dsi_mqtt.core.queueing import waiting_s

# Steps towards the demand up to which a better placement may be looked for; what is left of the
# last step is searched in vain.
_HALVINGS: Final = 12
# Parts of an interval of demands, in each of which the wait counts as that of its lower end.
_PARTS: Final = 24
# No request takes longer, in ns: `profile.UNIT_S_MAX` for each of many units.
_LONGEST: Final = 1e16


@dataclass(frozen=True, slots=True)
class Pressure:
    """What a demand adds to the score, in ns."""

    aim: Aim

    @property
    def idle(self) -> bool:
        """Whether demands do not matter."""
        return not self.aim.loads

    @property
    def rises(self) -> bool:
        """Whether a higher demand adds more, and does not only rule out."""
        return not self.idle and bool(self.aim.latency or self.aim.busiest)

    @property
    def aim_is_sum(self) -> bool:
        """Whether a sum over the parts says all."""
        return self.idle and self.target_ns is None

    @property
    def target_is_ceiling(self) -> bool:
        """Whether the target limits the very thing that is minimised."""
        aim = self.aim
        return aim.latency == 1 and not (aim.busiest or aim.cost or aim.exposure)

    @property
    def target_ns(self) -> float | None:
        return None if self.aim.latency_max_s is None else self.aim.latency_max_s * 1e9

    @property
    def most(self) -> float:
        """No demand that is sustained is beyond it."""
        rate = self.aim.rate_per_s
        most = 1e9 / rate if rate else math.inf
        return most if math.isinf(most) else math.floor(most)

    def wait_ns(self, demand: float) -> float:
        if not self.aim.rate_per_s:
            return 0.0
        return waiting_s(self.aim.rate_per_s, demand / 1e9, self.aim.share) * 1e9

    def adds(self, demand: float) -> float:
        wait = self.wait_ns(demand)
        if math.isinf(wait):
            return math.inf  # it grows for ever, whatever it weighs
        return self.aim.latency * wait + self.aim.busiest * demand

    def timely(self, latency: float, demand: float) -> bool:
        """Whether a placement with these meets the target."""
        target = self.target_ns
        return target is None or latency + self.wait_ns(demand) <= target

    def up_to(self, low: float, high: float, most: float) -> float:
        """A demand between `low` and `high` that none with `adds` within `most` exceeds."""
        if self.idle:
            return high
        if not self.aim.rate_per_s:
            return max(low, min(high, most / self.aim.busiest))
        if self.adds(high) <= most:
            return high
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if self.adds(middle) <= most:
                low = middle
            else:
                high = middle
        return high


@dataclass(frozen=True, slots=True, eq=False)
class Slopes:
    """What demands between two add, from below, against a straight line.

    ends: of the parts of the interval. waits: what the wait at the lower end of each part adds.
    """

    ends: Nanoseconds
    waits: Nanoseconds
    busiest: float

    @classmethod
    def of(cls, pressure: Pressure, low: float, high: float) -> Slopes:
        aim = pressure.aim
        high = max(low, min(high, _LONGEST))
        parts = _PARTS if aim.rate_per_s and aim.latency else 1
        ends = np.linspace(low, high, parts + 1)
        waits = [pressure.wait_ns(end) if aim.latency else 0.0 for end in ends[:-1].tolist()]
        return cls(ends, aim.latency * np.array(waits), aim.busiest)

    def excesses(self, slope: float) -> Nanoseconds:
        """[part]: the most by which `slope` times a demand there exceeds what it adds."""
        beyond = slope - self.busiest
        ends = self.ends[1:] if beyond > 0 else self.ends[:-1]
        return np.ceil(beyond * ends - self.waits)

    def steepest(self, slope: float) -> float:
        """The demand of which that is the most."""
        part = int(self.excesses(slope).argmax())
        return float(self.ends[part + 1 if slope > self.busiest else part])
