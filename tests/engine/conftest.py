"""Caches of the tests' own, and a way to send one request through a chain of segments."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import pytest

from dsi_mqtt.core.activation import JSON, Row, Tensor, Tensors, pack_body, unpack_body
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.engine.base import Engine

Ask = Callable[..., object]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "dsi-mqtt"


def over_the_wire(tensors: Tensors) -> Tensors:
    """The tensors as a receiver has them: read-only views into a message."""
    return tuple(
        Tensor(item.name, item.dtype, item.shape, memoryview(bytes(item.data))) for item in tensors
    )


def ranges(*cuts: int) -> tuple[UnitRange, ...]:
    return tuple(UnitRange(start, stop) for start, stop in pairwise(cuts))


def run_chain(engine: Engine, segments: Iterable[UnitRange], tensors: Tensors) -> Tensors:
    """Each segment held alone, as on a node of its own."""
    for units in segments:
        engine.load(units)
        tensors = over_the_wire(engine.forward(units, (Row(),), tensors))
        engine.drop(units)
    return tensors


@pytest.fixture
def ask() -> Ask:
    """The JSON answer of a chain: `ask(engine, body, *cuts, kind=…)`."""

    def answer(engine: Engine, body: object, *cuts: int, kind: str = JSON) -> object:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        last = len(engine.graph.units)
        told, result = unpack_body(run_chain(engine, ranges(0, *cuts, last), pack_body(kind, raw)))
        assert told == JSON
        return json.loads(result)

    return answer
