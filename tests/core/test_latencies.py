"""Percentiles of the newest requests."""

from __future__ import annotations

import pytest

from dsi_mqtt.core.latencies import KEPT, P95_MIN, Latencies, percentile
from dsi_mqtt.core.message import Failure
from tests.core.build import make_input
from tests.core.desk import ON_B, ON_C, Desk
from tests.core.desk_generation import Desk2, asking


def test_percentiles_are_told_where_there_are_enough() -> None:
    seen = Latencies()
    assert (seen.p50_ms, seen.p95_ms, len(seen)) == (None, None, 0)
    for number in range(1, P95_MIN):
        seen.add(number / 1000)
    assert seen.p50_ms == pytest.approx(10.0)
    assert seen.p95_ms is None
    seen.add(P95_MIN / 1000)
    assert seen.p95_ms == pytest.approx(19.0)


@pytest.mark.parametrize("count", [1, 4, 20, 100, 1000])
def test_a_percentile_is_the_least_value_that_so_many_stay_within(count: int) -> None:
    ordered = [float(number) for number in range(1, count + 1)]
    for part in (0.01, 0.5, 0.55, 0.7, 0.95, 0.99, 1.0):
        found = percentile(ordered, part)
        assert found in ordered
        assert sum(value <= found for value in ordered) >= part * count - 1e-9
        assert sum(value < found for value in ordered) < part * count
    assert percentile([], 0.5) == 0.0


def test_only_the_newest_count() -> None:
    seen = Latencies()
    for _ in range(KEPT):
        seen.add(1.0)
    for _ in range(KEPT):
        seen.add(0.002)
    assert (seen.p50_ms, seen.p95_ms, len(seen)) == (2.0, 2.0, KEPT)
    seen.clear()
    assert seen.p50_ms is None


def seen_by(desk: Desk) -> tuple[object, int]:
    load = desk.door.load()
    return load.p50_ms, load.samples


def answered(desk: Desk, number: int, seconds: float) -> None:
    desk.look()
    (started,) = desk.give(make_input(number)).sent()
    desk.wait(seconds).done(started)
    desk.take()


def test_a_door_measures_from_an_input_s_arrival_until_its_answer_is_taken() -> None:
    desk = Desk()
    (started,) = desk.give(make_input(7)).sent()
    desk.wait(0.3).done(started)
    assert seen_by(desk) == (None, 0)
    desk.wait(0.1).take()
    assert seen_by(desk) == (pytest.approx(400.0), 1)


def test_only_results_that_were_computed_count() -> None:
    desk = Desk()
    answered(desk, 7, 0.2)
    desk.give(make_input(7)).take()  # the kept answer, at once
    (started,) = desk.give(make_input(8)).sent()
    desk.wait(0.3).failed(started, Failure("model_failed", "it raised")).take()
    assert seen_by(desk) == (pytest.approx(200.0), 1)


def test_another_table_promises_something_else() -> None:
    desk = Desk(ON_B)
    answered(desk, 1, 0.2)
    desk.serve(ON_B)
    assert seen_by(desk)[1] == 1
    desk.serve(ON_C)
    assert seen_by(desk) == (None, 0)
    answered(desk, 2, 0.4)
    assert seen_by(desk) == (pytest.approx(400.0), 1)


def test_of_a_generation_its_first_token_and_its_steps_of_decoding_are_measured() -> None:
    desk = Desk2().give(asking(1, prompt=[7, 8, 9], max_tokens=3))
    assert isinstance(desk, Desk2)
    prefill = desk.step()
    desk.now += 3.0
    step = desk.drawn(prefill, 40).step()
    assert seen_by(desk) == (pytest.approx(3000.0), 1)
    assert desk.door.load().token_p50_ms is None
    desk.now += 0.05
    step = desk.drawn(step, 41).step()
    desk.now += 0.07
    desk.drawn(step, 42)
    assert desk.door.load().token_p50_ms == pytest.approx(60.0)
    assert seen_by(desk)[1] == 1
