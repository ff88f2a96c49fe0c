"""Threads for what blocks: one for each deployment, so that none waits for another."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor


class Threads:
    """By deployment, begun when they are first asked for. what: they do, for their names."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._threads: dict[str, ThreadPoolExecutor] = {}

    def of(self, deployment: str) -> ThreadPoolExecutor:
        thread = self._threads.get(deployment)
        if thread is None:
            name = f"{self._what} {deployment}"
            thread = self._threads[deployment] = ThreadPoolExecutor(1, name)
        return thread

    def known(self, deployment: str) -> ThreadPoolExecutor | None:
        """The one that has begun."""
        return self._threads.get(deployment)

    def end(self, deployment: str) -> None:
        """It ends with what it does now; what waits for it is not done any more."""
        thread = self._threads.pop(deployment, None)
        if thread is not None:
            thread.shutdown(wait=False, cancel_futures=True)

    def deployments(self) -> list[str]:
        return list(self._threads)
