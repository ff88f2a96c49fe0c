"""The run behind `dsi-mqtt bench codecs`: what codecs cost, and what they do to answers.

Everything is in this process, on one thread: no brokers, for a hop carries what it is given.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from dsi_mqtt.core.activation import RAW, Tensor
from dsi_mqtt.core.codecs import COSINE, PERPLEXITY
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.encoding import NAMES, decoded, encoded
from dsi_mqtt.core.sizes import GIB, MIB
from dsi_mqtt.engine.codec_errors import Way, WayError, spread_cuts, way_errors
from dsi_mqtt.engine.select import TierFactory
from dsi_mqtt.worker.engines import opened
from dsi_mqtt.worker.vitals import measure_capabilities

SCHEMA: Final = "dsi.bench.codecs/1"
CODECS: Final = tuple(name for name in NAMES if name != RAW)
# A token of a small decoder, a text of MiniLM's, and the largest that a broker takes in its stride.
SHAPES: Final = ((1, 1, 384), (1, 128, 384), (8, 128, 256), (8, 512, 512))
_BYTES_A_REPEAT: Final = 32 * MIB
_SEGMENTS: Final = 3

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class CodecsPlan:
    """encoder: answered in one pass, with its samples. decoder: the same of one that generates.

    repeats: of each figure of time.
    """

    encoder: tuple[Deployment, tuple[Any, ...]] | None
    decoder: tuple[Deployment, tuple[Any, ...]] | None
    repeats: int
    seed: int


@dataclass(frozen=True, slots=True)
class Cost:
    """encode_s, decode_s: of this thread's processor, for a GiB of float32 values; the median."""

    codec: str
    nbytes: int
    ratio: float
    encode_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class Errors:
    model: str
    metric: str
    samples: int
    units: int
    rows: tuple[WayError, ...]


@dataclass(frozen=True, slots=True)
class CodecsReport:
    """load: the machine's, of the last minute, when the run began and when it ended."""

    load: tuple[float, float]
    memory_gib_s: float
    costs: tuple[Cost, ...]
    errors: tuple[Errors, ...]


def measure(plan: CodecsPlan, say: Say) -> CodecsReport:
    """Raises what an engine raises that cannot be opened, and ConfigError."""
    before = os.getloadavg()[0]
    say("times of codecs")
    capabilities = measure_capabilities(1, None)
    costs = tuple(_costs(plan))
    errors = []
    for given, metric in ((plan.encoder, COSINE), (plan.decoder, PERPLEXITY)):
        if given is not None:
            errors.append(_errors(*given, metric, say))
    load = (before, os.getloadavg()[0])
    return CodecsReport(load, capabilities.memory_gib_s, costs, tuple(errors))


# --- time -------------------------------------------------------------------------------------


def _costs(plan: CodecsPlan) -> Iterator[Cost]:
    random = np.random.default_rng(plan.seed)
    for shape in SHAPES:
        values = random.standard_normal(shape, np.float32)
        tensor = Tensor("hidden_states", "float32", shape, values.tobytes())
        for codec in CODECS:
            yield _cost(tensor, codec, plan.repeats)


def _cost(tensor: Tensor, codec: str, repeats: int) -> Cost:
    sent = encoded(tensor, codec)
    times = max(1, _BYTES_A_REPEAT // tensor.nbytes)
    to_gib = GIB / tensor.nbytes / times

    def spent(work: Callable[[], object]) -> float:
        started = time.thread_time()
        for _ in range(times):
            work()
        return (time.thread_time() - started) * to_gib

    pairs = [
        (spent(lambda: encoded(tensor, codec)), spent(lambda: decoded(sent)))
        for _ in range(repeats)
    ]
    encode_s, decode_s = (median(side) for side in zip(*pairs, strict=True))
    return Cost(codec, tensor.nbytes, sent.nbytes / tensor.nbytes, encode_s, decode_s)


# --- error ------------------------------------------------------------------------------------


def _errors(deployment: Deployment, samples: Sequence[Any], metric: str, say: Say) -> Errors:
    name = Path(deployment.model.path or "").name
    say(f"{name}: opening the model")
    engine = opened(deployment, TierFactory())
    units = len(engine.graph.units)
    ways = ways_of(units)
    done = 0

    def progressed() -> None:
        nonlocal done
        done += 1
        say(f"{name}: {len(ways)} ways through {units} units, {done} segments are done")

    rows = way_errors(engine, samples, ways, metric, progressed)
    return Errors(name, metric, len(samples), units, tuple(rows))


def ways_of(units: int) -> tuple[Way, ...]:
    """One hop at each cut; those of three equal segments; every cut at once."""
    thirds = sorted({max(1, round(units * i / _SEGMENTS)) for i in range(1, _SEGMENTS)})
    alone = [(cut,) for cut in spread_cuts(units)]
    together = [tuple(thirds), tuple(range(1, units))]
    cuts = [*alone, *(way for way in together if len(way) > 1)]
    return tuple(Way(codec, way) for codec in CODECS for way in dict.fromkeys(cuts))


# --- what is told -----------------------------------------------------------------------------


def document(record: dict[str, Any], plan: CodecsPlan, report: CodecsReport) -> dict[str, Any]:
    """The JSON object."""
    return {
        "schema": SCHEMA,
        **record,
        "load": [round(load, 2) for load in report.load],
        "memory_gib_s": round(report.memory_gib_s, 2),
        "repeats": plan.repeats,
        "costs": [
            {
                "codec": cost.codec,
                "bytes": cost.nbytes,
                "ratio": round(cost.ratio, 4),
                "encode_s_gib": round(cost.encode_s, 3),
                "decode_s_gib": round(cost.decode_s, 3),
            }
            for cost in report.costs
        ],
        "errors": [
            asdict(errors) | {"rows": [_row(row) for row in errors.rows]}
            for errors in report.errors
        ],
    }


def _row(row: WayError) -> dict[str, Any]:
    figures = {name: float(f"{getattr(row, name):.3g}") for name in ("worst", "mean")}
    return {"codec": row.way.codec, "cuts": list(row.way.cuts), **figures}
