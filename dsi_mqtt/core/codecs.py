"""How activations are written on a hop: fewer bytes for some time and some error."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dsi_mqtt.core.aim import Phase, Trip
from dsi_mqtt.core.deployment import Deployment

# What `codecs.error.metric` may be; `engine.codec_errors` says what they measure.
COSINE: Final = "cosine"
PERPLEXITY: Final = "perplexity_increase"
METRICS: Final = (COSINE, PERPLEXITY)


@dataclass(frozen=True, slots=True)
class Codec:
    """bits: that a value of 32 bits takes. encode_s, decode_s: for a GiB of such values, on a node
    that reads 10 GiB a second; encode_call_s, decode_call_s: for each activation besides, however
    small. error: what one hop adds to the deployment's measure of error.
    """

    name: str
    bits: float
    encode_s: float = 0.0
    decode_s: float = 0.0
    error: float = 0.0
    encode_call_s: float = 0.0
    decode_call_s: float = 0.0

    @property
    def ratio(self) -> float:
        return self.bits / 32


RAW: Final = Codec("raw", 32)

# Times and errors as `dsi-mqtt bench codecs` told them (docs/decisions/0011-codecs.md), errors of
# the worst cut where a deployment has no samples of its own. How they write: `core.encoding`.
KNOWN: Final = (
    RAW,
    Codec("fp16", 16, 2.1, 1.0, 1e-5, 22e-6, 9e-6),
    Codec("int8g32", 8.5, 3.0, 0.62, 1.2e-4, 70e-6, 47e-6),
    Codec("int8g64", 8.25, 2.1, 0.55, 1.7e-4, 72e-6, 47e-6),
)

_HALVES: Final = frozenset({"float16", "bfloat16"})


@dataclass(frozen=True, slots=True)
class Coding:
    """The codec of each trip on one hop. error: of all of them."""

    codecs: tuple[Codec, ...]

    @property
    def error(self) -> float:
        return max(codec.error for codec in self.codecs)

    def names(self, trips: Sequence[Trip]) -> dict[Phase, str]:
        return {trip.phase: codec.name for trip, codec in zip(trips, self.codecs, strict=True)}


def codings(codecs: Sequence[Codec], trips: Sequence[Trip]) -> tuple[Coding, ...]:
    """Every way to write on a hop; the plain one first."""
    ways = [Coding(way) for way in itertools.product(codecs, repeat=len(trips))]
    return tuple(sorted(ways, key=lambda way: [codec.name != "raw" for codec in way.codecs]))


def known_for(dtype: str, names: Sequence[str]) -> tuple[Codec, ...]:
    """Those of `KNOWN` that are named and make activations of this dtype smaller, and `raw`.

    A GiB of values of 16 bits is twice as many, so that what a codec takes for a GiB doubles.
    """
    chosen = tuple(codec for codec in KNOWN if codec is RAW or codec.name in names)
    if dtype == "float32":
        return chosen
    if dtype not in _HALVES:
        return (RAW,)
    return tuple(
        codec
        if codec is RAW
        else replace(
            codec, bits=2 * codec.bits, encode_s=2 * codec.encode_s, decode_s=2 * codec.decode_s
        )
        for codec in chosen
        if 2 * codec.bits < RAW.bits or codec is RAW
    )


def errors_of(measured: Mapping[str, float], codecs: Sequence[Codec]) -> tuple[Codec, ...]:
    """The codecs with errors as measured on the deployment's samples."""
    return tuple(replace(c, error=measured.get(c.name, c.error)) for c in codecs)


def to_measure(deployment: Deployment) -> tuple[str, ...]:
    """Codecs whose errors nodes measure: of those that are allowed, where there are samples."""
    asked = deployment.codecs.error
    if asked is None or asked.samples is None:
        return ()
    return tuple(name for name in deployment.codecs.allow if name != RAW.name)


def worst_of(told: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """By codec, the largest error that any node has measured; they have the same weights."""
    worst: dict[str, float] = {}
    for errors in told:
        for name, error in errors.items():
            worst[name] = max(error, worst.get(name, 0.0))
    return worst


def codecs_for(
    deployment: Deployment, measured: Mapping[str, float]
) -> tuple[tuple[Codec, ...], float | None]:
    """Those that hops may use, and what their errors may add up to; None: anything.

    measured: on the deployment's samples, by its metric. What is not measured counts for a cosine
    as it was with another model (`KNOWN`). What it does to a perplexity nobody knows, so that such
    codecs are left out.
    """
    found = known_for(deployment.model.dtype, deployment.codecs.allow)
    asked = deployment.codecs.error
    if asked is None:
        return found, None
    if asked.metric != COSINE:
        known = tuple(codec for codec in found if codec is RAW or codec.name in measured)
        return errors_of(measured, known), asked.max
    return errors_of(measured, found), None if asked.min is None else 1 - asked.min
