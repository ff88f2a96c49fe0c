"""The benchmark of forecasts: a small case in earnest, a simulated one, and the report."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from dsi_mqtt.cli.bench_forecast import Row, measure, slowest_s
from dsi_mqtt.cli.bench_forecast_cases import CASES, Case
from dsi_mqtt.cli.bench_forecast_report import (
    Errors,
    ForecastPlan,
    ForecastReport,
    document,
    real_table,
    simulated_table,
    texts_table,
)
from dsi_mqtt.cli.bench_forecast_simulated import CHAINS, LOADS, SimulatedRow, simulate
from dsi_mqtt.cli.bench_forecast_texts import Taken, TextRow, measure_texts
from dsi_mqtt.core.aim import Texts
from dsi_mqtt.core.node import LinkSample
from dsi_mqtt.core.table import Forecast
from dsi_mqtt.sim.links import Figures

SMALL = Case(
    "small",
    {"tier": "fake", "options": {"units": 8, "unit_ms": 1.0, "hidden": 1024, "values": 8}},
    (4,),
    (Figures(50, 50, 20),),
)


def row(p50_ms: float, p95_ms: float) -> Row:
    told = Forecast(100.0, 200.0, 10.0)
    alone, loaded = (p50_ms / 1e3,) * 3, (p95_ms / 1e3,) * 3
    return Row(SMALL, told, told, 5.0, alone, loaded, ("raw",), {"n1": LinkSample(20.0)})


def text_row(first_s: float, token_s: float) -> TextRow:
    told = Forecast(250.0, 400.0, 3.0, 100.0, 120.0)
    taken = (Taken(first_s, 4 * token_s, 5),) * 3
    return TextRow(SMALL, told, told, 1.0, taken, taken)


def test_the_cases_are_as_many_as_they_are_different() -> None:
    assert len({case.name for case in CASES}) >= 12
    assert {len(case.nodes) for case in CASES} == {1, 2, 3, 4, 5}
    for case in CASES:
        spec = case.deployment(1.0)
        assert len(spec.split or ()) == len(case.nodes)
        real = case.model["tier"] != "fake"
        assert not real or len(case.nodes) <= 2


def test_a_site_behind_shaped_links_is_forecast_and_then_asked() -> None:
    said: list[str] = []
    found = asyncio.run(measure(SMALL, 20, 0, said.append, patience_s=1.0))
    assert len(found.alone_s) == len(found.loaded_s) == 20
    # Three ways over two links of 10 ms each way: broker to door, hop, and the answer's.
    assert min(found.alone_s) > 0.040
    assert found.forecast.p50_ms > 40
    assert found.rate_per_s == pytest.approx(found.forecast.rate_per_s * SMALL.load, rel=0.01)
    assert set(found.measured) == {"n1", "n2"}
    assert [text.split(": ")[1] for text in said] == [
        "starting its nodes",
        "measuring its links",
        "requests one by one",
        "requests at random",
    ]


def test_texts_are_forecast_and_then_asked() -> None:
    options = {"units": 8, "unit_ms": 0.1, "step_ms": 1.0, "hidden": 256}
    small = Case(
        "small", {"tier": "fake", "options": options}, (4,), SMALL.links, texts=Texts(16, 5)
    )
    found = asyncio.run(measure_texts(small, 8, 0, lambda _: None, patience_s=1.0))
    assert len(found.loaded) == 8
    assert all(text.tokens == 5 for text in (*found.alone, *found.loaded))
    # A step and a prompt take 8 ms at least, and three ways over links of 10 ms.
    assert min(text.first_s for text in found.alone) > 0.04
    assert found.forecast.token_p50_ms is not None
    assert found.forecast.token_p50_ms > 40
    assert found.rate_per_s == pytest.approx(small.load * found.idle.rate_per_s)


def test_a_forecast_of_waits_is_near_what_is_simulated() -> None:
    found = simulate(CHAINS[1], 0.6, 600, seed=1)
    assert found.segments == 2
    assert found.requests > 400
    assert abs(found.p95_error) < 0.3


def test_errors_are_told_by_their_size() -> None:
    assert Errors.of([-0.4, 0.1, 0.2]) == Errors(0.2, 0.4)
    assert slowest_s([float(i) for i in range(1, 101)]) == 95.0
    assert row(80.0, 400.0).p50_error == pytest.approx(0.25)
    assert row(80.0, 400.0).p95_error == pytest.approx(-0.5)


def test_what_is_told_holds_all_that_was_measured() -> None:
    plan = ForecastPlan((SMALL,), (SMALL,), 3, 600, 0)
    simulated = SimulatedRow(CHAINS[0], 1, LOADS[0], Forecast(1.0, 2.0, 3.0), 600, 4.0)
    texts = (text_row(0.5, 0.05), text_row(0.125, 0.2))
    report = ForecastReport((row(80.0, 400.0), row(125.0, 200.0)), texts, (simulated,))
    told = json.loads(json.dumps(document({"version": "0"}, plan, report)))
    assert told["schema"] == "dsi.bench.forecast/1"
    assert told["p50_error"] == {"median": pytest.approx(0.225), "p90": pytest.approx(0.25)}
    assert told["simulated_p95_error"]["median"] == pytest.approx(0.5)
    assert told["real"][0]["links"][0] == {"up_mbit_s": 50, "down_mbit_s": 50, "rtt_ms": 20}
    assert told["real"][0]["measured"]["n1"]["rtt_ms"] == 20.0
    assert told["simulated"][0]["forecast"]["p95_ms"] == 2.0
    assert told["first_error"]["median"] == pytest.approx(0.75)
    assert told["token_error"] == {"median": pytest.approx(0.75), "p90": pytest.approx(1.0)}
    assert told["texts"][0]["first_ms"] == 500.0
    empty = document({}, replace(plan, cases=()), replace(report, real=(), texts=()))
    assert "p50_error" not in empty
    assert texts_table(report.texts).row_count == 2
    assert real_table(report.real).row_count == 2
    assert simulated_table(report.simulated).row_count == 1
