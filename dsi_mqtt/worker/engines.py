"""Engines on their own threads: opening, verifying, loading and computing off the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from dsi_mqtt.core import events as ev
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.effects import CloseSessions, Compute, ExportState, ImportState
from dsi_mqtt.core.encoding import all_decoded, all_encoded
from dsi_mqtt.core.message import Failure
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.engine.base import Engine, EngineFactory
from dsi_mqtt.engine.found import found_here
from dsi_mqtt.errors import (
    CheckpointError,
    DsiError,
    RequestError,
    SessionStaleError,
    WireError,
    one_sentence,
)
from dsi_mqtt.wire.ranges import first_out_of_range
from dsi_mqtt.worker.measured_errors import measured_errors
from dsi_mqtt.worker.threads import Threads

log = logging.getLogger(__name__)

_NO_MEMORY: Final = Failure(
    "overloaded", "a node of the chain has no memory left for this input; ask later, or for less"
)

T = TypeVar("T")
Emit = Callable[[ev.Event], None]
Told = ev.ModelOpened | ev.ModelRefused | ev.UnitsLoaded | ev.UnitsFailed


class EngineHost:
    """One engine and one thread for each deployment. Results come back as events.

    model_root: where checkpoint folders and samples lie on this machine, if not where the
    deployment says. weight_bytes: that the node may hold, where it is limited.
    """

    def __init__(
        self,
        factory: EngineFactory,
        emit: Emit,
        model_root: Path | None = None,
        weight_bytes: int | None = None,
    ) -> None:
        self._factory = factory
        self._emit = emit
        self._model_root = model_root
        self._weight_bytes = weight_bytes
        self._engines: dict[str, Engine] = {}
        self._refused: dict[str, str] = {}  # the last word, so that each is logged once
        self._threads = Threads("engine")
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, deployment: Deployment) -> None:
        name = deployment.name
        thread = self._threads.of(name)

        def work() -> tuple[Engine, dict[str, float]]:
            here = replace(deployment, model=found_here(deployment.model, self._model_root))
            engine = opened(here, self._factory)
            engine.verify()
            errors = measured_errors(engine, deployment, self._model_root, self._weight_bytes)
            return engine, errors

        async def run() -> None:
            try:
                engine, errors = await _on_thread(thread, work)
            except Exception as error:  # a user's model may raise anything
                log.debug("opening %s failed", name, exc_info=True)
                self._refuse(thread, ev.ModelRefused(name, _sentence(error)))
            else:
                if self._refused.pop(name, None) is not None:
                    log.info("%s can be opened now", name)
                if self._threads.known(name) is thread:
                    self._engines[name] = engine
                self._tell(thread, ev.ModelOpened(name, engine.graph, errors))

        self._start(run(), f"open {name}")

    def close(self, deployment: str) -> None:
        """Forgets the engine; its thread ends when its last job has."""
        self._engines.pop(deployment, None)
        self._refused.pop(deployment, None)
        self._threads.end(deployment)

    def load(self, deployment: str, units: UnitRange) -> None:
        engine, thread = self._engines.get(deployment), self._threads.of(deployment)

        def work() -> float:
            if engine is None:
                raise RuntimeError(f"{deployment} is not open here")
            engine.load(units)
            return engine.warm_up(units)

        async def run() -> None:
            try:
                seconds = await _on_thread(thread, work)
            except Exception as error:
                log.debug("loading %s %s failed", deployment, units, exc_info=True)
                self._tell(thread, ev.UnitsFailed(deployment, units, _sentence(error)))
            else:
                log.info(
                    "units %s of %s are loaded; a row takes %.1f ms",
                    units,
                    deployment,
                    seconds * 1000,
                )
                self._tell(thread, ev.UnitsLoaded(deployment, units, seconds * 1000))

        self._start(run(), f"load {deployment} {units}")

    def drop(self, deployment: str, units: UnitRange) -> None:
        engine, thread = self._engines.get(deployment), self._threads.known(deployment)
        if engine is not None and thread is not None:
            thread.submit(engine.drop, units)

    def engine(self, deployment: str) -> Engine | None:
        """The one that is open."""
        return self._engines.get(deployment)

    def close_sessions(self, effect: CloseSessions) -> None:
        engine = self._engines.get(effect.deployment)
        thread = self._threads.known(effect.deployment)
        if engine is not None and thread is not None:
            for session in effect.sessions:
                thread.submit(engine.close, session)

    def compute(self, job: Compute) -> None:
        failure = Failure("unavailable", "the model was closed here; try again")
        clock = asyncio.get_running_loop().time
        self._answer(
            job.deployment,
            lambda engine: _computed(engine, job, clock),
            ev.ComputeFailed(job.job, failure),
        )

    def export_state(self, job: ExportState) -> None:
        def exported(engine: Engine) -> ev.Event:
            blob = engine.export_state(job.session, job.units, job.first, job.last)
            return ev.StateExported(job.job, blob)

        self._answer(job.deployment, lambda e: _moved(exported, e, job), ev.StateStale(job.job))

    def import_state(self, job: ImportState) -> None:
        def imported(engine: Engine) -> ev.Event:
            engine.import_state(job.session, job.units, job.first, job.last, job.blob)
            return ev.StateImported(job.job)

        self._answer(job.deployment, lambda e: _moved(imported, e, job), ev.StateStale(job.job))

    def _answer(
        self, deployment: str, work: Callable[[Engine], ev.Event], closed: ev.Event
    ) -> None:
        """What `work` says on the engine's thread, behind all that was begun before; closed: where
        there is no engine.
        """
        engine = self._engines.get(deployment)
        loop = asyncio.get_running_loop()
        if engine is None:
            loop.call_soon(self._emit, closed)
            return

        def run() -> None:
            event = work(engine)
            # The loop may be gone when a worker is ended in mid-computation.
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._emit, event)

        self._threads.submit(deployment, run)

    def shut_down(self) -> None:
        for task in self._tasks:
            task.cancel()
        for name in self._threads.deployments():
            self.close(name)

    # --- parts --------------------------------------------------------------------------------

    def _tell(self, thread: ThreadPoolExecutor, event: Told) -> None:
        """Unless the model was closed meanwhile: another may be open under its name."""
        if self._threads.known(event.deployment) is thread:
            self._emit(event)

    def _refuse(self, thread: ThreadPoolExecutor, event: ev.ModelRefused) -> None:
        """It is tried again and again; only another reason is news to the log."""
        if self._refused.get(event.deployment) != event.reason:
            self._refused[event.deployment] = event.reason
            log.warning("%s is refused here: %s", event.deployment, event.reason)
        self._tell(thread, event)

    def _start(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def opened(deployment: Deployment, factory: EngineFactory) -> Engine:
    """The engine of its model as its kind asks for, with a graph that others can read.

    Raises what the factory does, and CheckpointError where a figure is out of its bounds.
    """
    generation = deployment.limits if deployment.kind == "generation" else None
    engine = factory.open(deployment.model, generation)
    wrong = first_out_of_range(engine.graph)
    if wrong is not None:
        raise CheckpointError(f"this model cannot be placed: {wrong}")
    return engine


async def _on_thread(thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(thread, _staying, work)


def _staying(work: Callable[[], T]) -> T:
    """What `work` returns. A user's code that asks for the end of the program, such as by
    `sys.exit`, raises RuntimeError instead: on the event loop it would end the node, and each node
    that opens the same model.
    """
    try:
        return work()
    except Exception:
        raise
    except BaseException as error:
        raise RuntimeError(f"it asked for the end of the program: {error!r}") from error


def _computed(
    engine: Engine, job: Compute, clock: Callable[[], float]
) -> ev.Computed | ev.ComputeFailed | ev.ComputeStale:
    started = clock()
    try:
        entering = all_decoded(job.tensors)
        entered = clock()
        tensors = engine.forward(
            job.units, job.rows, entering, sampling=job.sampling, batch_max=job.batch_max
        )
        left = clock()
        leaving = all_encoded(tensors, job.codec)
    except SessionStaleError as error:
        return ev.ComputeStale(job.job, error.have)
    except RequestError as error:
        return ev.ComputeFailed(job.job, Failure(error.code, str(error)))
    except WireError as error:
        return ev.ComputeFailed(job.job, Failure("invalid_input", str(error)))
    except BaseException as error:  # the model is a user's: whatever it raises fails one request
        if _is_out_of_memory(error):
            log.warning("%s: no memory is left for an input", job.deployment)
            return ev.ComputeFailed(job.job, _NO_MEMORY)
        log.warning("the model raised on one input: %s", _sentence(error))
        log.debug("what the model raised", exc_info=True)
        return ev.ComputeFailed(
            job.job, Failure("model_failed", one_sentence(f"the model raised {_sentence(error)}"))
        )
    codec_s = entered - started + clock() - left
    return ev.Computed(job.job, leaving, left - entered, codec_s)


def _moved(
    work: Callable[[Engine], ev.Event], engine: Engine, job: ExportState | ImportState
) -> ev.Event:
    """Whatever it raises, the session can be computed again."""
    try:
        return work(engine)
    except SessionStaleError as error:
        return ev.StateStale(job.job, error.have.get(job.session))
    except Exception:
        log.debug("a cache of %s is not copied", job.deployment, exc_info=True)
        return ev.StateStale(job.job)


def _is_out_of_memory(error: BaseException) -> bool:
    # torch's allocator raises a RuntimeError that only its words tell from others.
    return isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)


def _sentence(error: BaseException) -> str:
    if isinstance(error, DsiError):
        return str(error)
    return one_sentence(f"{type(error).__name__}: {error}")
