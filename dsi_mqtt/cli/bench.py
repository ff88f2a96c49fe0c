"""`dsi-mqtt bench …`: what things cost, beside a baseline measured in the same run.

benchmarks/METHODOLOGY.md says how each is measured and what its figures mean.
"""

from __future__ import annotations

import json as json_module
import re
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

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
from dsi_mqtt.cli.bench_decode_plan import SHAPES, DecodePlan, shape_named
from dsi_mqtt.cli.bench_hop import REPEATS, HopPlan, HopReport, HopRow
from dsi_mqtt.cli.bench_hop import document as hop_document
from dsi_mqtt.cli.bench_hop import measure as measure_hop
from dsi_mqtt.cli.bench_hop_baseline import build_baseline
from dsi_mqtt.cli.common import JsonOption, until_stopped
from dsi_mqtt.cli.run_record import run_record
from dsi_mqtt.core.sizes import KIB, MIB
from dsi_mqtt.errors import BaselineError, ConfigError
from dsi_mqtt.transport.loop import run

INTERRUPTED: Final = 130
# What a hop aims at: at most this many times the baseline's median.
HOP_AIMS: Final = {KIB: 2.5, MIB: 0.5, 8 * MIB: 0.5}
# What a chain aims at: at least so much of the other series' rate.
DECODE_AIMS: Final = {THREE: (ONE, 0.9), MANY: (THREE, 3.0)}
_DECODE_NAMES: Final = {
    GENERATE: "transformers generate",
    ONE: "one segment",
    THREE: "three segments",
    MANY: "three segments, 8 sessions",
}

_SIZE: Final = re.compile(r"(\d+)([KM]?)", re.IGNORECASE)
_FACTORS: Final = {"": 1, "K": KIB, "M": MIB}
# The baseline counts its messages in the payload, and MQTT ends at 256 MiB.
_SIZE_MIN: Final = 4
_SIZE_MAX: Final = 128 * MIB

app = typer.Typer(
    help="Measure what this system costs, beside a baseline in the same run.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def bench() -> None:
    """Measure what this system costs, beside a baseline in the same run."""


@app.command()
def hop(
    json: JsonOption = False,
    repeats: Annotated[int, typer.Option(min=1, help="Of ours and of the baseline, in turn.")] = (
        REPEATS
    ),
    sizes: Annotated[str, typer.Option(help="Bytes of the tensors, as in 1024,16K,8M.")] = (
        "1K,16K,64K,1M,8M"
    ),
    messages: Annotated[
        int | None, typer.Option(min=1, help="A repeat's; by default fewer for larger tensors.")
    ] = None,
    qos: Annotated[int, typer.Option(min=0, max=0, help="Activations travel at QoS 0 only.")] = 0,
) -> None:
    """Measure one hop: tensor in, tensor out, between two processes over a broker of its own.

    Beside it, over the same broker, a plain C program on libmosquitto that sends the same bytes as
    one message. Needs a C compiler and libmosquitto's headers.
    """
    record = run_record("bench hop")
    plan = HopPlan(parse_sizes(sizes), repeats, messages, qos)
    with tempfile.TemporaryDirectory(prefix="dsi-bench-") as folder:
        try:
            baseline = build_baseline(Path(folder))
        except BaselineError:
            if json:
                print(json_module.dumps(hop_document(record, plan, None)))
            raise
        report = _measure_hop(plan, baseline)
    if json:
        print(json_module.dumps(hop_document(record, plan, report)))
    else:
        Console().print(hop_table(report))


def parse_sizes(text: str) -> tuple[int, ...]:
    """Bytes, K for 1024 and M for 1024². Raises ConfigError."""
    sizes = []
    for part in text.split(","):
        found = _SIZE.fullmatch(part.strip())
        size = int(found[1]) * _FACTORS[found[2].upper()] if found else 0
        if not _SIZE_MIN <= size <= _SIZE_MAX:
            raise ConfigError(
                f"--sizes: {part!r:.40} is no size from 4 to 128M; use for example 1024,16K,8M"
            )
        sizes.append(size)
    return tuple(sizes)


@app.command()
def decode(
    json: JsonOption = False,
    shape: Annotated[str, typer.Option(help=f"Of the model: {', '.join(SHAPES)}.")] = "llama-336m",
    repeats: Annotated[int, typer.Option(min=1, help="Of each series, in turn.")] = 5,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Of each prompt.")] = 64,
    new_tokens: Annotated[int, typer.Option(min=2, help="Generated behind each prompt.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights and the prompts.")] = 0,
) -> None:
    """Measure decoding: one segment, three segments, and eight sessions at once.

    Over brokers of their own, each segment in a process with one thread, beside `generate` of
    plain transformers. The model has random weights and is written to a temporary folder.
    """
    record = run_record("bench decode", seed=seed)
    plan = DecodePlan(shape_named(shape), repeats, prompt_tokens, new_tokens, seed)
    report = _measure_decode(plan)
    differing = report.differing()
    for what in differing:
        print(f"tokens are not those of generate: {what}", file=sys.stderr)
    if json:
        print(json_module.dumps(decode_document(record, plan, report)))
    else:
        Console().print(decode_table(plan, report))
    if differing:
        raise typer.Exit(1)


def _measure_decode(plan: DecodePlan) -> DecodeReport:
    console = Console(stderr=True)
    with _progress(console) as progress:
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


def _progress(console: Console) -> Progress:
    """Drawn between repeats only: nothing of ours runs beside what is measured."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, auto_refresh=False, transient=True)


def _measure_hop(plan: HopPlan, baseline: Path) -> HopReport:
    with _progress(Console(stderr=True)) as progress:
        task = progress.add_task("hop", total=plan.steps)

        def progressed(row: HopRow) -> None:
            progress.update(task, advance=1, description=f"hop {size_text(row.nbytes)}")
            progress.refresh()

        report = run(until_stopped(measure_hop(plan, baseline, progressed=progressed)))
    if report is None:
        raise typer.Exit(INTERRUPTED)
    return report


def hop_table(report: HopReport) -> Table:
    table = Table(
        title=f"One hop in µs, Mosquitto {report.broker_version}, QoS 0: "
        f"ours beside libmosquitto {report.baseline_version} in C",
        caption="median (interquartile range, p99); ratio of medians (least to most of pairs)",
    )
    table.add_column("tensor", justify="right")
    for name in ("ours", "libmosquitto", "ratio"):
        table.add_column(name, justify="right")
    table.add_column("aim")
    for row in report.rows:
        spreads = (
            f"{s.median:.0f} ({s.iqr:.0f}, {s.p99:.0f})" for s in (row.ours_us, row.baseline_us)
        )
        found = row.ratio
        ratio = f"{found.median:.2f} ({found.least:.2f} to {found.most:.2f})"
        table.add_row(size_text(row.nbytes), *spreads, ratio, _aim_text(row))
    return table


def _aim_text(row: HopRow) -> str:
    aim = HOP_AIMS.get(row.nbytes)
    if aim is None:
        return ""
    found = row.ratio
    if found.most <= aim:
        return f"≤ {aim}: reached"
    return f"≤ {aim}: " + ("missed in one pair or more" if found.median <= aim else "missed")


def size_text(nbytes: int) -> str:
    for factor, unit in ((MIB, "MB"), (KIB, "KB")):
        if nbytes % factor == 0:
            return f"{nbytes // factor} {unit}"
    return f"{nbytes} B"
