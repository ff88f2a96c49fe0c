"""`dsi-mqtt demo`: a real model, split over gateways, judged by the unsplit one."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from dsi_mqtt.cli import INTERRUPTED
from dsi_mqtt.cli.common import JsonOption, until_stopped
from dsi_mqtt.cli.demo_run import DemoPlan, run_demo
from dsi_mqtt.cli.demo_show import outcome_document, show_outcome
from dsi_mqtt.cli.run_record import run_record
from dsi_mqtt.cli.worker import parse_cap
from dsi_mqtt.transport.loop import run

DEFAULT_CAP: Final = "default"
VICTIM: Final = "city"


def demo(
    json: JsonOption = False,
    memory_cap: Annotated[
        str,
        typer.Option(
            help="Weight budget of every gateway in MiB; none lifts it. "
            "By default 62, and 18 beside the road, so that no gateway can hold the model."
        ),
    ] = DEFAULT_CAP,
    kill: Annotated[
        str, typer.Option(help="Which gateway dies in mid-run: city, or a -gw.")
    ] = VICTIM,
    calm: Annotated[
        bool, typer.Option("--calm", help="Throttle no link, and kill no gateway.")
    ] = False,
    inputs: Annotated[
        int | None, typer.Option(min=1, help="Send only the first so many texts.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="Keep the brokers' state and the logs here.")
    ] = None,
) -> None:
    """Run a real model over five gateways, and judge its answers.

    Matches incident reports from a city's roads to known hazards. In mid-run a gateway's link is
    throttled, and later a gateway dies.
    """
    record = run_record("demo")
    caps = None if memory_cap == DEFAULT_CAP else (parse_cap(memory_cap, "--memory-cap"),)
    plan = DemoPlan.make(caps, None if calm else kill, inputs, state)
    console = Console(file=sys.stderr if json else sys.stdout)
    outcome = run(until_stopped(run_demo(plan, console)))
    if outcome is None:
        raise typer.Exit(INTERRUPTED)
    show_outcome(outcome, console)
    if json:
        print(json_module.dumps(outcome_document(outcome, record)))
    if not outcome.holds:
        raise typer.Exit(1)
