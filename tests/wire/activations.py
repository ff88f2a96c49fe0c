"""Activations to send and to tamper with, and their messages taken apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import msgpack
from hypothesis import strategies as st

from dsi_mqtt.core.activation import Row, Tensor, type_sizes
from dsi_mqtt.core.encoding import NAMES, encoded_bytes, takes
from dsi_mqtt.core.message import (
    KINDS,
    Activation,
    Copy,
    Credit,
    EdgeMark,
    Failure,
    Header,
    HopStamp,
    Passed,
)
from dsi_mqtt.core.model import UNITS_MAX, UnitRange
from dsi_mqtt.core.table import Stamp
from dsi_mqtt.errors import WireError
from dsi_mqtt.wire.activation import Assembler, encode
from dsi_mqtt.wire.header import UNSEALED, UNSIZED, sealed

Fields = dict[str, Any]

COUNTS = st.integers(0, 2**53 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
# What a topic level may hold.
LEVELS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/+#\0"), max_size=12)
ROWS = st.builds(Row, TEXT, COUNTS, COUNTS, COUNTS)

STAMPS = st.builds(Stamp, COUNTS, TEXT, COUNTS)
UNITS = st.sets(st.integers(0, UNITS_MAX), min_size=2, max_size=2).map(
    lambda ends: UnitRange(min(ends), max(ends))
)
COPIES = st.builds(Copy, UNITS, STAMPS, TEXT)
PASSED = st.builds(
    Passed,
    LEVELS,
    TEXT,
    COUNTS,
    st.none() | TEXT,
    st.none() | st.binary(max_size=8),
    st.none() | TEXT,
    st.sampled_from(["low", "normal", "high"]),
    st.none() | COUNTS,
    st.none() | COUNTS,
)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Any dtype, shape and codec, empty ones among them."""
    dtype = draw(st.sampled_from(sorted(type_sizes)))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    codec = draw(st.sampled_from([name for name in NAMES if takes(name, dtype)]))
    size = encoded_bytes(codec, dtype, shape)
    return Tensor(draw(TEXT), dtype, shape, draw(st.binary(min_size=size, max_size=size)), codec)


HEADERS = st.builds(
    Header,
    kind=st.sampled_from(sorted(KINDS)),
    deployment=LEVELS,
    stamp=STAMPS,
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
    copy=st.none() | COPIES,
    passed=st.none() | PASSED,
)
ACTIVATIONS = st.builds(Activation, HEADERS, st.lists(tensors(), max_size=4).map(tuple))


def plain(activation: Activation) -> Activation:
    """With the tensors' bytes as bytes, so that two can be compared."""
    copies = (replace(t, data=bytes(t.data)) for t in activation.tensors)
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
