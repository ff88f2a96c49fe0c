"""Keep-alive and backpressure, with a broker that does what the test says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import mqtt5
import pytest

from dsi_mqtt.errors import ConnectionLostError
from dsi_mqtt.transport.base import Connection, Message
from dsi_mqtt.transport.mqtt_data import MqttDataConnection
from dsi_mqtt.transport.mqtt_stream import RECEIVE_BYTES

if TYPE_CHECKING:
    from tests.transport.conftest import Peer, Scripted


async def end_of(connection: Connection) -> str:
    with pytest.raises(ConnectionLostError) as lost:
        async for _ in connection.messages():
            pass
    return str(lost.value)


# -- keep-alive ----------------------------------------------------------------------------------


async def test_the_brokers_keep_alive_overrules_ours(scripted: Scripted) -> None:
    pinged = asyncio.Event()

    async def script(peer: Peer) -> None:
        connect = await peer.admit(server_keep_alive=1)
        assert connect.keep_alive == 3600
        await peer.receive(mqtt5.PingReqPacket)
        pinged.set()
        await peer.gone()

    async with scripted(script) as broker:
        await broker.data(keep_alive_s=3600)
        await pinged.wait()


async def test_a_broker_that_answers_no_ping_is_lost(scripted: Scripted) -> None:
    async def script(peer: Peer) -> None:
        await peer.admit()
        await peer.gone()

    async with scripted(script) as broker:
        connection = await broker.data(keep_alive_s=0)
        connection._stream.keep_alive(0.02)
        assert "has not answered for 0.02 s" in await end_of(connection)


async def test_a_control_connection_whose_broker_answers_no_ping_is_lost(
    scripted: Scripted,
) -> None:
    """Within twice its keep-alive; paho looks once a second."""

    async def script(peer: Peer) -> None:
        await peer.admit()
        await peer.gone()

    async with scripted(script) as broker:
        assert await end_of(await broker.connect("control", keep_alive_s=1))


async def test_pings_go_on_while_nothing_more_is_read(scripted: Scripted) -> None:
    """The bound is reached and the receive buffer full."""
    pinged = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.admit()
        payload = bytes(RECEIVE_BYTES // 2)
        for packet_id in range(1, 9):
            peer.send(
                mqtt5.PublishPacket("a", payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=packet_id)
            )
        for _ in range(4):  # twice as long as silence is borne
            await peer.receive(mqtt5.PingReqPacket)
        pinged.set()
        for packet_id in range(1, 9):
            assert (await peer.receive(mqtt5.PubAckPacket)).packet_id == packet_id
        await peer.gone()

    async with scripted(script) as broker:
        connection = await broker.data(keep_alive_s=0, hold_count=1)
        connection._stream.keep_alive(0.02)
        await pinged.wait()
        for _ in range(8):
            connection.acknowledge(await anext(connection.messages()))


# -- writing -------------------------------------------------------------------------------------


async def blocked(connection: MqttDataConnection, message: Message) -> asyncio.Task[bool]:
    """A publish that waits, for sockets and buffers are full."""
    while True:
        publishing = asyncio.create_task(connection.publish(message))
        await asyncio.sleep(0)
        if not publishing.done():
            return publishing


async def test_publish_waits_for_a_broker_that_does_not_read(scripted: Scripted) -> None:
    may_read = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.admit()
        await may_read.wait()
        await peer.gone()

    async with scripted(script) as broker:
        connection = await broker.data()
        payload = bytes(1024 * 1024)
        publishing = await blocked(connection, Message("a", payload))
        draining = asyncio.create_task(connection.drained())
        for _ in range(100):
            await asyncio.sleep(0)
        assert not publishing.done()
        assert not draining.done()

        may_read.set()
        assert await publishing
        await draining


async def test_who_waits_to_write_is_told_of_the_end(scripted: Scripted) -> None:
    ending = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.admit()
        await ending.wait()
        peer.writer.transport.abort()

    async with scripted(script) as broker:
        connection = await broker.data()
        for _ in range(64):
            connection.publish_soon(Message("a", bytes(1024 * 1024)))
        publishing = asyncio.create_task(connection.publish(Message("a", b"")))
        draining = asyncio.create_task(connection.drained())
        await asyncio.sleep(0)
        ending.set()
        for waiting in (publishing, draining):
            with pytest.raises(ConnectionLostError):
                await waiting


async def test_close_does_not_wait_for_a_broker_that_does_not_read(
    scripted: Scripted,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dsi_mqtt.transport.mqtt_data.CLOSE_TIMEOUT_S", 0.05)
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.admit()
        await closed.wait()

    async with scripted(script) as broker:
        connection = await broker.data()
        for _ in range(64):
            connection.publish_soon(Message("a", bytes(1024 * 1024)))
        await connection.close()
        closed.set()


async def test_close_sends_what_was_published_and_then_says_goodbye(scripted: Scripted) -> None:
    async def script(peer: Peer) -> None:
        await peer.admit()
        for _ in range(8):
            assert len((await peer.receive(mqtt5.PublishPacket)).payload) == 1024 * 1024
        left = await peer.receive(mqtt5.DisconnectPacket)
        assert left.reason_code == mqtt5.DisconnectReasonCode.NORMAL_DISCONNECTION
        await peer.gone()

    async with scripted(script) as broker:
        connection = await broker.data()
        for _ in range(8):
            connection.publish_soon(Message("a", bytes(1024 * 1024)))
        await connection.close()


async def test_a_message_that_comes_in_pieces_says_how_long_they_took(scripted: Scripted) -> None:
    packet, rest = mqtt5.PublishPacket("a", b"x" * 50_000).write(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.admit()
        peer.send(packet[:10_000])
        await rest.wait()
        peer.send(packet[10_000:], mqtt5.PublishPacket("a", b"y").write())
        await peer.gone()

    async with scripted(script) as broker:
        connection = await broker.data()
        stream = connection._stream
        async with asyncio.timeout(60):
            while stream._end - stream._start < 10_000:  # noqa: ASYNC110 - nobody is told of a piece
                await asyncio.sleep(0.01)
        nbytes, seconds = stream.arriving
        assert nbytes < len(packet)
        assert seconds > 0
        rest.set()
        first, second = [await anext(connection.messages()) for _ in range(2)]
        connection.abort()
    nbytes, seconds = first.pieces
    assert 0 < nbytes < len(packet)
    assert seconds > 0
    assert second.pieces == (0, 0.0)
    assert stream.arriving == (0, 0.0)
