"""Activations on the wire: what goes in comes out, and what is damaged says so."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import msgpack
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.core.activation import Row, Tensor, type_sizes
from dsi_mqtt.core.message import (
    KINDS,
    Activation,
    Credit,
    EdgeMark,
    Failure,
    Header,
    HopStamp,
)
from dsi_mqtt.core.table import Stamp
from dsi_mqtt.errors import WireError
from dsi_mqtt.wire.activation import PARTIAL_MAX, Assembler, BrokenActivationError, encode
from dsi_mqtt.wire.header import UNSEALED, UNSIZED, sealed

Fields = dict[str, Any]

COUNTS = st.integers(0, 2**53 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
# What a topic level may hold.
LEVELS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/+#\0"), max_size=12)
ROWS = st.builds(Row, TEXT, COUNTS, COUNTS, COUNTS)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Any dtype and shape, empty ones among them."""
    dtype = draw(st.sampled_from(sorted(type_sizes)))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    size = type_sizes[dtype] * math.prod(shape)
    return Tensor(draw(TEXT), dtype, shape, draw(st.binary(min_size=size, max_size=size)))


HEADERS = st.builds(
    Header,
    kind=st.sampled_from(sorted(KINDS)),
    deployment=LEVELS,
    stamp=st.builds(Stamp, COUNTS, TEXT, COUNTS),
    source=TEXT,
    target=TEXT,
    request=st.binary(min_size=16, max_size=16),
    attempt=COUNTS,
    door=LEVELS,
    rows=st.lists(ROWS, max_size=3).map(tuple),
    budget_ms=st.none() | COUNTS,
    trace=st.none() | TEXT,
    stamps=st.lists(st.builds(HopStamp, TEXT, COUNTS, COUNTS, COUNTS), max_size=3).map(tuple),
    edge=st.none() | st.builds(EdgeMark, TEXT, TEXT, COUNTS, COUNTS),
    credit=st.none() | st.builds(Credit, TEXT, TEXT, COUNTS, COUNTS, st.booleans()),
    failure=st.none() | st.builds(Failure, TEXT, TEXT),
)
ACTIVATIONS = st.builds(Activation, HEADERS, st.lists(tensors(), max_size=4).map(tuple))


def plain(activation: Activation) -> Activation:
    """With the tensors' bytes as bytes, so that two can be compared."""
    copies = (Tensor(t.name, t.dtype, t.shape, bytes(t.data)) for t in activation.tensors)
    return Activation(activation.header, tuple(copies))


def feed(assembler: Assembler, messages: Iterable[bytes]) -> tuple[list[Activation], int]:
    """What came out, and how many messages were refused in the promised way."""
    found, refused = [], 0
    for message in messages:
        try:
            activation = assembler.feed(message, 0.0)
        except WireError:
            refused += 1
        else:
            if activation is not None:
                found.append(plain(activation))
    return found, refused


def activation_of(nbytes: int, *, attempt: int = 1, sender: str = "") -> Activation:
    edge = EdgeMark(sender, "r", nbytes, 1) if sender else None
    header = Header(
        "request", "d", Stamp(1, "n", 1), "s0", "s1", bytes(16), attempt, door="a", edge=edge
    )
    data = bytes(i * 7 % 256 for i in range(nbytes))
    return Activation(header, (Tensor("hidden_states", "uint8", (nbytes,), data),))


