"""`dsi-mqtt evaluate`: the orchestrator against fixed placements and oracles, on recorded links."""

from __future__ import annotations

import json as json_module
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table as RichTable

from dsi_mqtt.cli.common import JsonOption
from dsi_mqtt.cli.run_record import run_record
from dsi_mqtt.evaluate import scenarios
from dsi_mqtt.evaluate.outcome import Judged, as_json, judged, recordings
from dsi_mqtt.evaluate.plots import require_plots
from dsi_mqtt.evaluate.report import write_report
from dsi_mqtt.evaluate.running import cores, play_all
from dsi_mqtt.sim.traces import read_folder

FOLDER: Final = Path("evaluation")
SEEDS: Final = 10


def evaluate(
    traces: Annotated[
        Path, typer.Option(help="A folder of recorded links, NAME.csv: time_s,rate_mbit_s,rtt_ms.")
    ],
    json: JsonOption = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where the report goes; by default `evaluation`, and nowhere with --json.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each scenario.")] = SEEDS,
    scenario: Annotated[
        list[str] | None, typer.Option(help="These only; may be given several times.")
    ] = None,
) -> None:
    """Judge the orchestrator against fixed placements.

    And against oracles, which know more than anybody can, on recorded links, in the simulator. A
    report says what came of it.
    """
    chosen = tuple(dict.fromkeys(scenario or scenarios.names()))
    for name in chosen:
        scenarios.site_of(name)
    folder = out or (None if json else FOLDER)
    if folder is not None:
        require_plots()
    recorded = read_folder(traces)
    record = run_record("evaluate", seed=1)
    files = recordings(traces, recorded)
    results = play_all(chosen, range(1, seeds + 1), recorded, said=_progress(len(chosen) * seeds))
    found = judged(results)
    told = {**as_json(files, found), **record}
    page = None if folder is None else write_report(folder, told, files, found, recorded)
    if json:
        print(json_module.dumps(told))
    else:
        _show(found, Console())
    if page is not None:
        print(f"report: {page}", file=sys.stderr)


def _progress(total: int) -> Callable[[str, int], None]:
    """A line for each run that is done."""
    began, done = time.monotonic(), 0
    print(f"{total} runs of all policies on {cores()} processes", file=sys.stderr, flush=True)

    def said(name: str, seed: int) -> None:
        nonlocal done
        done += 1
        passed = time.monotonic() - began
        left = passed / done * (total - done)
        print(
            f"{done:>4}/{total}  {name}, seed {seed}; {passed:.0f} s, about {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    return said


def _show(found: tuple[Judged, ...], console: Console) -> None:
    for each in found:
        console.print()
        print(_headline(each))
        console.print(_table(each))


def _headline(each: Judged) -> str:
    verdict = each.verdict
    parts = [each.seeds_told, f"{each.requests} requests"]
    if each.constant:
        parts.append(f"{verdict.late_moves} moves after 30 s")
        if verdict.p95_over_start is not None:
            parts.append(f"p95 {verdict.p95_over_start:.3f} of static-start's")
    else:
        parts.append("informative" if verdict.informative else "not informative")
        if verdict.regret is not None:
            parts.append(f"regret {verdict.regret:.2f}")
        if verdict.p95_over_causal is not None:
            parts.append(f"p95 {verdict.p95_over_causal:.2f} of the causal oracle's")
    return f"{each.scenario}: {', '.join(parts)}"


def _table(each: Judged) -> RichTable:
    shown = RichTable(box=None, pad_edge=False)
    for name in ("policy", "p50", "p95", "violations", "moves", "MB", "EUR"):
        shown.add_column(name, justify="left" if name == "policy" else "right", no_wrap=True)
    for row in each.rows:
        shown.add_row(
            row.policy,
            f"{row.p50_ms:.0f} ms",
            f"{row.p95_ms:.0f} ms",
            f"{row.violation_share:.1%}",
            f"{row.moves['remap'] + row.moves['resplit']}",
            f"{(row.bytes + row.control_bytes) / 1e6:.0f}",
            f"{row.cost:.2f}",
        )
    return shown
