"""What codecs do to a model's answers: its segments computed with and without, on samples.

| metric | of | the error of a way to write hops |
|---|---|---|
| `cosine` | models that answer in one pass | 1 less the cosine between an answer's numbers and those over raw hops |
| `perplexity_increase` | models that generate | the perplexity of texts over that over raw hops, less 1 |

Texts are fed token by token, as in decoding, so that every logit is that of a step.
"""  # noqa: E501 - a table

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from dsi_mqtt.core.activation import JSON, TOKENS, Row, Tensor, Tensors, pack_body, unpack_body
from dsi_mqtt.core.codecs import COSINE, METRICS, PERPLEXITY
from dsi_mqtt.core.encoding import all_decoded, all_encoded
from dsi_mqtt.core.model import ModelGraph, UnitRange
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.engine.base import Engine
from dsi_mqtt.errors import ConfigError

# Cuts that are tried where a caller names none; of more units they are as far apart as can be.
CUTS_MAX: Final = 8
# Tokens of a text that are fed as one session.
WINDOW: Final = 128
# Samples, or sessions of a step, that are computed at once, and what between segments of all ways
# is held of them.
AT_ONCE: Final = 64
HELD_BYTES: Final = 64 * MIB

Paths = dict[tuple[object, ...], float]


@dataclass(frozen=True, slots=True)
class Way:
    """Hops at `cuts`, in order, that are written by `codec`; what else is cut off is raw."""

    codec: str
    cuts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WayError:
    """worst, mean: over the samples; of a perplexity, which is one figure for all, the same."""

    way: Way
    worst: float
    mean: float


@runtime_checkable
class Scoring(Protocol):
    """An engine that tells what it draws tokens from."""

    def logits(self, units: UnitRange, rows: tuple[Row, ...], tensors: Tensors) -> ArrayLike:
        """Of the last position of each row, (rows, vocabulary); units: with the head."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call of an engine for each segment: the rows, and what enters the first."""

    rows: tuple[Row, ...]
    tensors: Tensors


def codec_errors(
    engine: Engine, samples: Sequence[Any], codecs: Sequence[str], metric: str
) -> dict[str, float]:
    """What one hop adds to the error, by codec: at the worst of its cuts, for the worst sample.

    samples: JSON values as devices send them, or texts. Blocks for about half as many passes as
    there are samples (of a text, tokens), cuts and codecs. Units are loaded between two cuts at a
    time and dropped again: nobody else may use the engine, which holds nothing afterwards.
    Raises ConfigError where nothing can be measured.
    """
    cuts = spread_cuts(len(engine.graph.units))
    ways = [Way(codec, (cut,)) for codec in codecs for cut in cuts]
    errors = dict.fromkeys(codecs, 0.0)
    for found in way_errors(engine, samples, ways, metric):
        errors[found.way.codec] = max(errors[found.way.codec], found.worst)
    return errors


def largest_part(graph: ModelGraph) -> int:
    """Bytes of weights that `codec_errors` holds at once."""
    bounds = [0, *spread_cuts(len(graph.units)), len(graph.units)]
    return max(graph.weight_bytes(UnitRange(*part)) for part in pairwise(bounds))


def spread_cuts(units: int) -> tuple[int, ...]:
    """All cuts of a model, or `CUTS_MAX` of them with the first and the last."""
    every = range(1, units)
    if len(every) <= CUTS_MAX:
        return tuple(every)
    return tuple(int(cut) for cut in np.linspace(1, units - 1, CUTS_MAX).round())


def way_errors(
    engine: Engine,
    samples: Sequence[Any],
    ways: Sequence[Way],
    metric: str,
    progressed: Callable[[], None] = lambda: None,
) -> list[WayError]:
    """The error of each way, as `codec_errors` finds it. progressed: called for each segment of
    each part of the samples.

    Raises ConfigError.
    """
    if metric not in METRICS:
        raise ConfigError(f"codecs.error.metric: {metric!r:.40} is none of {', '.join(METRICS)}")
    if not samples:
        raise ConfigError("codecs.error.samples: holds no sample; give one line or more")
    if engine.graph.vocabulary is None:
        if metric != COSINE:
            raise ConfigError(f"codecs.error.metric: {metric} is of generations; use {COSINE}")
        return _cosines(engine, samples, ways, progressed)
    if metric != PERPLEXITY:
        raise ConfigError(f"codecs.error.metric: {metric} is of one pass; use {PERPLEXITY}")
    return _perplexities(engine, samples, ways, progressed)