def taken_apart(message: bytes) -> tuple[Fields, bytes]:
    """Header, without its seal and size, and raw bytes: to be tampered with."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(message)
    fields: Fields = unpacker.unpack()
    del fields["xxh3"], fields["size"]
    return fields, message[unpacker.tell() :]


def put_together(fields: Fields, raw: bytes = b"") -> bytes:
    """A sound message, whatever it says."""
    front = {"xxh3": UNSEALED, "size": UNSIZED}
    return bytes(sealed(front | fields, memoryview(raw))) + raw


def fields_of(activation: Activation) -> Fields:
    return taken_apart(next(encode(activation)))[0]


# --- what goes in comes out -------------------------------------------------------------------


@given(ACTIVATIONS, st.integers(1, 64))
@settings(deadline=None)
def test_round_trip(activation: Activation, chunk_bytes: int) -> None:
    assembler = Assembler()
    messages = list(encode(activation, chunk_bytes=chunk_bytes))
    *before, last = [assembler.feed(message, 0.0) for message in messages]
    assert before == [None] * (len(messages) - 1)
    assert last is not None
    assert plain(last) == activation
    assert assembler.clear() == []


@given(st.lists(st.integers(0, 400), min_size=2, max_size=5), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_activations_of_several_senders_may_interleave(
    sizes: list[int], random: st.DataObject
) -> None:
    sent = [activation_of(size, sender=f"node-{i}") for i, size in enumerate(sizes)]
    streams = [list(encode(activation, chunk_bytes=64)) for activation in sent]
    mixed = []
    while any(streams):
        mixed.append(random.choice([s for s in streams if s]).pop(0))  # type: ignore[attr-defined]
    found, refused = feed(Assembler(), mixed)
    assert refused == 0
    assert sorted(found, key=lambda a: a.header.edge.sender if a.header.edge else "") == sent


def test_a_large_header_is_read_beyond_the_first_look() -> None:
    rows = tuple(Row(f"session-{i}", i, 1) for i in range(200))
    header = Header("decode", "d", Stamp(1, "n", 1), "s0", "s1", rows=rows)
    found, refused = feed(Assembler(), encode(Activation(header)))
    assert (found, refused) == ([Activation(header)], 0)


def test_the_first_message_has_the_fields_of_the_contract_and_the_others_only_who_they_are() -> (
    None
):
    header = Header(
        "prefill",
        "chat",
        Stamp(3, "9d21", 17),
        "s0",
        "s1",
        bytes(range(16)),
        2,
        door="cell-1",
        rows=(Row("session", 4, 2, 1),),
        budget_ms=900,
        trace="00-ab-cd-01",
        stamps=(HopStamp("s0", 1, 2, 3),),
    )
    data = bytes(range(24))
    activation = Activation(header, (Tensor("hidden_states", "float32", (1, 6), data),))
    messages = list(encode(activation, chunk_bytes=16))
    first, second = [taken_apart(message)[0] for message in messages]
    who = {
        "v": 1,
        "kind": "prefill",
        "deployment": "chat",
        "term": 3,
        "leader": "9d21",
        "epoch": 17,
        "from": "s0",
        "to": "s1",
        "request": bytes(range(16)),
        "attempt": 2,
    }
    assert second == who | {"chunk": {"i": 1, "n": 2, "offset": 16, "total": 24}}
    assert first == who | {
        "door": "cell-1",
        "rows": [{"session": "session", "position": 4, "tokens": 2, "take": 1}],
        "budget_ms": 900,
        "trace": "00-ab-cd-01",
        "stamps": [{"segment": "s0", "queue_us": 1, "compute_us": 2, "codec_us": 3}],
        "tensors": [
            {
                "name": "hidden_states",
                "dtype": "float32",
                "shape": [1, 6],
                "codec": "raw",
                "offset": 0,
                "nbytes": 24,
            }
        ],
        "chunk": {"i": 0, "n": 2, "offset": 0, "total": 24},
    }


def test_the_seal_is_the_checksum_of_everything_else_in_the_message() -> None:
    (message,) = encode(activation_of(10))
    at = message.index(b"\xa4xxh3\xcf") + 6
    everything_else = message[:at] + message[at + 8 :]
    assert message[at : at + 8] == xxhash.xxh3_64_digest(everything_else)


def test_keys_that_are_not_known_yet_change_nothing() -> None:
    activation = activation_of(10)
    fields, raw = taken_apart(next(encode(activation)))
    message = put_together(fields | {"later": {"a": [1, 2]}}, raw)
    assert feed(Assembler(), [message]) == ([activation], 0)


# --- damage on the way ------------------------------------------------------------------------


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_a_flipped_bit_anywhere_is_noticed(data: st.DataObject) -> None:
    activation = activation_of(data.draw(st.integers(1, 300), "bytes"))
    messages = [bytearray(m) for m in encode(activation, chunk_bytes=64)]
    message = data.draw(st.sampled_from(messages), "message")
    bit = data.draw(st.integers(0, len(message) * 8 - 1), "bit")
    message[bit // 8] ^= 1 << bit % 8
    found, refused = feed(Assembler(), [bytes(m) for m in messages])
    assert found == []
    assert refused


def test_a_damaged_chunk_names_the_attempt_that_it_belongs_to() -> None:
    activation = activation_of(200, attempt=4)
    first, second, *_ = encode(activation, chunk_bytes=64)
    assembler = Assembler()
    assembler.feed(first, 0.0)
    with pytest.raises(BrokenActivationError, match="checksum") as broken:
        assembler.feed(second[:-1] + bytes([second[-1] ^ 1]), 0.0)
    assert broken.value.header == activation.header
    assert assembler.clear() == []


@given(st.integers(0, 200), st.data())
@settings(deadline=None)
def test_a_message_that_is_cut_short_completes_nothing(size: int, data: st.DataObject) -> None:
    messages = list(encode(activation_of(size), chunk_bytes=64))
    index = data.draw(st.integers(0, len(messages) - 1), "message")
    messages[index] = messages[index][: data.draw(st.integers(0, len(messages[index]) - 1), "cut")]
    assembler = Assembler()
    found, refused = feed(assembler, messages)
    assert found == []
    assert refused


@given(st.data())
@settings(deadline=None)
def test_what_is_lost_repeated_or_out_of_order_never_makes_another_activation(
    data: st.DataObject,
) -> None:
    activation = activation_of(data.draw(st.integers(65, 400), "bytes"))
    messages = list(encode(activation, chunk_bytes=64))
    order = data.draw(st.lists(st.integers(0, len(messages) - 1), max_size=12), "order")
    found, _ = feed(Assembler(), [messages[i] for i in order])
    assert all(one == activation for one in found)
    whole = list(range(len(messages)))
    runs = [order[i : i + len(whole)] == whole for i in range(len(order))]
    assert len(found) == sum(runs)


def test_a_gap_names_the_attempt_that_broke() -> None:
    activation = activation_of(200, attempt=4)
    first, _, third, *_ = encode(activation, chunk_bytes=64)
    assembler = Assembler()
    assembler.feed(first, 0.0)
    with pytest.raises(BrokenActivationError, match="gap before chunk 2") as broken:
        assembler.feed(third, 0.0)
    assert broken.value.header == activation.header


def test_what_never_ends_is_given_up_after_its_time_and_with_its_connection() -> None:
    old, new = activation_of(200, attempt=1), activation_of(200, attempt=2)
    assembler = Assembler()
    assembler.feed(next(encode(old, chunk_bytes=64)), 0.0)
    assembler.feed(next(encode(new, chunk_bytes=64)), 7.0)
    assert assembler.expire(9.0, 10.0) == []
    assert assembler.expire(10.0, 10.0) == [old.header]
    assert assembler.clear() == [new.header]


# --- lies -------------------------------------------------------------------------------------


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
@settings(deadline=None)
def test_random_bytes_raise_nothing_else(message: bytes) -> None:
    assert feed(Assembler(), [message]) == ([], 1)


LEAVES = st.none() | st.booleans() | st.integers(-5, 70) | st.floats() | TEXT | st.binary()
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)


@given(st.dictionaries(st.sampled_from(sorted(fields_of(activation_of(8, sender="s")))), VALUES))
@settings(deadline=None, max_examples=300)
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
