"""All seeds of all scenarios: in order, and whoever plays them."""

from __future__ import annotations

import pytest

from dsi_mqtt.evaluate import running
from dsi_mqtt.evaluate.playing import Played, Traces
from dsi_mqtt.evaluate.policies import Name
from tests.evaluate.small import played


def stand_in(name: str, seed: int, traces: Traces) -> dict[Name, Played]:
    assert traces == {}
    return {"adaptive": played("adaptive", float(len(name)), float(seed))}


def test_results_are_by_scenario_in_the_order_of_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "play", stand_in)
    heard: list[tuple[str, int]] = []
    found = running.play_all(
        ["one", "three"], [5, 2], {}, processes=1, said=lambda *job: heard.append(job)
    )
    assert list(found) == ["one", "three"]
    took = [list(seed["adaptive"].latencies_s) for seed in found["three"]]
    assert took == [[0.005, 0.005], [0.005, 0.002]]
    assert heard == [("one", 5), ("three", 5), ("one", 2), ("three", 2)]


def test_what_a_seed_raises_ends_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str, seed: int, traces: Traces) -> dict[Name, Played]:
        raise RuntimeError(f"{name} {seed} {len(traces)}")

    monkeypatch.setattr(running, "play", fails)
    with pytest.raises(RuntimeError, match="one 1 0"):
        running.play_all(["one"], [1, 2], {}, processes=1)


def test_there_is_a_core_to_play_on() -> None:
    assert running.cores() >= 1
