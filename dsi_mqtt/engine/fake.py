"""A deterministic engine without a framework: real numbers, made-up costs.

Each unit is an affine map after a rotation of the features. Such maps do not commute, so a
dropped, repeated or misplaced unit changes the result. Elementwise float32 arithmetic gives the
same bits for a row alone, in a batch and on any machine.

Rows with a session also remember: a unit keeps one state vector per position and mixes the one
before into each output, so that a lost or shifted state changes the result too.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from dsi_mqtt.core.activation import (
    JSON,
    TEXT,
    Row,
    Tensor,
    Tensors,
    media_type,
    pack_body,
    unpack_body,
)
from dsi_mqtt.core.model import ModelGraph, ModelSpec, Unit, UnitRange
from dsi_mqtt.engine.batch import check_batch
from dsi_mqtt.engine.fake_options import FakeOptions, is_number, of_unit, read_options
from dsi_mqtt.errors import (
    CheckpointError,
    ConfigError,
    InvalidInputError,
    ModelFailedError,
    SplitError,
    WireError,
)

HIDDEN: Final = "hidden_states"
FAULTS: Final = "faults"
_CARRIED: Final = (HIDDEN, FAULTS)
# What a millisecond stands for in the graph: a machine of 10 GFLOP/s.
_FLOPS_PER_MS: Final = 1e7
# Processes that die of an input end with this status.
_EXIT_STATUS: Final = 70
_NEVER: Final = -1

Floats = NDArray[np.float32]


@dataclass(slots=True)
class _Batch:
    """Rows between units. faults: per row, the unit at which it raises and at which it exits."""

    hidden: Floats
    faults: NDArray[np.int64]


@dataclass(slots=True)
class _Session:
    """Per unit, the states of positions `[0, n)`: an array of (n, hidden)."""

    states: dict[int, Floats] = field(default_factory=dict)


class FakeEngine:
    """See the module. Inputs are JSON: a string or a number, or a list of them (a batch).

    Inputs that misbehave on request: `{"raise": true}` raises in the prelude, `{"raise": 3}` in
    unit 3; `{"exit": 3}` ends the process there, as a poisonous input would.
    """

    def __init__(
        self,
        options: FakeOptions,
        *,
        sleep: Callable[[float], None] = time.sleep,
        exit_process: Callable[[int], object] = os._exit,
    ) -> None:
        self._options = options
        self._sleep = sleep
        self._exit = exit_process
        self._graph = describe(options)
        self._loaded: dict[int, bytearray | None] = {}
        self._sessions: dict[str, _Session] = {}
        self._maps = [_affine(options, unit) for unit in range(options.units)]

    @property
    def graph(self) -> ModelGraph:
        return self._graph

    def verify(self) -> None:
        if self._options.refuse:
            raise SplitError(self._options.refuse)

    def load(self, units: UnitRange) -> None:
        for unit in range(*units):
            if unit in self._loaded:
                continue
            if unit in self._options.missing:
                raise CheckpointError(f"the weights of unit {unit} are missing (options.missing)")
            self._sleep(self._options.load_ms / 1000)
            size = self._options.weight_bytes(unit)
            # Ones, for the kernel gives no memory for pages of zeros.
            self._loaded[unit] = bytearray(b"\1") * size if self._options.allocate else None

    def drop(self, units: UnitRange) -> None:
        for unit in range(*units):
            self._loaded.pop(unit, None)
            for session in self._sessions.values():
                session.states.pop(unit, None)

    def loaded_bytes(self) -> int:
        return sum(self._options.weight_bytes(unit) for unit in self._loaded)

    def warm_up(self, units: UnitRange) -> float:
        self._require(units)
        cost = sum(self._options.cost_s(unit) for unit in range(*units))
        self._sleep(cost)
        return cost

    def forward(
        self,
        units: UnitRange,
        rows: tuple[Row, ...],
        tensors: Tensors,
        *,
        batch_max: int | None = None,
    ) -> Tensors:
        self._require(units)
        in_session = tuple(row for row in rows if row.session)
        if units.start == 0:
            batch = self._read_body(tensors, in_session)
            check_batch(len(batch.hidden), batch_max)
        else:
            batch = self._unpack(tensors)
        if in_session and sum(row.tokens for row in in_session) != len(batch.hidden):
            raise WireError(f"rows announce other positions than the {len(batch.hidden)} that came")
        cost = sum(self._options.cost_s(unit) for unit in range(*units))
        self._sleep(cost * len(batch.hidden))
        for unit in range(*units):
            self._run_faults(unit, batch)
            batch.hidden = self._unit(unit, batch.hidden, in_session)
        if units.stop == self._options.units:
            return _result(batch.hidden, in_session, single=_is_single(tensors))
        return _pack(batch, single=_is_single(tensors))

    def open(self, session: str) -> None:
        self._sessions[session] = _Session()

    def close(self, session: str) -> None:
        self._sessions.pop(session, None)

    def state_bytes(self, session: str) -> int:
        return sum(states.nbytes for states in self._session(session).states.values())

    def export_state(self, session: str, units: UnitRange, first: int, last: int) -> bytes:
        held = self._session(session).states
        arrays = {}
        for unit in range(*units):
            states = held.get(unit, np.zeros((0, self._options.hidden), np.float32))
            if not 0 <= first <= last <= len(states):
                raise ModelFailedError(
                    f"session {session}: unit {unit} holds {len(states)} positions, "
                    f"not {first}:{last}"
                )
            arrays[f"{unit}@{first}"] = states[first:last]
        blob = io.BytesIO()
        np.savez(blob, allow_pickle=False, **arrays)
        return blob.getvalue()

    def import_state(self, session: str, blob: bytes) -> None:
        try:
            placed = _read_states(blob)
        except (ValueError, zipfile.BadZipFile) as error:
            raise WireError(f"session {session}: the state is not readable: {error}") from error
        held = self._session(session).states
        for unit, first, part in placed:
            before = held.get(unit, np.zeros((0, self._options.hidden), np.float32))
            if len(before) < first or part.shape[1:] != before.shape[1:]:
                raise WireError(
                    f"session {session}: a state from position {first} does not follow the "
                    f"{len(before)} held by unit {unit}"
                )
            held[unit] = np.concatenate([before[:first], part])

    def _require(self, units: UnitRange) -> None:
        missing = [unit for unit in range(*units) if unit not in self._loaded]
        if missing:
            raise ModelFailedError(f"units {missing} are not loaded here")

    def _session(self, name: str) -> _Session:
        try:
            return self._sessions[name]
        except KeyError:
            raise ModelFailedError(f"session {name} is not open here") from None

    def _read_body(self, tensors: Tensors, rows: tuple[Row, ...]) -> _Batch:
        value = _read_json(tensors)
        items = value if isinstance(value, list) else [value]
        if not items:
            raise InvalidInputError("the batch is empty; send at least one item")
        if rows and not all(is_number(item) for item in items):
            raise InvalidInputError("a session takes a list of token numbers")
        hidden = np.stack([_embed(item, self._options.hidden) for item in items])
        return _Batch(hidden, np.array([_faults(item) for item in items], np.int64))

    def _unpack(self, tensors: Tensors) -> _Batch:
        named = {tensor.name: tensor for tensor in tensors}
        hidden, faults = named.get(HIDDEN), named.get(FAULTS)
        if (
            hidden is None
            or faults is None
            or len(named) != len(_CARRIED)
            or hidden.dtype != "float32"
        ):
            raise WireError(f"expected {HIDDEN} and {FAULTS}, got {sorted(named)}")
        width = self._options.hidden
        count = hidden.shape[-2] if len(hidden.shape) > 1 else 1
        if hidden.shape[-1:] != (width,) or faults.shape != (count, 2):
            raise WireError(f"{HIDDEN} has shape {hidden.shape}, expected (rows, {width})")
        values = np.frombuffer(hidden.data, "<f4").reshape(count, width)
        return _Batch(values, np.frombuffer(faults.data, "<i8").reshape(count, 2))

    def _run_faults(self, unit: int, batch: _Batch) -> None:
        if (batch.faults[:, 1] == unit).any():
            self._exit(_EXIT_STATUS)
        if (batch.faults[:, 0] == unit).any():
            raise RuntimeError(f"unit {unit} raised because the input asked for it")

    def _unit(self, unit: int, hidden: Floats, rows: tuple[Row, ...]) -> Floats:
        if rows:
            hidden = self._remember(unit, hidden, rows)
        scale, shift = self._maps[unit]
        return np.roll(hidden, 1, axis=1) * scale + shift

    def _remember(self, unit: int, hidden: Floats, rows: tuple[Row, ...]) -> Floats:
        mixed = hidden.copy()
        start = 0
        for row in rows:
            held = self._session(row.session).states
            states = held.get(unit, np.zeros((0, self._options.hidden), np.float32))
            if len(states) < row.position:
                raise ModelFailedError(f"session {row.session}: stale: have {len(states)}")
            kept = [*states[: row.position]]
            for index in range(start, start + row.tokens):
                before = kept[-1] if kept else np.zeros(self._options.hidden, np.float32)
                mixed[index] += before * np.float32(0.5)
                kept.append(mixed[index])
            held[unit] = np.stack(kept)
            start += row.tokens
        return mixed


@dataclass(frozen=True, slots=True)
class FakeFactory:
    """Opens fake engines. sleep, exit_process: what a cost and a deadly input really do."""

    sleep: Callable[[float], None] = time.sleep
    exit_process: Callable[[int], object] = os._exit

    def open(self, model: ModelSpec) -> FakeEngine:
        if model.tier != "fake":
            raise ConfigError(f"model.tier is {model.tier!r}; the fake engine opens 'fake' only")
        options = read_options(model.options)
        return FakeEngine(options, sleep=self.sleep, exit_process=self.exit_process)


def describe(options: FakeOptions) -> ModelGraph:
    last = options.units - 1
    units = tuple(
        Unit(
            name="prelude" if unit == 0 else "head" if unit == last else f"block.{unit - 1}",
            weight_bytes=options.weight_bytes(unit),
            flops=of_unit(options.unit_ms, unit) * _FLOPS_PER_MS,
            output_bytes=0 if unit == last else options.hidden * 4,
        )
        for unit in range(options.units)
    )
    told = json.dumps(asdict(options), sort_keys=True).encode()
    return ModelGraph("sha256:" + hashlib.sha256(told).hexdigest(), "fake", units)


def _affine(options: FakeOptions, unit: int) -> tuple[Floats, Floats]:
    """Scale in ±[0.5, 1) and shift in [-1, 1) of a unit: results stay small and depend on order."""
    random = np.random.default_rng([options.seed, unit])
    scale = random.uniform(0.5, 1.0, options.hidden) * random.choice([-1, 1], options.hidden)
    return scale.astype(np.float32), random.uniform(-1, 1, options.hidden).astype(np.float32)


def _read_json(tensors: Tensors) -> object:
    content_type, body = unpack_body(tensors)
    kind = media_type(content_type)
    if kind not in (JSON, TEXT):
        raise InvalidInputError(f"content type {content_type!r} is not read here; send {JSON}")
    try:
        return body.decode() if kind == TEXT else json.loads(body)
    except ValueError as error:
        raise InvalidInputError(f"the input is not valid {kind}: {error}") from error


def _faults(item: object) -> tuple[int, int]:
    def unit(name: str) -> int:
        value = item.get(name, False) if isinstance(item, dict) else False
        if isinstance(value, bool):
            return 0 if value else _NEVER
        return int(value)

    return unit("raise"), unit("exit")


def _embed(item: object, width: int) -> Floats:
    """A row in [-1, 1): numbers and strings become the features their hash seeds."""
    if isinstance(item, dict) and item and item.keys() <= {"raise", "exit"}:
        if not all(isinstance(value, int) for value in item.values()):
            raise InvalidInputError("raise and exit take true or the number of a unit")
    elif not isinstance(item, str) and not is_number(item):
        raise InvalidInputError(
            f"an item is a {type(item).__name__}; send a string, a number, or a list of them"
        )
    seed = int.from_bytes(hashlib.sha256(json.dumps(item).encode()).digest()[:8], "big")
    return np.random.default_rng(seed).uniform(-1, 1, width).astype(np.float32)


def _read_states(blob: bytes) -> list[tuple[int, int, Floats]]:
    """Unit, first position and states, as `export_state` wrote them."""
    found = []
    with zipfile.ZipFile(io.BytesIO(blob)) as archive:
        for name in archive.namelist():
            unit, first = map(int, name.removesuffix(".npy").split("@"))
            states = npy.read_array(io.BytesIO(archive.read(name)))
            found.append((unit, first, states.astype(np.float32)))
    return found


def _is_single(tensors: Tensors) -> bool:
    """Whether the request was one item: then no batch axis crosses, and one object answers."""
    for tensor in tensors:
        if tensor.name == HIDDEN:
            return len(tensor.shape) == 1
    return not isinstance(_read_json(tensors), list)


def _pack(batch: _Batch, *, single: bool) -> Tensors:
    hidden = batch.hidden[0] if single else batch.hidden
    return (
        Tensor(HIDDEN, "float32", hidden.shape, hidden.astype("<f4").tobytes()),
        Tensor(FAULTS, "int64", batch.faults.shape, batch.faults.astype("<i8").tobytes()),
    )


def _result(hidden: Floats, rows: tuple[Row, ...], *, single: bool) -> Tensors:
    """`{"values": […]}` per item, or `{"tokens": […]}`, one per session, after a generation."""
    value: object
    if rows:
        ends = np.cumsum([row.tokens for row in rows]) - 1
        value = {"tokens": [int(token) for token in hidden[ends].argmax(axis=1)]}
    else:
        items = [{"values": row} for row in hidden.astype(float).tolist()]
        value = items[0] if single else items
    return pack_body(JSON, json.dumps(value, separators=(",", ":")).encode())
