"""Segments of a graph: what of it computes one boundary from another.

The segment of units `[start, stop)` is whatever leads from the values that cross its first cut to
those that cross its last. It is found by walking back, so it holds exactly what is needed, and a
value that neither came nor can be made cannot be forgotten: there is no path to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.engine.torch.graph_export import Exported
from dsi_mqtt.engine.torch.graph_flow import Boundary, Flow
from dsi_mqtt.engine.torch.trees import Tree

# A tensor or, within the model, a size.
Values = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Segment:
    """compute: takes what crosses its first cut, then `weights`, then `constants`; returns what
    crosses its last cut. steps: the operations.
    """

    compute: fx.GraphModule
    weights: tuple[str, ...]
    constants: tuple[torch.Tensor, ...]
    steps: tuple[fx.Node, ...]


class SplitGraph:
    """A graph in units: the prelude, which only reads, a block between each two cuts, the head,
    which only answers.

    weight: gives a weight that is loaded, by name.
    """

    def __init__(
        self,
        exported: Exported,
        flow: Flow,
        cuts: Sequence[int],
        weight: Callable[[str], torch.Tensor],
    ) -> None:
        self._exported = exported
        self._flow = flow
        self._cuts = tuple(cuts)
        self._weight = weight
        self._segments: dict[UnitRange, Segment] = {}
        self._held: dict[UnitRange, tuple[torch.Tensor, ...]] = {}

    @property
    def cuts(self) -> tuple[int, ...]:
        """Where units begin, by operations; the last is the head's."""
        return self._cuts

    @property
    def units(self) -> int:
        return len(self._cuts) + 1

    @cached_property
    def needs(self) -> tuple[frozenset[str], ...]:
        """By unit, the weights that it computes with."""
        return tuple(
            frozenset(self.segment(UnitRange(unit, unit + 1)).weights) for unit in range(self.units)
        )

    def with_weights(self, weight: Callable[[str], torch.Tensor]) -> SplitGraph:
        return SplitGraph(self._exported, self._flow, self._cuts, weight)

    def boundary(self, cut: int) -> Boundary:
        """What crosses the cut before unit `cut`; there is none before the prelude."""
        return self._flow.boundary(self._cuts[cut - 1])

    def segment(self, units: UnitRange) -> Segment:
        if units not in self._segments:
            self._segments[units] = self._cut_out(units)
        return self._segments[units]

    def let_go(self) -> None:
        """Asks for weights anew from now on: others are loaded."""
        self._held.clear()

    def run(self, units: UnitRange, values: Values) -> Tree:
        """What crosses the last cut of `units`, or what the module returns.

        values: what crosses the first, of the prelude the inputs that the graph uses, in order.
        """
        segment = self.segment(units)
        held = self._held.get(units)
        if held is None:
            weights = (self._weight(name) for name in segment.weights)
            held = self._held[units] = (*weights, *segment.constants)
        with torch.inference_mode():
            made = segment.compute(*values, *held)
        return (
            made if units.stop < self.units else pytree.tree_unflatten(made, self._exported.output)
        )

    def inputs(self, given: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """The values for the prelude."""
        by_place = {place: given[name] for name, place in self._exported.inputs.items()}
        return [by_place[node.name] for node in self.boundary(1).tensors]

    def _cut_out(self, units: UnitRange) -> Segment:
        before = self.boundary(max(units.start, 1))
        given = before.tensors + before.numbers
        output: Any = self._flow.graph.output_node().args[0]
        wanted = output
        if units.stop < self.units:
            after = self.boundary(units.stop)
            wanted = after.tensors + after.numbers
        steps = self._flow.path(given, [node for node in wanted if isinstance(node, fx.Node)])
        held = [node for node in steps if node.op == "placeholder"]
        weights = [node for node in held if node.name in self._exported.weights]
        constants = [node for node in held if node.name in self._exported.constants]
        graph = fx.Graph()
        copies = {node: graph.placeholder(node.name) for node in (*given, *weights, *constants)}
        for node in steps:
            if node not in copies:
                copies[node] = graph.node_copy(node, copies.__getitem__)
                copies[node].meta = {}
        graph.output(fx.map_arg(tuple(wanted), copies.__getitem__))
        return Segment(
            fx.GraphModule(nn.Module(), graph),
            tuple(self._exported.weights[node.name] for node in weights),
            tuple(self._exported.constants[node.name] for node in constants),
            tuple(node for node in steps if node.op == "call_function"),
        )
