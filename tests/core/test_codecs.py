"""The codecs as the planner knows them are those that nodes write."""

from __future__ import annotations

import pytest

from dsi_mqtt.core.activation import type_sizes
from dsi_mqtt.core.aim import Trip
from dsi_mqtt.core.codecs import KNOWN, RAW, codings, errors_of, known_for
from dsi_mqtt.core.encoding import NAMES, encoded_bytes, takes

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
