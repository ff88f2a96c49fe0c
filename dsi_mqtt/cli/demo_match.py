"""Matches reports to hazards by the cosine similarity of their embeddings.

A hazard is described by several passages; the mean of their unit embeddings stands for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Embeddings = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Match:
    """The best hazard for one report.

    hazard: row of the hazard's embedding.
    similarity: cosine, from -1 to 1.
    """

    hazard: int
    similarity: float


def hazard_embeddings(passages: Embeddings, counts: Sequence[int]) -> Embeddings:
    """One unit embedding for each hazard, [h, d], from those of its passages.

    passages: [n, d], hazard after hazard. counts: how many belong to each, at least one.
    Raises ValueError when the counts do not add up to n, or passages cancel each other out.
    """
    rows = _unit_rows("passages", passages)
    if min(counts, default=0) < 1 or sum(counts) != len(rows):
        raise ValueError(f"counts {list(counts)} must be positive and add up to {len(rows)}")
    parts = np.split(rows, np.cumsum(counts)[:-1])
    means = np.stack([part.mean(axis=0) for part in parts])
    return _unit_rows("the hazards' means", means).astype(np.float32)


def best_matches(hazards: Embeddings, reports: Embeddings) -> tuple[Match, ...]:
    """For each report the most similar hazard, the first of equals.

    hazards: [h, d] with h >= 1, reports: [n, d]; rows may have any length but zero.
    Raises ValueError when the shapes do not fit or a row has no direction (zero, NaN, infinite).
    """
    known, seen = _unit_rows("hazards", hazards), _unit_rows("reports", reports)
    if len(known) == 0 or known.shape[1] != seen.shape[1]:
        raise ValueError(
            f"hazards {known.shape} and reports {seen.shape} need one width and a hazard at least"
        )
    similarities = np.clip(seen @ known.T, -1.0, 1.0)
    best = similarities.argmax(axis=1)
    return tuple(
        Match(int(hazard), float(row[hazard]))
        for hazard, row in zip(best, similarities, strict=True)
    )


def accuracy(matches: Sequence[Match], expected: Sequence[int]) -> float:
    """The share of matches that name the expected hazard (row numbers), from 0 to 1.

    Raises ValueError when there is nothing to judge or the lengths differ.
    """
    if not matches:
        raise ValueError("accuracy needs at least one match")
    pairs = zip(matches, expected, strict=True)
    return sum(match.hazard == hazard for match, hazard in pairs) / len(matches)


def _unit_rows(name: str, embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
    """The rows at length 1, in float64 so that rounding does not reorder near ties."""
    rows = np.asarray(embeddings, dtype=np.float64)
    if rows.ndim != 2:  # noqa: PLR2004 - a matrix has two dimensions
        raise ValueError(f"{name} must be a matrix, one embedding a row, not of shape {rows.shape}")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise ValueError(f"{name} has a row without a direction: zero, NaN or infinite")
    unit: NDArray[np.float64] = rows / lengths
    return unit
