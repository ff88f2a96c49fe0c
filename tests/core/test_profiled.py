"""Measured profiles: what is refused, and what lies between the counts that were measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.profiled import ModelProfile, UnitTimes, at

UNIT = UnitTimes("u", 1, 1, 0, {"1": 2.0, "4": 5.0}, {"16": 4.0}, {"1": 3.0})
PROFILE = ModelProfile("sha256:00", "one-pass", (UNIT,))


def test_times_between_and_beyond_lie_in_a_line() -> None:
    assert [at(UNIT.batch_ms, count) for count in (1, 2, 4, 8)] == pytest.approx([2, 3, 5, 9])
    assert at({"16": 4.0, "64": 10.0}, 40) == pytest.approx(7.0)
    assert at({"16": 4.0}, 8) == pytest.approx(2.0)
    assert at({"16": 4.0, "64": 10.0, "256": 34.0}, 512) == pytest.approx(66.0)


@given(
    st.dictionaries(st.integers(1, 512), st.floats(1e-3, 1e3), min_size=1, max_size=6),
    st.integers(1, 4096),
)
def test_no_profile_gives_a_time_that_is_none(times: dict[int, float], count: int) -> None:
    assert 0 < at({str(key): ms for key, ms in times.items()}, count) < 1e7


@pytest.mark.parametrize(
    ("profile", "field"),
    [
        (replace(PROFILE, schema="dsi.profile/9"), "schema"),
        (replace(PROFILE, units=()), "units"),
        (replace(PROFILE, units=(replace(UNIT, batch_ms={}),)), "units[0].batch_ms: holds no time"),
        (replace(PROFILE, units=(replace(UNIT, batch_ms={"1": 0.0}),)), "units[0].batch_ms.1: 0.0"),
        (
            replace(PROFILE, units=(replace(UNIT, batch_ms={"1": float("inf")}),)),
            "units[0].batch_ms.1: inf",
        ),
        (replace(PROFILE, units=(replace(UNIT, batch_ms={"x": 1.0}),)), "units[0].batch_ms: 'x'"),
        (replace(PROFILE, units=(replace(UNIT, weight_bytes=-1),)), "units[0].weight_bytes: -1"),
        (
            replace(PROFILE, kind="generation", units=(replace(UNIT, decode_ms={"1": -1.0}),)),
            "units[0].decode_ms.1: -1.0",
        ),
    ],
)
def test_what_cannot_be_planned_with_is_refused(profile: ModelProfile, field: str) -> None:
    assert PROFILE.check() is None
    assert (profile.check() or "").startswith(field)
