"""The engine over torch: bodies and activations in, segments computed, activations and answers out.

For one-pass requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from dsi_mqtt.core.activation import JSON, Row, Tensors, pack_body, unpack_body
from dsi_mqtt.core.generation import Sampling
from dsi_mqtt.core.model import ModelGraph, UnitRange
from dsi_mqtt.engine.base import OnePass, no_sessions
from dsi_mqtt.engine.batch import check_batch
from dsi_mqtt.engine.torch.crossing import pack, unpack
from dsi_mqtt.engine.torch.requests import Request
from dsi_mqtt.engine.torch.split import SplitModel
from dsi_mqtt.engine.torch.trees import Tree
from dsi_mqtt.engine.torch.warm import warm_seconds
from dsi_mqtt.errors import InvalidInputError


class Purpose(Protocol):
    """What a model is for: from a body to its inputs, from its output to an answer."""

    def prepare(self, units: UnitRange, last: int) -> None:
        """Loads what `units` need besides weights, such as a tokenizer. last: the head's unit."""

    def read(self, content_type: str, body: bytes) -> Request: ...

    def reference(self) -> Request: ...

    def head_inputs(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Further keyword arguments of the head."""

    def answer(
        self, output: Tree, inputs: Mapping[str, torch.Tensor], *, batched: bool
    ) -> bytes: ...


class TorchEngine(OnePass):
    """See `engine.base.Engine`."""

    def __init__(
        self,
        graph: ModelGraph,
        model: SplitModel,
        purpose: Purpose,
        verify: Callable[[], None],
    ) -> None:
        self._graph = graph
        self._model = model
        self._purpose = purpose
        self._verify = verify
        self._dtypes = {name: value.dtype for name, value in purpose.reference().inputs.items()}

    @property
    def graph(self) -> ModelGraph:
        return self._graph

    def verify(self) -> None:
        self._verify()

    def load(self, units: UnitRange) -> None:
        self._model.load(units)
        self._purpose.prepare(units, self._head)

    def drop(self, units: UnitRange) -> None:
        self._model.drop(units)

    def loaded_bytes(self) -> int:
        return self._model.holding.held_bytes()

    def warm_up(self, units: UnitRange) -> float:
        self._model.holding.require(units)
        request = self._purpose.reference()
        stream = None
        if units.start:
            hollow = self._model.structure.entering(units.start)
            stream = torch.zeros(hollow.shape, dtype=hollow.dtype)
        return warm_seconds(lambda: self._run(units, request, stream))

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
        self._model.holding.require(units)
        for row in rows:
            if row.session:
                no_sessions(row.session)
        carried = self._model.structure.carried
        stream = None
        if units.start == 0:
            request = self._purpose.read(*unpack_body(tensors))
            check_batch(request.size, batch_max)
        else:
            stream, request = unpack(tensors, carried, self._dtypes)
        try:
            result = self._run(units, request, stream)
        except ValueError as error:
            if units.start:
                raise
            # What models raise on sizes that they are not made for.
            raise InvalidInputError(f"the model does not take this input: {error}") from error
        if units.stop <= self._head:
            return pack(result, request, carried)
        with torch.inference_mode():
            answer = self._purpose.answer(result, request.inputs, batched=request.batched)
        return pack_body(JSON, answer)

    @property
    def _head(self) -> int:
        return len(self._graph.units) - 1

    def _run(self, units: UnitRange, request: Request, stream: torch.Tensor | None) -> Tree:
        inputs: dict[str, Any] = dict(request.inputs)
        if units.stop > self._head:
            inputs |= self._purpose.head_inputs(request.inputs)
        return self._model.run(units, inputs, stream)
