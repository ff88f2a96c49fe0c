"""The codecs of a hop: what is kept, how far values move, what stays raw, what is refused."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as shapes
from numpy.typing import NDArray

from dsi_mqtt.core.activation import RAW, Tensor, type_sizes
from dsi_mqtt.core.encoding import (
    FP16,
    GROUPS,
    NAMES,
    all_decoded,
    all_encoded,
    decoded,
    encoded,
    encoded_bytes,
    takes,
)
from dsi_mqtt.errors import MESSAGE_MAX, WireError

Doubles = NDArray[np.float64]

FLOATS = ("float32", "float16", "bfloat16")
INT8 = tuple(GROUPS)
SHAPES = shapes.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)


def tensor(values: Any, dtype: str = "float32") -> Tensor:
    if dtype == "bfloat16":
        bits = np.asarray(values, np.float32).view(np.uint32)
        data = (bits >> 16).astype("<u2").tobytes()
    else:
        with np.errstate(over="ignore"):
            data = np.asarray(values, np.float32).astype(dtype).tobytes()
    return Tensor("hidden_states", dtype, np.shape(values), data)


def values_of(given: Tensor) -> Doubles:
    if given.dtype == "bfloat16":
        bits = np.frombuffer(given.data, "<u2").astype(np.uint32) << 16
        return bits.view(np.float32).astype(np.float64)
    return np.frombuffer(given.data, given.dtype).astype(np.float64)


@st.composite
def any_tensors(draw: st.DrawFn) -> Tensor:
    """Any bytes at all, as any dtype: NaN, infinities and subnormal values among them."""
    dtype = draw(st.sampled_from(sorted(type_sizes)))
    shape = draw(SHAPES)
    size = type_sizes[dtype] * math.prod(shape)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    data = random.bytes(size) if draw(st.booleans()) else bytes(size)
    return Tensor("t", dtype, shape, data)


@st.composite
def float_tensors(draw: st.DrawFn) -> Tensor:
    """Finite values of very different magnitudes, which codecs take."""
    shape = draw(SHAPES)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    magnitudes = 10.0 ** random.integers(-9, 4, shape)
    values = random.standard_normal(shape) * magnitudes * (random.random(shape) > 0.1)
    return tensor(values, draw(st.sampled_from(FLOATS)))


# --- whatever comes ---------------------------------------------------------------------------


@given(any_tensors(), st.sampled_from(NAMES))
def test_nothing_changes_name_dtype_or_shape_and_sizes_are_known_before(
    given: Tensor, codec: str
) -> None:
    sent = encoded(given, codec)
    assert sent.codec in (RAW, codec)
    assert sent.nbytes == encoded_bytes(sent.codec, given.dtype, given.shape) <= given.nbytes
    came = decoded(sent)
    assert (came.name, came.dtype, came.shape, came.codec) == (
        given.name,
        given.dtype,
        given.shape,
        RAW,
    )
    assert came.nbytes == given.nbytes
    if sent.codec == RAW:
        assert came is given


@given(any_tensors(), st.sampled_from(NAMES), st.integers(0, 2**32))
def test_whatever_bytes_come_are_decoded_or_refused(given: Tensor, codec: str, seed: int) -> None:
    if not takes(codec, given.dtype):
        return
    size = encoded_bytes(codec, given.dtype, given.shape)
    data = np.random.default_rng(seed).bytes(size)
    try:
        came = decoded(Tensor("t", given.dtype, given.shape, data, codec))
    except WireError as error:
        said = str(error)
        assert codec in INT8
        assert "scale" in said
    else:
        assert came.nbytes == given.nbytes


# --- how far values move ----------------------------------------------------------------------


@given(float_tensors(), st.sampled_from(INT8))
def test_int8_moves_no_value_by_more_than_half_a_step_of_its_group(
    given: Tensor, codec: str
) -> None:
    sent = encoded(given, codec)
    if sent.codec == RAW:
        assert encoded_bytes(codec, given.dtype, given.shape) >= given.nbytes
        return
    before, after = values_of(given), values_of(decoded(sent))
    for first in range(0, len(before), GROUPS[codec]):
        own = slice(first, first + GROUPS[codec])
        largest = np.abs(before[own]).max()
        scale = largest / 127 * (1 + 2.0**-10) + 2.0**-24
        # Of the dtype that it is restored to: an element's own precision comes on top.
        own_step = {"float32": 2.0**-23, "float16": 2.0**-11, "bfloat16": 2.0**-8}[given.dtype]
        assert np.abs(after[own] - before[own]).max() <= scale / 2 * (1 + 1e-5) + own_step * largest


@given(float_tensors())
def test_fp16_moves_no_value_by_more_than_half_a_step_of_its_own(given: Tensor) -> None:
    sent = encoded(given, FP16)
    if given.dtype != "float32":
        assert sent is given
        return
    before, after = values_of(given), values_of(decoded(sent))
    assert (np.abs(after - before) <= np.maximum(np.abs(before) * 2.0**-11, 2.0**-25)).all()


@given(float_tensors(), st.sampled_from(NAMES))
def test_what_was_decoded_is_encoded_to_nearly_the_same(given: Tensor, codec: str) -> None:
    """Errors of hops do not grow by themselves: the largest of a group stays the largest."""
    once = decoded(encoded(given, codec))
    twice = decoded(encoded(once, codec))
    assert np.abs(values_of(twice) - values_of(once)).max(initial=0) <= 0.01 * np.abs(
        values_of(once)
    ).max(initial=0)


@pytest.mark.parametrize("codec", INT8)
def test_zeros_stay_zeros_and_the_largest_of_a_group_nearly_itself(codec: str) -> None:
    values = np.zeros(3 * GROUPS[codec] + 5, np.float32)
    values[GROUPS[codec]] = -7.5
    values[-1] = 0.25
    sent = encoded(tensor(values), codec)
    assert sent.codec == codec
    after = values_of(decoded(sent))
    assert (after[values == 0] == 0).all()
    assert after == pytest.approx(values, rel=2.0**-10)


@pytest.mark.parametrize(("dtype", "half_a_step"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_what_is_restored_is_the_nearest_of_its_dtype(dtype: str, half_a_step: float) -> None:
    values = values_of(tensor(np.random.default_rng(1).standard_normal(4096), dtype))
    exact = values_of(decoded(encoded(tensor(values), "int8g32")))
    came = values_of(decoded(encoded(tensor(values, dtype), "int8g32")))
    assert (np.abs(came - exact) <= half_a_step * np.abs(exact)).all()


def test_what_rounds_to_the_largest_float16_is_written_as_that() -> None:
    assert values_of(decoded(encoded(tensor([65519.0, -65519.0]), FP16))).tolist() == [
        65504.0,
        -65504.0,
    ]
    beyond = tensor([65520.0])
    assert encoded(beyond, FP16) is beyond


def test_the_largest_float16_stays_finite() -> None:
    """Its scale is rounded up, so 127 of them are more than a float16 holds."""
    came = decoded(encoded(tensor([65504.0, -65504.0, 1.0] * 20, "float16"), "int8g32"))
    assert values_of(came)[:2].tolist() == [65504.0, -65504.0]


# --- what stays raw ---------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [FP16, *INT8])
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 1e30])
def test_a_tensor_that_a_codec_cannot_tell_stays_raw(codec: str, odd: float) -> None:
    for at in (0, 500, -1):
        values = np.ones(50_000, np.float32)
        values[at] = odd
        given = tensor(values)
        assert encoded(given, codec) is given


@pytest.mark.parametrize("codec", [FP16, *INT8])
def test_a_signalling_nan_is_one_too(codec: str) -> None:
    bits = np.full(64, 0x3F800000, "<u4")
    bits[7] = 0x7F800001
    given = Tensor("t", "float32", (64,), bits.tobytes())
    assert encoded(given, codec) is given


@pytest.mark.parametrize("codec", INT8)
def test_the_largest_scale_that_there_is(codec: str) -> None:
    most = 127 * 65504.0
    given = tensor([most, -most, 1.0] * 30)
    assert values_of(decoded(encoded(given, codec)))[:2].tolist() == [most, -most]
    beyond = tensor([np.nextafter(np.float32(most), np.float32(np.inf))] * 90)
    assert encoded(beyond, codec) is beyond


@pytest.mark.parametrize("dtype", sorted(type_sizes.keys() - FLOATS))
def test_ids_masks_and_doubles_stay_raw(dtype: str) -> None:
    given = Tensor("ids", dtype, (4, 64), bytes(256 * type_sizes[dtype]))
    assert [encoded(given, codec) for codec in NAMES] == [given] * len(NAMES)


def test_what_would_not_become_smaller_stays_raw() -> None:
    for values, dtype in (([], "float32"), ([1.0], "float16"), (2.0, "bfloat16")):
        given = tensor(values, dtype)
        assert encoded(given, "int8g32") is given
    assert encoded(tensor(2.0), "int8g32").nbytes == 3


def test_all_of_an_activation() -> None:
    hidden, mask = tensor(np.ones((2, 96))), Tensor("mask", "bool", (2,), b"\1\0")
    sent = all_encoded((hidden, mask), "int8g64")
    assert [item.codec for item in sent] == ["int8g64", RAW]
    assert sum(item.nbytes for item in sent) == 192 + 2 * 3 + 2
    assert [item.dtype for item in all_decoded(sent)] == ["float32", "bool"]
    assert all_encoded((hidden, mask), RAW) == all_decoded((hidden, mask)) == (hidden, mask)


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, -1.0])
def test_a_scale_that_is_none_is_refused(scale: float) -> None:
    data = np.array([scale], "<f2").tobytes() + bytes(32)
    with pytest.raises(WireError, match="scale that is negative or not finite"):
        decoded(Tensor("t", "float32", (32,), data, "int8g32"))


@pytest.mark.parametrize(
    ("codec", "dtype", "shape", "said"),
    [
        ("zip", "float32", (4,), "a tensor's codec 'zip' is no codec; known are raw, fp16, int8"),
        ("int8g32", "int64", (4,), "a tensor of int64 is written by the codec int8g32"),
        (FP16, "float16", (4,), "a tensor of float16 is written by the codec fp16"),
        (FP16, "float32", (-4,), "negative dimension"),
        (FP16, "complex64", (4,), "dtype 'complex64' is unknown"),
        (FP16, "float32", (4,), "does not have the bytes that its codec needs"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(
    codec: str, dtype: str, shape: tuple[int, ...], said: str
) -> None:
    with pytest.raises(WireError) as refused:
        decoded(Tensor("t", dtype, shape, bytes(9), codec))
    assert said in str(refused.value)
    assert len(str(refused.value)) <= MESSAGE_MAX


def test_sizes_are_checked_before_memory_is_taken() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match="the bytes"):
            decoded(Tensor("t", "float32", (1 << 40,), bytes(64), "int8g64"))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
