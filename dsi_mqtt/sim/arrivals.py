"""When inputs come: at random, in bursts, by the hour of the day."""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random

from dsi_mqtt.sim.scenario import Requests


def arrivals(asked: Requests, until: float, random: Random) -> Iterator[float]:
    """Times from `asked.from_s` on, before `until`, in order."""
    if asked.arrivals == "diurnal":
        yield from _diurnal(asked, until, random)
        return
    together = asked.burst if asked.arrivals == "bursts" else 1
    time = asked.from_s
    while (time := time + random.expovariate(asked.rate_per_s / together)) < until:
        for _ in range(together):
            yield time


def _diurnal(asked: Requests, until: float, random: Random) -> Iterator[float]:
    """Thinned from a steady stream at the highest rate."""
    highest = asked.rate_per_s * (1 + asked.swing)
    time = asked.from_s
    while (time := time + random.expovariate(highest)) < until:
        wave = math.sin(2 * math.pi * (time - asked.from_s) / asked.period_s)
        if random.random() * highest < asked.rate_per_s * (1 + asked.swing * wave):
            yield time
