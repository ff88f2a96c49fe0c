"""How far a benchmark is, drawn without disturbing what is measured."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def repeats_shown(console: Console) -> Progress:
    """Drawn between repeats only: nothing of ours runs beside what is measured."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, auto_refresh=False, transient=True)
