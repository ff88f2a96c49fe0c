"""What `dsi-mqtt bench planner` prints: is it the best, and how long does it take?"""

from __future__ import annotations

import json as json_module
from typing import Any, Final

import typer
from rich.console import Console
from rich.table import Table

from dsi_mqtt.cli.bench_planner_cases import OBJECTIVES
from dsi_mqtt.cli.bench_progress import repeats_shown
from dsi_mqtt.cli.run_record import run_record
from dsi_mqtt.errors import MachineError

GAP_MAX: Final = 0.01


def report_planner(*, instances: int, nodes: list[int] | None, seed: int, as_json: bool) -> None:
    """Measures and prints; ends with 1 where an answer is worse than the best, or wrong.

    nodes: of the problems that are timed; None: all sizes.
    """
    try:
        from dsi_mqtt.cli import bench_planner  # noqa: PLC0415 - with a package of its own
    except ModuleNotFoundError as error:
        raise MachineError(
            f"bench planner needs {error.name}; install it with pip install 'scipy>=1.15'"
        ) from None
    record = run_record("bench planner", seed=seed)
    console, rows = Console(stderr=True), []
    chosen = [size for size in bench_planner.SIZES if not nodes or size[1] in nodes]
    sizes = [(size, kind) for size in chosen for kind in OBJECTIVES]
    with repeats_shown(console) as progress:
        task = progress.add_task("against other solvers", total=instances + len(sizes))

        def done() -> None:
            progress.advance(task)
            progress.refresh()

        exact = bench_planner.compared(instances, seed, done)
        for size, kind in sizes:
            progress.update(task, description=f"{size[0]} units, {size[1]} nodes, {kind}")
            progress.refresh()
            rows.append(bench_planner.row(bench_planner.timed(size, kind, seed)))
            done()
    aimed = [r["p95_ms"] for r in rows if (r["units"], r["nodes"]) == bench_planner.AIM]
    found = {
        "schema": bench_planner.SCHEMA,
        **record,
        "exact": exact.record(),
        "rows": rows,
        "p95_ms": max(aimed, default=None),
    }
    if as_json:
        print(json_module.dumps(found))
    else:
        for table in (exact_table(found["exact"]), speed_table(rows)):
            Console().print(table)
    if not holds(found["exact"]):
        raise typer.Exit(1)


def holds(exact: dict[str, Any]) -> bool:
    """Whether every verdict agrees, and no answer is worse than the best by more than `GAP_MAX`."""
    agreed = exact["feasibility_agreed"] == exact["instances"]
    return bool(agreed and exact["gap_max"] <= GAP_MAX)


def exact_table(exact: dict[str, Any]) -> Table:
    solvers = ", ".join(f"{count} by {name}" for name, count in exact["solvers"].items())
    table = Table("of the instances", "", title=f"{exact['instances']} solved again: {solvers}")
    table.add_row("feasible", str(exact["feasible"]))
    table.add_row("same verdict", str(exact["feasibility_agreed"]))
    table.add_row("the best is a split", f"{exact['optimal_is_split']:.0%}")
    table.add_row("the best writes with a codec", f"{exact['codec_binding']:.0%}")
    table.add_row("largest gap to the best", f"{exact['gap_max']:.2g}")
    return table


def speed_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Time of one core, and what a better placement could save at most")
    for name in ("units", "nodes", "objective", "feasible", "p50 ms", "p95 ms", "gap p50", "p95"):
        table.add_column(name, justify="left" if name == "objective" else "right")
    for row in rows:
        table.add_row(
            str(row["units"]),
            str(row["nodes"]),
            row["objective"],
            f"{row['feasible']}/{row['instances']}",
            f"{row['p50_ms']:.1f}",
            f"{row['p95_ms']:.1f}",
            f"{row['bound_gap_p50']:.1%}",
            f"{row['bound_gap_p95']:.1%}",
        )
    return table
