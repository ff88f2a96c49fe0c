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

    def outside(
        self, path: str, forward: Forward, args: tuple[Tree, ...], kwargs: dict[str, Tree]
    ) -> Tree:
        """Stands in for one call of the module at `path`, which neither is nor holds a block."""


class Taps:
    """Taps on the blocks, and on the outermost modules beside them that have weights."""

    def __init__(self, model: nn.Module, blocks: tuple[str, ...]) -> None:
        """blocks: paths of the modules that are units 1, 2 and so on."""
        self._pass: Pass | None = None
        self._modules = [model.get_submodule(path) for path in blocks]
        self._outside = [model.get_submodule(path) for path in _beside(model, blocks)]
        for unit, module in enumerate(self._modules, start=1):
            module.forward = partial(self._block, unit, module.forward)
        for path, module in zip(_beside(model, blocks), self._outside, strict=True):
            module.forward = partial(self._beside, path, module.forward)

    def remove(self) -> None:
        for module in (*self._modules, *self._outside):
            del module.forward

    @contextmanager
    def running(self, current: Pass) -> Iterator[None]:
        self._pass = current
        try:
            yield
        finally:
            self._pass = None

    def _block(self, unit: int, forward: Forward, *args: Tree, **kwargs: Tree) -> Tree:
        if self._pass is None:
            return forward(*args, **kwargs)
        return self._pass.block(unit, forward, args, kwargs)

    def _beside(self, path: str, forward: Forward, *args: Tree, **kwargs: Tree) -> Tree:
        if self._pass is None:
            return forward(*args, **kwargs)
        return self._pass.outside(path, forward, args, kwargs)


def _beside(model: nn.Module, blocks: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    for path, module in model.named_modules():
        within = any(path.startswith(f"{other}.") for other in (*blocks, *found))
        around = any(
            block == path or block.startswith(f"{path}." if path else "") for block in blocks
        )
        if not within and not around and next(module.parameters(), None) is not None:
            found.append(path)
    return found


def stream_of(value: Tree) -> torch.Tensor | None:
    """The first tensor of a block's arguments or results: what flows from block to block."""
    if isinstance(value, torch.Tensor):
        return value
    # Plain containers by hand, for every call of a segment passes here and pytrees are slow.
    inner = value.values() if isinstance(value, dict) else value
    for part in inner if isinstance(value, tuple | list | dict) else ():
        found = stream_of(part)
        if found is not None:
            return found
    return None


def with_stream(value: Tree, stream: torch.Tensor) -> Tree:
    """`value` with its first tensor, wherever it occurs, replaced by `stream`."""
    return _replaced(value, stream_of(value), stream)


def _replaced(value: Tree, before: torch.Tensor | None, stream: torch.Tensor) -> Tree:
    kind = type(value)
    if value is before and value is not None:
        return stream
    if kind is tuple or kind is list:
        return kind(_replaced(part, before, stream) for part in value)
    if kind is dict:
        return {name: _replaced(part, before, stream) for name, part in value.items()}
    if isinstance(value, tuple | list | dict):
        return pytree.tree_map(lambda leaf: stream if leaf is before else leaf, value)
    return value
