"""What a split is tried with: weights that all matter, and inputs of several sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Final

import torch
from torch import nn

from dsi_mqtt.engine.torch.build import stored_buffers
from dsi_mqtt.engine.torch.graph_shapes import Shapes, Size
from dsi_mqtt.errors import InvalidInputError

_SEED: Final = 20_240_607
# Larger tensors repeat themselves, so that no model's trial needs memory for all its weights.
_ELEMENTS_MAX: Final = 1 << 13
_ROWS: Final = 2
# Other sizes than the sample's, tried until one fits: half, half as much again, and so on.
_FACTORS: Final = ((1, 2), (3, 2), (2, 1), (1, 4), (3, 1), (4, 1), (1, 3), (5, 1))
_OFFSETS: Final = (0, 1, -1, 8, 16, 32, -8, -16, -32)


def trial_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """A value for each parameter and stored buffer of `module`, whose parameters may be on meta.

    Matrices keep the size of what they multiply; biases and means lie around zero, other vectors
    in [0.5, 1.5), as scales and variances must. Buffers of whole numbers (tables) stay as they are.
    """
    random = torch.Generator().manual_seed(_SEED)
    parameters: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=False))
    made: dict[int, torch.Tensor] = {}
    tensors = parameters | stored_buffers(module)
    for name, like in tensors.items():
        if id(like) in made:
            continue
        if like.is_floating_point():
            made[id(like)] = _random(name, like, random)
        else:
            made[id(like)] = torch.ones(like.shape, dtype=like.dtype) if like.is_meta else like
    return {name: made[id(like)] for name, like in tensors.items()}


def _random(name: str, like: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    inner = math.prod(like.shape[1:])
    if like.numel() > _ELEMENTS_MAX and inner + like.shape[0] < like.numel():
        # Each row begins one element later than the row before.
        base = _numbers(name, (inner + like.shape[0],), inner, random).to(like.dtype)
        inside = torch.empty(like.shape[1:], device="meta").stride()
        return base.as_strided(like.shape, (1, *inside))
    return _numbers(name, like.shape, inner if like.dim() > 1 else 0, random).to(like.dtype)


def _numbers(
    name: str, shape: tuple[int, ...], inner: int, random: torch.Generator
) -> torch.Tensor:
    """inner: of a matrix, what its rows hold; 0 for a vector."""
    if inner:
        return torch.randn(shape, generator=random) * (1.0 if "emb" in name else inner**-0.5)
    if name.endswith(("bias", "mean")):
        return torch.randn(shape, generator=random) * 0.2
    return torch.rand(shape, generator=random) + 0.5


def trial_inputs(
    sample: Mapping[str, torch.Tensor], shapes: Shapes
) -> Iterator[dict[str, torch.Tensor]]:
    """One row, and two that are, where sizes are open, of another size; all around the sample."""
    random = torch.Generator().manual_seed(_SEED)
    same = {name: tuple(value.shape[1:]) for name, value in sample.items()}
    for rows, sizes in ((1, same), (_ROWS, next(_other_sizes(same, shapes), same))):
        whole = {name: (rows, *row) for name, row in sizes.items()}
        yield {name: _around(value, whole[name], random) for name, value in sample.items()}


def trial_ones(
    sample: Mapping[str, torch.Tensor], shapes: Shapes, ones: frozenset[str]
) -> Iterator[dict[str, torch.Tensor]]:
    """One row and two in which the dimensions `ones` are one."""
    random = torch.Generator().manual_seed(_SEED)
    same = {name: tuple(value.shape[1:]) for name, value in sample.items()}
    for rows in (1, _ROWS):
        sizes = shapes.sizes(same, rows, ones)
        yield {name: _around(value, sizes[name], random) for name, value in sample.items()}


def _other_sizes(
    same: Mapping[str, tuple[int, ...]], shapes: Shapes
) -> Iterator[dict[str, tuple[int, ...]]]:
    for offset in _OFFSETS:
        for times, over in _FACTORS:
            sizes = {
                name: tuple(
                    size * times // over + offset if isinstance(dimension, Size) else size
                    for size, dimension in zip(row, shapes.inputs[name][1:], strict=True)
                )
                for name, row in same.items()
            }
            try:
                shapes.check({name: (_ROWS, *row) for name, row in sizes.items()})
            except InvalidInputError:
                continue
            if sizes != same:
                yield sizes


def _around(value: torch.Tensor, shape: tuple[int, ...], random: torch.Generator) -> torch.Tensor:
    """The sample, repeated or cut to `shape`; numbers that are not whole vary."""
    for place, size in enumerate(shape):
        value = value.index_select(place, torch.arange(size) % value.shape[place])
    if value.is_floating_point():
        value = value + torch.randn(shape, generator=random).to(value.dtype)
    return value
