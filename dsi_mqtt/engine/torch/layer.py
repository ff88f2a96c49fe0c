"""A transformers model, cut at its blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers.modeling_utils import PreTrainedModel

from dsi_mqtt.engine.torch.build import build_hollow
from dsi_mqtt.engine.torch.holding import Holding
from dsi_mqtt.engine.torch.keys import read_recipes
from dsi_mqtt.engine.torch.linear import favour_few_rows
from dsi_mqtt.engine.torch.split import SplitModel
from dsi_mqtt.engine.torch.structure import Reference, block_levels
from dsi_mqtt.engine.torch.ties import find_ties
from dsi_mqtt.engine.weights import WeightSource

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def split_layer(
    cls: type[PreTrainedModel],
    config: PretrainedConfig,
    dtype: torch.dtype,
    source: WeightSource,
    reference: Reference,
    *,
    origin: str,
    few_rows: bool = False,
) -> SplitModel:
    """origin: for messages, where the weights come from. Raises SplitError.

    few_rows: products of few rows may be computed in another way, equal but for the last digits.
    """
    module = build_hollow(cls, config, dtype)
    if few_rows:
        favour_few_rows(module)
    _without_warnings(module)
    recipes = read_recipes(module, source.weights)
    ties = find_ties(module, source, recipes)
    holding = Holding(module, source, recipes, ties, origin)
    return SplitModel(module, holding, reference, block_levels(module))


def _without_warnings(module: PreTrainedModel) -> None:
    """Models that warn of padding without a mask look at token ids, which later units have not."""
    for part in module.modules():
        if isinstance(part, PreTrainedModel):
            part.warn_if_padding_and_no_attention_mask = _no_warning  # type: ignore[method-assign]  # on this instance alone


def _no_warning(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> None:
    """In place of the library's method of that name."""
