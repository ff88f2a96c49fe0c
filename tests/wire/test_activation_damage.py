"""Activations that were damaged, cut short, lost or repeated on the way: it is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.wire.activation import Assembler, BrokenActivationError, encode
from tests.thoroughness import examples
from tests.wire.activations import (
    activation_of,
    feed,
)


@given(st.data())
@settings(max_examples=examples(300))
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
def test_a_message_that_is_cut_short_completes_nothing(size: int, data: st.DataObject) -> None:
    messages = list(encode(activation_of(size), chunk_bytes=64))
    index = data.draw(st.integers(0, len(messages) - 1), "message")
    messages[index] = messages[index][: data.draw(st.integers(0, len(messages[index]) - 1), "cut")]
    assembler = Assembler()
    found, refused = feed(assembler, messages)
    assert found == []
    assert refused


@given(st.data())
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
