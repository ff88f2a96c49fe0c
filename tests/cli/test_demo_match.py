"""Matching by cosine similarity, on embeddings small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dsi_mqtt.cli.demo_match import Match, accuracy, best_matches, hazard_embeddings

AXES = np.eye(3, dtype=np.float32)


def floats(*rows: list[float]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array(rows, dtype=np.float32)


def test_the_most_similar_hazard_wins_whatever_the_lengths() -> None:
    reports = floats([0.0, 0.3, 0.4], [50.0, 0.0, 0.0], [-1.0, -1.0, 0.0])
    (first, second, third) = best_matches(AXES * 7, reports)
    assert first.hazard == 2
    assert first.similarity == pytest.approx(0.8)
    assert second == Match(0, 1.0)
    assert third == Match(2, 0.0)


def test_of_equals_the_first_wins() -> None:
    assert best_matches(AXES, floats([0.0, 1.0, 1.0]))[0].hazard == 1


@given(
    arrays(np.float32, (4, 5), elements=st.floats(0.5, 100.0, width=32)),
    st.floats(0.01, 1000.0),
)
def test_a_report_equal_to_a_hazard_but_for_its_length_is_that_hazard(
    hazards: np.ndarray[tuple[int, int], np.dtype[np.float32]], scale: float
) -> None:
    for row, match in enumerate(best_matches(hazards, (hazards * scale).astype(np.float32))):
        assert match.similarity == pytest.approx(1.0)
        assert match.similarity <= 1.0
        found, meant = (hazards[r] / np.linalg.norm(hazards[r]) for r in (match.hazard, row))
        np.testing.assert_allclose(found, meant, atol=1e-3)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_an_embedding_without_direction_is_refused(bad: float) -> None:
    broken = floats([1.0, 0.0, 0.0], [bad, bad, bad])
    with pytest.raises(ValueError, match="reports has a row without a direction"):
        best_matches(AXES, broken)
    with pytest.raises(ValueError, match="hazards has a row without a direction"):
        best_matches(broken, AXES)


@pytest.mark.parametrize(
    ("hazards", "reports"),
    [
        (AXES, np.eye(4, dtype=np.float32)),
        (AXES[:0], AXES),
        (AXES, AXES[0]),
    ],
    ids=["widths differ", "no hazard", "not a matrix"],
)
def test_shapes_that_do_not_fit_are_refused(
    hazards: np.ndarray[tuple[int, int], np.dtype[np.float32]],
    reports: np.ndarray[tuple[int, int], np.dtype[np.float32]],
) -> None:
    with pytest.raises(ValueError, match=r"need one width|must be a matrix"):
        best_matches(hazards, reports)


def test_no_reports_give_no_matches() -> None:
    assert best_matches(AXES, AXES[:0]) == ()


def test_a_hazard_is_the_mean_direction_of_its_passages() -> None:
    passages = floats([9.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 5.0])
    hazards = hazard_embeddings(passages, [2, 1])
    half = 0.5**0.5
    np.testing.assert_allclose(hazards, floats([half, half, 0.0], [0.0, 0.0, 1.0]), atol=1e-7)
    assert hazards.dtype == np.float32


@pytest.mark.parametrize("counts", [[], [3, 0], [2], [4], [4, -1]])
def test_counts_must_cover_the_passages(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="add up to 3"):
        hazard_embeddings(AXES, counts)


def test_passages_that_cancel_out_are_refused() -> None:
    with pytest.raises(ValueError, match="without a direction"):
        hazard_embeddings(floats([1.0, 0.0], [-1.0, 0.0]), [2])


def test_accuracy_counts_the_hazards_named_rightly() -> None:
    matches = [Match(0, 0.9), Match(1, 0.8), Match(2, 0.7), Match(0, 0.1)]
    assert accuracy(matches, [0, 1, 1, 0]) == 0.75


def test_accuracy_refuses_to_judge_nothing_or_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="at least one"):
        accuracy([], [])
    with pytest.raises(ValueError, match="shorter"):
        accuracy([Match(0, 1.0), Match(1, 1.0)], [0])
