"""What the program that starts the brokers keeps retained on them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dsi_mqtt.cli.broker import site_brokers
from dsi_mqtt.cli.common import control_connection
from dsi_mqtt.transport.base import Message
from dsi_mqtt.wire.topics import Topics

pytestmark = pytest.mark.e2e

PATIENCE_S = 30.0


@pytest.mark.parametrize("rubbish", [b"", b"rubbish", b'{"data_port": 1}'])
async def test_where_tensors_go_is_written_again(rubbish: bytes, tmp_path: Path) -> None:
    topics = Topics("test/site")
    async with (
        site_brokers(tmp_path, 0, 0, root=topics.root) as brokers,
        control_connection(brokers.control.url) as connection,
        asyncio.timeout(PATIENCE_S),
    ):
        await connection.subscribe(topics.site.name(), qos=1)
        rewritten = False
        async for message in connection.messages():
            if bytes(message.payload) == rubbish:
                rewritten = True
            elif rewritten:
                assert topics.site.payload.decode(message.payload).data_port == brokers.data.port
                break
            else:  # as it was at first; it may come twice
                await connection.publish(Message(topics.site.name(), rubbish, qos=1, retain=True))
