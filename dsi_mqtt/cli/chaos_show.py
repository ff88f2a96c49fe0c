"""What a person sees of a run of chaos in the end."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table as RichTable

from dsi_mqtt.chaos.outcome import AimMet, Row, recoveries, share

_COLUMNS = ("fault", "on", "kind", "faults", "inputs", "right", "errors", "lost", "wrong",
            "recovery p50", "p95", "longest gap", "aims", "")  # fmt: skip


def show_rows(rows: Sequence[Row], console: Console) -> None:
    """A line for each row."""
    shown = RichTable(box=None, pad_edge=False)
    for index, name in enumerate(_COLUMNS):
        shown.add_column(name, justify="left" if index < 3 else "right", overflow="fold")  # noqa: PLR2004 - names stand left
    for row in rows:
        found = row.ledger
        took = recoveries(found.injections)
        client = " (plain client)" if row.trial.client == "plain" else ""
        shown.add_row(
            row.trial.fault + client,
            row.trial.target,
            found.kind,
            str(len(found.injections)),
            str(found.inputs),
            str(found.outcomes["right"]),
            str(found.outcomes["error"]),
            str(found.outcomes["lost"]),
            str(found.outcomes["wrong"]),
            _seconds(share(took, 0.5)),
            _seconds(share(took, 0.95)),
            _seconds(max(found.gaps, default=None)),
            ", ".join(_aim(each) for each in row.aims()),
            "passed" if row.passed else "FAILED",
        )
    console.print()
    console.print(shown)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def _aim(each: AimMet) -> str:
    unit = each.aim.figure.rpartition("_")[2]
    value = "-" if each.value is None else f"{each.value:.3g}".replace("inf", "never")
    said = {True: "met", False: "missed", None: "no figure"}[each.met]
    return f"{value} of {each.aim.at_most:g} {unit} {said}"
