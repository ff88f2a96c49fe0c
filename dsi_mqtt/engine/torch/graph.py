"""The graph tier: any module of one's own that answers in one pass."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import fx, nn

from dsi_mqtt.core.model import ModelGraph, ModelSpec, Unit, UnitRange
from dsi_mqtt.engine.torch.build import building, model_dtype, stored_buffers
from dsi_mqtt.engine.torch.describe import digest_of, ties
from dsi_mqtt.engine.torch.graph_cost import Cost, find_cost
from dsi_mqtt.engine.torch.graph_engine import GraphEngine
from dsi_mqtt.engine.torch.graph_export import Exported, export_graph, put_tensors
from dsi_mqtt.engine.torch.graph_flow import Flow, find_flow, is_list
from dsi_mqtt.engine.torch.graph_inputs import Inputs, Purpose, named_sample
from dsi_mqtt.engine.torch.graph_shapes import Shapes
from dsi_mqtt.engine.torch.graph_split import Segment, SplitGraph
from dsi_mqtt.engine.torch.graph_trial import trial_inputs, trial_ones, trial_weights
from dsi_mqtt.engine.torch.graph_units import choose_cuts
from dsi_mqtt.engine.torch.graph_verify import (
    NotFiniteError,
    check_graph,
    put_trainable,
    takes_ones,
)
from dsi_mqtt.engine.torch.holding import Holding, read_tensor
from dsi_mqtt.engine.torch.hollow import cast_hollow, hollow_parameters, tied_names
from dsi_mqtt.engine.torch.keys import Recipe
from dsi_mqtt.engine.torch.own import OwnModel, call_factory
from dsi_mqtt.engine.torch.sources import BuiltSource
from dsi_mqtt.engine.torch.verify import is_verified, kind_key, remember_verified
from dsi_mqtt.engine.weights import FolderSource, WeightSource
from dsi_mqtt.errors import ConfigError, SplitError

_RESULT_BYTES: Final = 1024
# Models of less work than this, all cuts together, are tried at each of them.
_EACH_CUT_FLOPS: Final = 4e9


@dataclass(frozen=True, slots=True)
class _Opened:
    """A model of one's own as a graph in units, whose weights lie in `module`."""

    own: OwnModel
    sample: Inputs
    exported: Exported
    cost: Cost
    parts: SplitGraph
    holding: Holding


def open_graph(spec: ModelSpec) -> GraphEngine:
    """Raises ConfigError naming model.factory, CheckpointError, and SplitError."""
    dtype = model_dtype(spec.dtype)
    source: WeightSource
    if spec.path:
        source, origin = FolderSource(Path(spec.path)), spec.path
    else:
        origin = f"model.factory {spec.factory}"
        source = BuiltSource(partial(_state, spec), origin)
    opened = _open(spec, dtype, source, origin)
    text = f"{dtype}\n{opened.parts.cuts}\n{opened.exported.text()}"
    told = {
        "factory": str(spec.factory),
        "options": repr(sorted((spec.options or {}).items())),
        "graph": text,
        # What the same graph computes depends on the version, not on how that was built.
        "torch": torch.__version__.partition("+")[0],
    }
    graph = _describe(opened, digest_of(told | {"weights": source.digest()}))
    settle = source.release if isinstance(source, BuiltSource) else _nothing
    settle()
    return GraphEngine(
        graph,
        opened.parts,
        opened.holding,
        Purpose(opened.own, opened.sample, opened.exported.shapes),
        verify=partial(_verify, spec, dtype, source, opened, kind_key("graph", text)),
        zeros=partial(_zeros, opened),
        settle=settle,
    )


def _open(spec: ModelSpec, dtype: torch.dtype, source: WeightSource, origin: str) -> _Opened:
    own = _hollow_model(spec)
    sample = named_sample(own, dtype, spec.factory)
    module = cast_hollow(own.module, dtype).eval()
    try:
        exported = export_graph(module, sample, fixed=own.fixed_shape is True)
        flow, cost = find_flow(exported), find_cost(exported, sample)
    except SplitError as error:
        raise SplitError(f"model.factory {spec.factory}: {error}") from error
    recipes = {name: Recipe(name, (name,), [(name, name)]) for name in source.weights}
    holding = Holding(module, source, recipes, tied_names(module), origin)
    cuts = _cuts(exported, flow, cost, holding)
    parts = SplitGraph(exported, flow, cuts, partial(_tensor, module))
    return _Opened(own, sample, exported, cost, parts, holding)


def _hollow_model(spec: ModelSpec) -> OwnModel:
    """Built without memory for its parameters, or where it computes with them then, emptied."""
    with contextlib.suppress(ConfigError), building, hollow_parameters():
        own = call_factory(spec)
        stored = stored_buffers(own.module)
        buffers = own.module.named_buffers()
        if not any(buffer.is_meta for name, buffer in buffers if name not in stored):
            return own
    own = call_factory(spec)
    parameters = dict(own.module.named_parameters(remove_duplicate=False))
    hollow = {id(item): nn.Parameter(item.to("meta"), False) for item in parameters.values()}
    put_tensors(own.module, {name: hollow[id(item)] for name, item in parameters.items()})
    return own


def _cuts(exported: Exported, flow: Flow, cost: Cost, holding: Holding) -> list[int]:
    """The cuts between units. Work is half operations, half weights, for both are to be shared."""
    flops, weights = [0], [0]
    seen: set[fx.Node] = set()
    for step in flow.steps:
        flops.append(flops[-1] + int(cost.flops[step]))
        new = set() if step in flow.loose else set(flow.roots(step)) - seen
        seen |= new
        names = [exported.weights[node.name] for node in new if node.name in exported.weights]
        weights.append(weights[-1] + holding.nbytes(names))
    work = [
        done * max(1, weights[-1]) + held * max(1, flops[-1])
        for done, held in zip(flops, weights, strict=True)
    ]
    crossing = [_crossing_bytes(flow.crossing(cut), cost) for cut in range(flow.ends + 1)]
    return choose_cuts(work, crossing)


