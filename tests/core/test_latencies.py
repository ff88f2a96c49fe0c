"""Percentiles of the newest requests."""

from __future__ import annotations

import pytest

from dsi_mqtt.core.latencies import KEPT, P95_MIN, Latencies


def test_percentiles_are_told_where_there_are_enough() -> None:
    seen = Latencies()
    assert (seen.p50_ms, seen.p95_ms, len(seen)) == (None, None, 0)
    for number in range(1, P95_MIN):
        seen.add(number / 1000)
    assert (seen.p50_ms, seen.p95_ms) == (pytest.approx(10.0), None)
    seen.add(P95_MIN / 1000)
    assert seen.p95_ms == pytest.approx(19.0)


def test_only_the_newest_count() -> None:
    seen = Latencies()
    for _ in range(KEPT):
        seen.add(1.0)
    for _ in range(KEPT):
        seen.add(0.002)
    assert (seen.p50_ms, seen.p95_ms, len(seen)) == (2.0, 2.0, KEPT)
    seen.clear()
    assert seen.p50_ms is None
