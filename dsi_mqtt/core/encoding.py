"""The codecs of a hop: an activation's tensors as fewer bytes, for some time and some error.

| codec | takes | a value is | which differs by |
|---|---|---|---|
| `raw` | everything | as it is | nothing |
| `fp16` | float32 | its nearest float16 | 2⁻¹¹ of it at most, or 2⁻²⁵ |
| `int8g32` | any float but float64 | -127 to 127 times its group's scale | half the scale at most |
| `int8g64` | the same | the same | the same |

Groups are 32 or 64 values in row-major order; the last may be short. The scale of a group is its
largest magnitude / 127 as a float16, rounded *up*, so that nothing has to be cut off. On the wire
come all scales, then all values as int8.

A tensor stays raw where its codec does not take it (integers, masks), would not make it smaller, or
cannot tell it: NaN, infinity, and magnitudes beyond what a float16, as value or scale, holds.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dsi_mqtt.core.activation import RAW, Tensor, Tensors, expected_bytes
from dsi_mqtt.errors import WireError

FP16: Final = "fp16"
# Values that share a scale.
GROUPS: Final[dict[str, int]] = {"int8g32": 32, "int8g64": 64}
NAMES: Final = (RAW, FP16, *GROUPS)

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_FLOATS: Final = frozenset({"float32", "float16", "bfloat16"})
_LARGEST: Final = np.float32(127)
_HALF: Final = np.dtype("<f2")
_FLOAT16_MAX: Final = np.float32(65504)
_FLOAT16_END: Final = np.float32(65520)  # rounds to infinity
_SMALLEST: Final = np.float32(2**-24)  # above zero
# Values at once, so that what lies between two steps stays in a processor's cache.
_BLOCK: Final = 1 << 15


def unknown_codec(name: str) -> str | None:
    """What is wrong with a codec's name, as the end of a sentence; None: it is one."""
    if name in NAMES:
        return None
    return f"{name!r:.40} is no codec; known are {', '.join(NAMES)}"


def takes(codec: str, dtype: str) -> bool:
    """Whether tensors of this dtype can be written so; `raw` takes all."""
    if codec in GROUPS:
        return dtype in _FLOATS
    return codec == RAW or dtype == "float32"


