"""`dsi-mqtt chaos`: faults in a standing system, and whether it kept what is promised."""

from __future__ import annotations

import json as json_module
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from dsi_mqtt.chaos.journal import Journal
from dsi_mqtt.chaos.outcome import Row, document, holds
from dsi_mqtt.chaos.trials import FULL_S, MIXED, MIXED_S, chosen
from dsi_mqtt.cli import INTERRUPTED
from dsi_mqtt.cli.chaos_run import ChaosPlan, run_chaos
from dsi_mqtt.cli.chaos_show import show_rows
from dsi_mqtt.cli.common import JsonOption, until_stopped
from dsi_mqtt.cli.run_record import run_record
from dsi_mqtt.sim.traces import read_folder
from dsi_mqtt.transport.loop import run

# Of what is printed, whoever reads it: a row has many figures.
WIDTH: Final = 180


def chaos(
    seconds: Annotated[
        float | None,
        typer.Option(min=10, help="For all faults together; by default 70 minutes, mixed 10."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of whom and when faults hit.")] = 7,
    fault: Annotated[
        str | None, typer.Option(help="This one only; mixed: all of them, at random.")
    ] = None,
    json: JsonOption = False,
    traces: Annotated[
        Path | None, typer.Option(help="A folder of recorded links, replayed on the nodes' links.")
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            help="Where every event goes; by default chaos-SEED.jsonl.", show_default=False
        ),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="Keep the brokers' state and the logs here.")
    ] = None,
) -> None:
    """Inject faults into a standing system of real processes.

    Brokers, two orchestrators and nodes, each behind a link of its own; every input must have
    exactly one correct result. It needs no model, and a Mosquitto on this machine.
    """
    trials = () if fault == MIXED else chosen(fault)
    wanted = seconds or (MIXED_S if fault == MIXED else FULL_S)
    recorded = read_folder(traces) if traces is not None else {}
    record = run_record("chaos", seed=seed)
    console = Console(file=sys.stderr if json else sys.stdout, highlight=False, width=WIDTH)
    path = log or Path(f"chaos-{seed}.jsonl")
    began = time.monotonic()
    with ExitStack() as stack:
        folder = state
        if folder is None:
            own = tempfile.TemporaryDirectory(prefix="dsi-mqtt-", ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(own))
        lines = stack.enter_context(path.open("w"))
        journal = Journal(lines, lambda line: console.print(line, markup=False))
        plan = ChaosPlan(trials, wanted, seed, folder, recorded)
        found = run(until_stopped(run_chaos(plan, journal)))
    if found is None:
        raise typer.Exit(INTERRUPTED)
    rows, broken = found
    _report(rows, broken, console)
    if json:
        print(
            json_module.dumps(document(rows, time.monotonic() - began, str(path), record, broken))
        )
    if not holds(rows, broken):
        raise typer.Exit(1)


def _report(rows: list[Row], broken: list[str], console: Console) -> None:
    show_rows(rows, console)
    for sentence in broken[:10]:
        console.print(f"not as it should be: {sentence}", markup=False)
    verdict = "all as it should be" if holds(rows, broken) else "not as claimed"
    console.print(verdict)
