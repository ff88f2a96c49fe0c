"""What waits for a thread that the machine does not give yet is done later, in its order."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dsi_mqtt.worker import threads
from dsi_mqtt.worker.threads import Threads
from tests.core.build import NAME

PATIENCE_S = 20.0


class Scarce:
    """No thread can be started until `given` of them were asked for in vain."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, in_vain: int) -> None:
        self.left = in_vain
        start = threading.Thread.start

        def scarce(thread: threading.Thread) -> None:
            if thread.name.startswith("text") and self.left:
                self.left -= 1
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", scarce)
        monkeypatch.setattr(threads, "AGAIN_S", 0.01)


async def done(pool: Threads, many: int) -> list[int]:
    """What is submitted, as it is done."""
    loop, told = asyncio.get_running_loop(), asyncio.Queue[int]()
    for number in range(many):
        pool.submit(NAME, lambda number=number: loop.call_soon_threadsafe(told.put_nowait, number))  # type: ignore[misc]
    return [await asyncio.wait_for(told.get(), PATIENCE_S) for _ in range(many)]


@pytest.mark.parametrize("in_vain", [0, 1, 3, 7])
async def test_what_is_submitted_is_done_in_its_order(
    monkeypatch: pytest.MonkeyPatch, in_vain: int
) -> None:
    scarce = Scarce(monkeypatch, in_vain)
    pool = Threads("text")
    assert await done(pool, 4) == [0, 1, 2, 3]
    assert scarce.left == 0
    pool.end(NAME)


async def test_the_last_one_does_not_wait_for_another_to_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Scarce(monkeypatch, 1)
    pool = Threads("text")
    assert await done(pool, 1) == [0]
    pool.end(NAME)


async def test_where_nothing_is_taken_that_was_refused_the_same_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether a pool keeps what it could start no thread for is its own matter."""
    submit, left = ThreadPoolExecutor.submit, [2]

    def refusing(self: ThreadPoolExecutor, *given: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise MemoryError
        return submit(self, *given)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refusing)
    monkeypatch.setattr(threads, "AGAIN_S", 0.01)
    pool = Threads("text")
    assert await done(pool, 3) == [0, 1, 2]
    pool.end(NAME)


async def test_what_waits_when_it_ends_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    Scarce(monkeypatch, 1)
    pool = Threads("text")
    pool.submit(NAME, lambda: pytest.fail("it has ended"))
    pool.end(NAME)
    assert await done(pool, 1) == [0]
    pool.end(NAME)
