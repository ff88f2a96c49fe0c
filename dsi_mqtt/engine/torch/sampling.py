"""Tokens drawn from logits: the same for the same logits, seed and position, wherever computed."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dsi_mqtt.core.generation import Sampling
from dsi_mqtt.errors import ModelFailedError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Words = NDArray[np.uint64]
Ids = NDArray[np.intp]

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
    words = random_words(len(values), how.seed, position)
    # With all the noise there is, nothing less comes up to the best: large vocabularies take long.
    reach = gumbel(words[best]) - gumbel(words.max())
    kept = _nucleus(values, _likeliest(values, how.top_k), how.top_p)
    kept = kept[values[kept] >= reach]
    return int(kept[(values[kept] + gumbel(words[kept])).argmax()])


def random_words(count: int, seed: int, position: int) -> Words:
    """One for each token id, from nothing else; NumPy keeps them between versions."""
    words: Words = np.random.Philox(key=[seed % _SEEDS, position]).random_raw(count)
    return words


def gumbel(words: Words) -> Doubles:
    """Noise of random words, and the greater the word is, the greater."""
    uniform = ((words >> np.uint64(64 - _RANDOM_BITS)) + 0.5) * 2.0**-_RANDOM_BITS
    noise: Doubles = -np.log(-np.log(uniform))
    return noise


def _likeliest(values: Doubles, count: int) -> Ids:
    """The `count` likeliest, and what is as likely as the last of them; 0: all."""
    if not 0 < count < len(values):
        return np.arange(len(values))
    least = np.partition(values, -count)[-count]
    return np.flatnonzero(values >= least)


def _nucleus(values: Doubles, kept: Ids, share: float) -> Ids:
    """Of `kept` the likeliest that together have `share` of the probability, one at least."""
    if share >= 1:
        return kept
    weights = np.exp(values[kept])
    total = weights.sum()
    # All that are less likely together have less than what is left out: they need no sorting.
    likely = np.flatnonzero(weights >= (1 - share) * total / len(kept))
    order = likely[np.argsort(-weights[likely], kind="stable")]
    count = int(np.searchsorted(np.cumsum(weights[order]), share * total)) + 1
    return np.sort(kept[order[:count]])
