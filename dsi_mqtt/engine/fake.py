"""A deterministic engine without a framework: real numbers, made-up costs.

Each unit is an affine map after a rotation of the features. Such maps do not commute, so a
dropped, repeated or misplaced unit changes the result. Elementwise float32 arithmetic gives the
same bits for a row alone, in a batch and on any machine.

Opened for generation, a unit also keeps one state vector per position of a session and mixes the
one before into each output, so that a lost or shifted state changes the result too. Token ids are
as many as features; a word of a prompt becomes one, and token 7 reads " w7".
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dsi_mqtt.core.activation import (
    JSON,
    TEXT,
    TOKENS,
    Row,
    Tensor,
    Tensors,
    media_type,
    pack_body,
    unpack_body,
)
from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.core.generation import Sampling
from dsi_mqtt.core.model import (
    INPUT_BYTES,
    RESULT_BYTES,
    ModelGraph,
    ModelSpec,
    Unit,
    UnitRange,
    Vocabulary,
)
from dsi_mqtt.core.sizes import KIB
from dsi_mqtt.engine.base import no_sessions, no_text
from dsi_mqtt.engine.batch import check_batch
from dsi_mqtt.engine.fake_options import FakeOptions, is_number, of_unit, read_options
from dsi_mqtt.engine.fake_sessions import FakeSessions, FakeText, draw
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
# A number of a result, as it is written.
_VALUE_BYTES: Final = 21

Floats = NDArray[np.float32]


@dataclass(slots=True)
class _Batch:
    """Rows between units. faults: per row, the unit at which it raises and at which it exits."""

    hidden: Floats
    faults: NDArray[np.int64]


class FakeEngine:
    """See the module. Inputs are JSON: a string or a number, or a list of them (a batch).

    Inputs that misbehave on request: `{"raise": true}` raises in the prelude, `{"raise": 3}` in
    unit 3; `{"exit": 3}` ends the process there, as a poisonous input would.
    """

    def __init__(
        self,
        options: FakeOptions,
        generation: Generation | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        exit_process: Callable[[int], object] = os._exit,
    ) -> None:
        self._options = options
        self._generates = generation is not None
        self._sleep = sleep
        self._exit = exit_process
        self._graph = describe(options, generation)
        self._loaded: dict[int, bytearray | None] = {}
        self._sessions = FakeSessions(options.hidden)
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
            self._sessions.drop(unit)

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
        sampling: tuple[Sampling | None, ...] = (),
        batch_max: int | None = None,
    ) -> Tensors:
        self._require(units)
        if self._generates:
            return self._step(units, rows, tensors, sampling)
        if any(row.session for row in rows):
            no_sessions(next(row.session for row in rows if row.session))
        if units.start == 0:
            batch = self._read_body(tensors)
            check_batch(len(batch.hidden), batch_max)
        else:
            batch = self._unpack(tensors)
        self._spend(units, len(batch.hidden))
        for unit in range(*units):
            self._run_faults(unit, batch)
            batch.hidden = self._unit(unit, batch.hidden)
        if units.stop == self._options.units:
            told = batch.hidden[:, : self._options.values or None]
            return _result(told, single=_is_single(tensors))
        return _pack(batch, single=_is_single(tensors))

    def close(self, session: str) -> None:
        self._sessions.close(session)

    def state_bytes(self, session: str) -> int:
        return self._sessions.nbytes(session)

    def export_state(self, session: str, units: UnitRange, first: int, last: int) -> bytes:
        if not self._generates:
            no_sessions(session)
        return self._sessions.exported(session, units, first, last)

    def import_state(
        self, session: str, units: UnitRange, first: int, last: int, blob: bytes | memoryview
    ) -> None:
        if not self._generates:
            no_sessions(session)
        self._sessions.imported(session, units, first, last, blob)

    def text(self) -> FakeText:
        if not self._generates:
            no_text()
        return FakeText(self._options.hidden)

    def _step(
        self,
        units: UnitRange,
        rows: tuple[Row, ...],
        tensors: Tensors,
        sampling: tuple[Sampling | None, ...],
    ) -> Tensors:
        count = rows[0].tokens if rows else 0
        hidden = self._enter(units, (len(rows), count), tensors)
        if any(row.tokens != count for row in rows):
            raise WireError("the rows of a step have different numbers of tokens")
        self._sessions.check(rows, units)
        self._spend(units, len(rows) * count)
        for unit in range(*units):
            mixed = self._sessions.remember(unit, hidden, rows)
            flat = self._unit(unit, mixed.reshape(-1, self._options.hidden))
            hidden = flat.reshape(hidden.shape)
        if units.stop < self._options.units:
            return (Tensor(HIDDEN, "float32", hidden.shape, hidden.astype("<f4").tobytes()),)
        drawn = draw(hidden[:, -1], rows, sampling)
        return (Tensor(TOKENS, "int64", drawn.shape, drawn.astype("<i8").tobytes()),)

    def _enter(self, units: UnitRange, shape: tuple[int, int], tensors: Tensors) -> Floats:
        """What enters a step, as (rows, tokens, hidden)."""
        expected = (TOKENS, "int64", shape)
        if units.start:
            expected = (HIDDEN, "float32", (*shape, self._options.hidden))  # type: ignore[assignment]  # two or three dimensions
        given = [(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors]
        if given != [expected]:
            raise WireError(f"a step of units {units} takes {expected}, got {given}")
        data = tensors[0].data
        if units.start:
            return np.frombuffer(data, "<f4").reshape(tensors[0].shape).astype(np.float32)
        tokens = np.frombuffer(data, "<i8").tolist()
        if any(not 0 <= token < self._options.hidden for token in tokens):
            raise InvalidInputError(f"token ids of this model are below {self._options.hidden}")
        return np.stack([_embed(t, self._options.hidden) for t in tokens]).reshape(*shape, -1)

    def _spend(self, units: UnitRange, positions: int) -> None:
        self._sleep(sum(self._options.cost_s(unit, positions) for unit in range(*units)))

    def _require(self, units: UnitRange) -> None:
        missing = [unit for unit in range(*units) if unit not in self._loaded]
        if missing:
            raise ModelFailedError(f"units {missing} are not loaded here")

    def _read_body(self, tensors: Tensors) -> _Batch:
        value = _read_json(tensors)
        items = value if isinstance(value, list) else [value]
        if not items:
            raise InvalidInputError("the batch is empty; send at least one item")
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

    def _unit(self, unit: int, hidden: Floats) -> Floats:
        scale, shift = self._maps[unit]
        return np.roll(hidden, 1, axis=1) * scale + shift


@dataclass(frozen=True, slots=True)
class FakeFactory:
    """Opens fake engines. sleep, exit_process: what a cost and a deadly input really do."""

    sleep: Callable[[float], None] = time.sleep
    exit_process: Callable[[int], object] = os._exit

    def open(self, model: ModelSpec, generation: Generation | None = None) -> FakeEngine:
        if model.tier != "fake":
            raise ConfigError(f"model.tier is {model.tier!r}; the fake engine opens 'fake' only")
        options = read_options(model.options)
        if options.simulated:
            raise ConfigError(
                "model.options: crossing_kib, input_kib and result_kib are for simulations; leave "
                "them out where the model is to compute"
            )
        return FakeEngine(options, generation, sleep=self.sleep, exit_process=self.exit_process)


def describe(options: FakeOptions, generation: Generation | None = None) -> ModelGraph:
    last = options.units - 1
    units = tuple(
        Unit(
            name="prelude" if unit == 0 else "head" if unit == last else f"block.{unit - 1}",
            weight_bytes=options.weight_bytes(unit),
            flops=of_unit(options.unit_ms, unit) * _FLOPS_PER_MS,
            output_bytes=0 if unit == last else options.crossing_bytes(unit),
            state_bytes=0 if generation is None else options.hidden * 4,
        )
        for unit in range(options.units)
    )
    context = {} if generation is None else {"context": generation.context}
    named = json.dumps(asdict(options) | context, sort_keys=True).encode()
    digest = "sha256:" + hashlib.sha256(named).hexdigest()
    if generation is None:
        return ModelGraph(
            digest,
            "fake",
            units,
            input_bytes=int(options.input_kib * KIB) or INPUT_BYTES,
            result_bytes=int(options.result_kib * KIB)
            or _VALUE_BYTES * options.values
            or RESULT_BYTES,
        )
    vocabulary = Vocabulary(generation.context, options.hidden, options.ends)
    return ModelGraph(digest, "fake", units, vocabulary=vocabulary)


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


def _result(hidden: Floats, *, single: bool) -> Tensors:
    """`{"values": […]}` per item."""
    items = [{"values": row} for row in hidden.astype(float).tolist()]
    value = items[0] if single else items
    return pack_body(JSON, json.dumps(value, separators=(",", ":")).encode())
