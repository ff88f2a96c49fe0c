"""Engines on their threads: what comes from a model that was closed counts for nothing."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from dsi_mqtt.core import events as ev
from dsi_mqtt.core.activation import Row, Tensor
from dsi_mqtt.core.deployment import Deployment, Generation
from dsi_mqtt.core.effects import Compute, ExportState, ImportState
from dsi_mqtt.core.model import ModelSpec, UnitRange
from dsi_mqtt.engine.base import Engine
from dsi_mqtt.engine.fake import FakeFactory
from dsi_mqtt.errors import CheckpointError
from dsi_mqtt.worker.engines import EngineHost
from tests.core.build import NAME, make_spec

PATIENCE_S: Final = 20.0
FAST: Final = FakeFactory(sleep=lambda _: None)


class Factory:
    """Opens fake engines, after `before` was called with the model."""

    def __init__(self, before: Callable[[ModelSpec], None]) -> None:
        self._before = before

    def open(self, model: ModelSpec, generation: Generation | None = None) -> Engine:
        self._before(model)
        return FAST.open(model, generation)


class Host:
    """An engine host with what it has told."""

    def __init__(self, before: Callable[[ModelSpec], None], model_root: Path | None = None) -> None:
        self._told: asyncio.Queue[ev.Event] = asyncio.Queue()
        self.host = EngineHost(Factory(before), self._told.put_nowait, model_root)

    async def told(self) -> ev.Event:
        async with asyncio.timeout(PATIENCE_S):
            return await self._told.get()

    @property
    def silent(self) -> bool:
        return self._told.empty()


def spec(units: int) -> Deployment:
    return replace(make_spec(), model=ModelSpec(tier="fake", options={"units": units}))


async def test_a_model_that_is_back_opens_on_the_same_thread() -> None:
    missing = True

    def before(_model: ModelSpec) -> None:
        if missing:
            raise CheckpointError("model.path: no such folder")

    host = Host(before)
    host.host.open(spec(3))
    assert await host.told() == ev.ModelRefused(NAME, "model.path: no such folder")
    missing = False
    host.host.open(spec(3))
    opened = await host.told()
    assert isinstance(opened, ev.ModelOpened)
    host.host.load(NAME, UnitRange(0, 3))
    assert isinstance(await host.told(), ev.UnitsLoaded)
    host.host.shut_down()


async def test_a_model_that_is_nowhere_is_told_by_the_path_in_the_file(tmp_path: Path) -> None:
    """And at once: no engine is asked for it."""
    asked: list[str | None] = []
    given = replace(spec(3), model=ModelSpec(tier="fake", path="/no/such/minilm"))

    host = Host(lambda model: asked.append(model.path))
    host.host.open(given)
    assert await host.told() == ev.ModelRefused(
        NAME,
        "model.path: /no/such/minilm does not exist on this machine; copy it there, or start the "
        "worker with --models",
    )
    host.host.shut_down()

    elsewhere = Host(lambda model: asked.append(model.path), tmp_path)
    elsewhere.host.open(given)
    refused = await elsewhere.told()
    assert isinstance(refused, ev.ModelRefused)
    both = f"model.path: /no/such/minilm does not exist on this machine, nor does {tmp_path}"
    assert refused.reason.startswith(both[:150])
    assert asked == []
    (tmp_path / "minilm").mkdir()
    elsewhere.host.open(given)
    assert isinstance(await elsewhere.told(), ev.ModelOpened)
    assert asked == [str(tmp_path / "minilm")]
    elsewhere.host.shut_down()


async def test_a_refusal_is_logged_once_and_again_when_the_reason_is_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reasons: list[str | None] = ["no such folder", "no such folder", "it is cut off", None]

    def before(_model: ModelSpec) -> None:
        reason = reasons.pop(0)
        if reason is not None:
            raise CheckpointError(reason)

    host = Host(before)
    with caplog.at_level(logging.INFO):
        for _ in range(4):
            host.host.open(spec(3))
            await host.told()
    host.host.shut_down()
    assert [record.getMessage() for record in caplog.records] == [
        f"{NAME} is refused here: no such folder",
        f"{NAME} is refused here: it is cut off",
        f"{NAME} can be opened now",
    ]


async def test_a_model_that_was_closed_while_it_was_opened_is_not_the_next_one() -> None:
    """The second opens first: without a look at whose thread it was, the first would stay."""
    loop = asyncio.get_running_loop()
    begun, go_on = asyncio.Event(), threading.Event()

    def before(model: ModelSpec) -> None:
        if model.options == {"units": 3}:
            loop.call_soon_threadsafe(begun.set)
            go_on.wait(PATIENCE_S)

    host = Host(before)
    host.host.open(spec(3))
    await begun.wait()
    host.host.close(NAME)
    host.host.open(spec(5))
    second = await host.told()
    assert isinstance(second, ev.ModelOpened)
    assert len(second.graph.units) == 5
    tasks = set(host.host._tasks)
    go_on.set()
    await asyncio.gather(*tasks)
    host.host.load(NAME, UnitRange(0, 5))
    assert isinstance(await host.told(), ev.UnitsLoaded)
    assert host.silent
    assert host.host._engines[NAME].graph == second.graph
    host.host.shut_down()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
    ],
    ids=["python", "torch"],
)
async def test_memory_that_runs_out_is_no_fault_of_the_input(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(lambda _: None)
    host.host.open(spec(3))
    assert isinstance(await host.told(), ev.ModelOpened)
    engine = host.host.engine(NAME)

    def forward(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(engine, "forward", forward)
    host.host.compute(Compute(1, NAME, UnitRange(0, 3), (Row(),), ()))
    failed = await host.told()
    assert isinstance(failed, ev.ComputeFailed)
    assert failed.failure.code == "overloaded"
    assert "no memory left" in failed.failure.message
    host.host.shut_down()


async def test_a_model_that_asks_for_the_end_of_the_program_gets_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else one deployment ended every node that opens it, and one input left the engine waiting."""
    ends = True

    def before(_model: ModelSpec) -> None:
        if ends:
            sys.exit("usage: model.py FILE")

    host = Host(before)
    host.host.open(spec(3))
    refused = await host.told()
    assert isinstance(refused, ev.ModelRefused)
    assert "SystemExit('usage: model.py FILE')" in refused.reason
    ends = False
    host.host.open(spec(3))
    assert isinstance(await host.told(), ev.ModelOpened)
    engine = host.host.engine(NAME)
    monkeypatch.setattr(engine, "forward", lambda *_, **__: sys.exit(3))
    host.host.compute(Compute(1, NAME, UnitRange(0, 3), (Row(),), ()))
    failed = await host.told()
    assert isinstance(failed, ev.ComputeFailed)
    assert failed.failure.code == "model_failed"
    host.host.shut_down()


