"""What the program that starts the brokers keeps retained on them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dsi_mqtt.cli.broker import site_brokers
from dsi_mqtt.cli.common import control_connection
from dsi_mqtt.errors import ConfigError, PortInUseError
from dsi_mqtt.transport.base import Message
from dsi_mqtt.wire.topics import ROOT, Topics

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


async def test_two_keep_no_state_in_one_folder(tmp_path: Path) -> None:
    """Whatever their ports: one would start again with the other's configuration."""
    async with site_brokers(tmp_path, 0, 0, root=ROOT) as first:
        before = (tmp_path / "control" / "mosquitto.conf").read_text()
        with pytest.raises(ConfigError, match="--state: brokers of another") as refused:
            async with site_brokers(tmp_path, 0, 0, root=ROOT):
                pass
        assert str(tmp_path) in str(refused.value)
        with pytest.raises(PortInUseError, match="a dsi-mqtt broker is at"):
            async with site_brokers(tmp_path, first.control.port, 0, root=ROOT):
                pass
        assert (tmp_path / "control" / "mosquitto.conf").read_text() == before
    async with site_brokers(tmp_path, 0, 0, root=ROOT):
        pass
