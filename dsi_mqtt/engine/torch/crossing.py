"""What crosses a split point: the stream, and what later units need of the request.

| tensor | |
|---|---|
| `hidden_states` | the stream, its dimensions in the order they lie in memory |
| `order` | where that is not the stream's own order: the dimensions' places |
| an input's name | its values, where later units need them (masks, as bool) |
| `shape.` and an input's name | its dimensions as int64, where these suffice |
| `batched` | whether a list was asked and is to be answered |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import torch

from dsi_mqtt.core.activation import Tensor, Tensors, expected_bytes
from dsi_mqtt.engine.torch.dtypes import DTYPES, NAMES
from dsi_mqtt.engine.torch.phantom import phantom
from dsi_mqtt.engine.torch.requests import Request
from dsi_mqtt.errors import WireError

HIDDEN: Final = "hidden_states"
BATCHED: Final = "batched"
_ORDER: Final = "order"
_SHAPE: Final = "shape."
_MASK_SUFFIX: Final = "_mask"
# No input has more elements; a shape that claims them is not computed with.
_ELEMENTS_MAX: Final = 1 << 31


def to_wire(name: str, value: torch.Tensor) -> Tensor:
    flat = value.contiguous().reshape(-1)
    return Tensor(
        name, NAMES[value.dtype], tuple(value.shape), flat.view(torch.uint8).numpy().tobytes()
    )


def from_wire(tensor: Tensor) -> torch.Tensor:
    """Raises WireError when the bytes do not fit the shape."""
    if expected_bytes(tensor.dtype, tensor.shape) != tensor.nbytes:
        raise WireError(f"tensor {tensor.name} is {tensor.nbytes} bytes, {tensor.shape} is not")
    if not tensor.nbytes:
        return torch.empty(tensor.shape, dtype=DTYPES[tensor.dtype])
    values = torch.frombuffer(bytearray(tensor.data), dtype=DTYPES[tensor.dtype])
    return values.reshape(tensor.shape)


def pack(stream: torch.Tensor, request: Request, carried: tuple[str, ...]) -> Tensors:
    """carried: inputs that cross with their values; the others cross as shapes."""
    order = memory_order(stream)
    crossing = [
        to_wire(HIDDEN, stream.permute(order)),
        to_wire(BATCHED, torch.tensor(request.batched)),
    ]
    if order != list(range(stream.dim())):
        crossing.append(to_wire(_ORDER, torch.tensor(order)))
    for name, value in request.inputs.items():
        if name not in carried:
            crossing.append(to_wire(_SHAPE + name, torch.tensor(value.shape)))
        elif name.endswith(_MASK_SUFFIX):
            crossing.append(to_wire(name, value.bool()))
        else:
            crossing.append(to_wire(name, value))
    return tuple(crossing)


def unpack(
    tensors: Tensors, carried: tuple[str, ...], dtypes: Mapping[str, torch.dtype]
) -> tuple[torch.Tensor, Request]:
    """Stream and request; inputs of which only the shape came are phantoms.

    dtypes: of the inputs; those not named are int64. Raises WireError.
    """
    named = {tensor.name: tensor for tensor in tensors}
    lacking = {HIDDEN, BATCHED, *carried} - named.keys()
    if lacking:
        raise WireError(
            f"the activation lacks {', '.join(sorted(lacking))}; it has {sorted(named)}"
        )
    stream = in_order(from_wire(named.pop(HIDDEN)), named.pop(_ORDER, None))
    batched = bool(from_wire(named.pop(BATCHED)).any())
    inputs = {}
    for name, tensor in named.items():
        own = name.removeprefix(_SHAPE)
        dtype = dtypes.get(own, torch.int64)
        value = from_wire(tensor)
        if name in carried:
            inputs[own] = value.to(dtype)
        elif name != own:
            inputs[own] = _shaped(own, value, dtype)
        else:
            raise WireError(f"the activation has a tensor {name} that nothing here takes")
    return stream, Request(inputs, batched)


def crossing_bytes(stream: torch.Tensor, request: Request, carried: tuple[str, ...]) -> int:
    """Bytes of tensors that cross for `stream`, which may be on meta."""
    rest = pack(torch.empty(0), request, carried)
    return stream.nbytes + sum(tensor.nbytes for tensor in rest)


def memory_order(stream: torch.Tensor) -> list[int]:
    """Dimensions from the widest stride to the narrowest.

    Products of a transposed tensor are computed in another order than those of a contiguous one,
    and so to other last bits: the layout must cross too.
    """
    return sorted(range(stream.dim()), key=stream.stride, reverse=True)


def in_order(stream: torch.Tensor, order: Tensor | None) -> torch.Tensor:
    """The dimensions back in their places. Raises WireError when `order` names no such places."""
    if order is None:
        return stream
    places = [int(place) for place in from_wire(order).reshape(-1).tolist()]
    if sorted(places) != list(range(stream.dim())):
        raise WireError(f"the order {places} is none of {stream.dim()} dimensions")
    return stream.permute([places.index(dimension) for dimension in range(stream.dim())])


def _shaped(name: str, dimensions: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    shape = [int(dimension) for dimension in dimensions.reshape(-1).tolist()]
    if min(shape, default=0) < 1 or math.prod(shape) > _ELEMENTS_MAX:
        raise WireError(f"the shape {shape} of {name} is no input's")
    return phantom(shape, dtype, {f"input:{name}"})