# --- segment by segment -----------------------------------------------------------------------

Forward = Callable[[UnitRange, tuple[Row, ...], Tensors], Any]


@dataclass(frozen=True, slots=True)
class _Passage:
    """All ways through the chain at once, so that each segment is loaded once.

    last: what the last segment is asked for.
    """

    engine: Engine
    ways: Sequence[Way]
    last: Forward
    progressed: Callable[[], None]

    @property
    def bounds(self) -> list[int]:
        cuts = {cut for way in self.ways for cut in way.cuts}
        return [0, *sorted(cuts), len(self.engine.graph.units)]

    def at_once(self, rows: int) -> int:
        """How many samples, or sessions of so many rows, are held at once."""
        graph = self.engine.graph
        largest = max((graph.boundary_bytes(cut) for cut in self.bounds[1:-1]), default=1)
        held = (len(self.ways) + 1) * rows * max(1, largest)
        return max(1, min(AT_ONCE, HELD_BYTES // held))

    def run(self, steps: Sequence[Step]) -> tuple[list[Any], list[list[Any]]]:
        """What the last segment makes of each step: over raw hops, and for each way."""
        raw: list[Any] = [step.tensors for step in steps]
        coded: dict[Way, list[Any]] = {}
        for start, stop in pairwise(self.bounds):
            for way in self.ways:
                if start in way.cuts:
                    coded[way] = [_crossed(t, way.codec) for t in coded.get(way, raw)]
            units = UnitRange(start, stop)
            self.engine.load(units)
            try:
                raw = self._through(units, steps, raw)
                coded = {way: self._through(units, steps, t) for way, t in coded.items()}
            finally:
                self.engine.drop(units)
            self.progressed()
        return raw, [coded.get(way, raw) for way in self.ways]

    def _through(self, units: UnitRange, steps: Sequence[Step], entering: list[Any]) -> list[Any]:
        ends = units.stop == len(self.engine.graph.units)
        forward = self.last if ends else self.engine.forward
        try:
            return [forward(units, step.rows, t) for step, t in zip(steps, entering, strict=True)]
        finally:
            for session in {row.session for step in steps for row in step.rows}:
                self.engine.close(session)


def _crossed(tensors: Tensors, codec: str) -> Tensors:
    return all_decoded(all_encoded(tensors, codec))


def _parts(samples: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (samples[first : first + size] for first in range(0, len(samples), size))


# --- one pass ---------------------------------------------------------------------------------


def _cosines(
    engine: Engine, samples: Sequence[Any], ways: Sequence[Way], progressed: Callable[[], None]
) -> list[WayError]:
    passage = _Passage(engine, ways, engine.forward, progressed)
    found: list[list[float]] = [[] for _ in ways]
    for part in _parts(samples, passage.at_once(1)):
        bodies = [pack_body(JSON, json.dumps(sample).encode()) for sample in part]
        raw, coded = passage.run([Step((Row(),), body) for body in bodies])
        expected = [_numbers(answer) for answer in raw]
        for errors, answers in zip(found, coded, strict=True):
            pairs = zip(expected, answers, strict=True)
            errors += [1 - _cosine(numbers, _numbers(answer)) for numbers, answer in pairs]
    return [
        WayError(way, max(errors), float(np.mean(errors)))
        for way, errors in zip(ways, found, strict=True)
    ]


def _numbers(answer: Tensors) -> Paths:
    """An answer's numbers by where they stand; labels and tokens by their id, for their order is
    that of their scores.
    """
    return dict(_walked(json.loads(unpack_body(answer)[1]), ()))


def _walked(value: Any, path: tuple[object, ...]) -> Iterator[tuple[tuple[object, ...], float]]:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        for key, part in value.items():
            if key not in ("id", "usage"):
                yield from _walked(part, (*path, key))
    elif isinstance(value, list):
        for i, part in enumerate(value):
            named = isinstance(part, dict) and "id" in part
            yield from _walked(part, (*path, "id", part["id"]) if named else (*path, i))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)


def _cosine(a: Paths, b: Paths) -> float:
    """Of numbers that stand in one of them only, the other has 0."""
    keys = a.keys() | b.keys()
    x = np.array([a.get(key, 0.0) for key in keys])
    y = np.array([b.get(key, 0.0) for key in keys])
    lengths = float(np.linalg.norm(x) * np.linalg.norm(y))
    if not np.isfinite(lengths):
        raise ConfigError("codecs.error: an answer to the samples is not finite; leave codecs out")
    if lengths == 0:
        return 1.0 if not x.any() and not y.any() else 0.0
    return min(1.0, float(x @ y) / lengths)


# --- texts ------------------------------------------------------------------------------------


def _perplexities(
    engine: Engine, samples: Sequence[Any], ways: Sequence[Way], progressed: Callable[[], None]
) -> list[WayError]:
    if not isinstance(engine, Scoring):
        raise ConfigError(f"codecs.error.metric: this model has no {PERPLEXITY}; leave it out")
    raw, coded = surprises(engine, engine.logits, samples, ways, progressed)
    increases = [math.expm1(found - raw) for found in coded]
    return [WayError(way, found, found) for way, found in zip(ways, increases, strict=True)]


def surprises(
    engine: Engine,
    logits: Forward,
    samples: Sequence[Any],
    ways: Sequence[Way],
    progressed: Callable[[], None],
) -> tuple[float, list[float]]:
    """In nats, the mean over all tokens but the first of each window: over raw hops, by way."""
    vocabulary = engine.graph.vocabulary
    length = min(WINDOW, vocabulary.context) if vocabulary else WINDOW
    passage = _Passage(engine, ways, logits, progressed)
    # A step's sessions end together, as far as may be.
    windows = sorted(_windows(engine, samples, length), key=len, reverse=True)
    totals, count = np.zeros(len(ways) + 1), 0
    for part in _parts(windows, passage.at_once(length)):
        steps, following = _steps(part)
        raw, coded = passage.run(steps)
        for i, made in enumerate((raw, *coded)):
            totals[i] += sum(map(_surprise, made, following))
        count += sum(map(len, following))
    first, *rest = (totals / count).tolist()
    return first, rest


def _windows(engine: Engine, samples: Sequence[Any], length: int) -> list[tuple[int, ...]]:
    text = engine.text()
    found = []
    for sample in samples:
        if not isinstance(sample, str):
            raise ConfigError("codecs.error.samples: of a generation they are texts")
        tokens = text.read(sample)
        pieces = (tokens[first : first + length] for first in range(0, len(tokens), length))
        found += [piece for piece in pieces if len(piece) > 1]
    if not found:
        raise ConfigError("codecs.error.samples: no text has two tokens or more")
    return found


def _steps(windows: Sequence[tuple[int, ...]]) -> tuple[list[Step], list[list[int]]]:
    """A step for each position, and the tokens that follow in its rows. windows: longest first."""
    steps, following = [], []
    for position in range(len(windows[0]) - 1):
        running = [window for window in windows if position + 1 < len(window)]
        rows = tuple(Row(f"sample-{i}", position, 1) for i in range(len(running)))
        tokens = np.array([[window[position]] for window in running], "<i8")
        steps.append(Step(rows, (Tensor(TOKENS, "int64", tokens.shape, tokens.tobytes()),)))
        following.append([window[position + 1] for window in running])
    return steps, following


def _surprise(logits: ArrayLike, tokens: Sequence[int]) -> float:
    """-log of each row's share for its token, of all rows."""
    rows = np.asarray(logits, np.float64)
    most = rows.max(axis=1)
    totals = np.log(np.exp(rows - most[:, None]).sum(axis=1)) + most
    return float((totals - rows[np.arange(len(tokens)), list(tokens)]).sum())