async def test_a_cache_goes_from_one_engine_to_another() -> None:
    """Read and taken in on the engines' threads, behind the steps that came before."""
    chat = replace(spec(2), kind="generation", generation=Generation(context=64))
    source, target = Host(lambda _: None), Host(lambda _: None)
    for made in (source, target):
        made.host.open(chat)
        assert isinstance(await made.told(), ev.ModelOpened)
        made.host.load(NAME, UnitRange(0, 2))
        assert isinstance(await made.told(), ev.UnitsLoaded)
    tokens = Tensor("tokens", "int64", (1, 5), np.arange(5, dtype="<i8").tobytes())
    source.host.compute(
        Compute(1, NAME, UnitRange(0, 2), (Row("s", 0, 5),), (tokens,), sampling=(None,))
    )
    source.host.export_state(ExportState(2, NAME, "s", UnitRange(0, 2), 1, 5))
    assert isinstance(await source.told(), ev.Computed)
    exported = await source.told()
    assert isinstance(exported, ev.StateExported)
    target.host.import_state(ImportState(3, NAME, "s", UnitRange(0, 2), 1, 5, exported.blob))
    assert await target.told() == ev.StateStale(3, 0)
    source.host.export_state(ExportState(4, NAME, "s", UnitRange(0, 2), 0, 1))
    first = await source.told()
    assert isinstance(first, ev.StateExported)
    for number, part, blob in ((5, (0, 1), first.blob), (6, (1, 5), exported.blob)):
        target.host.import_state(ImportState(number, NAME, "s", UnitRange(0, 2), *part, blob))
        assert await target.told() == ev.StateImported(number)
    engine = target.host.engine(NAME)
    assert engine is not None
    assert engine.state_bytes("s") == 2 * 5 * 16 * 4
    for made in (source, target):
        made.host.shut_down()


async def test_what_cannot_be_copied_harms_nobody() -> None:
    made = Host(lambda _: None)
    made.host.open(replace(spec(2), kind="generation", generation=Generation(context=64)))
    await made.told()
    made.host.export_state(ExportState(1, NAME, "s", UnitRange(0, 2), 0, 5))
    assert await made.told() == ev.StateStale(1)
    made.host.import_state(ImportState(2, NAME, "s", UnitRange(0, 2), 0, 5, b"junk"))
    assert await made.told() == ev.StateStale(2)
    made.host.close(NAME)
    made.host.import_state(ImportState(3, NAME, "s", UnitRange(0, 2), 0, 5, b"junk"))
    assert await made.told() == ev.StateStale(3)
