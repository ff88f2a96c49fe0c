"""What crosses a cut of a graph, as tensors for the wire.

| tensor | |
|---|---|
| `value.` and its name in the graph | a value, its dimensions in the order they lie in memory |
| `order.` and its name | where that is not its own order: the dimensions' places |
| `sizes` | sizes within the model that later units compute with, as int64 |
| `batched` | whether a list was asked and is to be answered |

The names are the graph's, which is the same on every node of a table: its text is in the digest.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from dsi_mqtt.core.activation import Tensor, Tensors
from dsi_mqtt.engine.torch.crossing import BATCHED, from_wire, in_order, memory_order, to_wire
from dsi_mqtt.engine.torch.graph_export import Kind
from dsi_mqtt.engine.torch.graph_flow import Boundary
from dsi_mqtt.engine.torch.graph_split import Values
from dsi_mqtt.errors import WireError

_VALUE: Final = "value."
_ORDER: Final = "order."
_SIZES: Final = "sizes"


def pack_values(values: Values, boundary: Boundary, *, batched: bool) -> Tensors:
    """values: by the boundary's tensors, then its numbers."""
    crossing = [to_wire(BATCHED, torch.tensor(batched))]
    for node, value in zip(boundary.tensors, values, strict=False):
        order = memory_order(value)
        crossing.append(to_wire(_VALUE + node.name, value.permute(order)))
        if order != list(range(value.dim())):
            crossing.append(to_wire(_ORDER + node.name, torch.tensor(order)))
    if boundary.numbers:
        sizes = torch.tensor([int(size) for size in values[len(boundary.tensors) :]])
        crossing.append(to_wire(_SIZES, sizes))
    return tuple(crossing)


def unpack_values(tensors: Tensors, boundary: Boundary) -> tuple[list[Any], bool]:
    """The values, and whether a batch was asked. Raises WireError for any others."""
    named = {tensor.name: tensor for tensor in tensors}
    wanted = {_VALUE + node.name for node in boundary.tensors} | {BATCHED}
    wanted |= {_SIZES} if boundary.numbers else set()
    orders = {_ORDER + node.name for node in boundary.tensors}
    if not wanted <= named.keys() <= wanted | orders:
        raise WireError(
            f"the activation has the tensors {sorted(named)}; this cut has {sorted(wanted)}"
        )
    values: list[Any] = [_value(node.name, node.meta["made"], named) for node in boundary.tensors]
    if boundary.numbers:
        sizes = from_wire(named[_SIZES]).reshape(-1).tolist()
        if len(sizes) != len(boundary.numbers) or named[_SIZES].dtype != "int64":
            raise WireError(f"{len(sizes)} sizes came; {len(boundary.numbers)} cross this cut")
        values += sizes
    return values, bool(from_wire(named[BATCHED]).any())


def _value(name: str, kind: Kind, named: dict[str, Tensor]) -> torch.Tensor:
    value = in_order(from_wire(named[_VALUE + name]), named.get(_ORDER + name))
    fits = value.dtype == kind.dtype and value.dim() == len(kind.sizes)
    pairs = zip(value.shape, kind.sizes, strict=False)
    if not fits or any(size not in (given, None) for given, size in pairs):
        raise WireError(
            f"{name} came as {value.dtype} {tuple(value.shape)}, "
            f"which is not {kind.dtype} {kind.sizes}"
        )
    return value
