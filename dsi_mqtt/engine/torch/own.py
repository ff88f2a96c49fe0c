"""A model of one's own: what the function that `model.factory` names returns."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.errors import ConfigError


@dataclass(frozen=True, slots=True)
class OwnModel:
    """A sequential model and how it is asked.

    module: its children are the units between prelude and head; one tensor flows through them.
    sample: one reference row, with a first dimension of 1; of any numbers.
    preprocess: content type and body of a request to a tensor, either one row (without the first
        dimension) or several (with it). ValueError, TypeError, LookupError and RuntimeError mean
        a bad input. By default arrays (NumPy's file format) and nested JSON lists are read.
    postprocess: one row of the output to what JSON can hold. By default nested lists.
    fixed_shape: whether every row must have the sample's shape, so that others are refused as
        bad inputs; without it, what the model raises on them is the model's own failure.
    """

    module: nn.Sequential
    sample: torch.Tensor | None = None
    preprocess: Callable[[str, bytes], torch.Tensor] | None = None
    postprocess: Callable[[torch.Tensor], object] | None = None
    fixed_shape: bool = True


def call_factory(spec: ModelSpec) -> OwnModel:
    """Calls the factory with the options of the deployment. Raises ConfigError."""
    function = _import(spec.factory)
    try:
        made = function(**(spec.options or {}))
    except Exception as error:
        # Someone else's code: whatever it raises, the deployment file names it.
        raise ConfigError(
            f"model.factory {spec.factory} raised {type(error).__name__}: {error}"
        ) from error
    own = OwnModel(made) if isinstance(made, nn.Sequential) else made
    if not isinstance(own, OwnModel) or not isinstance(own.module, nn.Sequential):
        raise ConfigError(
            f"model.factory {spec.factory} returned {type(made).__name__}; "
            "return an nn.Sequential or an OwnModel"
        )
    if len(own.module) == 0:
        raise ConfigError(f"model.factory {spec.factory} returned a model without children")
    return own


def sample_of(own: OwnModel, factory: str | None) -> torch.Tensor:
    """The model's sample row; without one, the row that a first linear layer takes."""
    if own.sample is not None:
        if own.sample.dim() < 2 or own.sample.shape[0] != 1:  # noqa: PLR2004 - a row and its batch
            raise ConfigError(
                f"model.factory {factory}: the sample has shape {tuple(own.sample.shape)}; "
                "give one row with a first dimension of 1"
            )
        return own.sample
    first = own.module[0]
    if isinstance(first, nn.Linear):
        return torch.zeros(1, first.in_features)
    raise ConfigError(f"model.factory {factory}: return an OwnModel with a sample input")


def _import(name: str | None) -> Callable[..., object]:
    module, _, function = (name or "").partition(":")
    if not module or not function:
        raise ConfigError(f"model.factory is {name!r}; give package.module:function")
    try:
        found = getattr(importlib.import_module(module), function, None)
    except Exception as error:
        # An import runs someone else's code.
        raise ConfigError(f"model.factory: {module} cannot be imported: {error}") from error
    if not callable(found):
        raise ConfigError(f"model.factory: {module} has no function {function}")
    return found  # type: ignore[no-any-return]
