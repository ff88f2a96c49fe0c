"""What the demo found out, and whether that is what it claims."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    """What came back, by the number of the text."""

    embeddings: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    latency_ms: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    lost: int = 0
    failed_in_a_row: int = 0
    resent: int = 0
    repeated: int = 0


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
