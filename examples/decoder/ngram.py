"""A byte n-gram model with interpolated, modified Kneser-Ney smoothing: what the decoder must beat.

After Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling" (1998):
three discounts per length, estimated from counts of counts; shorter grams are counted by how many
different bytes they follow. Below single bytes stands the uniform distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_BYTE: Final = 8
_SYMBOLS: Final = 256
_DISCOUNTS: Final = 3  # for grams seen once, twice, more often

Numbers = NDArray[np.int64]
Reals = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Level:
    """Grams of one length. A gram is a number: its context's bytes, then its last byte.

    grams: (grams,) sorted; shares: what each has left of its context's mass after the discount.
    contexts: (contexts,) sorted; rests: the mass that each context leaves to shorter ones.
    """

    grams: Numbers
    shares: Reals
    contexts: Numbers
    rests: Reals


class NgramModel:
    """Predicts a byte from the `order` bytes before it."""

    def __init__(self, data: bytes, order: int) -> None:
        """data: the training text. Before its beginning NUL bytes are taken to stand."""
        self.order = order
        grams, counts = np.unique(_windows(data, order), return_counts=True)
        self._levels: list[_Level] = []  # the longest grams first
        for length in range(order + 1, 0, -1):
            self._levels.append(_level(grams, counts))
            # Kneser and Ney: one byte less, each gram counts its different predecessors.
            grams, counts = np.unique(grams & ((1 << _BYTE * (length - 1)) - 1), return_counts=True)

    def probabilities(self, data: bytes) -> Reals:
        """(bytes,): the probability of each byte after those before it."""
        return self._of(_windows(data, self.order))

    def distribution(self, context: bytes) -> Reals:
        """(256,): the probability of each byte to come next."""
        number = _windows(context + b"\0", self.order)[-1]
        return self._of(number + np.arange(_SYMBOLS, dtype=np.int64))

    def _of(self, grams: Numbers) -> Reals:
        found = np.full(len(grams), 1 / _SYMBOLS)
        for length, level in enumerate(reversed(self._levels), 1):
            shorter = grams & ((1 << _BYTE * length) - 1)
            share = _look_up(level.grams, level.shares, shorter, 0.0)
            rest = _look_up(level.contexts, level.rests, shorter >> _BYTE, 1.0)
            found = share + rest * found
        return found


def _windows(data: bytes, order: int) -> Numbers:
    """(bytes,): per byte, the number made of `order` bytes before it and itself."""
    padded = np.frombuffer(bytes(order) + data, np.uint8).astype(np.int64)
    numbers = np.zeros(len(data), np.int64)
    for place in range(order + 1):
        numbers = numbers << _BYTE | padded[place : place + len(data)]
    return numbers


def _level(grams: Numbers, counts: Numbers) -> _Level:
    discount = _discounts(counts)[np.minimum(counts, _DISCOUNTS) - 1]
    contexts, of = np.unique(grams >> _BYTE, return_inverse=True)
    totals = np.bincount(of, counts)
    rests = np.bincount(of, discount) / totals
    return _Level(grams, (counts - discount) / totals[of], contexts, rests)


def _discounts(counts: Numbers) -> Reals:
    """(3,): what is taken from a count of one, two, and more."""
    many = np.bincount(np.minimum(counts, _DISCOUNTS + 2), minlength=_DISCOUNTS + 3)
    if not all(many[1 : _DISCOUNTS + 2]):  # too few grams to estimate from
        return np.full(_DISCOUNTS, 0.5)
    once = many[1] / (many[1] + 2 * many[2])
    places = np.arange(1, _DISCOUNTS + 1)
    estimates = places - (places + 1) * once * many[places + 1] / many[places]
    return np.asarray(np.clip(estimates, 0, places), np.float64)


def _look_up(keys: Numbers, values: Reals, wanted: Numbers, otherwise: float) -> Reals:
    """The values of the keys `wanted`; `otherwise` for those that are not there."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], otherwise)
