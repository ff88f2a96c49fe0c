"""What the demo found out, and whether that is what it claims."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from dsi_mqtt.cli.demo_data import Hazard, Report
from dsi_mqtt.cli.demo_match import Match
from dsi_mqtt.cli.watching import Picture
from dsi_mqtt.core.table import Table

# The largest difference to the unsplit model, of any number of an embedding, that still counts
# as the same.
TOLERANCE: Final = 1e-5
FaultName = Literal["link_throttle", "worker_kill"]


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
    def ended(self) -> int:
        """Inputs that have come to something."""
        return len(self.latency_ms) + len(self.errors) + self.lost

    @property
    def pause_ms(self) -> float:
        """The longest time between two results, one after the other."""
        return self.pause_between_ms(-math.inf, math.inf)

    def pause_between_ms(self, since: float, until: float) -> float:
        """The same of pauses that ended in that time (monotonic)."""
        pauses = (b - a for a, b in pairwise(self.came_s) if since < b <= until)
        return max(pauses, default=0.0) * 1000


@dataclass(slots=True)
class Befallen:
    """One fault of a gateway, and what followed from it; times are monotonic, None: not yet.

    before: the table that served. at_input: how many inputs had come to something.
    left_mbit_s: what a throttled link still carries.
    decision, kind, reason: what the orchestrator decided first. after: what then serves without
    the gateway. recovered_at: of the first result since.
    """

    fault: FaultName
    node: str
    at_input: int
    at: float
    before: Table
    left_mbit_s: float | None = None
    decision: str | None = None
    kind: str | None = None
    reason: str | None = None
    after: Table | None = None
    served_at: float | None = None
    recovered_at: float | None = None

    def decides(self, decision: str, kind: str, reason: str) -> None:
        if self.decision is None:
            self.decision, self.kind, self.reason = decision, kind, reason

    def serves(self, table: Table, now: float) -> None:
        """A table serves; the first without the gateway is what was waited for."""
        if self.after is None and self.node not in {node for node, _ in table.members()}:
            self.after, self.served_at = table, now

    def recovers(self, now: float) -> bool:
        """A result came. Whether it is the first behind that table."""
        first = self.served_at is not None and self.recovered_at is None
        if first:
            self.recovered_at = now
        return first

    @property
    def heirs(self) -> tuple[str, ...]:
        return () if self.after is None else heirs(self.before, self.after, self.node)


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
    """Everything that the demo found out. began: monotonic, of the first input."""

    inputs: int
    answers: Answers
    compared: int
    max_abs_error: float | None
    table: Table
    picture: Picture
    broker_version: str
    broker_pid: int | None
    faults: tuple[Befallen, ...]
    began: float
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
