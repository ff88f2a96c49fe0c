"""Whether the segments of a graph compute what the module does: tried, not believed.

The user's own module runs with its plain forward, beside it the graph whole and as a chain of all
its units, each fed with what would cross the wire. Small models also run cut at each single place.
Chains must equal the whole graph to the last bit. The graph must equal the module to the last bit
too, or, where the module has a faster way for itself that the graph has not (nested tensors, fused
layers), within a tolerance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils import _pytree as pytree

from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.engine.torch.graph_crossing import pack_values, unpack_values
from dsi_mqtt.engine.torch.graph_export import put_tensors
from dsi_mqtt.engine.torch.graph_shapes import Shapes
from dsi_mqtt.engine.torch.graph_split import SplitGraph
from dsi_mqtt.engine.torch.trees import Tree
from dsi_mqtt.errors import SplitError

# Of the largest number: what float32 sums may differ by when they are added in another order.
_TOLERANCES: Final = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}
Inputs = Mapping[str, torch.Tensor]


class NotFiniteError(Exception):
    """The weights give NaN or infinity, and so nothing to compare."""


def check_graph(
    module: nn.Module, parts: SplitGraph, requests: Iterable[Inputs], *, each_cut: bool
) -> None:
    """Raises SplitError where chains differ from the graph, or the graph from `module`.

    module: holds the weights that `parts` computes with. each_cut: tries every cut alone, too.
    """
    everything = UnitRange(0, parts.units)
    for inputs in requests:
        expected = _run_module(module, inputs)
        leaves = _tensors(expected)
        if not all(leaf.isfinite().all() for leaf in leaves if leaf.is_floating_point()):
            raise NotFiniteError
        whole = run_chain(parts, (everything,), inputs)
        _check_same(expected, whole)
        for cuts in _chains(parts.units, each_cut=each_cut):
            made = run_chain(parts, cuts, inputs)
            if not all(map(torch.equal, _tensors(made), _tensors(whole))):
                raise SplitError(
                    f"segments {', '.join(map(str, cuts))} do not compute what the whole does"
                )
        each_cut = False


def takes_ones(
    module: nn.Module,
    parts: SplitGraph,
    requests: Iterable[Inputs],
    shapes: Shapes,
    ones: frozenset[str],
) -> bool:
    """Whether the graph is `module`'s also where the dimensions `ones` are one."""
    with_ones = replace(shapes, ones=frozenset({ones}))
    try:
        for inputs in requests:
            with_ones.check({name: tuple(value.shape) for name, value in inputs.items()})
            check_graph(module, parts, (inputs,), each_cut=False)
    except Exception:  # noqa: BLE001 - a module raises as it likes on sizes that it has no use for
        return False
    return True


def run_chain(parts: SplitGraph, cuts: tuple[UnitRange, ...], inputs: Inputs) -> Tree:
    """What the segments `cuts` make of `inputs`, one after the other."""
    made: Tree = parts.inputs(inputs)
    for units in cuts:
        if units.start:
            boundary = parts.boundary(units.start)
            made, _ = unpack_values(pack_values(made, boundary, batched=True), boundary)
        made = parts.run(units, made)
    return made


def _run_module(module: nn.Module, inputs: Inputs) -> Tree:
    """What the module makes, by the way that it goes in training, as the export does.

    What autograd would keep is thrown away. Twice, to see that nothing changes meanwhile.
    """
    with torch.enable_grad(), saved_tensors_hooks(lambda _: None, lambda _: torch.empty(0)):
        once, again = (
            pytree.tree_map_only(torch.Tensor, torch.detach, module(**_copied(inputs)))
            for _ in range(2)
        )
    same = map(torch.equal, _tensors(once), _tensors(again))
    finite = all(leaf.isfinite().all() for leaf in _tensors(once) if leaf.is_floating_point())
    if finite and not all(same):
        raise SplitError("the same input gives another result the second time")
    return once


def _copied(inputs: Inputs) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in inputs.items()}


def put_trainable(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Sets the module's tensors; parameters require gradients, see `_run_module`."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    made: dict[int, torch.Tensor] = {}
    for name, value in weights.items():
        if name in parameters and id(value) not in made:
            made[id(value)] = nn.Parameter(value, requires_grad=value.is_floating_point())
    put_tensors(module, {name: made.get(id(value), value) for name, value in weights.items()})


def _chains(units: int, *, each_cut: bool) -> Iterator[tuple[UnitRange, ...]]:
    yield tuple(UnitRange(unit, unit + 1) for unit in range(units))
    if each_cut:
        for cut in range(1, units):
            yield UnitRange(0, cut), UnitRange(cut, units)


def _tensors(output: Tree) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def _check_same(expected: Tree, made: Tree) -> None:
    wanted, got = _tensors(expected), _tensors(made)
    same = pytree.tree_structure(expected) == pytree.tree_structure(made)
    if not same or not all(_close(left, right) for left, right in zip(wanted, got, strict=True)):
        raise SplitError("the exported graph does not compute what the module does")


def _close(expected: torch.Tensor, made: torch.Tensor) -> bool:
    if expected.dtype != made.dtype or expected.shape != made.shape:
        return False
    if torch.equal(expected, made) or not expected.is_floating_point():
        return torch.equal(expected, made)
    difference = (expected - made).abs().max()
    return bool(difference <= _TOLERANCES[expected.dtype] * expected.abs().max())
