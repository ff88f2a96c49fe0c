"""What the leader publishes: in order, and explanations behind everything else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from dsi_mqtt.errors import ConnectionLostError, TooLargeError
from dsi_mqtt.orchestrator.outgoing import Outgoing
from dsi_mqtt.transport.base import ControlConnection, Message


class Slow:
    """A connection whose broker takes a message when the test says so."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._taken: dict[str, asyncio.Event] = {}
        self._changed = asyncio.Condition()

    async def publish(self, message: Message) -> bool:
        async with self._changed:
            self.begun.append(message.topic)
            self._changed.notify_all()
        if message.topic == "large":
            raise TooLargeError("large is too large")
        if message.topic == "lost":
            raise ConnectionLostError("it is gone")
        await self._event(message.topic).wait()
        return True

    def take(self, topic: str) -> None:
        self._event(topic).set()

    def _event(self, topic: str) -> asyncio.Event:
        return self._taken.setdefault(topic, asyncio.Event())

    async def begins(self, *topics: str) -> None:
        async with asyncio.timeout(30), self._changed:
            await self._changed.wait_for(lambda: self.begun == list(topics))


@asynccontextmanager
async def sending(outgoing: Outgoing, slow: Slow) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(outgoing.send_all(cast("ControlConnection", slow)))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def outgoing() -> tuple[Outgoing, list[int]]:
    counted: list[int] = []
    return Outgoing(counted.append), counted


async def test_tables_go_in_order_and_explanations_behind_them() -> None:
    out, counted = outgoing()
    slow = Slow()
    out.put_behind(Message("why", b"12345"))
    for topic in ("table-1", "table-2"):
        out.put(Message(topic, b"1"))
    async with sending(out, slow):
        await slow.begins("table-1")
        slow.take("table-1")
        await slow.begins("table-1", "table-2")
        slow.take("table-2")
        await slow.begins("table-1", "table-2", "why")
        assert counted == [8, 8]
        slow.take("why")
        out.put(Message("table-3", b""))
        await slow.begins("table-1", "table-2", "why", "table-3")
        assert counted == [8, 8, 8]


async def test_no_table_waits_until_an_explanation_is_taken() -> None:
    out, _ = outgoing()
    slow = Slow()
    async with sending(out, slow):
        out.put_behind(Message("why"))
        await slow.begins("why")
        out.put(Message("table"))
        await slow.begins("why", "table")


async def test_an_explanation_waits_until_a_table_is_taken() -> None:
    out, _ = outgoing()
    slow = Slow()
    async with sending(out, slow):
        out.put(Message("table"))
        await slow.begins("table")
        out.put_behind(Message("why"))
        for _ in range(10):
            await asyncio.sleep(0)
        assert slow.begun == ["table"]
        slow.take("table")
        await slow.begins("table", "why")


async def test_of_each_topic_only_the_newest_explanation_goes() -> None:
    out, counted = outgoing()
    slow = Slow()
    slow.take("why")
    slow.take("table")
    out.put(Message("table"))
    out.put_behind(Message("why", b"old"))
    out.put_behind(Message("why", b"newest"))
    async with sending(out, slow):
        await slow.begins("table", "why")
        out.put(Message("end"))
        await slow.begins("table", "why", "end")
        assert counted == [5, 3 + 6]


async def test_what_is_cleared_is_not_explained_afterwards() -> None:
    out, _ = outgoing()
    slow = Slow()
    slow.take("why")
    out.put(Message("table"))
    out.put_behind(Message("why", b"of a deployment"))
    out.put(Message("why", b""))
    async with sending(out, slow):
        await slow.begins("table")
        slow.take("table")
        await slow.begins("table", "why")
        out.put(Message("end"))
        await slow.begins("table", "why", "end")


async def test_what_is_too_large_holds_up_nothing(caplog: pytest.LogCaptureFixture) -> None:
    out, counted = outgoing()
    slow = Slow()
    async with sending(out, slow):
        out.put(Message("large"))
        out.put(Message("table"))
        await slow.begins("large", "table")
    assert counted == []
    assert "large is not published: large is too large" in caplog.text


async def test_a_lost_connection_ends_it() -> None:
    out, _ = outgoing()
    async with sending(out, Slow()) as task:
        out.put_behind(Message("lost"))
        with pytest.raises(ConnectionLostError):
            await task
