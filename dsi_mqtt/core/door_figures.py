"""What a door counts and measures of what it answers, as telemetry tells it."""

from __future__ import annotations

from dataclasses import dataclass, field

from dsi_mqtt.core.latencies import Latencies, TextLengths
from dsi_mqtt.core.message import Failure
from dsi_mqtt.core.node import DoorLoad
from dsi_mqtt.core.runs import Runs


@dataclass(slots=True)
class DoorFigures:
    """latencies: of what is forecast, on the present table. steps: of decoding, on the same."""

    latencies: Latencies = field(default_factory=Latencies)
    steps: Latencies = field(default_factory=Latencies)
    lengths: TextLengths = field(default_factory=TextLengths)
    answers: int = 0
    errors: int = 0
    repetitions: int = 0
    refused: int = 0

    def answered(self, failure: Failure | None) -> None:
        self.answers += 1
        self.errors += failure is not None

    def other_table(self) -> None:
        """What was measured was measured on another one."""
        self.latencies.clear()
        self.steps.clear()

    def load(self, deployment: str, held: int, runs: Runs) -> DoorLoad:
        """held: requests in the door's hands."""
        return DoorLoad(
            deployment,
            held,
            runs.in_flight,
            self.answers,
            self.errors,
            runs.retried,
            self.repetitions,
            self.latencies.p50_ms,
            self.latencies.p95_ms,
            len(self.latencies),
            self.steps.p50_ms,
            self.steps.p95_ms,
            self.lengths.texts,
            self.lengths.prompt_tokens,
            self.lengths.new_tokens,
            runs.table.stamp if runs.table is not None else None,
            self.refused,
        )
