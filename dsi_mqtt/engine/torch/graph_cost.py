"""What the operations of a graph cost for one reference row: counted on tensors without values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from dsi_mqtt.engine.torch.build import building
from dsi_mqtt.engine.torch.flops import FlopCount
from dsi_mqtt.engine.torch.graph_export import Exported
from dsi_mqtt.engine.torch.graph_recurrent import recurrent_as_one, recurrent_flops
from dsi_mqtt.engine.torch.trees import Tree
from dsi_mqtt.errors import SplitError


@dataclass(frozen=True, slots=True)
class Cost:
    """By node: floating-point operations (one for each element besides those of products), what
    it makes for the reference row (tensors on meta, or numbers), and bytes of what it stands for.
    """

    flops: Mapping[fx.Node, float]
    made: Mapping[fx.Node, Any]

    def nbytes(self, node: fx.Node) -> int:
        value = self.made[node]
        return value.nbytes if isinstance(value, torch.Tensor) else 8

    def elements(self, node: fx.Node) -> int:
        value = self.made[node]
        return value.numel() if isinstance(value, torch.Tensor) else 1

    def is_dense(self, node: fx.Node) -> bool:
        """Whether a tensor's elements fill its memory, so that it crosses as it lies."""
        value = self.made[node]
        if not isinstance(value, torch.Tensor):
            return True
        order = sorted(range(value.dim()), key=value.stride, reverse=True)
        return value.permute(order).is_contiguous()


def find_cost(exported: Exported, sample: Mapping[str, torch.Tensor]) -> Cost:
    """Runs the graph for `sample`. Raises SplitError when it does not take that one row."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    count = FlopCount()
    flops: dict[fx.Node, float] = {}
    made: dict[fx.Node, Any] = {}
    by_place = {place: sample[name] for name, place in exported.inputs.items()}
    with building, recurrent_as_one(), mode, count:
        for node in exported.graph.nodes:
            if node.op == "placeholder":
                kind = node.meta["made"]
                like = by_place.get(node.name)
                sizes = kind.sizes if like is None else like.shape
                made[node] = torch.empty(sizes, dtype=kind.dtype)
            elif node.op == "call_function":
                args, kwargs = fx.map_arg((node.args, node.kwargs), made.__getitem__)
                try:
                    made[node] = node.target(*args, **kwargs)
                except Exception as error:
                    raise SplitError(
                        f"the model takes more rows than one, but not one: {error}"
                    ) from error
                products = count.take() + recurrent_flops(node.target, args)
                flops[node] = products + _elements(node, made[node])
    return Cost(flops, {node: _hollow(value) for node, value in made.items()})


def _elements(node: fx.Node, value: Tree) -> int:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target.is_view:  # noqa: SLF001 - its only name
        return 0
    leaves = pytree.tree_leaves(value)
    return sum(leaf.numel() for leaf in leaves if isinstance(leaf, torch.Tensor))


def _hollow(value: Tree) -> Tree:
    """On meta, for the mode is left behind."""

    def hollow(leaf: Any) -> Any:  # noqa: ANN401 - any leaf
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device="meta")

    return pytree.tree_map(hollow, value)
