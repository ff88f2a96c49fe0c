"""Threads for what blocks: one for each deployment, so that none waits for another.

A machine that is short of memory, or of threads, may not give one just then. What is to be done
waits, in its order, until it does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

log = logging.getLogger(__name__)

AGAIN_S: Final = 0.25

Work = Callable[[], object]


class Threads:
    """By deployment, begun when they are first asked for. what: they do, for their names."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self._waiting: dict[str, deque[Work]] = {}

    def of(self, deployment: str) -> ThreadPoolExecutor:
        thread = self._threads.get(deployment)
        if thread is None:
            name = f"{self._what} {deployment}"
            thread = self._threads[deployment] = ThreadPoolExecutor(1, name)
            self._waiting[deployment] = deque()
        return thread

    def known(self, deployment: str) -> ThreadPoolExecutor | None:
        """The one that has begun."""
        return self._threads.get(deployment)

    def submit(self, deployment: str, work: Work) -> None:
        """Has it done there, behind what was submitted before; on a running event loop."""
        thread = self.of(deployment)
        self._waiting[deployment].append(work)
        self._begin_next(deployment, thread)

    def end(self, deployment: str) -> None:
        """It ends with what it does now; what waits for it is not done any more."""
        thread = self._threads.pop(deployment, None)
        if thread is not None:
            self._waiting.pop(deployment).clear()
            thread.shutdown(wait=False, cancel_futures=True)

    def deployments(self) -> list[str]:
        return list(self._threads)

    def _begin_next(self, deployment: str, thread: ThreadPoolExecutor) -> None:
        if self._threads.get(deployment) is not thread:
            return
        try:
            thread.submit(_do_next, self._waiting[deployment])
        except (RuntimeError, MemoryError) as error:
            log.warning(
                "%s: no thread can be started (%s); tried again until one can", deployment, error
            )
            loop = asyncio.get_running_loop()
            loop.call_later(AGAIN_S, self._begin_next, deployment, thread)


def _do_next(waiting: deque[Work]) -> None:
    """None is left where a thread began after all, although it was said that it could not."""
    if waiting:
        waiting.popleft()()
