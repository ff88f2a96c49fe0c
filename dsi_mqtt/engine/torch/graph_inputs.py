"""Bodies as the inputs of a graph, and what it returns as answers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from dsi_mqtt.core.activation import JSON, media_type
from dsi_mqtt.engine.torch.bodies import (
    array_of_numbers,
    numbers,
    read_json,
    read_numbers,
    write_json,
)
from dsi_mqtt.engine.torch.graph_shapes import Shapes
from dsi_mqtt.engine.torch.hollow import cast
from dsi_mqtt.engine.torch.own import OwnModel, Sample, sample_of
from dsi_mqtt.engine.torch.requests import Request
from dsi_mqtt.engine.torch.trees import Tree
from dsi_mqtt.errors import ConfigError, InvalidInputError, ModelFailedError

Inputs = dict[str, torch.Tensor]
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def named_sample(own: OwnModel, dtype: torch.dtype, factory: str | None) -> Inputs:
    """The sample's tensors by the parameters of `forward`. Raises ConfigError."""
    sample = own.sample if isinstance(own.sample, tuple | dict) else sample_of(own, factory)
    parameters = inspect.signature(own.module.forward).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind in _NAMED]
    try:
        inputs = _by_name(sample, names)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"model.factory {factory}: the sample {error}") from error
    for name, value in inputs.items():
        if value.dim() == 0 or value.shape[0] != 1 or 0 in value.shape:
            raise ConfigError(
                f"model.factory {factory}: the sample's {name} has shape {tuple(value.shape)}; "
                "give one row with a first dimension of 1"
            )
    return {name: cast(value, dtype) for name, value in inputs.items()}


def _by_name(value: Sample, names: list[str]) -> Inputs:
    """names: of all that may be given, in order. Raises ValueError or TypeError with the reason."""
    if isinstance(value, torch.Tensor):
        value = (value,)
    if isinstance(value, tuple):
        if len(value) > len(names):
            raise ValueError(f"has {len(value)} tensors, forward takes {', '.join(names)}")
        value = dict(zip(names, value, strict=False))
    if not isinstance(value, dict):
        raise TypeError(f"is a {type(value).__name__}; give a tensor, a tuple or a dict of them")
    unknown = [name for name in value if name not in names]
    if unknown:
        raise ValueError(f"names {unknown[0]}; the model takes {', '.join(names)}")
    if not value or not all(isinstance(item, torch.Tensor) for item in value.values()):
        raise ValueError("must be made of tensors alone, at least one")
    return {name: value[name] for name in names if name in value}


@dataclass(frozen=True, slots=True)
class Purpose:
    """What the factory says of inputs and answers."""

    own: OwnModel
    sample: Inputs
    shapes: Shapes

    def read(self, content_type: str, body: bytes) -> Request:
        """Raises InvalidInputError for what cannot be read or has sizes that the graph has not."""
        given = self._given(content_type, body)
        batched = all(value.dim() == self.sample[name].dim() for name, value in given.items())
        rows = given if batched else {name: value[None] for name, value in given.items()}
        sizes = {name: tuple(value.shape) for name, value in rows.items()}
        if any(0 in size for size in sizes.values()):
            raise InvalidInputError("the input is empty; send at least one row")
        self.shapes.check(sizes)
        kinds = {name: value.dtype for name, value in self.sample.items()}
        return Request({name: rows[name].to(kind) for name, kind in kinds.items()}, batched)

    def answer(self, output: Tree, rows: int, *, batched: bool) -> bytes:
        write = self.own.postprocess or _listed
        items = [write(_row(output, row)) for row in range(rows)]
        return write_json({"results": items} if batched else items[0])

    def _given(self, content_type: str, body: bytes) -> Inputs:
        names = list(self.sample)
        value: Sample
        if self.own.preprocess is not None:
            try:
                value = self.own.preprocess(content_type, body)
            except (ValueError, TypeError, LookupError, RuntimeError) as error:
                raise InvalidInputError(f"the input cannot be read: {error}") from error
        elif len(names) == 1:
            value = read_numbers(content_type, body)
        else:
            value = _read_named(content_type, body, names)
        try:
            given = _by_name(value, names)
        except (ValueError, TypeError) as error:
            raise ModelFailedError(f"what preprocess returned {error}") from error
        if len(given) != len(names):
            raise ModelFailedError(f"preprocess returned {list(given)}; the model takes {names}")
        return given


def _read_named(content_type: str, body: bytes, names: list[str]) -> Inputs:
    """An object with an entry for each input, or a list of such."""
    if media_type(content_type) != JSON:
        raise InvalidInputError(f"content type {content_type!r} is not read; send {JSON}")
    value: Any = read_json(body)
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, dict) and item.keys() == set(names) for item in items):
        raise InvalidInputError(f"an input is an object with {', '.join(names)}, no more")
    if not items:
        raise InvalidInputError("the input is empty; send at least one row")
    rows = {
        name: [torch.from_numpy(array_of_numbers(item[name], name, "biuf")) for item in items]
        for name in names
    }
    if not isinstance(value, list):
        return {name: tensors[0] for name, tensors in rows.items()}
    try:
        return {name: torch.stack(tensors) for name, tensors in rows.items()}
    except RuntimeError:
        raise InvalidInputError("the rows of one batch must have the same sizes") from None


def _row(output: Tree, row: int) -> Tree:
    return pytree.tree_map_only(torch.Tensor, lambda tensor: tensor[row], output)


def _listed(row: Tree) -> object:
    return {"output": _plain(row)}


def _plain(value: Tree) -> object:
    """Tensors as nested lists, in whatever the model returned them."""
    if isinstance(value, torch.Tensor):
        return numbers(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
