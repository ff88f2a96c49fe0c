"""What crosses a hop: tensors as dtype, shape and raw bytes, and the rows they belong to.

Raw bytes rather than an array type, because a device has no torch and numpy has no bfloat16.
An input enters the prelude, and a result leaves the head, as a *body*: two tensors, the bytes
and their content type, so that one kind of message carries requests, activations and results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dsi_mqtt.errors import WireError

JSON: Final = "application/json"
TEXT: Final = "text/plain"
OCTETS: Final = "application/octet-stream"
NPY: Final = "application/x-npy"

# The codec of a tensor whose elements are written as they are.
RAW: Final = "raw"

# The one tensor that enters the prelude of a step, and the one that leaves its head.
TOKENS: Final = "tokens"

_BODY: Final = "body"
_CONTENT_TYPE: Final = "content_type"

type_sizes: Final[dict[str, int]] = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """`data` holds the elements in row-major order, little-endian, without padding.

    codec: how they are written there, as on a hop between two segments (see `core.encoding`).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview
    codec: str = RAW

    @property
    def nbytes(self) -> int:
        return len(self.data)


Tensors = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a batch: `tokens` positions of `session`, the first at `position`.

    A one-pass request has one row with an empty session. `take` tells tellings of a generation
    apart.
    """

    session: str = ""
    position: int = 0
    tokens: int = 1
    take: int = 0


def expected_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor. Raises WireError for an unknown dtype or a negative dimension."""
    size = type_sizes.get(dtype)
    if size is None:
        raise WireError(f"tensor dtype {dtype!r} is unknown; known are {', '.join(type_sizes)}")
    for dimension in shape:
        if dimension < 0:
            raise WireError(f"tensor shape {shape} has a negative dimension")
        size *= dimension
    return size


def media_type(content_type: str) -> str:
    """The content type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def pack_body(content_type: str, body: bytes | memoryview) -> Tensors:
    kind = content_type.encode()
    return (
        Tensor(_BODY, "uint8", (len(body),), body),
        Tensor(_CONTENT_TYPE, "uint8", (len(kind),), kind),
    )


def unpack_body(tensors: Tensors) -> tuple[str, bytes]:
    """Content type and bytes. Raises WireError when these tensors are no body."""
    parts = {tensor.name: bytes(tensor.data) for tensor in tensors}
    if parts.keys() != {_BODY, _CONTENT_TYPE}:
        raise WireError(f"expected an input or a result, got tensors {sorted(parts)}")
    return parts[_CONTENT_TYPE].decode(errors="replace"), parts[_BODY]
