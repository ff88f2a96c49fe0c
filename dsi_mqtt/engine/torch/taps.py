"""Taps on a model's blocks: every call of a block goes through the pass that is running.

`forward` is overridden on the block's instance, so that the model's own forward stays in charge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import torch
from torch import nn
from torch.utils import _pytree as pytree

from dsi_mqtt.engine.torch.trees import Tree

Forward = Callable[..., Tree]


class Pass(Protocol):
    def block(
        self, unit: int, forward: Forward, args: tuple[Tree, ...], kwargs: dict[str, Tree]
    ) -> Tree:
        """Stands in for one call of the block that is unit `unit`."""


class Taps:
    """blocks: paths of the modules that are units 1, 2 and so on."""

    def __init__(self, model: nn.Module, blocks: tuple[str, ...]) -> None:
        self._modules = [model.get_submodule(path) for path in blocks]
        self._pass: Pass | None = None
        for unit, module in enumerate(self._modules, start=1):
            module.forward = partial(self._call, unit, module.forward)

    def remove(self) -> None:
        for module in self._modules:
            del module.forward

    @contextmanager
    def running(self, current: Pass) -> Iterator[None]:
        self._pass = current
        try:
            yield
        finally:
            self._pass = None

    def _call(self, unit: int, forward: Forward, *args: Tree, **kwargs: Tree) -> Tree:
        if self._pass is None:
            return forward(*args, **kwargs)
        return self._pass.block(unit, forward, args, kwargs)


def stream_of(value: Tree) -> torch.Tensor | None:
    """The first tensor of a block's arguments or results: what flows from block to block."""
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, torch.Tensor):
            return leaf
    return None


def with_stream(value: Tree, stream: torch.Tensor) -> Tree:
    """`value` with its first tensor, wherever it occurs, replaced by `stream`."""
    before = stream_of(value)
    return pytree.tree_map(lambda leaf: stream if leaf is before else leaf, value)
