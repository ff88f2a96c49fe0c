"""What a fake engine keeps of sessions, how it draws tokens, and how it reads and writes text."""

from __future__ import annotations

import hashlib
import io
import zipfile
from typing import Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.generation import Prompt, Sampling, Turn
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.engine.base import NOT_SAMPLED
from dsi_mqtt.errors import InvalidInputError, ModelFailedError, SessionStaleError, WireError

# Of the state before a position that goes into it.
_MIXED: Final = np.float32(0.5)

Floats = NDArray[np.float32]


class FakeSessions:
    """Per session and unit, the states of positions `[0, n)`: an array of (n, hidden)."""

    def __init__(self, hidden: int) -> None:
        self._hidden = hidden
        self._states: dict[str, dict[int, Floats]] = {}

    def close(self, session: str) -> None:
        self._states.pop(session, None)

    def drop(self, unit: int) -> None:
        for states in self._states.values():
            states.pop(unit, None)

    def nbytes(self, session: str) -> int:
        return sum(states.nbytes for states in self._states.get(session, {}).values())

    def check(self, rows: tuple[Row, ...], units: UnitRange) -> None:
        """Raises SessionStaleError when positions before a row are missing in one of `units`."""
        have = {row.session: self._least(row.session, units) for row in rows}
        short = {row.session for row in rows if have[row.session] < row.position}
        if short:
            raise SessionStaleError({session: have[session] for session in short})

    def remember(self, unit: int, hidden: Floats, rows: tuple[Row, ...]) -> Floats:
        """Mixes the state before into each position, and keeps the result as its state."""
        mixed = hidden.copy()
        for index, row in enumerate(rows):
            kept = [*self._of(row.session, unit)[: row.position]]
            for place in range(row.tokens):
                if kept:
                    mixed[index, place] += kept[-1] * _MIXED
                kept.append(mixed[index, place])
            self._states.setdefault(row.session, {})[unit] = np.stack(kept)
        return mixed

    def exported(self, session: str, units: UnitRange, first: int, last: int) -> bytes:
        arrays = {}
        for unit in range(*units):
            states = self._of(session, unit)
            if not 0 <= first <= last <= len(states):
                raise ModelFailedError(
                    f"session {session}: unit {unit} holds {len(states)} positions, "
                    f"not {first}:{last}"
                )
            arrays[_name(unit, first)] = states[first:last]
        blob = io.BytesIO()
        np.savez(blob, allow_pickle=False, **arrays)
        return blob.getvalue()

    def imported(
        self, session: str, units: UnitRange, first: int, last: int, blob: bytes | memoryview
    ) -> None:
        try:
            placed = _read_states(blob)
        except (ValueError, zipfile.BadZipFile) as error:
            raise WireError(f"session {session}: the state is not readable: {error}") from error
        if placed.keys() != {_name(unit, first) for unit in range(*units)}:
            raise WireError(f"session {session}: the state is not of units {units} from {first} on")
        fresh: dict[int, Floats] = {}
        for unit in range(*units):
            part, before = placed[_name(unit, first)], self._of(session, unit)
            if part.shape != (last - first, self._hidden):
                raise WireError(f"session {session}: the state of unit {unit} is {part.shape}")
            if len(before) < first:
                raise SessionStaleError({session: len(before)})
            if len(before) < last:
                fresh[unit] = np.concatenate([before[:first], part])
        if fresh:
            self._states.setdefault(session, {}).update(fresh)

    def _of(self, session: str, unit: int) -> Floats:
        empty = np.zeros((0, self._hidden), np.float32)
        return self._states.get(session, {}).get(unit, empty)

    def _least(self, session: str, units: UnitRange) -> int:
        return min(len(self._of(session, unit)) for unit in range(*units))


class FakeText:
    """A word of a text is the token id that its hash names, and token 7 is the word w7."""

    def __init__(self, size: int) -> None:
        self._size = size

    def read(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, str):
            words = prompt.split()
        elif all(isinstance(part, Turn) for part in prompt):
            turns = [part for part in prompt if isinstance(part, Turn)]
            words = [word for turn in turns for word in (turn.role, *turn.content.split())]
        else:
            tokens = tuple(part for part in prompt if isinstance(part, int))
            if max(tokens) >= self._size:
                raise InvalidInputError(f"token ids of this model are below {self._size}")
            return tokens
        if not words:
            raise InvalidInputError("the prompt has no words")
        return tuple(self._token(word) for word in words)

    def stream(self) -> FakeTextStream:
        return FakeTextStream()

    def _token(self, word: str) -> int:
        known = word.removeprefix("w")
        if word.startswith("w") and known.isdecimal() and int(known) < self._size:
            return int(known)
        return int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big") % self._size


class FakeTextStream:
    def push(self, tokens: tuple[int, ...]) -> str:
        return "".join(f" w{token}" for token in tokens)

    def flush(self) -> str:
        return ""


def draw(
    logits: Floats, rows: tuple[Row, ...], sampling: tuple[Sampling | None, ...]
) -> NDArray[np.int64]:
    """One token for each row that has a sampling; the noise is keyed by seed and position."""
    drawn = np.full(len(rows), NOT_SAMPLED, np.int64)
    for index, (row, how) in enumerate(zip(rows, sampling, strict=True)):
        if how is None:
            continue
        values = logits[index].astype(np.float64)
        if how.temperature > 0:
            random = np.random.default_rng([how.seed, row.position + row.tokens])
            values = values / how.temperature + random.gumbel(size=len(values))
        drawn[index] = int(values.argmax())
    return drawn


def _name(unit: int, first: int) -> str:
    """Of its states from a position on, where they are on their way."""
    return f"{unit}@{first}"


def _read_states(blob: bytes | memoryview) -> dict[str, Floats]:
    """By `_name`, as `exported` wrote them."""
    found = {}
    with zipfile.ZipFile(io.BytesIO(blob)) as archive:
        for part in archive.infolist():
            if part.compress_type != zipfile.ZIP_STORED:
                raise ValueError("it is packed, and what is in it may be of any size")
            states = npy.read_array(io.BytesIO(archive.read(part)))
            found[part.filename.removesuffix(".npy")] = states.astype(np.float32)
    return found
