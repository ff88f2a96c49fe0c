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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dsi_mqtt.core.activation import JSON, RAW, TOKENS, Row, Tensor, Tensors, pack_body, unpack_body
from dsi_mqtt.core.codecs import COSINE, METRICS, PERPLEXITY
from dsi_mqtt.core.encoding import all_decoded, all_encoded
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.engine.base import Engine
from dsi_mqtt.errors import ConfigError

# Cuts that are tried where a caller names none; of more units they are as far apart as can be.
CUTS_MAX: Final = 8
# Tokens of a text that are fed as one session, and sessions that share a step.
WINDOW: Final = 128
SESSIONS: Final = 64

Floats = NDArray[np.float64]
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


def codec_errors(
    engine: Engine, samples: Sequence[Any], codecs: Sequence[str], metric: str
) -> dict[str, float]:
    """What one hop adds to the error, by codec: at the worst of its cuts, for the worst sample.

    engine: with all units loaded. samples: JSON values as devices send them, or texts. Blocks for
    about so many passes as there are samples, cuts and codecs (of a text, tokens).
    Raises ConfigError where nothing can be measured.
    """
    cuts = spread_cuts(len(engine.graph.units))
    ways = [Way(codec, (cut,)) for codec in codecs for cut in cuts]
    errors = dict.fromkeys(codecs, 0.0)
    for found in way_errors(engine, samples, ways, metric):
        errors[found.way.codec] = max(errors[found.way.codec], found.worst)
    return errors


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
    """The error of each way. progressed: called for each sample, or for each way with texts.

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


def _over_hops(
    tensors: Tensors, way: Way, last: int, forward: Callable[[UnitRange, Tensors], Tensors]
) -> tuple[UnitRange, Tensors]:
    """What enters the last segment, and its units. tensors: enter the first cut's, or unit 0."""
    for start, stop in pairwise((0, *way.cuts)):
        tensors = _crossed(forward(UnitRange(start, stop), tensors), way.codec)
    return UnitRange(way.cuts[-1] if way.cuts else 0, last), tensors


def _crossed(tensors: Tensors, codec: str) -> Tensors:
    return all_decoded(all_encoded(tensors, codec))


# --- one pass ---------------------------------------------------------------------------------


def _cosines(
    engine: Engine, samples: Sequence[Any], ways: Sequence[Way], progressed: Callable[[], None]
) -> list[WayError]:
    found: list[list[float]] = [[] for _ in ways]
    last = len(engine.graph.units)

    def forward(units: UnitRange, tensors: Tensors) -> Tensors:
        return engine.forward(units, (Row(),), tensors)

    for sample in samples:
        body = pack_body(JSON, json.dumps(sample).encode())
        expected = _numbers(forward(engine.graph.whole, body))
        for way, errors in zip(ways, found, strict=True):
            answer = _numbers(forward(*_over_hops(body, way, last, forward)))
            errors.append(1 - _cosine(expected, answer))
        progressed()
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
    if lengths == 0:
        return 1.0 if not x.any() and not y.any() else 0.0
    return min(1.0, float(x @ y) / lengths)


# --- texts ------------------------------------------------------------------------------------


def _perplexities(
    engine: Engine, samples: Sequence[Any], ways: Sequence[Way], progressed: Callable[[], None]
) -> list[WayError]:
    if not isinstance(engine, Scoring):
        raise ConfigError(f"codecs.error.metric: this model has no {PERPLEXITY}; leave it out")
    vocabulary = engine.graph.vocabulary
    length = min(WINDOW, vocabulary.context) if vocabulary else WINDOW
    texts = _Texts(engine, engine, list(_windows(engine, samples, length)))
    plain = texts.surprise(Way(RAW, ()))
    errors = []
    for way in ways:
        increase = math.expm1(texts.surprise(way) - plain)
        errors.append(WayError(way, increase, increase))
        progressed()
    return errors


def _windows(engine: Engine, samples: Sequence[Any], length: int) -> Iterator[tuple[int, ...]]:
    text = engine.text()
    found = 0
    for sample in samples:
        if not isinstance(sample, str):
            raise ConfigError("codecs.error.samples: of a generation they are texts")
        tokens = text.read(sample)
        for first in range(0, len(tokens), length):
            window = tokens[first : first + length]
            if len(window) > 1:
                found += 1
                yield window
    if not found:
        raise ConfigError("codecs.error.samples: no text has two tokens or more")


@dataclass(frozen=True, slots=True)
class _Texts:
    """Windows of tokens, each fed as one session."""

    engine: Engine
    scoring: Scoring
    windows: list[tuple[int, ...]] = field(repr=False)

    def surprise(self, way: Way) -> float:
        """In nats, the mean over all tokens but the first ones."""
        ordered = sorted(self.windows, key=len, reverse=True)  # a step's sessions end together
        total, count = 0.0, 0
        for first in range(0, len(ordered), SESSIONS):
            group = ordered[first : first + SESSIONS]
            for logits, following in self._steps(group, way):
                total += float(_surprises(logits, following).sum())
                count += len(following)
        return total / count

    def _steps(
        self, group: Sequence[tuple[int, ...]], way: Way
    ) -> Iterable[tuple[Floats, list[int]]]:
        """Logits of each step's rows, and the tokens that follow in the texts."""
        last = len(self.engine.graph.units)
        try:
            for position in range(len(group[0]) - 1):
                running = [i for i, window in enumerate(group) if position + 1 < len(window)]
                rows = tuple(Row(f"sample-{i}", position, 1) for i in running)
                tokens = np.array([[group[i][position]] for i in running], "<i8")
                fed = (Tensor(TOKENS, "int64", tokens.shape, tokens.tobytes()),)

                def forward(
                    units: UnitRange, tensors: Tensors, rows: tuple[Row, ...] = rows
                ) -> Tensors:
                    return self.engine.forward(units, rows, tensors)

                units, entering = _over_hops(fed, way, last, forward)
                logits = np.asarray(self.scoring.logits(units, rows, entering), np.float64)
                yield logits, [group[i][position + 1] for i in running]
        finally:
            for i in range(len(group)):
                self.engine.close(f"sample-{i}")


def _surprises(logits: Floats, tokens: Sequence[int]) -> Floats:
    """-log of each row's share for its token."""
    most = logits.max(axis=1)
    totals = np.log(np.exp(logits - most[:, None]).sum(axis=1)) + most
    found: Floats = totals - logits[np.arange(len(tokens)), list(tokens)]
    return found
