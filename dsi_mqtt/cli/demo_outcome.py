"""What the demo found out, and whether that is what it claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dsi_mqtt.cli.demo_data import Hazard, Report
from dsi_mqtt.cli.demo_match import Match
from dsi_mqtt.cli.watching import Picture
from dsi_mqtt.core.table import Table

# The largest difference to the unsplit model, of any number of an embedding, that still counts
# as the same.
TOLERANCE: Final = 1e-5


@dataclass(slots=True)
class Answers:
    """What came back, by the number of the text. came_s: monotonic, of each result."""

    embeddings: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    latency_ms: list[float] = field(default_factory=list)
    came_s: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    lost: int = 0
    failed_in_a_row: int = 0
    resent: int = 0
    repeated: int = 0

    @property
    def pause_ms(self) -> float:
        """The longest time between two results, one after the other."""
        return max((b - a for a, b in pairwise(self.came_s)), default=0.0) * 1000


def heirs(before: Table, after: Table, node: str) -> tuple[str, ...]:
    """Who computes in `after` what `node` computed in `before`, in the order of the chain."""
    lost = {unit for part in _parts(before, node) for unit in part}
    nodes = [segment.replicas[0].node for segment in after.segments]
    return tuple(
        dict.fromkeys(
            name for name in nodes if any(lost.intersection(p) for p in _parts(after, name))
        )
    )


def _parts(table: Table, node: str) -> Sequence[range]:
    return [range(*s.units) for s in table.segments if s.replicas[0].node == node]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that the demo found out."""

    inputs: int
    answers: Answers
    compared: int
    max_abs_error: float | None
    table: Table
    picture: Picture
    broker_version: str
    broker_pid: int | None
    faults: tuple[dict[str, Any], ...]
    duration_s: float
    hazards: tuple[Hazard, ...]
    reports: tuple[Report, ...]
    matches: tuple[Match, ...]

    @property
    def holds(self) -> bool:
        """Whether all that the demo claims is so."""
        answers = self.answers
        return (
            not answers.errors
            and not answers.lost
            and self.compared == self.inputs == len(answers.embeddings)
            and self.max_abs_error is not None
            and self.max_abs_error <= TOLERANCE
        )
