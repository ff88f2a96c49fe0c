"""The engine over torch for generations: tokens in, segments computed for sessions, tokens out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from dsi_mqtt.core.activation import TOKENS, Row, Tensor, Tensors
from dsi_mqtt.core.generation import Sampling
from dsi_mqtt.core.model import ModelGraph, UnitRange
from dsi_mqtt.engine.base import NOT_SAMPLED, TextCodec
from dsi_mqtt.engine.torch.cache import StepCache
from dsi_mqtt.engine.torch.crossing import HIDDEN, from_wire, to_wire
from dsi_mqtt.engine.torch.dtypes import NAMES
from dsi_mqtt.engine.torch.moves import exported, imported
from dsi_mqtt.engine.torch.phantom import phantom
from dsi_mqtt.engine.torch.sampling import draw
from dsi_mqtt.engine.torch.sessions import Layout, Sessions
from dsi_mqtt.engine.torch.split import SplitModel
from dsi_mqtt.engine.torch.text import IDS
from dsi_mqtt.engine.torch.warm import warm_seconds
from dsi_mqtt.errors import InvalidInputError, WireError

CACHE: Final = "past_key_values"
POSITIONS: Final = "position_ids"
_LOGITS_KEPT: Final = "logits_to_keep"
_WARM_PREFILL: Final = 16
# No session has this name, for the names of sessions are printable.
_WARM_SESSION: Final = "\0warm"


@dataclass(frozen=True, slots=True)
class Manner:
    """How the rows of a step are computed.

    ragged: as one batch, with attention row by row; else one by one, by the model's own attention.
    parameters: names that the model's forward takes.
    """

    ragged: bool
    parameters: frozenset[str]

    def inputs(self, ids: torch.Tensor, rows: tuple[Row, ...], cache: StepCache) -> dict[str, Any]:
        """The model's keyword arguments. ids: (rows, tokens), or a phantom of that shape."""
        inputs: dict[str, Any] = {IDS: ids, CACHE: cache, "use_cache": True}
        if self.ragged:
            positions = [range(row.position, row.position + row.tokens) for row in rows]
            inputs[POSITIONS] = torch.tensor(positions)
        if _LOGITS_KEPT in self.parameters:
            inputs[_LOGITS_KEPT] = 1
        return inputs


