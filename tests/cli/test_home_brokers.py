"""Where a node's tensors go, when what says so is there, late, or missing."""

from __future__ import annotations

import asyncio

import pytest

from dsi_mqtt.cli.common import site_message
from dsi_mqtt.transport.base import ConnectOptions, Message
from dsi_mqtt.transport.memory import MemoryTransport
from dsi_mqtt.transport.memory_broker import MemoryBroker
from dsi_mqtt.wire.topics import Topics

pytestmark = pytest.mark.asyncio

URL = "mem://site"
TOPICS = Topics("test/home")
PATIENCE_S = 30.0
TURNS = 50
SITE = Message(TOPICS.site.name(), b'{"data_port": 1884}', qos=1, retain=True)
CLEARED = Message(TOPICS.site.name(), b"", qos=1, retain=True)


async def test_what_is_retained_is_taken() -> None:
    transport = MemoryTransport(MemoryBroker("site"))
    connection = await transport.control(URL, ConnectOptions())
    await connection.publish(SITE)
    message = await site_message(connection, TOPICS, 0.0)
    assert message is not None
    assert message.payload == SITE.payload


async def test_what_was_cleared_is_waited_for_until_it_is_written_again() -> None:
    transport = MemoryTransport(MemoryBroker("site"))
    connection = await transport.control(URL, ConnectOptions())
    writer = await transport.control(URL, ConnectOptions())
    await writer.publish(SITE)
    await writer.publish(CLEARED)
    asked = asyncio.create_task(site_message(connection, TOPICS, PATIENCE_S))
    for _ in range(TURNS):  # by then it has found nothing, and waits
        await asyncio.sleep(0)
    assert not asked.done()
    await writer.publish(CLEARED)
    await writer.publish(SITE)
    message = await asked
    assert message is not None
    assert message.payload == SITE.payload


async def test_one_broker_for_all_is_told_by_silence() -> None:
    transport = MemoryTransport(MemoryBroker("site"))
    connection = await transport.control(URL, ConnectOptions())
    assert await site_message(connection, TOPICS, 0.0) is None
    assert await site_message(connection, TOPICS, 0.01) is None
