"""How long requests wait under load: at the one place of a chain that is busiest.

Nodes and links are *stations*: each serves one request after the other. Where requests come at
random (Poisson) and each station takes about as long for every one of them, the wait of a whole
chain is that of its slowest station alone: what comes out of it is spaced by its own service, so
no faster station behind it makes anybody wait, and none before it changes the sum (Friedman,
"Reduction methods for tandem queuing systems", Operations Research 13, 1965).

So a percentile of latency is the time without load plus that percentile of one station's wait.
The wait beyond t falls as C·exp(-θt): exact for exponential service, and a good approximation
beyond one service time else (Cramér and Lundberg's). Up to one service time the wait for constant
service is known exactly: (1 - load)·exp(rate·t) of the requests wait for no longer than t.
"""

from __future__ import annotations

import math
from typing import Final

_ROUNDS: Final = 60
# A service whose variation is less counts as one that is always the same.
_CONSTANT: Final = 1e-4


def waiting_s(rate_per_s: float, service_s: float, share: float, variation: float = 0.0) -> float:
    """The wait that `share` of the requests stay within, in seconds; inf where it would grow.

    rate_per_s: of arrivals at random. service_s: mean seconds at the station.
    variation: variance of the service over the square of its mean; 1 is exponential.
    """
    load = rate_per_s * service_s
    if load >= 1.0:
        return math.inf
    if load <= 1.0 - share:
        return 0.0  # so many find it idle
    if variation <= _CONSTANT:
        within = math.log(share / (1.0 - load)) / rate_per_s
        if within <= service_s:
            return within
    falls = _decay(load, variation)
    front = (1.0 - load) / (load * _tilted(falls, variation) - 1.0)
    least = 1.0 if variation <= _CONSTANT else 0.0
    return max(least, math.log(front / (1.0 - share)) / falls) * service_s


def _decay(load: float, variation: float) -> float:
    """θ with load·(E exp(θS) - 1) = θ, where S has mean 1, between 0 and where E is infinite."""
    if variation <= _CONSTANT:
        return _constant_decay(load)
    low, high = 0.0, 1.0 / variation * (1.0 - 1e-12)
    for _ in range(_ROUNDS):
        middle = (low + high) / 2.0
        if load * (_moment(middle, variation) - 1.0) < middle:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


def _constant_decay(load: float) -> float:
    """θ > 0 with load·(exp θ - 1) = θ, by Newton's steps: from above they never pass it, for the
    difference is convex.
    """
    falls = 1.0
    while load * math.expm1(falls) < falls:
        falls *= 2.0
    for _ in range(_ROUNDS):
        above = load * math.expm1(falls) - falls
        nearer = falls - above / (load * math.exp(falls) - 1.0)
        if not 0.0 < nearer < falls:
            break
        falls = nearer
    return falls


def _moment(tilt: float, variation: float) -> float:
    """E exp(tilt·S) of a gamma distribution with mean 1."""
    return _power(1.0 - variation * tilt, -1.0 / variation)


def _tilted(tilt: float, variation: float) -> float:
    """E S·exp(tilt·S), its derivative."""
    if variation <= _CONSTANT:
        return math.exp(tilt)
    return _power(1.0 - variation * tilt, -1.0 / variation - 1.0)


def _power(base: float, exponent: float) -> float:
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return math.inf
