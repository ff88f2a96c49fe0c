"""A model of every tier, asked as a node asks it: what the worker hands over, each engine takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from dsi_mqtt.core import events as ev
from dsi_mqtt.core.activation import JSON, TOKENS, Row, Tensor, Tensors, pack_body, unpack_body
from dsi_mqtt.core.deployment import Deployment, Generation
from dsi_mqtt.core.effects import CloseSessions, Compute
from dsi_mqtt.core.generation import Sampling
from dsi_mqtt.core.model import ModelSpec, UnitRange
from dsi_mqtt.engine.base import Engine
from dsi_mqtt.engine.select import TierFactory
from dsi_mqtt.errors import ModelFailedError
from dsi_mqtt.worker.engines import EngineHost
from tests.core.build import NAME
from tests.engine.torch import conftest as checkpoints
from tests.engine.torch.generation.causal import lively_model

PATIENCE_S: Final = 120.0
BATCH_MAX: Final = 4
FACTORIES: Final = "tests.engine.torch"


@dataclass(frozen=True)
class Case:
    """value: the input, as JSON; of a generation the tokens of a prompt."""

    model: ModelSpec
    value: Any
    generation: Generation | None = None

    @property
    def deployment(self) -> Deployment:
        kind: Any = "one-pass" if self.generation is None else "generation"
        return Deployment(NAME, self.model, kind=kind, generation=self.generation)


IMAGE: Final = [[[x / 7 - y / 9 for x in range(48)] for y in range(48)]] * 3
CASES: Final[dict[str, Case]] = {
    "fake": Case(ModelSpec(tier="fake", options={"units": 5}), "a report"),
    "fake generation": Case(
        ModelSpec(tier="fake", options={"units": 5}), [5, 3, 9], Generation(context=16)
    ),
    "layer": Case(ModelSpec(path="bert"), [5, 17, 3, 60]),
    "layer generation": Case(ModelSpec(path="llama"), [5, 17, 3, 60], Generation(context=32)),
    "sequential": Case(
        ModelSpec(tier="sequential", factory=f"{FACTORIES}.own_models:mlp"),
        [0.1, -2.0, 3.0, 0.5, 1.5, -0.5, 0.0, 2.0],
    ),
    "graph": Case(ModelSpec(tier="graph", factory=f"{FACTORIES}.graph_models:resnet"), IMAGE),
    "graph that reads by itself": Case(
        ModelSpec(tier="graph", factory=f"{FACTORIES}.graph_models:asked"),
        {"left": [[1.0, 2.0, -3.0, 0.5]], "right": [[0.25, 4.0, 1.0, -1.0]]},
    ),
}

ONE_PASS: Final = [name for name, case in CASES.items() if case.generation is None]


class Host:
    """An engine host, and the next that it tells."""

    def __init__(self) -> None:
        self._told: asyncio.Queue[ev.Event] = asyncio.Queue()
        self.host = EngineHost(TierFactory(), self._told.put_nowait)
        self._jobs = 0

    async def told(self) -> ev.Event:
        async with asyncio.timeout(PATIENCE_S):
            return await self._told.get()

    async def opened(self, deployment: Deployment) -> Engine:
        """With all its units loaded."""
        self.host.open(deployment)
        event = await self.told()
        assert isinstance(event, ev.ModelOpened), event
        self.host.load(NAME, event.graph.whole)
        event = await self.told()
        assert isinstance(event, ev.UnitsLoaded), event
        engine = self.host.engine(NAME)
        assert engine is not None
        return engine

    async def answer(
        self, tensors: Tensors, row: Row, sampling: tuple[Sampling, ...], *cuts: int
    ) -> Tensors:
        """What comes out behind the last of the segments, each a job as the node makes them."""
        for start, stop in pairwise(cuts):
            self._jobs += 1
            self.host.compute(
                Compute(
                    self._jobs, NAME, UnitRange(start, stop), (row,), tensors, sampling, BATCH_MAX
                )
            )
            event = await self.told()
            assert isinstance(event, ev.Computed), event
            assert event.job == self._jobs
            tensors = tuple(
                Tensor(item.name, item.dtype, item.shape, memoryview(bytes(item.data)))
                for item in event.tensors
            )
        return tensors


@contextmanager
def running() -> Iterator[Host]:
    host = Host()
    try:
        yield host
    finally:
        host.host.shut_down()


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """The case of a name; checkpoint folders are written first."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    wanted: Case = CASES[request.param]
    if wanted.model.path is not None:
        make = checkpoints.random_model if wanted.generation is None else llama
        make(wanted.model.path).save_pretrained(wanted.model.path)
    return wanted


def llama(name: str) -> Any:
    return lively_model(name, 0)


@pytest.mark.parametrize("case", CASES, indirect=True)
async def test_three_segments_answer_what_one_does(case: Case) -> None:
    row, sampling = Row(), tuple[Sampling, ...]()
    tensors = pack_body(JSON, json.dumps(case.value).encode())
    if case.generation is not None:
        row, sampling = Row("s", 0, len(case.value)), (Sampling(0.0),)
        given = np.array([case.value], "<i8")
        tensors = (Tensor(TOKENS, "int64", given.shape, given.tobytes()),)
    with running() as host:
        engine = await host.opened(case.deployment)
        last = len(engine.graph.units)
        whole = await host.answer(tensors, row, sampling, 0, last)
        assert await host.answer(tensors, row, sampling, 0, 1, last - 1, last) == whole
        check_answer(case, whole)
        check_sessions(case, engine)
        host.host.close_sessions(CloseSessions(NAME, ("s", "nobody's")))
        host.host.load(NAME, engine.graph.whole)  # behind it on the engine's thread
        assert isinstance(await host.told(), ev.UnitsLoaded)
        assert engine.state_bytes("s") == 0


def check_answer(case: Case, tensors: Tensors) -> None:
    if case.generation is None:
        kind, answer = unpack_body(tensors)
        assert kind == JSON
        assert json.loads(answer)
        return
    (tokens,) = tensors
    assert np.frombuffer(tokens.data, "<i8")[0] >= 0


def check_sessions(case: Case, engine: Engine) -> None:
    """What only sessions have, and what answers in one pass says of it."""
    if case.generation is not None:
        assert engine.state_bytes("s") > 0
        assert engine.text().stream() is not None
        return
    assert engine.state_bytes("s") == 0
    with pytest.raises(ModelFailedError, match="generates no text"):
        engine.text()
    with pytest.raises(ModelFailedError, match="keeps no sessions"):
        engine.export_state("s", engine.graph.whole, 0, 1)
    with pytest.raises(ModelFailedError, match="keeps no sessions"):
        engine.import_state("s", engine.graph.whole, 0, 1, b"")


@pytest.mark.parametrize("case", ONE_PASS, indirect=True)
async def test_a_batch_beyond_the_deployments_is_refused_by_every_prelude(case: Case) -> None:
    value = case.value
    if isinstance(value, dict):
        value = {name: rows * (BATCH_MAX + 1) for name, rows in value.items()}
    else:
        value = [value] * (BATCH_MAX + 1)
    body = pack_body(JSON, json.dumps(value).encode())
    with running() as host:
        await host.opened(case.deployment)
        host.host.compute(Compute(1, NAME, UnitRange(0, 1), (Row(),), body, (), BATCH_MAX))
        event = await host.told()
    assert isinstance(event, ev.ComputeFailed), event
    assert event.failure.code == "invalid_input"
    assert "takes 4 at once" in event.failure.message