def _crossing_bytes(nodes: Sequence[fx.Node], cost: Cost) -> int | None:
    """None where something is alive that cannot cross as it lies."""
    if any(is_list(node) or not cost.is_dense(node) for node in nodes):
        return None
    return sum(cost.nbytes(node) for node in nodes)


def _describe(opened: _Opened, digest: str) -> ModelGraph:
    parts, cost, holding = opened.parts, opened.cost, opened.holding
    units = []
    named: Counter[str] = Counter()
    for unit, needs in enumerate(parts.needs):
        segment = parts.segment(UnitRange(unit, unit + 1))
        crossing = 0
        if unit + 1 < parts.units:
            boundary = parts.boundary(unit + 1)
            crossing = 1 + sum(map(cost.nbytes, boundary.tensors + boundary.numbers))
        name = "head" if unit + 1 == parts.units else _name(segment, cost) if unit else "prelude"
        named[name] += 1
        name = f"{name} ({named[name]})" if named[name] > 1 else name
        flops = sum(cost.flops[step] for step in segment.steps)
        units.append(Unit(name, holding.nbytes(needs), flops, crossing))
    asked = sum(value.nbytes for value in opened.sample.values())
    shared = ties(parts.needs, holding)
    return ModelGraph(digest, "graph", tuple(units), shared, asked, _result_bytes(opened))


def _name(segment: Segment, cost: Cost) -> str:
    """The modules that a unit's work begins and ends in."""
    most = max((cost.flops[step] for step in segment.steps), default=0)
    busy = [step for step in segment.steps if cost.flops[step] * 10 >= most]
    places = list(dict.fromkeys(step.meta["module"] or step.name for step in busy))
    return places[0] if places[0] == places[-1] else f"{places[0]}..{places[-1]}"


def _result_bytes(opened: _Opened) -> int:
    """A number takes about twenty characters; one's own writing is taken to be short."""
    if opened.own.postprocess is not None:
        return _RESULT_BYTES
    made = opened.exported.graph.output_node().all_input_nodes
    return max(_RESULT_BYTES, 20 * sum(opened.cost.elements(node) for node in made))


def _tensor(module: nn.Module, name: str) -> torch.Tensor:
    path, _, leaf = name.rpartition(".")
    tensor: torch.Tensor = getattr(module.get_submodule(path), leaf)
    return tensor


def _zeros(opened: _Opened, cut: int) -> list[Any]:
    boundary = opened.parts.boundary(cut)
    made = opened.cost.made
    tensors = [torch.zeros(made[node].shape, dtype=made[node].dtype) for node in boundary.tensors]
    return [*tensors, *(made[node] for node in boundary.numbers)]


def _verify(
    spec: ModelSpec, dtype: torch.dtype, source: WeightSource, opened: _Opened, key: str
) -> Shapes:
    """Tries the split, or remembers that it was tried; returns the sizes that it takes."""
    shapes = opened.exported.shapes
    keys = {ones: f"{key} {sorted(ones)}" for ones in shapes.may_be_one()}
    if is_verified(key):
        ones = {ones for ones, name in keys.items() if is_verified(name)}
    else:
        module = _hollow_model(spec).module.to(dtype).eval()
        parts = _try_split(module, source, opened, f"model.factory {spec.factory}")
        ones = {
            ones
            for ones in keys
            if takes_ones(module, parts, trial_ones(opened.sample, shapes, ones), shapes, ones)
        }
        for name in (key, *(keys[some] for some in ones)):
            remember_verified(name)
    return replace(shapes, ones=frozenset(ones))


def _try_split(module: nn.Module, source: WeightSource, opened: _Opened, origin: str) -> SplitGraph:
    """The split with the weights it passed with: its own, or where those give no numbers, the
    model's.
    """
    work = sum(opened.cost.flops.values()) * opened.parts.units
    for weights in (partial(trial_weights, module), partial(_stored, module, source)):
        try:
            values = weights()
            put_trainable(module, values)
            parts = opened.parts.with_weights(values.__getitem__)
            requests = trial_inputs(opened.sample, opened.exported.shapes)
            check_graph(module, parts, requests, each_cut=work < _EACH_CUT_FLOPS)
        except NotFiniteError:
            continue
        except SplitError as error:
            raise SplitError(f"{origin}: {error}") from error
        except Exception as error:
            # The module raises on what the graph takes, or a segment lacks something.
            raise SplitError(f"{origin}: the trial raised {error}") from error
        return parts
    raise SplitError(f"{origin}: the sample gives NaN or infinity, so nothing can be compared")


def _stored(module: nn.Module, source: WeightSource) -> dict[str, torch.Tensor]:
    """All of the model's weights; what is tied may be stored under any of its names."""
    ones = tied_names(module)
    tensors: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=False))
    tensors |= stored_buffers(module)
    values: dict[str, torch.Tensor] = {}
    for name, like in tensors.items():
        if name in source.weights:
            value = read_tensor(source, source.weights[name])
            values.setdefault(ones.get(name, name), value.to(like.dtype))
    return {name: values[ones.get(name, name)] for name in tensors}


def _state(spec: ModelSpec) -> Mapping[str, torch.Tensor]:
    state: Mapping[str, torch.Tensor] = call_factory(spec).module.state_dict()
    return state


def _nothing() -> None:
    """Weights of a folder are read one by one; there is nothing to let go of."""
