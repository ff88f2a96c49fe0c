"""Telemetry and probes have places of their own in each second."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.worker.rhythm import phase_s, until_beat_s


@given(st.floats(0, 1e6), st.sampled_from([0.5, 1.0]), st.floats(0, 2))
def test_a_beat_comes_in_its_place_and_not_at_once(now: float, every: float, phase: float) -> None:
    wait = until_beat_s(now, every, phase)
    assert every / 2 < wait <= 1.5 * every
    off = (now + wait - phase) % every
    assert min(off, every - off) < 1e-6


def test_a_loop_that_wakes_early_has_one_beat() -> None:
    now, beats = 100.0, []
    for _ in range(5):
        now += until_beat_s(now, 1.0, 0.25) - 0.0005
        beats.append(round(now, 2))
    assert beats == [101.25 + i for i in range(5)] or beats == [100.25 + i for i in range(1, 6)]


def test_nodes_have_places_of_their_own() -> None:
    places = {phase_s(f"gw-{i}", 0.5) for i in range(20)}
    assert len(places) == 20
    assert all(0 <= place < 0.5 for place in places)
