"""The engine of a graph: bodies and activations in, segments computed, activations and answers out.

One-pass requests only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch.utils import _pytree as pytree

from dsi_mqtt.core.activation import JSON, Row, Tensors, pack_body, unpack_body
from dsi_mqtt.core.generation import Sampling
from dsi_mqtt.core.model import ModelGraph, UnitRange
from dsi_mqtt.engine.base import OnePass, no_sessions
from dsi_mqtt.engine.batch import check_batch
from dsi_mqtt.engine.torch.graph_crossing import pack_values, unpack_values
from dsi_mqtt.engine.torch.graph_inputs import Purpose
from dsi_mqtt.engine.torch.graph_shapes import Shapes
from dsi_mqtt.engine.torch.graph_split import SplitGraph, Values
from dsi_mqtt.engine.torch.holding import Holding
from dsi_mqtt.engine.torch.trees import Tree
from dsi_mqtt.engine.torch.warm import warm_seconds
from dsi_mqtt.errors import InvalidInputError


class GraphEngine(OnePass):
    """See `engine.base.Engine`.

    zeros: gives values for the reference row of what crosses the cut before a unit.
    settle: told when weights were loaded.
    verify: tries the split, and says what sizes it takes.
    """

    def __init__(
        self,
        graph: ModelGraph,
        parts: SplitGraph,
        holding: Holding,
        purpose: Purpose,
        *,
        verify: Callable[[], Shapes],
        zeros: Callable[[int], Values],
        settle: Callable[[], None],
    ) -> None:
        self._graph = graph
        self._parts = parts
        self._holding = holding
        self._purpose = purpose
        self._verify = verify
        self._zeros = zeros
        self._settle = settle

    @property
    def graph(self) -> ModelGraph:
        return self._graph

    def verify(self) -> None:
        self._purpose = replace(self._purpose, shapes=self._verify())

    def load(self, units: UnitRange) -> None:
        self._parts.let_go()
        try:
            self._holding.load(units, self._parts.needs)
        finally:
            self._settle()

    def drop(self, units: UnitRange) -> None:
        self._parts.let_go()
        self._holding.drop(units)

    def loaded_bytes(self) -> int:
        return self._holding.held_bytes()

    def warm_up(self, units: UnitRange) -> float:
        self._holding.require(units)
        values = (
            self._zeros(units.start) if units.start else self._parts.inputs(self._purpose.sample)
        )
        return warm_seconds(lambda: self._parts.run(units, values))

    def forward(
        self,
        units: UnitRange,
        rows: tuple[Row, ...],
        tensors: Tensors,
        *,
        sampling: tuple[Sampling | None, ...] = (),
        batch_max: int | None = None,
    ) -> Tensors:
        del sampling
        self._holding.require(units)
        for row in rows:
            if row.session:
                no_sessions(row.session)
        if units.start == 0:
            request = self._purpose.read(*unpack_body(tensors))
            check_batch(request.size, batch_max)
            values: Values = self._parts.inputs(request.inputs)
            batched = request.batched
        else:
            values, batched = unpack_values(tensors, self._parts.boundary(units.start))
        try:
            made = self._parts.run(units, values)
        except (ValueError, IndexError) as error:
            if units.start:
                raise
            # What operations raise on values that they have no place for.
            raise InvalidInputError(f"the model does not take this input: {error}") from error
        if units.stop < self._parts.units:
            return pack_values(made, self._parts.boundary(units.stop), batched=batched)
        return self._answered(made, batched=batched)

    def _answered(self, output: Tree, *, batched: bool) -> Tensors:
        leaves = pytree.tree_leaves(output)
        rows = next(len(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor))
        with torch.inference_mode():
            answer = self._purpose.answer(output, rows, batched=batched)
        return pack_body(JSON, answer)
