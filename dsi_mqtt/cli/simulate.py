"""`dsi-mqtt simulate`: a site on virtual time, with the machines and the planner that serve."""

from __future__ import annotations

import json as json_module
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table as RichTable

from dsi_mqtt.cli.common import JsonOption, waiting
from dsi_mqtt.cli.run_record import run_record
from dsi_mqtt.errors import ConfigError
from dsi_mqtt.sim.journal import Journal
from dsi_mqtt.sim.report import DeploymentReport, NodeReport, Report, TextsReport, report_of
from dsi_mqtt.sim.scenario import Scenario
from dsi_mqtt.sim.scenario_file import read_scenario
from dsi_mqtt.sim.simulation import Simulation
from dsi_mqtt.sim.traces import Trace, read_folder

SCHEMA: Final = "dsi.simulation/1"
# Nodes and decisions that a terminal is shown; `--json` has all.
SHOWN_MAX: Final = 20


def simulate(
    scenario: Annotated[Path, typer.Argument(help="The scenario: a YAML file.")],
    seed: Annotated[int | None, typer.Option(help="In place of the scenario's own.")] = None,
    traces: Annotated[
        Path | None,
        typer.Option(help="A folder of traces, NAME.csv, that links of the scenario name."),
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="Write every event into this file, one JSON object a line.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Simulate a site on virtual time, as it would be served."""
    chosen = read_scenario(scenario)
    if seed is not None:
        chosen = replace(chosen, seed=seed)
    record = run_record("simulate", seed=chosen.seed)
    recorded = read_folder(traces) if traces is not None else {}
    with waiting(Console(stderr=True), f"{scenario.name}: {chosen.duration_s:g} s are simulated"):
        found = _run(chosen, recorded, log)
    if json:
        print(json_module.dumps({"schema": SCHEMA, **record, **found.as_dict()}))
        return
    _show(found, Console())


def _run(scenario: Scenario, traces: dict[str, Trace], log: Path | None) -> Report:
    if log is None:
        return _simulated(scenario, traces, Journal())
    try:
        with log.open("w", encoding="utf-8") as file:
            return _simulated(scenario, traces, Journal(file))
    except OSError as error:
        raise ConfigError(f"{log}: cannot be written: {error.strerror}") from None


def _simulated(scenario: Scenario, traces: dict[str, Trace], journal: Journal) -> Report:
    run = Simulation(scenario, traces, journal)
    run.run()
    return report_of(run)


def _show(found: Report, console: Console) -> None:
    print(
        f"{found.simulated_s:.1f} s simulated, seed {found.seed}, {found.events} events, "
        f"journal {found.journal}"
    )
    for deployment in found.deployments:
        _show_deployment(deployment, console)
    console.print()
    console.print(_nodes(found.nodes))
    _show_decisions(found)


def _show_deployment(found: DeploymentReport, console: Console) -> None:
    wrong = sum(found.errors.values())
    parts = [f"{found.inputs} inputs", f"{found.results} results", _count(wrong, "error")]
    parts += [f"{number} {code}" for code, number in found.errors.items()]
    parts += [f"{found.abandoned} unanswered", _count(found.moves, "move")]
    print(f"\n{found.deployment}: {found.state}; {', '.join(parts)}")
    if found.latency is not None:
        seen = found.latency
        expected = found.forecast
        told = (
            f"; forecast p50 {expected['p50_ms']:.1f} ms, p95 {expected['p95_ms']:.1f} ms, "
            f"up to {expected['rate_per_s']:.1f}/s"
            if expected is not None
            else ""
        )
        print(f"latency p50 {seen.p50_ms:.1f} ms, p95 {seen.p95_ms:.1f} ms{told}")
    if found.texts is not None:
        _show_texts(found.texts, found.forecast)
    if found.segments:
        chain = " → ".join(f"{part.units} on {part.node}" for part in found.segments)
        console.print(f"{chain}; door on {found.door}", markup=False, highlight=False)


def _show_texts(found: TextsReport, forecast: dict[str, float] | None) -> None:
    told = {
        "first token": (found.first_token, (forecast or {}).get("p50_ms")),
        "token": (found.token, (forecast or {}).get("token_p50_ms")),
        "longest pause": (found.pause, None),
    }
    for name, (seen, expected) in told.items():
        if seen is not None:
            beside = f"; forecast p50 {expected:.1f} ms" if expected else ""
            print(f"{name} p50 {seen.p50_ms:.1f} ms, p95 {seen.p95_ms:.1f} ms{beside}")
    print(f"{found.tokens} tokens, {_count(found.wrong, 'wrong text')}")


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _nodes(nodes: tuple[NodeReport, ...]) -> RichTable:
    """The busiest first."""
    shown = _columns("node", "segments run", "busy", "sent", "received", "control")
    ordered = sorted(nodes, key=lambda node: (-node.busy, node.node))
    for node in ordered[:SHOWN_MAX]:
        shown.add_row(
            node.node,
            str(node.computed),
            f"{node.busy:.1%}",
            f"{node.up_mib:.1f} MiB",
            f"{node.down_mib:.1f} MiB",
            f"{node.control_kib:.0f} KiB",
        )
    if len(ordered) > SHOWN_MAX:
        shown.add_row(f"and {len(ordered) - SHOWN_MAX} more")
    return shown


def _show_decisions(found: Report) -> None:
    print()
    for decision in found.decisions[:SHOWN_MAX]:
        at = f"{decision.at_s:.2f} s"
        print(f"{at:>10}  {decision.deployment}: {decision.kind}, {decision.reason}")
    if len(found.decisions) > SHOWN_MAX:
        print(f"and {len(found.decisions) - SHOWN_MAX} more decisions")


def _columns(*names: str) -> RichTable:
    shown = RichTable(box=None, pad_edge=False)
    for name in names:
        shown.add_column(name, no_wrap=True, overflow="ellipsis")
    return shown
