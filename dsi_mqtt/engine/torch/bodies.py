"""Bodies of requests as values: JSON, text, arrays. Whatever is wrong with one is its sender's."""

from __future__ import annotations

import io
import json
import math
from typing import Any, Final

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from dsi_mqtt.core.activation import JSON, NPY, OCTETS, TEXT, media_type
from dsi_mqtt.errors import InvalidInputError, ModelFailedError

_NPY_MAGIC: Final = b"\x93NUMPY"
IMAGE: Final = "image/"


def is_array(kind: str, body: bytes) -> bool:
    return kind == NPY or (kind == OCTETS and body.startswith(_NPY_MAGIC))


def read_text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise InvalidInputError(f"the {TEXT} input is not UTF-8") from None


def read_json(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"the {JSON} input is not valid JSON: {error}") from None


def read_array(body: bytes) -> NDArray[Any]:
    """An array in NumPy's file format; never pickled objects, never more than the body holds."""
    stream = io.BytesIO(body)
    try:
        version = npy.read_magic(stream)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = header(stream)
        if dtype.kind not in "biuf":
            raise InvalidInputError(f"the {NPY} input holds {dtype}; send numbers")
        if math.prod(shape) * dtype.itemsize != len(body) - stream.tell():
            raise InvalidInputError(f"the {NPY} input is not as long as its header says")
        stream.seek(0)
        array = npy.read_array(stream, allow_pickle=False)
    except (ValueError, EOFError, OverflowError) as error:
        raise InvalidInputError(f"the {NPY} input cannot be read: {error}") from None
    return array


def array_of_numbers(value: object, what: str, kinds: str = "iuf") -> NDArray[Any]:
    """Nested JSON lists of numbers, all of one length per level. kinds: as in NumPy's dtypes."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise InvalidInputError(f"{what}: the lists are of different lengths") from None
    if array.dtype.kind not in kinds or not array.size:
        raise InvalidInputError(f"{what}: expected lists of numbers, at least one")
    return array


def read_numbers(content_type: str, body: bytes) -> torch.Tensor:
    """One array, in NumPy's file format or as nested JSON lists."""
    kind = media_type(content_type)
    if is_array(kind, body):
        array = read_array(body)
    elif kind == JSON:
        array = array_of_numbers(read_json(body), "the input")
    else:
        raise InvalidInputError(f"content type {content_type!r} is not read; send {JSON} or {NPY}")
    return torch.from_numpy(np.array(array))


def write_json(value: object) -> bytes:
    """Floats are written as the exact float64 of their float32: reading back changes no bit."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        raise ModelFailedError("the result holds NaN or infinity, so it is no answer") from None


def numbers(tensor: torch.Tensor) -> Any:  # noqa: ANN401 - as deep as the tensor
    """A tensor as nested lists of numbers."""
    return (tensor.float() if tensor.is_floating_point() else tensor).tolist()
