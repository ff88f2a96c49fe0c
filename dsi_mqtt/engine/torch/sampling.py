"""Tokens drawn from logits: the same for the same logits, seed and position, wherever computed."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dsi_mqtt.core.generation import Sampling
from dsi_mqtt.errors import ModelFailedError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_SEEDS: Final = 1 << 64
# Half a step more is still exact in 53 bits, so that no number is rounded up to one.
_RANDOM_BITS: Final = 52


def draw(logits: Floats, how: Sampling, position: int) -> int:
    """A token id. logits: float32 (vocabulary,). position: of the token drawn.

    By the Gumbel trick: the likeliest after noise is a draw from the distribution. The noise of a
    token id does not depend on the logits, so a last bit that differs on another machine changes
    the draw only where two were equal up to it.
    """
    best = int(logits.argmax())
    if not np.isfinite(logits[best]):
        raise ModelFailedError("the logits hold NaN or infinity, so no token can be drawn")
    if how.temperature <= 0 or how.top_k == 1:
        return best
    with np.errstate(over="ignore"):
        values = (logits - logits[best]).astype(np.float64) / how.temperature
    values = _nucleus(_likeliest(values, how.top_k), how.top_p)
    return int((values + gumbel(len(values), how.seed, position)).argmax())


def gumbel(count: int, seed: int, position: int) -> Doubles:
    """Noise that depends on nothing else; from raw words, which NumPy keeps between versions."""
    words = np.random.Philox(key=[seed % _SEEDS, position]).random_raw(count)
    uniform = ((words >> np.uint64(64 - _RANDOM_BITS)) + 0.5) * 2.0**-_RANDOM_BITS
    noise: Doubles = -np.log(-np.log(uniform))
    return noise


def _likeliest(values: Doubles, count: int) -> Doubles:
    """The `count` likeliest, and what is as likely as the last of them; 0: all."""
    if not 0 < count < len(values):
        return values
    least = np.partition(values, -count)[-count]
    return np.where(values >= least, values, -np.inf)


def _nucleus(values: Doubles, share: float) -> Doubles:
    """The likeliest that together have `share` of the probability, one at least."""
    if share >= 1:
        return values
    weights = np.exp(values)
    order = np.argsort(-values, kind="stable")
    before = np.cumsum(weights[order])
    kept = order[: int(np.searchsorted(before, share * before[-1])) + 1]
    nucleus = np.full_like(values, -np.inf)
    nucleus[kept] = values[kept]
    return nucleus
