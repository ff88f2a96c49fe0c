"""What `dsi-mqtt bench hop` prints: the plan from its options, the table of what was found."""

from __future__ import annotations

import json as json_module
import re
import tempfile
from pathlib import Path
from typing import Final

import typer
from rich.console import Console
from rich.table import Table

from dsi_mqtt.cli import INTERRUPTED
from dsi_mqtt.cli.bench_hop import HopPlan, HopReport, HopRow
from dsi_mqtt.cli.bench_hop import document as hop_document
from dsi_mqtt.cli.bench_hop import measure as measure_hop
from dsi_mqtt.cli.bench_hop_baseline import build_baseline
from dsi_mqtt.cli.bench_progress import repeats_shown
from dsi_mqtt.cli.common import until_stopped
from dsi_mqtt.cli.run_record import run_record
from dsi_mqtt.core.sizes import KIB, MIB
from dsi_mqtt.errors import BaselineError, ConfigError
from dsi_mqtt.transport.loop import run

# What a hop aims at: at most this many times the baseline's median.
HOP_AIMS: Final = {KIB: 2.5, MIB: 0.5, 8 * MIB: 0.5}
_SIZE: Final = re.compile(r"(\d+)([KM]?)", re.IGNORECASE)
_FACTORS: Final = {"": 1, "K": KIB, "M": MIB}
# The baseline counts its messages in the payload, and MQTT ends at 256 MiB.
_SIZE_MIN: Final = 4
_SIZE_MAX: Final = 128 * MIB


def report_hop(sizes: str, *, repeats: int, messages: int | None, qos: int, as_json: bool) -> None:
    """Measures and prints. sizes: as in 1024,16K,8M. Raises ConfigError, BaselineError."""
    record = run_record("bench hop")
    plan = HopPlan(parse_sizes(sizes), repeats, messages, qos)
    with tempfile.TemporaryDirectory(prefix="dsi-bench-") as folder:
        try:
            baseline = build_baseline(Path(folder))
        except BaselineError:
            if as_json:
                print(json_module.dumps(hop_document(record, plan, None)))
            raise
        report = _measure_hop(plan, baseline)
    if as_json:
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


def _measure_hop(plan: HopPlan, baseline: Path) -> HopReport:
    with repeats_shown(Console(stderr=True)) as progress:
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
