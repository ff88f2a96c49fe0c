"""The engine protocol: what computes a segment, whatever the framework.

An engine holds units of one model on one node. All calls block and run on the engine's own
executor thread, never on the event loop, and never two at once. One-pass requests, prefill and
decode are one call: rows say which session and positions a batch holds.
"""

from __future__ import annotations

from typing import Protocol

from dsi_mqtt.core.activation import Row, Tensors
from dsi_mqtt.core.model import ModelGraph, ModelSpec, UnitRange


class Engine(Protocol):
    """Units of one model, loaded piece by piece.

    Errors: `CheckpointError` when weights are missing or wrong, `SplitError` from `verify`,
    `InvalidInputError` when the prelude cannot read an input; any other exception from `forward`
    is the model's own and fails only that request.
    """

    @property
    def graph(self) -> ModelGraph: ...

    def verify(self) -> None:
        """Refuses, with `SplitError`, a model whose segments would not equal the whole."""

    def load(self, units: UnitRange) -> None:
        """Makes `units` ready. Units already loaded stay as they are; weights load once."""

    def drop(self, units: UnitRange) -> None:
        """Frees what of `units` is loaded."""

    def loaded_bytes(self) -> int:
        """Bytes of weights held now."""

    def warm_up(self, units: UnitRange) -> float:
        """Runs one reference row through loaded `units`; returns the seconds of a warm pass."""

    def forward(
        self,
        units: UnitRange,
        rows: tuple[Row, ...],
        tensors: Tensors,
        *,
        batch_max: int | None = None,
    ) -> Tensors:
        """Computes the segment `units`.

        tensors: a body (see `core.activation`) when `units` starts at the prelude, else the
            activation of the segment before. Returns the activation for the next segment, or a
            body when `units` ends with the head.
        batch_max: the prelude refuses a body with more rows than this before computing anything.
        """

    def open(self, session: str) -> None: ...

    def close(self, session: str) -> None: ...

    def state_bytes(self, session: str) -> int: ...

    def export_state(self, session: str, units: UnitRange, first: int, last: int) -> bytes:
        """The session's state of `units` for the positions `[first, last)`."""

    def import_state(self, session: str, blob: bytes) -> None: ...


class EngineFactory(Protocol):
    """Opens engines; passed into a worker so that tests and simulation bring their own."""

    def open(self, model: ModelSpec) -> Engine:
        """Reads what describes the model (configuration, weight headers), no weights."""
