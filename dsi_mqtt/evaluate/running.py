"""All seeds of all scenarios, on as many processes as this one may use."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing.connection import wait

from dsi_mqtt.evaluate.playing import Played, Traces, play
from dsi_mqtt.evaluate.policies import Name
from dsi_mqtt.sim.traces import Trace

Results = dict[str, list[dict[Name, Played]]]
Job = tuple[str, int]

# Of a process of the pool.
_shared: dict[str, Trace] = {}


def play_all(
    names: Sequence[str],
    seeds: Sequence[int],
    traces: Traces,
    *,
    processes: int | None = None,
    said: Callable[[str, int], object] = lambda _name, _seed: None,
) -> Results:
    """By scenario, one result for each seed, in order. said: hears of each that is done."""
    jobs = [(name, seed) for seed in seeds for name in names]
    count = min(processes or cores(), len(jobs))
    found: dict[Job, dict[Name, Played]] = {}
    if count <= 1:
        for job in jobs:
            found[job] = play(*job, traces)
            said(*job)
    else:
        with _pool(count, traces) as pool:
            waited: dict[Future[dict[Name, Played]], Job] = {
                pool.submit(_play, *job): job for job in jobs
            }
            for done in as_completed(waited):
                found[waited[done]] = done.result()
                said(*waited[done])
    return {name: [found[name, seed] for seed in seeds] for name in names}


def cores() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _pool(count: int, traces: Traces) -> Iterator[ProcessPoolExecutor]:
    """Ends its processes at once when it is left by an error or an interrupt."""
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begin, (dict(traces),))
    try:
        yield pool
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()


def _begin(traces: Traces) -> None:
    """The terminal's interrupt is for the process that waits for us; we end when it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _shared.update(traces)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _play(name: str, seed: int) -> dict[Name, Played]:
    return play(name, seed, _shared)
