"""The engine protocol: what computes a segment, whatever the framework.

An engine holds units of one model on one node. All calls block and run on the engine's own
executor thread, never on the event loop, and never two at once. One-pass requests, prefill and
decode are one call: rows say which session and positions a batch holds.

Sessions need no opening: a row at position 0 begins one. Between two calls an engine has, for
each session and unit, the state of the positions `[0, n)`. A row at position p continues where
n = p, crops to p where n > p, and is refused as stale where n < p.
"""

from __future__ import annotations

from typing import Final, NoReturn, Protocol

from dsi_mqtt.core.activation import Row, Tensors
from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.core.generation import Prompt, Sampling
from dsi_mqtt.core.model import ModelGraph, ModelSpec, UnitRange
from dsi_mqtt.errors import ModelFailedError

# What the head says of a row that is not sampled.
NOT_SAMPLED: Final = -1


class TextStream(Protocol):
    """Token ids of one generation become text as they come."""

    def push(self, tokens: tuple[int, ...]) -> str:
        """The text that is complete with `tokens`; what ends within a character waits."""

    def flush(self) -> str:
        """What still waits, as it is."""


class TextCodec(Protocol):
    """Between texts and token ids, without weights. May be used beside a running engine."""

    def read(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids of a prompt, at least one. Raises InvalidInputError."""

    def stream(self) -> TextStream: ...


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
        sampling: tuple[Sampling | None, ...] = (),
        batch_max: int | None = None,
    ) -> Tensors:
        """Computes the segment `units`.

        tensors: a body (see `core.activation`) when `units` starts at the prelude, else the
            activation of the segment before. Returns the activation for the next segment, or a
            body when `units` ends with the head.
        batch_max: the prelude refuses a body with more rows than this before computing anything.

        Of a generation, a call is a *step*: rows with a session, all of the same number of
        tokens n. Into the prelude goes one tensor `tokens`, int64 (rows, n); the stream between
        segments is (rows, n, width); the head returns one tensor `tokens`, int64 (rows,), with
        what `sampling` (one for each row) draws from the logits of a row's last position, and
        `NOT_SAMPLED` where it is None. The noise depends on the seed and on the position of
        the token drawn, nothing else. Raises SessionStaleError, before anything is computed,
        when a session lacks positions.
        """

    def close(self, session: str) -> None:
        """Frees the session's state; of one that is not there, nothing."""

    def state_bytes(self, session: str) -> int:
        """Bytes the session's state takes; 0 for one that is not there."""

    def export_state(self, session: str, units: UnitRange, first: int, last: int) -> bytes:
        """The session's state of `units` for the positions `[first, last)`. Raises ModelFailedError
        where not all of it is held.
        """

    def import_state(
        self, session: str, units: UnitRange, first: int, last: int, blob: bytes | memoryview
    ) -> None:
        """Puts what `export_state` made of the same elsewhere behind what is held; what is held
        already stays.

        Raises, and then nothing is kept of it, SessionStaleError where positions before it are
        missing, WireError where it cannot be read, is of another model, or is anything else than
        the positions `[first, last)` of these units.
        """

    def text(self) -> TextCodec:
        """Of a model that generates text. Raises CheckpointError where files are missing."""


class OnePass:
    """What of the protocol an engine has that keeps no sessions."""

    def close(self, session: str) -> None:
        """Nothing is kept."""

    def state_bytes(self, session: str) -> int:
        del session
        return 0

    def export_state(self, session: str, units: UnitRange, first: int, last: int) -> bytes:
        del units, first, last
        no_sessions(session)

    def import_state(
        self, session: str, units: UnitRange, first: int, last: int, blob: bytes | memoryview
    ) -> None:
        del units, first, last, blob
        no_sessions(session)

    def text(self) -> TextCodec:
        no_text()


def no_sessions(session: str) -> NoReturn:
    """Raises ModelFailedError: the model answers in one pass."""
    raise ModelFailedError(
        f"session {session}: this model answers in one pass and keeps no sessions; "
        "deploy it with kind: one-pass"
    )


def no_text() -> NoReturn:
    """Raises ModelFailedError: the model answers in one pass."""
    raise ModelFailedError(
        "this model answers in one pass and generates no text; deploy it with kind: generation"
    )


class EngineFactory(Protocol):
    """Opens engines; passed into a worker so that tests and simulation bring their own."""

    def open(self, model: ModelSpec, generation: Generation | None = None) -> Engine:
        """Reads what describes the model (configuration, weight headers), no weights.

        generation: for sessions, within these limits; None: the model answers in one pass.
        """
