"""A model of one's own: what the function that `model.factory` names returns."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.errors import ConfigError

# One tensor; or for modules of several inputs (graph tier) all of them, in order or by name.
Sample: TypeAlias = torch.Tensor | tuple[torch.Tensor, ...] | dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class OwnModel:
    """A model and how it is asked.

    module: for the sequential tier an `nn.Sequential`, whose children are the units between
        prelude and head; for the graph tier any module.
    sample: one reference row, with a first dimension of 1; of any numbers. The sequential tier
        takes one tensor, the graph tier also several: in the order, or by the names, that
        `forward` has for them.
    preprocess: content type and body of a request to a tensor (or several, as the sample has
        them), either one row (without the first dimension) or several (with it). ValueError,
        TypeError, LookupError and RuntimeError mean a bad input. By default arrays (NumPy's file
        format) and nested JSON lists are read.
    postprocess: one row of the output to what JSON can hold. By default nested lists. The graph
        tier hands over whatever `forward` returns, each tensor in it without its first dimension.
    fixed_shape: whether every row must have the sample's shape, so that others are refused as
        bad inputs. Without a word, the sequential tier takes the sample's shape alone and the
        graph tier all shapes that the module can be exported for. Where it is False in the
        sequential tier, what the model raises on other shapes is the model's own failure.
    """

    module: nn.Module
    sample: Sample | None = None
    preprocess: Callable[[str, bytes], Sample] | None = None
    postprocess: Callable[[Any], object] | None = None
    fixed_shape: bool | None = None


def call_factory(spec: ModelSpec) -> OwnModel:
    """Calls the factory with the options of the deployment. Raises ConfigError."""
    function = _import(spec.factory)
    try:
        made = function(**(spec.options or {}))
    except (Exception, SystemExit) as error:
        # Someone else's code: whatever it raises, the deployment file names it.
        raise ConfigError(
            f"model.factory {spec.factory} raised {type(error).__name__}: {error}"
        ) from error
    own = OwnModel(made) if isinstance(made, nn.Module) else made
    kind = nn.Module if spec.tier == "graph" else nn.Sequential
    if not isinstance(own, OwnModel) or not isinstance(own.module, kind):
        returned = own.module if isinstance(own, OwnModel) else made
        raise ConfigError(
            f"model.factory {spec.factory} returned {type(returned).__name__}; "
            f"return an nn.{kind.__name__} or an OwnModel"
            + ("" if spec.tier == "graph" else " of one; tier: graph takes any module")
        )
    if isinstance(own.module, nn.Sequential) and len(own.module) == 0:
        raise ConfigError(f"model.factory {spec.factory} returned a model without children")
    return own


def sample_of(own: OwnModel, factory: str | None) -> torch.Tensor:
    """The sample row of a model of one input; by default the row a first linear layer takes."""
    if isinstance(own.sample, torch.Tensor):
        if own.sample.dim() < 2 or own.sample.shape[0] != 1:  # noqa: PLR2004 - a row and its batch
            raise ConfigError(
                f"model.factory {factory}: the sample has shape {tuple(own.sample.shape)}; "
                "give one row with a first dimension of 1"
            )
        return own.sample
    if own.sample is not None:
        raise ConfigError(
            f"model.factory {factory}: the sample is a {type(own.sample).__name__}; an "
            "nn.Sequential takes one tensor (tier: graph takes several)"
        )
    first = own.module[0] if isinstance(own.module, nn.Sequential) else None
    if isinstance(first, nn.Linear):
        return torch.zeros(1, first.in_features)
    raise ConfigError(f"model.factory {factory}: return an OwnModel with a sample input")


def _import(name: str | None) -> Callable[..., object]:
    module, _, function = (name or "").partition(":")
    if not module or not function:
        raise ConfigError(f"model.factory is {name!r}; give package.module:function")
    try:
        found = getattr(importlib.import_module(module), function, None)
    except (Exception, SystemExit) as error:
        # An import runs someone else's code.
        why = f"it ends with {error!r}" if isinstance(error, SystemExit) else error
        raise ConfigError(f"model.factory: {module} cannot be imported: {why}") from error
    if not callable(found):
        raise ConfigError(f"model.factory: {module} has no function {function}")
    return found  # type: ignore[no-any-return]