def encoded_bytes(codec: str, dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor written so, known before it is.

    Raises WireError for an unknown codec or dtype, a negative dimension, or a dtype that the codec
    does not take.
    """
    complaint = unknown_codec(codec)
    if complaint is not None:
        raise WireError(f"a tensor's codec {complaint}")
    nbytes = expected_bytes(dtype, shape)
    if codec == RAW:
        return nbytes
    if not takes(codec, dtype):
        raise WireError(f"a tensor of {dtype} is written by the codec {codec}, which takes none")
    count = math.prod(shape)
    return 2 * count if codec == FP16 else count + _HALF.itemsize * _groups(count, GROUPS[codec])


# --- writing ----------------------------------------------------------------------------------


def encoded(tensor: Tensor, codec: str) -> Tensor:
    """The tensor as the codec writes it, or itself where it stays raw. codec: one of `NAMES`."""
    if codec == RAW or tensor.codec != RAW or not takes(codec, tensor.dtype):
        return tensor
    if encoded_bytes(codec, tensor.dtype, tensor.shape) >= tensor.nbytes:
        return tensor
    values = _floats(tensor)
    data = _halved(values) if codec == FP16 else _quantised(values, GROUPS[codec])
    if data is None:
        return tensor
    return Tensor(tensor.name, tensor.dtype, tensor.shape, data.data, codec)


def all_encoded(tensors: Tensors, codec: str) -> Tensors:
    return tensors if codec == RAW else tuple(encoded(tensor, codec) for tensor in tensors)


def _floats(tensor: Tensor) -> Floats:
    if tensor.dtype == "bfloat16":
        upper = np.frombuffer(tensor.data, "<u2").astype(np.uint32)
        return (upper << 16).view(np.float32)
    kind = "<f4" if tensor.dtype == "float32" else "<f2"
    return np.frombuffer(tensor.data, kind).astype(np.float32, copy=False)


def _halved(values: Floats) -> Bytes | None:
    """None: a value is not finite, or beyond float16."""
    halves = np.empty(len(values), _HALF)
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        if not (block.max() < _FLOAT16_END and block.min() > -_FLOAT16_END):  # also not a number
            return None
        halves[start : start + _BLOCK] = block
    return halves.view(np.uint8)


def _quantised(values: Floats, group: int) -> Bytes | None:
    """Scales, then values; None: a value is not finite, or too large for a scale."""
    count = _groups(len(values), group)
    data = np.empty(_HALF.itemsize * count + len(values), np.uint8)
    scales, quanta = _parts(data, count)
    for first, last, width in _blocks(len(values), group):
        own = slice(first * group, first * group + (last - first) * width)
        block = values[own].reshape(-1, width)
        largest = np.maximum(block.max(axis=1), -block.min(axis=1))
        if not largest.max() <= _LARGEST * _FLOAT16_MAX:  # also not a number
            return None
        scales[first:last] = _rounded_up(largest / _LARGEST)
        steps = block / np.maximum(scales[first:last], _SMALLEST, dtype=np.float32)[:, None]
        quanta[own] = np.rint(steps, out=steps).reshape(-1)
    return data


def _rounded_up(exact: Floats) -> NDArray[np.float16]:
    """The least float16 that is no less. Of what is not negative the next one has the next bits."""
    halves = exact.astype(_HALF)
    halves.view(np.uint16)[...] += halves < exact
    return halves


# --- reading ----------------------------------------------------------------------------------


def decoded(tensor: Tensor) -> Tensor:
    """The tensor with its elements as they are, of the same dtype and shape.

    Raises WireError where it does not have the bytes that it must, or a scale is none.
    """
    if tensor.codec == RAW:
        return tensor
    if tensor.nbytes != encoded_bytes(tensor.codec, tensor.dtype, tensor.shape):
        raise WireError(f"tensor {tensor.name!r:.40} does not have the bytes that its codec needs")
    data = np.frombuffer(tensor.data, np.uint8)
    if tensor.codec == FP16:
        values = data.view(_HALF).astype(np.float32)
    else:
        values = _restored(data, math.prod(tensor.shape), GROUPS[tensor.codec], tensor.name)
    return Tensor(tensor.name, tensor.dtype, tensor.shape, _as_dtype(values, tensor.dtype))


def all_decoded(tensors: Tensors) -> Tensors:
    """Raises WireError."""
    if all(tensor.codec == RAW for tensor in tensors):
        return tensors
    return tuple(decoded(tensor) for tensor in tensors)


def _restored(data: Bytes, size: int, group: int, name: str) -> Floats:
    scales, quanta = _parts(data, _groups(size, group))
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise WireError(f"tensor {name!r:.40} has a scale that is negative or not finite")
    values = np.empty(size, np.float32)
    for first, last, width in _blocks(size, group):
        own = slice(first * group, first * group + (last - first) * width)
        factors = scales[first:last].astype(np.float32)[:, None]
        np.multiply(quanta[own].reshape(-1, width), factors, out=values[own].reshape(-1, width))
    return values


def _as_dtype(values: Floats, dtype: str) -> memoryview:
    if dtype == "float32":
        return values.view(np.uint8).data
    if dtype == "float16":
        # A scale was rounded up, so the largest value may have come to lie beyond.
        halves = np.clip(values, -_FLOAT16_MAX, _FLOAT16_MAX).astype(_HALF)
        return halves.view(np.uint8).data
    bits = values.view(np.uint32)
    # To the nearest, of two equally near to the even one.
    bits = bits + (np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1)))
    return (bits >> 16).astype("<u2").view(np.uint8).data


# --- layout -----------------------------------------------------------------------------------


def _groups(count: int, group: int) -> int:
    return -(-count // group)


def _parts(data: Bytes, groups: int) -> tuple[NDArray[Any], NDArray[np.int8]]:
    """Scales and values, as views."""
    behind = _HALF.itemsize * groups
    return data[:behind].view(_HALF), data[behind:].view(np.int8)


def _blocks(count: int, group: int) -> list[tuple[int, int, int]]:
    """Groups that are worked on together, as (first, behind the last, values in each)."""
    whole, rest = divmod(count, group)
    step = _BLOCK // group
    blocks = [(first, min(first + step, whole), group) for first in range(0, whole, step)]
    return [*blocks, (whole, whole + 1, rest)] if rest else blocks
