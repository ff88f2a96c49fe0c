"""The codecs as the planner knows them are those that nodes write."""

from __future__ import annotations

from typing import Any

import pytest

from dsi_mqtt.core.activation import type_sizes
from dsi_mqtt.core.aim import Trip
from dsi_mqtt.core.codecs import (
    KNOWN,
    RAW,
    codecs_for,
    codings,
    errors_of,
    known_for,
    to_measure,
    worst_of,
)
from dsi_mqtt.core.deployment import CodecError, Codecs, Deployment
from dsi_mqtt.core.encoding import NAMES, encoded_bytes, takes
from dsi_mqtt.core.model import ModelSpec

VALUES = 64 * 1024


def test_every_codec_is_known_and_raw_costs_nothing() -> None:
    assert tuple(codec.name for codec in KNOWN) == NAMES
    assert (RAW.encode_s, RAW.decode_s, RAW.error) == (0, 0, 0)
    assert all(min(c.encode_s, c.decode_s, c.error) > 0 for c in KNOWN if c is not RAW)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_ratios_are_those_of_the_bytes_that_are_sent(dtype: str) -> None:
    known = known_for(dtype, NAMES)
    raw = VALUES * type_sizes[dtype]
    ratios = {c.name: encoded_bytes(c.name, dtype, (VALUES,)) / raw for c in known}
    assert {codec.name: codec.ratio for codec in known} == ratios
    smaller = {n for n in NAMES if takes(n, dtype) and encoded_bytes(n, dtype, (VALUES,)) < raw}
    assert ratios.keys() == smaller | {"raw"}


def test_only_what_is_named_is_used_and_raw_always() -> None:
    assert [codec.name for codec in known_for("float32", ("int8g64",))] == ["raw", "int8g64"]
    assert known_for("float64", NAMES) == (RAW,)
    assert known_for("bfloat16", ()) == (RAW,)


def test_what_was_measured_takes_the_place_of_what_is_known() -> None:
    found = errors_of({"fp16": 0.25}, KNOWN)
    assert {c.name: c.error for c in found if c.name == "fp16"} == {"fp16": 0.25}
    assert [c for c in found if c.name != "fp16"] == [c for c in KNOWN if c.name != "fp16"]


def test_a_hop_of_two_trips_has_a_codec_for_each() -> None:
    trips = (Trip("prefill", 1, 8), Trip("decode", 8))
    ways = codings(KNOWN[:2], trips)
    assert [way.names(trips) for way in ways] == [
        {"prefill": "raw", "decode": "raw"},
        {"prefill": "raw", "decode": "fp16"},
        {"prefill": "fp16", "decode": "raw"},
        {"prefill": "fp16", "decode": "fp16"},
    ]
    assert [way.error for way in ways] == [0.0, *[KNOWN[1].error] * 3]


def limited(metric: str, **limits: Any) -> Deployment:
    codecs = Codecs(("raw", "fp16", "int8g64"), CodecError(metric, **limits))
    return Deployment("d", ModelSpec(dtype="float32"), codecs=codecs)


def test_what_was_measured_counts_and_else_what_is_known_of_a_cosine() -> None:
    found, error_max = codecs_for(limited("cosine", min=0.999), {"fp16": 0.25})
    assert error_max == pytest.approx(0.001)
    errors = {codec.name: codec.error for codec in found}
    known = {codec.name: codec.error for codec in KNOWN}
    assert errors == {"raw": 0.0, "fp16": 0.25, "int8g64": known["int8g64"]}


def test_a_perplexity_allows_only_what_was_measured() -> None:
    asked = limited("perplexity_increase", max=0.02)
    assert codecs_for(asked, {}) == ((RAW,), 0.02)
    found, error_max = codecs_for(asked, {"int8g64": 0.01})
    assert ([codec.name for codec in found], error_max) == (["raw", "int8g64"], 0.02)
    assert found[1].error == 0.01


def test_without_a_limit_all_that_is_allowed_may_be_used() -> None:
    free = Deployment("d", ModelSpec(dtype="float32"), codecs=Codecs(("raw", "fp16")))
    found, error_max = codecs_for(free, {})
    assert ([codec.name for codec in found], error_max) == (["raw", "fp16"], None)


def test_the_worst_node_counts() -> None:
    assert worst_of([{}, {"fp16": 0.1, "int8g64": 0.3}, {"fp16": 0.2}]) == {
        "fp16": 0.2,
        "int8g64": 0.3,
    }


def test_a_deployment_says_what_is_to_be_measured() -> None:
    assert to_measure(limited("cosine", min=0.999)) == ()
    assert to_measure(limited("cosine", samples="/s.jsonl")) == ("fp16", "int8g64")


def test_a_call_costs_the_same_whatever_the_width_of_a_value() -> None:
    whole = {codec.name: codec for codec in known_for("float32", ["int8g32"])}
    half = {codec.name: codec for codec in known_for("bfloat16", ["int8g32"])}
    assert half["int8g32"].encode_s == 2 * whole["int8g32"].encode_s
    assert half["int8g32"].encode_call_s == whole["int8g32"].encode_call_s > 0
