"""What `dsi-mqtt bench forecast` prints: forecast and reality side by side."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

import typer
from rich.console import Console
from rich.table import Table

from dsi_mqtt.cli import INTERRUPTED
from dsi_mqtt.cli.bench_forecast import SCHEMA, Row, measure, slowest_s
from dsi_mqtt.cli.bench_forecast_cases import Case
from dsi_mqtt.cli.bench_forecast_simulated import SimulatedRow, simulated
from dsi_mqtt.cli.bench_forecast_texts import TextRow, measure_texts, token_s
from dsi_mqtt.cli.common import until_stopped, waiting
from dsi_mqtt.cli.run_record import run_record
from dsi_mqtt.transport.loop import run

# Median and 90th percentile of the errors' sizes.
AIM_P50: Final = (0.15, 0.30)
AIM_P95_SIMULATED: Final = 0.15
_MOST: Final = 0.9
# Requests for each text: these take many times as long.
TEXTS: Final = 4


@dataclass(frozen=True, slots=True)
class ForecastPlan:
    """requests: of each case, one by one and again at random; a fourth of them of each of texts.
    simulated: of each load.
    """

    cases: tuple[Case, ...]
    texts: tuple[Case, ...]
    requests: int
    simulated: int
    seed: int


@dataclass(frozen=True, slots=True)
class ForecastReport:
    real: tuple[Row, ...]
    texts: tuple[TextRow, ...]
    simulated: tuple[SimulatedRow, ...]


@dataclass(frozen=True, slots=True)
class Errors:
    """Sizes of errors: their median, and what nine of ten stay within."""

    median: float
    p90: float

    @classmethod
    def of(cls, errors: Sequence[float]) -> Errors:
        sizes = sorted(map(abs, errors))
        return cls(median(sizes), sizes[min(int(_MOST * len(sizes)), len(sizes) - 1)])


def report_forecast(plan: ForecastPlan, *, as_json: bool) -> None:
    """Measures and prints. Whether an aim is reached stands in the table, not in the exit code."""
    record = run_record("bench forecast", seed=plan.seed)
    with waiting(Console(stderr=True), "forecasts", plain=True) as say:

        async def measured() -> tuple[tuple[Row, ...], tuple[TextRow, ...]]:
            asked, texts = plan.requests, max(1, plan.requests // TEXTS)
            rows = [await measure(case, asked, plan.seed, say) for case in plan.cases]
            told = [await measure_texts(case, texts, plan.seed, say) for case in plan.texts]
            return tuple(rows), tuple(told)

        real = run(until_stopped(measured()))
        if real is None:
            raise typer.Exit(INTERRUPTED)
        say("simulated waits")
        report = ForecastReport(*real, tuple(simulated(plan.simulated, plan.seed)))
    if as_json:
        print(json_module.dumps(document(record, plan, report)))
        return
    console = Console()
    if report.real:
        console.print(real_table(report.real))
    if report.texts:
        console.print(texts_table(report.texts))
    console.print(simulated_table(report.simulated))


def real_table(rows: Sequence[Row]) -> Table:
    found = Errors.of([row.p50_error for row in rows])
    slower = Errors.of([row.p95_error for row in rows])
    table = Table(
        title="Forecast, and what requests then took (ms)",
        caption=f"median error {found.median:.0%} (aim {AIM_P50[0]:.0%}), of nine in ten "
        f"{found.p90:.0%} (aim {AIM_P50[1]:.0%}); of p95 under load {slower.median:.0%}",
    )
    table.add_column("case")
    for name in ("p50 forecast", "p50", "error", "p95 forecast", "p95", "error"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.case.name,
            f"{row.forecast.p50_ms:.1f}",
            f"{median(row.alone_s) * 1e3:.1f}",
            f"{row.p50_error:+.1%}",
            f"{row.forecast.p95_ms:.1f}",
            f"{slowest_s(row.loaded_s) * 1e3:.1f}",
            f"{row.p95_error:+.1%}",
        )
    return table


def texts_table(rows: Sequence[TextRow]) -> Table:
    first = Errors.of([row.errors[0] for row in rows])
    token = Errors.of([row.errors[1] for row in rows])
    table = Table(
        title="Texts at random: forecast, and what they then took (ms)",
        caption=f"median error of first tokens {first.median:.0%}, of tokens {token.median:.0%}",
    )
    table.add_column("case")
    for name in ("first forecast", "first", "error", "of 95 %", "token forecast", "token", "error"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.case.name,
            f"{row.forecast.p50_ms:.0f}",
            f"{row.first_s * 1e3:.0f}",
            f"{row.errors[0]:+.1%}",
            f"{row.first_p95_error:+.1%}",
            f"{row.forecast.token_p50_ms or 0.0:.1f}",
            f"{token_s(row.loaded) * 1e3:.1f}",
            f"{row.errors[1]:+.1%}",
        )
    return table


def simulated_table(rows: Sequence[SimulatedRow]) -> Table:
    found = Errors.of([row.p95_error for row in rows])
    table = Table(
        title="95 % under load: forecast, and simulated (ms)",
        caption=f"median error {found.median:.0%} (aim {AIM_P95_SIMULATED:.0%}), of nine in ten "
        f"{found.p90:.0%}",
    )
    for name in ("segments", "spread", "load", "p95 forecast", "p95", "error"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            str(row.segments),
            f"{row.chain.spread:g}",
            f"{row.load:.0%}",
            f"{row.forecast.p95_ms:.1f}",
            f"{row.p95_ms:.1f}",
            f"{row.p95_error:+.1%}",
        )
    return table


def document(record: dict[str, Any], plan: ForecastPlan, report: ForecastReport) -> dict[str, Any]:
    """The JSON object."""
    found: dict[str, Any] = {"schema": SCHEMA, **record, "requests": plan.requests}
    if report.real:
        found["p50_error"] = asdict(Errors.of([row.p50_error for row in report.real]))
        found["p95_error"] = asdict(Errors.of([row.p95_error for row in report.real]))
    found["simulated_p95_error"] = asdict(Errors.of([r.p95_error for r in report.simulated]))
    if report.texts:
        found["first_error"] = asdict(Errors.of([row.errors[0] for row in report.texts]))
        found["token_error"] = asdict(Errors.of([row.errors[1] for row in report.texts]))
    found["real"] = [_real(row) for row in report.real]
    found["texts"] = [_text(row) for row in report.texts]
    found["simulated"] = [_simulated(row) for row in report.simulated]
    return found


def _real(row: Row) -> dict[str, Any]:
    return {
        "case": row.case.name,
        "segments": len(row.case.nodes),
        "links": [asdict(row.case.link_of(node)) for node in row.case.nodes],
        "measured": {name: asdict(sample) for name, sample in row.measured.items()},
        "codecs": list(row.codecs),
        "load": row.case.load,
        "rate_per_s": round(row.rate_per_s, 3),
        "forecast": asdict(row.forecast),
        "retained": asdict(row.retained),
        "p50_ms": round(median(row.alone_s) * 1e3, 2),
        "p95_ms": round(slowest_s(row.loaded_s) * 1e3, 2),
        "p50_error": round(row.p50_error, 4),
        "p95_error": round(row.p95_error, 4),
    }


def _text(row: TextRow) -> dict[str, Any]:
    first, token = row.errors
    alone_first, alone_token = row.idle_errors
    return {
        "case": row.case.name,
        "segments": len(row.case.nodes),
        "links": [asdict(row.case.link_of(node)) for node in row.case.nodes],
        "load": row.case.load,
        "rate_per_s": round(row.rate_per_s, 3),
        "alone": asdict(row.idle),
        "forecast": asdict(row.forecast),
        "first_ms": round(row.first_s * 1e3, 2),
        "token_ms": round(token_s(row.loaded) * 1e3, 2),
        "alone_first_error": round(alone_first, 4),
        "alone_token_error": round(alone_token, 4),
        "first_error": round(first, 4),
        "first_p95_error": round(row.first_p95_error, 4),
        "token_error": round(token, 4),
    }


def _simulated(row: SimulatedRow) -> dict[str, Any]:
    return {
        **asdict(row.chain),
        "segments": row.segments,
        "load": row.load,
        "requests": row.requests,
        "forecast": asdict(row.forecast),
        "p95_ms": round(row.p95_ms, 2),
        "p95_error": round(row.p95_error, 4),
    }