class GenerationEngine:
    """See `engine.base.Engine`. text, verify: what the methods of that name do."""

    def __init__(
        self,
        graph: ModelGraph,
        model: SplitModel,
        manner: Manner,
        layout: Layout,
        *,
        text: Callable[[], TextCodec],
        verify: Callable[[], None],
    ) -> None:
        assert graph.vocabulary is not None  # noqa: S101 - whoever opens for generation says it
        self._graph = graph
        self._vocabulary = graph.vocabulary
        self._model = model
        self._manner = manner
        self._sessions = Sessions(layout, graph.vocabulary.context)
        self._text = text
        self._verify = verify

    @property
    def graph(self) -> ModelGraph:
        return self._graph

    def verify(self) -> None:
        self._verify()

    def load(self, units: UnitRange) -> None:
        self._model.load(units)

    def drop(self, units: UnitRange) -> None:
        self._model.drop(units)
        self._sessions.drop(units)

    def loaded_bytes(self) -> int:
        return self._model.holding.held_bytes()

    def warm_up(self, units: UnitRange) -> float:
        """A step of one token of one session, after a short prefill."""
        prefill = min(_WARM_PREFILL, self._vocabulary.context - 1)
        try:
            self._warm(units, 0, prefill)
            return warm_seconds(lambda: self._warm(units, prefill, 1))
        finally:
            self.close(_WARM_SESSION)

    def forward(
        self,
        units: UnitRange,
        rows: tuple[Row, ...],
        tensors: Tensors,
        *,
        sampling: tuple[Sampling | None, ...] = (),
        batch_max: int | None = None,
    ) -> Tensors:
        del batch_max  # a step has as many rows as the door gave it
        entered = self._admit(units, rows, tensors)
        if units.stop <= self._head:
            return (to_wire(HIDDEN, self._compute(units, rows, entered)),)
        if len(sampling) != len(rows):
            raise WireError(f"the head got {len(rows)} rows and {len(sampling)} samplings")
        drawn = np.full(len(rows), NOT_SAMPLED, np.int64)
        if all(how is None for how in sampling):
            # Of a slice of a prompt nobody reads the logits, and they cost as much as many blocks.
            if units.start < self._head:
                self._compute(UnitRange(units.start, self._head), rows, entered)
            return (_tokens(drawn),)
        logits = self._logits(units, rows, entered).numpy()
        for index, (row, how) in enumerate(zip(rows, sampling, strict=True)):
            if how is not None:
                drawn[index] = draw(logits[index], how, row.position + row.tokens)
        return (_tokens(drawn),)

    def logits(self, units: UnitRange, rows: tuple[Row, ...], tensors: Tensors) -> torch.Tensor:
        """What `forward` would draw from; units: with the head."""
        entered = self._admit(units, rows, tensors)
        return self._logits(units, rows, entered)

    def close(self, session: str) -> None:
        self._sessions.close(session)

    def state_bytes(self, session: str) -> int:
        return self._sessions.nbytes(session)

    def export_state(self, session: str, units: UnitRange, first: int, last: int) -> bytes:
        return exported(self._sessions, session, units, first, last)

    def import_state(
        self, session: str, units: UnitRange, first: int, last: int, blob: bytes | memoryview
    ) -> None:
        imported(self._sessions, session, units, first, last, blob)

    def text(self) -> TextCodec:
        return self._text()

    @property
    def _head(self) -> int:
        return len(self._graph.units) - 1

    def _admit(self, units: UnitRange, rows: tuple[Row, ...], tensors: Tensors) -> torch.Tensor:
        """What enters a step, if it can be computed at all."""
        self._model.holding.require(units)
        self._check(rows)
        entered = self._enter(units, rows, tensors)
        self._sessions.check(rows, units)
        return entered

    def _logits(
        self, units: UnitRange, rows: tuple[Row, ...], entered: torch.Tensor
    ) -> torch.Tensor:
        """Of the last position of each row, float32 (rows, vocabulary)."""
        return self._compute(units, rows, entered)[:, -1].float()

    def _check(self, rows: tuple[Row, ...]) -> None:
        """Raises where `rows` are no step."""
        counts = {row.tokens for row in rows}
        if len(counts) != 1 or min(counts) < 1:
            raise WireError(f"the rows of a step have {sorted(counts)} tokens; it takes one number")
        names = {row.session for row in rows}
        if len(names) != len(rows) or "" in names:
            raise WireError("each row of a step must have a session, and none has two rows")
        last = max(row.position + row.tokens for row in rows)
        if min(row.position for row in rows) < 0 or last > self._vocabulary.context:
            raise InvalidInputError(
                f"position {last - 1} is beyond the {self._vocabulary.context} of the context; "
                "raise generation.context if the model has more"
            )

    def _enter(self, units: UnitRange, rows: tuple[Row, ...], tensors: Tensors) -> torch.Tensor:
        """What enters a step: token ids (rows, tokens), or a stream (rows, tokens, width)."""
        shape: tuple[int, ...] = (len(rows), rows[0].tokens)
        name, dtype = TOKENS, "int64"
        if units.start:
            hollow = self._model.structure.entering(units.start)
            name, dtype, shape = HIDDEN, NAMES[hollow.dtype], (*shape, hollow.shape[-1])
        given = [(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors]
        if given != [(name, dtype, shape)]:
            raise WireError(f"a step of units {units} takes {name} {dtype} {shape}, got {given}")
        entered = from_wire(tensors[0])
        if not units.start and not 0 <= int(entered.min()) <= int(entered.max()) < self._size:
            raise InvalidInputError(f"token ids of this model are from 0 to {self._size - 1}")
        return entered

    @property
    def _size(self) -> int:
        return self._vocabulary.size

    def _compute(
        self, units: UnitRange, rows: tuple[Row, ...], entered: torch.Tensor
    ) -> torch.Tensor:
        """The stream that leaves `units`, or logits; the sessions then hold the rows."""
        if self._manner.ragged or len(rows) == 1:
            return self._pass(units, rows, entered)
        parts = [
            self._pass(units, (row,), entered[index : index + 1]) for index, row in enumerate(rows)
        ]
        return torch.cat(parts)

    def _pass(self, units: UnitRange, rows: tuple[Row, ...], entered: torch.Tensor) -> torch.Tensor:
        stores = self._sessions.open(rows, units)
        cache = StepCache(rows, stores, ragged=self._manner.ragged)
        ids, stream = entered, None
        if units.start:
            ids, stream = phantom(entered.shape[:2], torch.int64, {f"input:{IDS}"}), entered
        result = self._model.run(units, self._manner.inputs(ids, rows, cache), stream)
        self._sessions.keep(rows, units)
        made: torch.Tensor = result.logits if units.stop > self._head else result
        return made

    def _warm(self, units: UnitRange, position: int, tokens: int) -> None:
        row = Row(_WARM_SESSION, position, tokens)
        given = torch.zeros((1, tokens), dtype=torch.int64)
        if units.start:
            hollow = self._model.structure.entering(units.start)
            given = torch.zeros((1, tokens, hollow.shape[-1]), dtype=hollow.dtype)
        name = HIDDEN if units.start else TOKENS
        self.forward(units, (row,), (to_wire(name, given),), sampling=(Sampling(0.0),))


def _tokens(drawn: np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
    return Tensor(TOKENS, "int64", drawn.shape, drawn.astype("<i8").tobytes())
