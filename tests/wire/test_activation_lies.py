"""Activations that lie: checked before memory is taken, refused in one sentence."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.core.activation import Tensor
from dsi_mqtt.core.encoding import encoded
from dsi_mqtt.core.message import (
    Activation,
)
from dsi_mqtt.core.model import UNITS_MAX
from dsi_mqtt.errors import WireError
from dsi_mqtt.wire.activation import PARTIAL_MAX, Assembler, BrokenActivationError, encode
from tests.thoroughness import examples
from tests.wire.activations import (
    TEXT,
    activation_of,
    feed,
    fields_of,
    plain,
    put_together,
    taken_apart,
)


def test_memory_is_taken_only_within_the_limit() -> None:
    fields = fields_of(activation_of(8))
    fields["chunk"] = {"i": 0, "n": 9, "offset": 0, "total": 1 << 40}
    fields["tensors"] = [fields["tensors"][0] | {"shape": [1 << 40], "nbytes": 1 << 40}]
    assembler = Assembler(limit=1 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(BrokenActivationError, match="exceeds"):
            assembler.feed(put_together(fields), 0.0)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_all_unfinished_activations_share_the_limit_and_give_it_back() -> None:
    assembler = Assembler(limit=300)
    assembler.feed(next(encode(activation_of(200, attempt=1), chunk_bytes=64)), 0.0)
    too_much = list(encode(activation_of(200, attempt=2), chunk_bytes=64))
    with pytest.raises(BrokenActivationError, match="exceeds the 100 bytes left"):
        assembler.feed(too_much[0], 0.0)
    assembler.expire(99.0, 10.0)
    found, refused = feed(assembler, too_much)
    assert (len(found), refused) == (1, 0)


def test_there_are_only_so_many_unfinished_activations() -> None:
    assembler = Assembler()
    starts = [next(encode(activation_of(8, attempt=i), chunk_bytes=4)) for i in range(PARTIAL_MAX)]
    assert feed(assembler, starts) == ([], 0)
    with pytest.raises(BrokenActivationError, match="too many"):
        assembler.feed(next(encode(activation_of(8, attempt=99), chunk_bytes=4)), 0.0)


@pytest.mark.parametrize(
    "lie",
    [
        {"nbytes": 9},
        {"nbytes": 7},
        {"nbytes": -8},
        {"offset": 1},
        {"offset": 1 << 60},
        {"shape": [9]},
        {"shape": [-8]},
        {"shape": [2**62, 2**62]},
        {"shape": None},
        {"shape": [[8]]},
        {"dtype": "object"},
        {"dtype": 8},
        {"codec": "pickle"},
        {"codec": "fp16"},
        {"codec": "int8g32"},
        {"codec": "fp16", "dtype": "float32", "shape": [3]},
        {"codec": "int8g64", "dtype": "float32", "shape": [8]},
        {"codec": "int8g64", "dtype": "float64", "shape": [6]},
        {"codec": ["raw"]},
        {"name": b"hidden_states"},
        {"name": None},
        {"shape": [4], "nbytes": 4},
    ],
)
def test_a_tensor_that_is_not_what_it_claims_is_refused(lie: dict[str, object]) -> None:
    activation = activation_of(8)
    fields = fields_of(activation)
    fields["tensors"] = [fields["tensors"][0] | lie]
    with pytest.raises(BrokenActivationError):
        Assembler().feed(put_together(fields, bytes(8)), 0.0)


def test_what_is_decoded_fits_the_limit_too() -> None:
    values = Tensor("hidden_states", "float32", (100,), bytes(400))
    for chunk_bytes in (40, 400):
        activation = replace(activation_of(8), tensors=(encoded(values, "int8g64"),))
        messages = list(encode(activation, chunk_bytes=chunk_bytes))
        assert feed(Assembler(400), messages) == ([plain(activation)], 0)
        with pytest.raises(BrokenActivationError, match="400 bytes exceeds the 399"):
            Assembler(399).feed(messages[0], 0.0)


def test_raw_bytes_without_a_tensor_are_refused() -> None:
    fields = fields_of(activation_of(8))
    del fields["tensors"]
    with pytest.raises(BrokenActivationError, match="do not account"):
        Assembler().feed(put_together(fields, bytes(8)), 0.0)


WRONG: list[object] = [
    None,
    True,
    -1,
    1.5,
    "",
    "x",
    b"",
    [],
    [1],
    {},
    {"a": 1},
    1 << 63,
    [[]],
    [None],
]
DEEP: list[object] = []
for _ in range(450):
    DEEP = [DEEP]


@pytest.mark.parametrize("name", [*fields_of(activation_of(8, sender="s")), "rows", "credit"])
@pytest.mark.parametrize("chunk_bytes", [4, 64])
def test_a_field_of_a_wrong_type_raises_nothing_else(name: str, chunk_bytes: int) -> None:
    activation = activation_of(8, sender="s")
    for value in [*WRONG, DEEP]:
        messages = []
        for message in encode(activation, chunk_bytes=chunk_bytes):
            fields, raw = taken_apart(message)
            messages.append(put_together(fields | {name: value}, raw))
            fields.pop(name, None)
            messages.append(put_together(fields, raw))
        feed(Assembler(), messages)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xc1",
        b"\x91" * 100_000,
        b"\x81\xa1v" * 20_000,
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x81\x01\x01",
        b"\x81\x90\x01",
        b"\x81\xa1\xff\x01",
        b"\xd6\xff\x00\x00\x00\x00",
        msgpack.packb({"v": DEEP}),
        msgpack.packb({"v": 1, "kind": DEEP}),
        msgpack.packb({"v": 1, "kind": {"a": 1}}),
        put_together({"v": 1, "kind": "request", "chunk": DEEP}),
        put_together({"v": 1, "kind": "request"}),
        msgpack.packb(fields_of(activation_of(0))),
        msgpack.packb({"v": 1, "kind": "x" * 70_000}),
        msgpack.packb({"v": 2, "kind": "request"}),
        msgpack.packb({"v": 1, "kind": "gossip"}),
        msgpack.packb([1, 2]),
        msgpack.packb({str(i): i for i in range(300)}),
    ],
)
def test_what_is_no_header_is_refused_in_one_sentence(message: bytes) -> None:
    with pytest.raises(WireError) as refused:
        Assembler().feed(message, 0.0)
    assert 0 < len(str(refused.value)) <= 200


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(message: bytes) -> None:
    assert feed(Assembler(), [message]) == ([], 1)


LEAVES = st.none() | st.booleans() | st.integers(-5, 70) | st.floats() | TEXT | st.binary()
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)


@given(st.dictionaries(st.sampled_from(sorted(fields_of(activation_of(8, sender="s")))), VALUES))
@settings(max_examples=examples(300))
def test_random_fields_raise_nothing_else(changes: dict[str, object]) -> None:
    fields = fields_of(activation_of(8, sender="s")) | changes
    feed(Assembler(), [put_together(fields, bytes(8))])


@pytest.mark.parametrize(
    ("index", "lie", "cut"),
    [
        (1, {"offset": 0}, 0),
        (1, {"offset": 65}, 0),
        (1, {"i": 2}, 0),
        (2, {"i": 1}, 0),
        (1, {"n": 5}, 0),
        (1, {"n": 2}, 0),
        (1, {"total": 199}, 0),
        (1, {"total": 1 << 40}, 0),
        (3, {}, 1),
        (3, {}, 8),
        (1, {}, 1),
    ],
)
def test_a_sound_chunk_in_a_wrong_place_gives_up_its_activation(
    index: int, lie: dict[str, int], cut: int
) -> None:
    activation = activation_of(200, attempt=4)
    messages = list(encode(activation, chunk_bytes=64))
    fields, raw = taken_apart(messages[index])
    assembler = Assembler()
    assert feed(assembler, messages[:index]) == ([], 0)
    wrong = put_together(fields | {"chunk": fields["chunk"] | lie}, raw[: len(raw) - cut])
    headers = []
    for message in [wrong, *messages[index + 1 :]]:
        try:
            assert assembler.feed(message, 0.0) is None
        except BrokenActivationError as broken:
            headers.append(broken.header)
    assert headers[0] == activation.header
    assert assembler.clear() == []


@pytest.mark.parametrize("name", ["a/b", "a+", "#", "a\0b"])
def test_a_name_that_is_no_topic_level_is_refused(name: str) -> None:
    sound = activation_of(8)
    header = sound.header
    for wrong in (replace(header, deployment=name), replace(header, door=name)):
        hostile = Activation(wrong, sound.tensors)
        with pytest.raises(WireError, match="no topic level"):
            Assembler().feed(next(encode(hostile)), 0.0)


def test_a_count_that_others_cannot_carry_is_refused() -> None:
    sound = activation_of(8)
    hostile = Activation(replace(sound.header, attempt=2**53), sound.tensors)
    with pytest.raises(WireError, match="beyond"):
        Assembler().feed(next(encode(hostile)), 0.0)


@pytest.mark.parametrize("name", ["deployment", "source", "target", "door", "leader"])
def test_a_name_longer_than_any_is_refused_before_it_is_remembered(name: str) -> None:
    sound = activation_of(8)
    stamp = sound.header.stamp._replace(leader="x" * 129)
    changes: dict[str, Any] = {"stamp": stamp} if name == "leader" else {name: "x" * 129}
    header = replace(sound.header, **changes)
    with pytest.raises(WireError, match="activation header names 'xxx"):
        Assembler().feed(next(encode(Activation(header, sound.tensors))), 0.0)


@pytest.mark.parametrize(
    "lie",
    [
        {"units": [3, 3]},
        {"units": [4, 3]},
        {"units": [-1, 3]},
        {"units": [0, UNITS_MAX + 1]},
        {"units": [0]},
        {"epoch": -1},
        {"term": 2**53},
        {"segment": "s" * 129},
        {"leader": "n" * 129},
        {"segment": None},
    ],
)
def test_a_copy_of_what_cannot_be_is_refused(lie: dict[str, object]) -> None:
    fields = fields_of(activation_of(8))
    fields["copy"] = {"units": [0, 3], "term": 1, "leader": "n", "epoch": 2, "segment": "s1"}
    assert feed(Assembler(), [put_together(fields, bytes(8))])[1] == 0
    fields["copy"] |= lie
    assert feed(Assembler(), [put_together(fields, bytes(8))]) == ([], 1)
