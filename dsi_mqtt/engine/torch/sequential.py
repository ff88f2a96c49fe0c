"""The sequential tier: an nn.Sequential of one's own, each child a unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from dsi_mqtt.core.model import ModelSpec, UnitRange
from dsi_mqtt.engine.torch.bodies import numbers, read_numbers, write_json
from dsi_mqtt.engine.torch.build import building, model_dtype
from dsi_mqtt.engine.torch.describe import describe, digest_of
from dsi_mqtt.engine.torch.engine import TorchEngine
from dsi_mqtt.engine.torch.holding import Holding
from dsi_mqtt.engine.torch.hollow import cast, cast_hollow, hollow_parameters, tied_names
from dsi_mqtt.engine.torch.keys import Recipe
from dsi_mqtt.engine.torch.own import OwnModel, call_factory, sample_of
from dsi_mqtt.engine.torch.requests import Request
from dsi_mqtt.engine.torch.sources import BuiltSource
from dsi_mqtt.engine.torch.split import SplitModel
from dsi_mqtt.engine.torch.structure import Reference
from dsi_mqtt.engine.torch.trees import Tree
from dsi_mqtt.engine.torch.verify import check_chains, run_chain
from dsi_mqtt.engine.weights import FolderSource, WeightSource
from dsi_mqtt.errors import InvalidInputError, ModelFailedError, SplitError

# The parameter of nn.Sequential.forward.
INPUT: Final = "input"
_SEED: Final = 20_240_607
_WHOLE_MAX: Final = 64 << 20


def open_sequential(spec: ModelSpec) -> TorchEngine:
    """Raises ConfigError naming model.factory, CheckpointError, and SplitError."""
    dtype = model_dtype(spec.dtype)
    with building, hollow_parameters():
        own = call_factory(spec)
    sample = cast(sample_of(own, spec.factory), dtype)
    source: WeightSource
    if spec.path:
        source, origin = FolderSource(Path(spec.path)), spec.path
    else:
        origin = f"model.factory {spec.factory}"
        source = BuiltSource(partial(_state, spec), origin)
    parts = _split(own, sample, dtype, source, origin)
    purpose = _OwnPurpose(own, sample)
    told = {"factory": str(spec.factory), "options": repr(sorted((spec.options or {}).items()))}
    graph = describe(
        parts,
        purpose.reference(),
        tier="sequential",
        digest=digest_of(told | {"weights": source.digest()}),
        result_bytes=1024,
    )
    if isinstance(source, BuiltSource):
        source.release()
    return TorchEngine(graph, parts, purpose, partial(_verify, spec, source, sample, dtype))


def _split(
    own: OwnModel, sample: torch.Tensor, dtype: torch.dtype, source: WeightSource, origin: str
) -> SplitModel:
    module = cast_hollow(own.module, dtype).eval()
    ties = tied_names(module)
    recipes = {name: Recipe(name, (name,), [(name, name)]) for name in source.weights}
    holding = Holding(module, source, recipes, ties, origin)
    blocks = tuple(name for name, _ in module.named_children())
    return SplitModel(module, holding, Reference({INPUT: sample}), [blocks])


def _verify(
    spec: ModelSpec, source: WeightSource, sample: torch.Tensor, dtype: torch.dtype
) -> None:
    """Segments against the whole, with weights as the factory makes them.

    Large models are not built whole on a small machine: theirs must have the forward of
    nn.Sequential, which is the chain, and give the same numbers twice.
    """
    origin = f"model.factory {spec.factory}"
    requests = _trial_requests(sample)
    with building, hollow_parameters():
        own = call_factory(spec)
    large = sum(weight.nbytes for weight in source.weights.values()) > _WHOLE_MAX
    if large and type(own.module).forward is nn.Sequential.forward:
        parts = _split(own, sample, dtype, source, origin)
        cuts = tuple(UnitRange(unit, unit + 1) for unit in range(len(parts.structure.needs)))
        once, again = (run_chain(parts, cuts, requests[0]) for _ in range(2))
        if not torch.equal(once, again):
            raise SplitError(f"{origin}: the same input gives another result the second time")
        return
    whole = call_factory(spec).module.to(dtype).eval()
    state = whole.state_dict()
    parts = _split(own, sample, dtype, BuiltSource(lambda: state, origin), origin)
    check_chains(whole, parts, requests, origin)


def _trial_requests(sample: torch.Tensor) -> list[Request]:
    """One row and three, around the sample."""
    shape = (3, *sample.shape[1:])
    rows = sample.expand(shape).contiguous()
    if sample.is_floating_point():
        random = torch.Generator().manual_seed(_SEED)
        rows = rows + torch.randn(shape, generator=random).to(sample.dtype)
    return [Request({INPUT: some}, batched=True) for some in (rows[:1], rows)]


@dataclass(frozen=True, slots=True)
class _OwnPurpose:
    own: OwnModel
    sample: torch.Tensor

    def prepare(self, units: UnitRange, last: int) -> None:
        """Nothing: what a factory's functions need, they hold."""

    def reference(self) -> Request:
        return Request({INPUT: self.sample}, batched=False)

    def head_inputs(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        del inputs
        return {}

    def read(self, content_type: str, body: bytes) -> Request:
        value: object
        if self.own.preprocess is None:
            value = read_numbers(content_type, body)
        else:
            try:
                value = self.own.preprocess(content_type, body)
            except (ValueError, TypeError, LookupError, RuntimeError) as error:
                raise InvalidInputError(f"the input cannot be read: {error}") from error
        if not isinstance(value, torch.Tensor):
            raise ModelFailedError(f"preprocess returned a {type(value).__name__}, not a tensor")
        row = self.sample.shape[1:]
        batched = value.dim() == self.sample.dim()
        rows = value if batched else value[None]
        fixed = self.own.fixed_shape is not False
        fits = rows.shape[1:] == row if fixed else rows.dim() == self.sample.dim()
        if not fits or not rows.shape[0]:
            raise InvalidInputError(
                f"the input has shape {tuple(value.shape)}; one row has {tuple(row)}"
            )
        return Request({INPUT: rows.to(self.sample.dtype)}, batched)

    def answer(self, output: Tree, inputs: Mapping[str, torch.Tensor], *, batched: bool) -> bytes:
        del inputs
        made = self.own.postprocess or _listed
        items = [made(row) for row in output]
        return write_json({"results": items} if batched else items[0])


def _listed(row: torch.Tensor) -> object:
    return {"output": numbers(row)}


def _state(spec: ModelSpec) -> Mapping[str, torch.Tensor]:
    state: Mapping[str, torch.Tensor] = call_factory(spec).module.state_dict()
    return state
