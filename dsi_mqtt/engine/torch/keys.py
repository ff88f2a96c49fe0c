"""From the names in a checkpoint to the names in a module tree.

In transformers 5 these differ (renamed modules, experts merged into one tensor). The library's own
conversion tables are used, one weight at a time; the version is pinned and the tests compare with
`from_pretrained`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

if TYPE_CHECKING:
    import torch
    from transformers.modeling_utils import PreTrainedModel


@dataclass(slots=True)
class Recipe:
    """How one or more of a model's tensors come from one or more stored ones.

    target: the name under which the conversion knows the result.
    targets: all tensors it makes.
    sources: stored names with the pattern each matched, in the library's order.
    converter: None where the stored tensor is the result.
    """

    target: str
    targets: tuple[str, ...]
    sources: list[tuple[str, str]] = field(default_factory=list)
    converter: WeightConverter | None = None

    def convert(
        self, stored: Iterable[torch.Tensor], model: PreTrainedModel
    ) -> dict[str, torch.Tensor]:
        """The tensors of `targets`. stored: one tensor for each of `sources`, in that order."""
        converter: Any = deepcopy(self.converter)
        for (name, pattern), tensor in zip(self.sources, stored, strict=True):
            converter.add_tensor(self.target, name, pattern, tensor)
        made = converter.convert(self.target, model=model, config=model.config)
        return {
            name: value[0] if isinstance(value, list) else value for name, value in made.items()
        }


def read_recipes(model: PreTrainedModel, stored: Iterable[str]) -> dict[str, Recipe]:
    """For each of the model's tensors that the stored names provide, how it is made."""
    names: dict[str, Any] = model.state_dict(keep_vars=True)
    transforms = get_model_conversion_mapping(model)
    renamings = [item for item in transforms if isinstance(item, WeightRenaming)]
    converters = [item for item in transforms if isinstance(item, WeightConverter)]
    by_pattern = {pattern: item for item in converters for pattern in item.source_patterns}
    recipes: dict[str, Recipe] = {}
    for key in sorted(stored, key=dot_natural_key):
        prefix = model.base_model_prefix
        target, pattern = rename_source_key(key, renamings, converters, prefix, names)
        if target not in names and key in names:
            target, pattern = rename_source_key(key, [], [], prefix, names)
        if target not in names:
            continue
        if pattern is None:
            recipes.setdefault(target, Recipe(target, (target,))).sources.append((key, key))
            continue
        converter = by_pattern[pattern]
        recipe = recipes.get(target)
        if recipe is None:
            recipe = Recipe(target, _all_targets(target, converter, names), [], converter)
            recipes |= dict.fromkeys(recipe.targets, recipe)
        recipe.sources.append((key, pattern))
    return recipes


def _all_targets(
    target: str, converter: WeightConverter, names: Mapping[str, Any]
) -> tuple[str, ...]:
    first = converter.target_patterns[0]
    found = (target.replace(first, pattern) for pattern in converter.target_patterns)
    return tuple(name for name in dict.fromkeys(found) if name in names)
