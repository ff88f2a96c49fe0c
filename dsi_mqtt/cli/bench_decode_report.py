"""What `dsi-mqtt bench decode` prints: the table of what was found."""

from __future__ import annotations

import json as json_module
import sys
from typing import Final

import typer
from rich.console import Console
from rich.table import Table

from dsi_mqtt.cli import INTERRUPTED
from dsi_mqtt.cli.bench_decode import (
    GENERATE,
    MANY,
    ONE,
    SERIES,
    THREE,
    DecodeReport,
    Series,
    run_decode,
)
from dsi_mqtt.cli.bench_decode import document as decode_document
from dsi_mqtt.cli.bench_decode_plan import DecodePlan
from dsi_mqtt.cli.bench_progress import repeats_shown
from dsi_mqtt.cli.common import until_stopped
from dsi_mqtt.cli.run_record import run_record
from dsi_mqtt.transport.loop import run

# What a chain aims at: at least so much of the other series' rate.
DECODE_AIMS: Final = {THREE: (ONE, 0.9), MANY: (THREE, 3.0)}
_DECODE_NAMES: Final = {
    GENERATE: "transformers generate",
    ONE: "one segment",
    THREE: "three segments",
    MANY: "three segments, 8 sessions",
}


def report_decode(plan: DecodePlan, *, as_json: bool) -> None:
    """Measures and prints; ends with 1 where tokens are not those of `generate`."""
    record = run_record("bench decode", seed=plan.seed)
    report = _measure_decode(plan)
    differing = report.differing()
    for what in differing:
        print(f"tokens are not those of generate: {what}", file=sys.stderr)
    if as_json:
        print(json_module.dumps(decode_document(record, plan, report)))
    else:
        Console().print(decode_table(plan, report))
    if differing:
        raise typer.Exit(1)


def _measure_decode(plan: DecodePlan) -> DecodeReport:
    console = Console(stderr=True)
    with repeats_shown(console) as progress:
        task = progress.add_task("decode", total=plan.repeats * len(SERIES))

        def say(text: str) -> None:
            progress.update(task, description=text)
            progress.refresh()
            if not console.is_terminal:
                console.print(f"{text} …", markup=False)

        def progressed(series: Series) -> None:
            progress.update(task, advance=1, description=_DECODE_NAMES[series])
            progress.refresh()

        report = run(until_stopped(run_decode(plan, say=say, progressed=progressed)))
    if report is None:
        raise typer.Exit(INTERRUPTED)
    return report


def decode_table(plan: DecodePlan, report: DecodeReport) -> Table:
    equal = "differ from generate's" if report.differing() else "are generate's"
    table = Table(
        title=f"Decoding {plan.shape.name} ({plan.shape.params / 1e6:.0f} M parameters, float32, "
        "one thread a segment)",
        caption=f"tokens a second after the first, median (least to most of {plan.repeats}); "
        f"{plan.prompt_tokens} + {plan.new_tokens} tokens, which {equal}",
    )
    for name in ("", "tokens/s", "ratio", "aim"):
        table.add_column(name, justify="right" if name in ("tokens/s", "ratio") else "left")
    for series, rates in report.rates.items():
        spread = f"{report.median(series):.1f} ({min(rates):.1f} to {max(rates):.1f})"
        table.add_row(_DECODE_NAMES[series], spread, *_decode_aim(report, series))
    return table


def _decode_aim(report: DecodeReport, series: Series) -> tuple[str, str]:
    """The ratio, and whether it reaches its aim in every repeat."""
    if series not in DECODE_AIMS:
        return "", ""
    through, aim = DECODE_AIMS[series]
    ratios = report.ratios(series, through)
    found = report.median(series) / report.median(through)
    verdict = "reached" if min(ratios) >= aim else "missed"
    if verdict == "missed" and found >= aim:
        verdict = "missed in one repeat or more"
    ratio = f"{found:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return ratio, f"≥ {aim:g} of {_DECODE_NAMES[through]}: {verdict}"
