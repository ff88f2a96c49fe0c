"""What a unit costs on a node: estimated from its hardware, corrected by what it has computed.

The estimate is the larger of arithmetic and reading of weights, and a fixed cost. What segments of
this model took on the node then corrects it, for each kind of work apart: a row (a request, or a
step of decoding) waits for memory, the tokens of a prompt for arithmetic, and machines differ in
which of the two they are better at. A unit that was a segment of its own has a factor of its own;
the others get the node's, for the shape over the units stays that of the model. A segment whose
factor lies far from the others' says that its measurement is wrong, and is set aside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from dsi_mqtt.core.aim import Texts
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.model import ModelGraph, Unit, UnitRange
from dsi_mqtt.core.node import Capabilities, NodeStatus, SegmentLoad, Telemetry
from dsi_mqtt.core.session import SLICE_TOKENS
from dsi_mqtt.core.sizes import GIB
from dsi_mqtt.errors import ConfigError

# A correction beyond this says that the measurement is wrong, not the estimate.
CORRECTION_MAX: Final = 50.0

# A segment's factor beyond this many times the others' is an accident.
OUTLIER: Final = 4.0

# Requests before serving says more than the warm pass: the first ones run on a busy start.
SERVED_MIN: Final = 8
PREFILLS_MIN: Final = 3

# A weight that is read takes part in a multiply-add at least: 2 operations for 8 bytes at most.
# So an embedding, of which a request reads a few rows, is not charged for its whole table.
BYTES_PER_FLOP: Final = 4.0


def slice_tokens(deployment: Deployment, texts: Texts | None = None) -> int:
    """Of one slice of a prompt: of its reference text, or of those that come; 0: it answers in one
    pass.
    """
    if deployment.kind == "one-pass":
        return 0
    return (texts or Texts.of(deployment)).slice_tokens


class Measured(NamedTuple):
    """Seconds that a segment took, and those that its units are estimated to take."""

    units: UnitRange
    seconds: float
    expected: float

    @property
    def factor(self) -> float:
        return min(max(self.seconds / self.expected, 1 / CORRECTION_MAX), CORRECTION_MAX)


@dataclass(frozen=True, slots=True)
class Learned:
    """Measured over estimated seconds, of what a node has computed; None: it has computed none.

    row: of a request, or of a step of decoding. prefill: of the tokens of prompts. alone: of a row
    through units that were measured alone.
    """

    row: float | None = None
    prefill: float | None = None
    alone: Mapping[int, float] = field(default_factory=dict)

    def row_factor(self, unit: int, usual: float) -> float:
        return self.alone.get(unit, usual if self.row is None else self.row)

    def prefill_factor(self, unit: int, usual: float) -> float:
        return self.row_factor(unit, usual) if self.prefill is None else self.prefill


def estimate_s(capabilities: Capabilities, unit: Unit, rows: int = 1) -> float:
    """Seconds of reference rows in one pass through `unit`, from hardware figures that are not 0.

    Of a generation a row is a position of a session.
    """
    arithmetic = rows * unit.flops / (capabilities.gflops * 1e9)
    return max(arithmetic, _reading_s(capabilities, unit)) + capabilities.overhead_ms / 1e3


def estimate_prefill_s(capabilities: Capabilities, unit: Unit, tokens: float) -> float:
    """Seconds of so many tokens of a prompt through `unit`, whose reference row is one token.

    Weights are read once for each slice, and so the fixed cost is paid.
    """
    slices = math.ceil(tokens / SLICE_TOKENS)
    arithmetic = tokens * unit.flops / (capabilities.gflops * 1e9)
    reading = slices * _reading_s(capabilities, unit)
    return max(arithmetic, reading) + slices * capabilities.overhead_ms / 1e3


def estimate_batched_s(
    capabilities: Capabilities, unit: Unit, row: float, prefill: float
) -> tuple[float, float]:
    """Of a step of decoding: its fixed cost, and arithmetic of each session in it, which is what it
    takes while that is more than reading the weights. row, prefill: corrections of both.
    """
    fixed = row * capabilities.overhead_ms / 1e3
    return fixed, prefill * unit.flops / (capabilities.gflops * 1e9)


def _reading_s(capabilities: Capabilities, unit: Unit) -> float:
    read = min(float(unit.weight_bytes), unit.flops * BYTES_PER_FLOP)
    return read / (capabilities.memory_gib_s * GIB)


def is_sound(capabilities: Capabilities | None) -> bool:
    return (
        capabilities is not None
        and 0 < capabilities.gflops < math.inf
        and 0 < capabilities.memory_gib_s < math.inf
        and 0 <= capabilities.overhead_ms < math.inf
        and capabilities.weight_bytes >= 0
    )


def sound(status: NodeStatus) -> Capabilities:
    """Raises ConfigError where the status does not say what the hardware can do."""
    if status.capabilities is None or not is_sound(status.capabilities):
        raise ConfigError(
            f"node {status.node}: its status gives no usable capabilities; gflops and "
            "memory_gib_s must be above 0, overhead_ms and weight_bytes 0 or more"
        )
    return status.capabilities


def learned(
    status: NodeStatus, telemetry: Telemetry | None, graph: ModelGraph, deployment: str
) -> Learned:
    """What the node has computed of this model in this incarnation.

    Segments that have served count; the warm pass after loading does while nothing has served.
    Raises ConfigError where the status does not say what the hardware can do.
    """
    capabilities = sound(status)
    loads = _loads(status, telemetry, graph, deployment)
    rows = _served(loads, graph, capabilities) or _warmed(status, graph, deployment, capabilities)
    return Learned(
        _together(rows),
        _together(_prefilled(loads, graph, capabilities)),
        {m.units.start: m.factor for m in rows if m.units.stop == m.units.start + 1},
    )


def correction(
    status: NodeStatus, telemetry: Telemetry | None, graph: ModelGraph, deployment: str
) -> float | None:
    """Of a row, all units alike; None: the node has computed nothing yet."""
    return learned(status, telemetry, graph, deployment).row


def _together(measured: list[Measured]) -> float | None:
    """One factor of several segments, which count by their time."""
    if not measured:
        return None
    middle = _weighted_median(measured)
    near = [m for m in measured if middle / OUTLIER <= m.factor <= middle * OUTLIER]
    factor = sum(m.seconds for m in near) / sum(m.expected for m in near)
    return min(max(factor, 1 / CORRECTION_MAX), CORRECTION_MAX)


def _weighted_median(measured: list[Measured]) -> float:
    ordered = sorted(measured, key=lambda m: m.factor)
    half = sum(m.expected for m in ordered) / 2
    below = 0.0
    for m in ordered:
        below += m.expected
        if below >= half:
            return m.factor
    return ordered[-1].factor


def _loads(
    status: NodeStatus, telemetry: Telemetry | None, graph: ModelGraph, deployment: str
) -> list[SegmentLoad]:
    if telemetry is None or telemetry.incarnation != status.incarnation:
        return []
    return [
        load
        for load in telemetry.segments
        if load.deployment == deployment and inside(load.units, graph)
    ]


def _served(
    loads: Iterable[SegmentLoad], graph: ModelGraph, capabilities: Capabilities
) -> list[Measured]:
    return [
        measured
        for load in loads
        if load.requests >= SERVED_MIN
        and (measured := _row(load.units, load.compute_ms, graph, capabilities)) is not None
    ]


def _warmed(
    status: NodeStatus, graph: ModelGraph, deployment: str, capabilities: Capabilities
) -> list[Measured]:
    return [
        measured
        for holding in status.holdings
        if holding.deployment == deployment
        and inside(holding.units, graph)
        and (measured := _row(holding.units, holding.warm_ms, graph, capabilities)) is not None
    ]


def _row(
    units: UnitRange, ms: float | None, graph: ModelGraph, capabilities: Capabilities
) -> Measured | None:
    expected = sum(estimate_s(capabilities, graph.units[unit]) for unit in range(*units))
    if ms is None or not positive(ms) or expected <= 0:
        return None
    return Measured(units, ms / 1e3, expected)


def _prefilled(
    loads: Iterable[SegmentLoad], graph: ModelGraph, capabilities: Capabilities
) -> list[Measured]:
    found = []
    for load in loads:
        ms = load.prefill_token_ms
        if load.prefills < PREFILLS_MIN or ms is None or not positive(ms):
            continue
        tokens = max(1.0, load.prefill_tokens / load.prefills)
        expected = sum(
            estimate_prefill_s(capabilities, graph.units[unit], tokens)
            for unit in range(*load.units)
        )
        if expected > 0:
            found.append(Measured(load.units, ms / 1e3 * tokens, expected))
    return found


def inside(units: UnitRange, graph: ModelGraph) -> bool:
    return 0 <= units.start < units.stop <= len(graph.units)


def positive(value: float) -> bool:
    return 0 < value < math.inf
