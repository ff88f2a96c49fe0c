"""A profile (`schema: dsi.profile/1`): what each unit of one model takes on one machine, measured.

Of a model that answers in one pass, ms by rows in a batch. Of one that generates, ms to feed a
prompt by its tokens, and ms of one step of decoding by its sessions. Keys are whole numbers as
text, as JSON has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from dsi_mqtt.core.deployment import Kind
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.errors import ConfigError

SCHEMA: Final = "dsi.profile/1"

_DIGEST_SHOWN: Final = 16


@dataclass(frozen=True, slots=True)
class UnitTimes:
    """output_bytes: that leave it for one row. state_bytes: of a session, for one token."""

    name: str
    weight_bytes: int
    output_bytes: int
    state_bytes: int = 0
    batch_ms: dict[str, float] = field(default_factory=dict)
    prefill_ms: dict[str, float] = field(default_factory=dict)
    decode_ms: dict[str, float] = field(default_factory=dict)

    def row_s(self) -> float:
        """Seconds of one row: a request's, or a step of one session."""
        return at(self.decode_ms or self.batch_ms, 1) / 1000

    def batched_s(self) -> tuple[float, float]:
        """The line that a step takes with many sessions: where it begins, and what each adds."""
        points = sorted((int(key), ms / 1000) for key, ms in self.decode_ms.items())
        if len(points) == 1:
            sessions, seconds = points[0]
            return 0.0, seconds / sessions
        (low, low_s), (high, high_s) = points[-2:]
        each = max(0.0, (high_s - low_s) / (high - low))  # more may be quicker, by noise
        return max(0.0, high_s - each * high), each

    def prefill_s(self, tokens: int) -> float:
        return at(self.prefill_ms, tokens) / 1000


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """digest: of the weights and configuration that were measured. memory_bytes: of the machine."""

    digest: str
    kind: Kind
    units: tuple[UnitTimes, ...]
    threads: int = 1
    memory_bytes: int = 0
    schema: str = SCHEMA

    def check(self) -> str | None:
        """What is wrong with it, as "field: what"; None: it can be planned with."""
        if self.schema != SCHEMA:
            return f"schema: {self.schema!r:.40} is not supported; this program reads {SCHEMA}"
        if not self.units:
            return "units: holds none; measure the model with `dsi-mqtt profile`"
        names = ("batch_ms",) if self.kind == "one-pass" else ("prefill_ms", "decode_ms")
        for i, unit in enumerate(self.units):
            for name in ("weight_bytes", "output_bytes", "state_bytes"):
                if getattr(unit, name) < 0:
                    return f"units[{i}].{name}: {getattr(unit, name)} must be 0 or more"
            for name in names:
                wrong = _wrong(getattr(unit, name))
                if wrong is not None:
                    return f"units[{i}].{name}{wrong}"
        return None

    def matches(self, graph: ModelGraph) -> None:
        """Raises ConfigError where it is of another model than `graph`."""
        if self.digest != graph.digest or len(self.units) != len(graph.units):
            raise ConfigError(
                f"is of another model ({self.digest[:_DIGEST_SHOWN]}…, {len(self.units)} units); "
                "measure this one with `dsi-mqtt profile`"
            )


def _wrong(times: Mapping[str, float]) -> str | None:
    if not times:
        return ": holds no time; measure the model again"
    for key, ms in times.items():
        if not key.isascii() or not key.isdigit() or int(key) < 1:
            return f": {key!r:.20} is no number of rows, tokens or sessions"
        if not 0 < ms < float("inf"):
            return f".{key}: {ms} must be greater than 0 and finite; measure the model again"
    return None


def at(times: Mapping[str, float], count: int) -> float:
    """The time for `count`, between the counts that were measured or beyond them, in a line.

    Of times that have passed `ModelProfile.check`. With a single one, in proportion to it.
    """
    points = sorted((int(key), ms) for key, ms in times.items())
    if len(points) == 1:
        return points[0][1] * count / points[0][0]
    behind = next((i for i, (known, _) in enumerate(points) if known >= count), len(points) - 1)
    (low, low_ms), (high, high_ms) = points[max(0, behind - 1)], points[max(1, behind)]
    share = (count - low) / (high - low)
    # Noise may have made more of it quicker, and a line then ends below 0.
    least = min(ms for _, ms in points) * min(1.0, count / points[0][0])
    return max(low_ms + share * (high_ms - low_ms), least)
