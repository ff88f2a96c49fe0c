"""What counts as a violation, what regret is, and when a scenario says anything."""

from __future__ import annotations

import pytest

from dsi_mqtt.evaluate.scoring import (
    Seed,
    Target,
    is_informative,
    regret_of,
    row_of,
    rows_of,
    verdict_of,
)
from tests.evaluate.small import played

TARGET = Target(0.3, 1.2)


def test_late_answers_and_missing_ones_are_violations() -> None:
    row = row_of("adaptive", [{"adaptive": played("adaptive", 100, 300, 301, failed=2)}], TARGET)
    assert row is not None
    assert (row.answered, row.failed, row.violations) == (3, 2, 3)
    assert row.violation_share == pytest.approx(0.6)
    assert row.p50_ms == pytest.approx(301)
    assert row.p99_ms == pytest.approx(1200)  # who has no answer counts with the deadline


def test_rows_add_seeds_up_and_leave_out_who_did_not_play() -> None:
    seeds: list[Seed] = [
        {"adaptive": played("adaptive", 100, moves="rs"), "edge": played("edge", 100)},
        {"adaptive": played("adaptive", 500, moves="s"), "edge": played("edge", 100)},
    ]
    edge, adaptive = rows_of(seeds, TARGET)
    assert (edge.policy, adaptive.policy) == ("edge", "adaptive")
    assert adaptive.moves == {"remap": 1, "resplit": 2}
    assert (adaptive.bytes, adaptive.control_bytes, adaptive.cost) == (2000, 20, 1.0)
    assert adaptive.decision_ms == pytest.approx({"p50": 1.0, "p95": 3.0})


@pytest.mark.parametrize(
    ("adaptive", "causal", "fixed", "regret"),
    [(4, 2, 8, 1 / 3), (2, 2, 8, 0.0), (1, 2, 8, -1 / 6), (8, 2, 8, 1.0), (3, 4, 4, None)],
)
def test_regret(adaptive: int, causal: int, fixed: int, regret: float | None) -> None:
    seed: Seed = {
        "adaptive": played("adaptive", 100, failed=adaptive),
        "causal-oracle": played("causal-oracle", 100, failed=causal),
        "static-hindsight": played("static-hindsight", 100, failed=fixed),
    }
    found = regret_of(seed, TARGET)
    assert found == (None if regret is None else pytest.approx(regret))


@pytest.mark.parametrize(
    ("fixed", "clairvoyant", "informative"),
    [
        (0.06, 0.02, True),
        (0.049, 0.0, False),
        (0.06, 0.021, False),
        (None, 0.0, False),
        (0.5, None, False),
    ],
)
def test_informative(fixed: float | None, clairvoyant: float | None, informative: bool) -> None:
    assert is_informative(fixed, clairvoyant) is informative


def test_a_verdict_is_of_medians_over_seeds() -> None:
    def seed(adaptive: int, p95: float) -> Seed:
        slow = [p95] * 10
        return {
            "adaptive": played("adaptive", *slow, failed=adaptive, moves="rrr"),
            "causal-oracle": played("causal-oracle", *[100.0] * 20),
            "static-hindsight": played("static-hindsight", *[100.0] * 10, failed=10),
            "clairvoyant": played("clairvoyant", *[100.0] * 20, moves="ssr"),
        }

    seeds = [seed(1, 100.0), seed(4, 100.0), seed(2, 100.0)]
    verdict = verdict_of(seeds, TARGET)
    assert verdict.informative
    assert verdict.regret == pytest.approx(0.2)
    assert verdict.p95_over_causal == pytest.approx(12.0)  # the deadline over 100 ms
    assert verdict.recuts == 2
    assert verdict.late_moves == 0  # 28, 29 and 30 s are not after 30 s
