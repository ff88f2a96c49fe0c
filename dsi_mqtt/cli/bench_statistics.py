"""What is said of samples: pure functions. A repeat is one uninterrupted series of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Spread:
    """median: over the medians of the repeats. iqr, p99: of all samples together."""

    median: float
    iqr: float
    p99: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """median: of the two sides' medians. least, most: of neighbouring pairs of repeats."""

    median: float
    least: float
    most: float


def spread(repeats: Sequence[Sequence[float]]) -> Spread:
    """Quantiles are linear between the nearest ranks. Each repeat has at least one sample."""
    low, high, p99 = np.quantile(np.concatenate(repeats), (0.25, 0.75, 0.99))
    return Spread(float(np.median(_medians(repeats))), float(high - low), float(p99))


def ratio(ours: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]]) -> Ratio:
    """Ours through the baseline; `ours[i]` and `baseline[i]` ran next to each other."""
    mine, theirs = _medians(ours), _medians(baseline)
    pairs = [a / b for a, b in zip(mine, theirs, strict=True)]
    return Ratio(float(np.median(mine) / np.median(theirs)), min(pairs), max(pairs))


def _medians(repeats: Sequence[Sequence[float]]) -> list[float]:
    return [float(np.median(samples)) for samples in repeats]


def rate_at_once(sessions: Sequence[Sequence[float]]) -> float:
    """Tokens a second of all sessions together, while all of them decode.

    sessions: when each token of a session came, in seconds and in order. What comes after every
    session has had its first token, and until the first session has had its last, is counted.
    Raises ValueError where there is no such time.
    """
    first, last = max(times[0] for times in sessions), min(times[-1] for times in sessions)
    if last <= first:
        raise ValueError("the sessions did not decode at the same time")
    counted = sum(first < time <= last for times in sessions for time in times)
    return counted / (last - first)
