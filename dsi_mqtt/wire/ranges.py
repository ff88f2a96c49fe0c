"""Figures a message or file may carry: nothing is computed with those outside of their bounds.

The types in `core` say what kind of value a field holds; here stands between which bounds, and how
many of something there may be. Whoever reads one refuses the whole with a sentence that names the
field. Telemetry has no bounds: what is nonsense in a measurement is set aside where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from itertools import pairwise
from typing import Any, Final

from dsi_mqtt.core.codecs import METRICS
from dsi_mqtt.core.deployment import (
    CodecError,
    Codecs,
    Deployment,
    Generation,
    InputLimits,
    Objective,
    Policy,
    Prices,
    Privacy,
    Sla,
    SplitPart,
)
from dsi_mqtt.core.encoding import unknown_codec
from dsi_mqtt.core.explaining import KEPT
from dsi_mqtt.core.explanation import (
    FIGURE_MAX,
    Deciding,
    Explanation,
    Explanations,
    Gain,
    Inputs,
    Measured,
    NodeFigures,
    Outline,
    Rejected,
    Taken,
)
from dsi_mqtt.core.grounds import NODES_MAX
from dsi_mqtt.core.model import UNITS_MAX, ModelGraph, Tie, Unit, UnitRange, Vocabulary
from dsi_mqtt.core.node import (
    Capabilities,
    DataBroker,
    HoldingReport,
    Leader,
    ModelReport,
    NodeStatus,
    Watts,
)
from dsi_mqtt.core.request import Redelivery
from dsi_mqtt.core.table import (
    EPOCH_MAX,
    TERM_MAX,
    BrokerUrls,
    DoorPlace,
    Forecast,
    Hop,
    ModelRef,
    Replica,
    Segment,
    Stamp,
    Table,
    TransferEnd,
)
from dsi_mqtt.wire.control import wire_name

# Beyond, JSON readers and msgpack lose digits.
NUMBER_MAX: Final = 2**53
# Of a broker URL. The URL itself is never shown: any character may belong to the password.
WITH_CREDENTIALS: Final = "holds a user name or password before an @; neither is supported yet"


@dataclass(frozen=True, slots=True)
class Bounds:
    """From `low` to `high`; above: `low` itself is out, below: `high` itself is out."""

    low: float = 0
    high: float = NUMBER_MAX
    above: bool = False
    below: bool = False

    def complaint(self, value: float) -> str | None:
        """What `value` must be instead, where it is out of bounds."""
        if not (value > self.low if self.above else value >= self.low):  # also not a number
            return f"greater than {self.low:,}" if self.above else f"{self.low:,} or more"
        if value > self.high or (self.below and value == self.high):
            return f"less than {self.high:,}" if self.below else f"at most {self.high:,}"
        return None


_NUMBER: Final = Bounds(below=True)
_TERM: Final = Bounds(high=2 * TERM_MAX, below=True)  # room for those who outdo the last believed
_EPOCH: Final = Bounds(high=2 * EPOCH_MAX, below=True)
_COUNT: Final = Bounds(high=2**31)
_BYTES: Final = Bounds(high=2**50)
_RATE: Final = Bounds(high=10**9, above=True)
_UNIT: Final = Bounds(high=UNITS_MAX)
_FORECAST: Final = Bounds(high=10**12)
_FIGURE: Final = Bounds(high=FIGURE_MAX)
_SIGNED: Final = Bounds(low=-FIGURE_MAX, high=FIGURE_MAX)
_ABOVE_ZERO: Final = Bounds(high=2**31, above=True)
_NOT_BELOW_ZERO: Final = Bounds(high=2**31)

_FIGURES: Final[Mapping[type, Mapping[str, Bounds]]] = {
    # --- what a node says
    Capabilities: {
        "cores": _COUNT,
        "threads": _COUNT,
        "weight_bytes": _BYTES,
        "memory_bytes": _BYTES,
        "gflops": _RATE,
        "memory_gib_s": _RATE,
        "overhead_ms": Bounds(high=10**6),
    },
    ModelGraph: {"input_bytes": _BYTES, "result_bytes": _BYTES},
    Unit: {
        "weight_bytes": _BYTES,
        "flops": Bounds(high=10**18),
        "output_bytes": _BYTES,
        "state_bytes": _BYTES,
    },
    Vocabulary: {"context": _COUNT, "size": _COUNT},
    Tie: {"weight_bytes": _BYTES},
    ModelReport: {"cache_bytes": _BYTES, "codec_errors": Bounds(high=10**9)},
    HoldingReport: {"weight_bytes": _BYTES},
    NodeStatus: {"pid": _COUNT},
    Watts: {"idle": Bounds(high=10**9), "busy": Bounds(high=10**9)},
    # --- tables
    UnitRange: {"start": _UNIT, "stop": _UNIT},
    Stamp: {"term": _TERM, "epoch": _EPOCH},
    Table: {"term": _TERM, "epoch": _EPOCH},
    ModelRef: {"units": _UNIT},
    DoorPlace: {"window": Bounds(low=1, high=1024)},
    Replica: {"weight": Bounds(high=10**6)},
    Hop: {
        "credit_bytes": Bounds(low=1, high=2**40),
        "credit_messages": Bounds(low=1, high=2**20),
    },
    TransferEnd: {"epoch": _EPOCH},
    Forecast: {
        "p50_ms": _FORECAST,
        "p95_ms": _FORECAST,
        "rate_per_s": _FORECAST,
        "token_p50_ms": _FORECAST,
        "token_p95_ms": _FORECAST,
    },
    # --- deployments
    InputLimits: {
        "max_bytes": _ABOVE_ZERO,
        "batch_max": Bounds(high=2**16, above=True),
        "dedupe_s": _NOT_BELOW_ZERO,
        "queue_max": Bounds(low=1, high=10_000),
    },
    Sla: {
        "latency_ms": _ABOVE_ZERO,
        "percentile": Bounds(high=100, above=True),
        "deadline_ms": _ABOVE_ZERO,
        "rate_per_s": _ABOVE_ZERO,
        "first_token_ms": _ABOVE_ZERO,
        "token_ms": _ABOVE_ZERO,
        "prompt_tokens": _ABOVE_ZERO,
        "new_tokens": _ABOVE_ZERO,
    },
    Generation: {
        "context": Bounds(low=2, high=2**24),
        "sessions_max": Bounds(low=1, high=512),
        "kv_mib_max": _ABOVE_ZERO,
        "idle_s": _NOT_BELOW_ZERO,
        "queue_max": Bounds(high=10_000),
        "temperature": Bounds(high=100),
        "max_tokens": Bounds(low=1, high=2**24),
    },
    Privacy: {"max_exposure": _NOT_BELOW_ZERO},
    Prices: {"node_hour": _NOT_BELOW_ZERO, "gib": _NOT_BELOW_ZERO, "kwh": _NOT_BELOW_ZERO},
    Objective: {
        "latency": _NOT_BELOW_ZERO,
        "throughput": _NOT_BELOW_ZERO,
        "cost": _NOT_BELOW_ZERO,
        "exposure": _NOT_BELOW_ZERO,
    },
    Policy: {
        "cooldown_s": _NOT_BELOW_ZERO,
        "min_gain": Bounds(high=1, below=True),
        "horizon_s": _ABOVE_ZERO,
        "max_segments": _ABOVE_ZERO,
        "replicas": _ABOVE_ZERO,
        "standbys": _NOT_BELOW_ZERO,
    },
    CodecError: {"min": _SIGNED, "max": _SIGNED},
    # --- explanations
    Taken: {"compute": Bounds(high=1), "up": Bounds(high=1), "down": Bounds(high=1)},
    NodeFigures: {
        "up_mbit_s": _FIGURE,
        "down_mbit_s": _FIGURE,
        "rtt_ms": _FIGURE,
        "model_s": _FIGURE,
        "free_bytes": _BYTES,
    },
    Inputs: {
        "rate_per_s": _FIGURE,
        "prompt_tokens": _COUNT,
        "new_tokens": _COUNT,
        "left_out": _COUNT,
    },
    Outline: {
        "idle_ms": _FIGURE,
        "within_ms": _FIGURE,
        "token_ms": _FIGURE,
        "rate_per_s": _FIGURE,
        "cost_per_hour": _FIGURE,
        "request_bytes": _NUMBER,
    },
    Rejected: {"idle_ms": _FIGURE},
    Gain: {"share": _SIGNED, "saved_s": _SIGNED, "paid_s": _SIGNED},
    Measured: {
        "p50_ms": _FIGURE,
        "p95_ms": _FIGURE,
        "samples": _COUNT,
        "token_p50_ms": _FIGURE,
        "token_p95_ms": _FIGURE,
    },
    Explanation: {"when": Bounds(high=2**37), "took_ms": _FIGURE},
    Deciding: {
        "p50_ms": _FIGURE,
        "p95_ms": _FIGURE,
        "looks": _NUMBER,
        "published_bytes": _NUMBER,
    },
    Explanations: {"number": _NUMBER},
    # --- the rest
    Leader: {"term": _TERM, "beat": _NUMBER},
    Redelivery: {"count": _COUNT, "position": _COUNT},
    DataBroker: {"data_port": Bounds(low=1, high=65535)},
}

# How many there may be: of units because the planner looks at every pair of them, of the others
# because nobody has more.
_MANY: Final[Mapping[type, Mapping[str, int]]] = {
    ModelGraph: {"units": UNITS_MAX, "ties": 64},
    Tie: {"units": UNITS_MAX},
    NodeStatus: {"models": 256, "holdings": 1024, "doors": 256, "seen": 4096},
    Table: {"segments": UNITS_MAX, "hops": UNITS_MAX, "transfers": UNITS_MAX, "gone": 4096},
    Segment: {"replicas": 64, "standbys": 64},
    Privacy: {"units": UNITS_MAX},
    Policy: {"pin": UNITS_MAX, "forbid": 4096},
    Deployment: {"split": UNITS_MAX},
    SplitPart: {"nodes": 4096},
    Inputs: {"nodes": NODES_MAX + 2 * (UNITS_MAX + 1)},
    Outline: {"segments": UNITS_MAX},
    Explanation: {"rejected": 8},
    Explanations: {"explanations": KEPT},
}


def first_out_of_range(value: object) -> str | None:
    """The first figure in `value`, at any depth, that is out of its bounds, as "field: why"."""
    return next(_complaints(value, ""), None)


def _complaints(value: object, path: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _complaints(part, f"{path}.{key}")
    elif is_dataclass(value) or hasattr(value, "_fields"):
        yield from _own_complaints(value, path)
        for field in fields(value) if is_dataclass(value) else ():
            yield from _complaints(getattr(value, field.name), _inside(path, field.name))
        rule = _RULES.get(type(value))
        for name, complaint in () if rule is None else rule(value):
            yield f"{_inside(path, name)}: {complaint}"
    elif isinstance(value, tuple):
        for i, part in enumerate(value):
            yield from _complaints(part, f"{path}[{i}]")


def _own_complaints(value: object, path: str) -> Iterator[str]:
    """How many there are of something in the value, and its own figures."""
    kind = type(value)
    for name, most in _MANY.get(kind, {}).items():
        number = len(getattr(value, name) or ())
        if number > most:
            yield f"{_inside(path, name)}: has {number:,} entries, at most {most:,} are read"
    for name, bounds in _FIGURES.get(kind, {}).items():
        figure = getattr(value, name)
        given = figure if isinstance(figure, Mapping) else {"": figure}
        for key, number in given.items():
            must = None if number is None else bounds.complaint(number)
            if must is not None:
                yield f"{_inside(path, name, key)}: {number} must be {must}"


def _inside(path: str, *names: str) -> str:
    """The path of a field, as it is called in the message."""
    return ".".join(name for name in (path, *map(wire_name, names)) if name)


# --- what must fit together -------------------------------------------------------------------

Complaints = Iterator[tuple[str, str]]  # field, what is wrong with it


def _units(units: UnitRange) -> Complaints:
    if units.start >= units.stop:
        yield "", f"{units} holds no unit; a range is [start, stop)"


def _graph(graph: ModelGraph) -> Complaints:
    shared = [0] * len(graph.units)
    for i, tie in enumerate(graph.ties):
        if len(set(tie.units)) < len(tie.units) or not all(u in graph.whole for u in tie.units):
            yield f"ties[{i}].units", f"must be different units below {len(graph.units)}"
            return
        for tied in tie.units:
            shared[tied] += tie.weight_bytes
    for i, unit in enumerate(graph.units):
        if shared[i] > unit.weight_bytes:
            yield f"units[{i}].weight_bytes", "is less than what ties say that the unit shares"


def _table(table: Table) -> Complaints:
    segments = table.segments
    if table.serves and not segments:
        yield "segments", "a table that serves must have one"
    if len({segment.id for segment in segments}) < len(segments):
        yield "segments", "two have the same id"
    if segments and segments[0].units.start != 0:
        yield "segments[0].units", "must begin at 0"
    for i, (before, after) in enumerate(pairwise(segments), 1):
        if before.units.stop != after.units.start:
            yield f"segments[{i}].units", f"must begin at {before.units.stop}, where the last ends"
    if segments and table.model is not None and segments[-1].units.stop != table.model.units:
        yield "model.units", "must be where the last segment ends"


def _codecs(codecs: Codecs) -> Complaints:
    for name in codecs.allow:
        complaint = unknown_codec(name)
        if complaint is not None:
            yield "allow", complaint


def _codec_error(error: CodecError) -> Complaints:
    if error.metric not in METRICS:
        yield "metric", f"{error.metric!r:.40} is no metric; known are {', '.join(METRICS)}"


def _hop(hop: Hop) -> Complaints:
    for phase, name in hop.codec.items():
        complaint = unknown_codec(name)
        if complaint is not None:
            yield f"codec.{phase:.40}", complaint


def _segment(segment: Segment) -> Complaints:
    if not segment.replicas:
        yield "replicas", "names no node that computes it"


def _broker_urls(urls: BrokerUrls) -> Complaints:
    for name in ("control", "data"):
        yield from _url(name, getattr(urls, name))


def _door(door: DoorPlace) -> Complaints:
    yield from _url("ingress", door.ingress)


def _url(name: str, url: str) -> Complaints:
    if "@" in url:
        yield name, WITH_CREDENTIALS


_RULES: Final[Mapping[type, Callable[[Any], Complaints]]] = {
    UnitRange: _units,
    ModelGraph: _graph,
    Table: _table,
    Codecs: _codecs,
    CodecError: _codec_error,
    Hop: _hop,
    Segment: _segment,
    BrokerUrls: _broker_urls,
    DoorPlace: _door,
}
