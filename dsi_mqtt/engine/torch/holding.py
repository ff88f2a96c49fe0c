"""The weights a segment holds: real where its units need them, phantom everywhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from dsi_mqtt.engine.torch.build import set_tensor, stored_buffers
from dsi_mqtt.engine.torch.dtypes import DTYPES
from dsi_mqtt.engine.torch.phantom import phantom_like
from dsi_mqtt.errors import CheckpointError, ModelFailedError

if TYPE_CHECKING:
    from dsi_mqtt.core.model import UnitRange
    from dsi_mqtt.engine.torch.keys import Recipe
    from dsi_mqtt.engine.weights import Weight, WeightSource


class Holding:
    """The tensors of a hollow module that weights fill.

    origin: for messages, where the weights come from.
    same_as: for each name that is tied, the one name under which the group is loaded.
    """

    def __init__(
        self,
        module: nn.Module,
        source: WeightSource,
        recipes: Mapping[str, Recipe],
        same_as: Mapping[str, str],
        origin: str,
    ) -> None:
        self._module = module
        self._source = source
        self._recipes = recipes
        self._same_as = same_as
        self._origin = origin
        parameters = dict(module.named_parameters(remove_duplicate=False))
        self._parameters = frozenset(parameters)
        named: dict[str, torch.Tensor] = parameters | stored_buffers(module)
        self._hollow = {name: tensor.detach().to("meta") for name, tensor in named.items()}
        self._held: set[str] = set()
        self._needs: dict[int, frozenset[str]] = {}
        for name in named:
            self._empty(name)

    def one_name(self, name: str) -> str:
        """The name under which a tensor is loaded and counted, tied or not."""
        return self._same_as.get(name, name)

    def nbytes(self, names: Iterable[str]) -> int:
        return sum(self._hollow[name].nbytes for name in {self.one_name(name) for name in names})

    def held_bytes(self) -> int:
        return self.nbytes(self._held)

    def load(self, units: UnitRange, needs: tuple[frozenset[str], ...]) -> None:
        """Fills what `units` need and is not yet held. On an error, holds what it held before."""
        before = dict(self._needs)
        self._needs |= {unit: needs[unit] for unit in range(*units)}
        wanted = set().union(*(needs[unit] for unit in range(*units)))
        try:
            for name in sorted({self.one_name(name) for name in wanted} - self._held):
                if name not in self._held:
                    self._fill(name)
        except BaseException:
            self._needs = before
            self._release()
            raise

    def drop(self, units: UnitRange) -> None:
        for unit in range(*units):
            self._needs.pop(unit, None)
        self._release()

    def require(self, units: UnitRange) -> None:
        """Raises ModelFailedError unless all of `units` are loaded."""
        if not all(unit in self._needs for unit in range(*units)):
            raise ModelFailedError(f"units {units} are not loaded here")

    def _release(self) -> None:
        needed = {self.one_name(name) for names in self._needs.values() for name in names}
        for name in self._held - needed:
            self._empty(name)
        self._held &= needed

    def _group(self, name: str) -> list[str]:
        return [name, *(tied for tied, one in self._same_as.items() if one == name)]

    def _empty(self, name: str) -> None:
        for tied in self._group(name):
            set_tensor(self._module, tied, phantom_like(self._hollow[tied], {tied}))

    def _put(self, name: str, value: torch.Tensor) -> None:
        expected = self._hollow[name]
        if value.shape != expected.shape:
            raise CheckpointError(
                f"{self._origin}: the tensor {name} has shape {tuple(value.shape)}, "
                f"the configuration asks for {tuple(expected.shape)}"
            )
        tensor = nn.Parameter(value.to(expected.dtype), requires_grad=False)
        for tied in self._group(name):
            set_tensor(self._module, tied, tensor if tied in self._parameters else tensor.data)
        self._held.add(name)

    def _fill(self, name: str) -> None:
        recipe = next(
            (self._recipes[tied] for tied in self._group(name) if tied in self._recipes), None
        )
        if recipe is None:
            raise CheckpointError(f"{self._origin}: the tensor {name} is missing")
        read = (self._read(stored, self._hollow[name].dtype) for stored, _ in recipe.sources)
        if recipe.converter is None:
            *_, value = read  # the last of several stored under one name, as the library takes it
            self._put(name, value)
            return
        self._convert(recipe, list(read))

    def _convert(self, recipe: Recipe, stored: list[torch.Tensor]) -> None:
        try:
            made = recipe.convert(stored, self._module)  # type: ignore[arg-type]
        except Exception as error:
            # The library's operations raise whatever torch does on a wrong shape or number.
            raise CheckpointError(
                f"{self._origin}: the tensor {recipe.target} cannot be made of the stored ones: "
                f"{error}"
            ) from error
        for name, value in made.items():
            if name in self._hollow:
                self._put(self.one_name(name), value.contiguous())

    def _read(self, stored: str, dtype: torch.dtype) -> torch.Tensor:
        weight = self._source.weights[stored]
        value = read_tensor(self._source, weight)
        return value.to(dtype) if value.is_floating_point() else value


def read_tensor(source: WeightSource, weight: Weight) -> torch.Tensor:
    """A stored tensor, read straight into its own memory."""
    value = torch.empty(weight.shape, dtype=DTYPES[weight.dtype])
    if weight.nbytes:
        flat = value.reshape(-1).view(torch.uint8)
        source.read_into(weight.name, flat.numpy().data)
    return value
