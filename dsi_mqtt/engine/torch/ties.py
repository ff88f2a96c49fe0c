"""Tied weights: tensors of a model that are one and the same, stored once or twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from dsi_mqtt.engine.torch.holding import read_tensor

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

    from dsi_mqtt.engine.torch.keys import Recipe
    from dsi_mqtt.engine.weights import WeightSource


def find_ties(
    model: PreTrainedModel, source: WeightSource, recipes: Mapping[str, Recipe]
) -> dict[str, str]:
    """For each tied name, the one under which the group is loaded.

    As in `from_pretrained`: two stored with different values are not tied, whatever the
    configuration says.
    """
    ties = {}
    for tied, one in model.all_tied_weights_keys.items():
        stored, first = recipes.get(tied), recipes.get(one)
        if stored is None or first is None or _equal(stored, first, source):
            ties[tied] = one
    return ties


def _equal(left: Recipe, right: Recipe, source: WeightSource) -> bool:
    pairs = zip(left.sources, right.sources, strict=False)
    if len(left.sources) != len(right.sources):
        return False
    return all(
        torch.equal(
            read_tensor(source, source.weights[ours]), read_tensor(source, source.weights[theirs])
        )
        for (ours, _), (theirs, _) in pairs
    )
