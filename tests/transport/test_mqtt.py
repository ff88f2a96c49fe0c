"""Connections to a broker that does what the test says."""

from __future__ import annotations

import asyncio
import errno
import re
from itertools import pairwise
from typing import TYPE_CHECKING

import mqtt5
import pytest

from dsi_mqtt.errors import BrokerRefusedError, BrokerUnreachableError, ConnectionLostError
from dsi_mqtt.transport.address import BrokerAddress
from dsi_mqtt.transport.base import Connection, ConnectOptions, Message
from dsi_mqtt.transport.mqtt_data import PACKET_ID_MAX, MqttDataConnection
from dsi_mqtt.transport.mqtt_stream import RECEIVE_BYTES
from dsi_mqtt.transport.refusals import unreachable

if TYPE_CHECKING:
    from tests.transport.conftest import Kind, Peer, Scripted


async def end_of(connection: Connection) -> str:
    with pytest.raises(ConnectionLostError) as lost:
        async for _ in connection.messages():
            pass
    return str(lost.value)


async def silent(peer: Peer) -> None:
    await peer.gone()


# -- opening -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "closed it; is it an MQTT 5 broker"),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", "MQTT 5"),
        (b"\x20\x02\x00\x01", "malformed|version"),  # an MQTT 3.1.1 CONNACK: wrong protocol version
        (mqtt5.PingRespPacket().write() + mqtt5.SubAckPacket(1, []).write(), "MQTT 5"),
        (
            mqtt5.ConnAckPacket(reason_code=mqtt5.ConnAckReasonCode.SERVER_BUSY).write(),
            "refuses the connection: server busy",
        ),
    ],
)
async def test_who_is_no_mqtt_5_broker_is_told_apart(
    scripted: Scripted, kind: Kind, answer: bytes, says: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.receive(mqtt5.ConnectPacket)
        peer.send(answer)

    async with scripted(script) as broker:
        with pytest.raises(BrokerRefusedError, match=says) as refused:
            await broker.connect(kind)
        assert str(broker.address) in str(refused.value)


async def test_who_does_not_answer_is_unreachable(scripted: Scripted, kind: Kind) -> None:
    async with scripted(silent) as broker:
        with pytest.raises(BrokerUnreachableError, match="timed out"):
            await broker.connect(kind, connect_timeout_s=0.05)


async def test_a_host_without_a_name_is_unreachable() -> None:
    with pytest.raises(BrokerUnreachableError, match=r"no\.such\.host\.invalid:1883"):
        await MqttDataConnection.open(BrokerAddress("no.such.host.invalid"), ConnectOptions())


async def test_a_cancelled_opening_leaves_no_socket(scripted: Scripted, kind: Kind) -> None:
    asked = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.receive(mqtt5.ConnectPacket)
        asked.set()
        await peer.gone()

    async with scripted(script) as broker:
        opening = asyncio.create_task(broker.connect(kind))
        await asked.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening


# -- what a broker may get wrong -----------------------------------------------------------------


TAKEN_OVER = mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"\x30\xff\xff\xff\xff\x01", "malformed packet|protocol error"),
        (b"\x30\x02\x00\x05", "malformed packet|protocol error|malformed utf"),
        (b"\x00\x00", "malformed packet|protocol error"),
        (mqtt5.ConnectPacket("c").write(), "unexpected ConnectPacket|protocol error"),
        (mqtt5.DisconnectPacket(reason_code=TAKEN_OVER).write(), "session taken over"),
    ],
)
async def test_what_a_broker_must_not_send_ends_the_connection(
    scripted: Scripted, kind: Kind, sent: bytes, says: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.admit()
        peer.send(sent)
        await peer.gone()

    async with scripted(script) as broker:
        connection = await broker.connect(kind)
        assert re.search(says, await end_of(connection))
        with pytest.raises(ConnectionLostError):
            await connection.publish(Message("a", b"", qos=1))


QOS_2 = mqtt5.QoS.EXACTLY_ONCE


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (mqtt5.ConnAckPacket().write(), "unexpected ConnAckPacket"),
        (mqtt5.PubAckPacket(77).write(), "unexpected PubAckPacket"),
        (mqtt5.PublishPacket("a", b"", qos=QOS_2, packet_id=1).write(), "QoS 2"),
    ],
)
async def test_what_nobody_asked_for_ends_a_data_connection(
    scripted: Scripted, sent: bytes, says: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.admit()
        await peer.receive(mqtt5.PublishPacket)
        peer.send(sent)
        await peer.gone()

    async with scripted(script) as broker:
        connection = await broker.data()
        with pytest.raises(ConnectionLostError, match=says):
            await connection.publish(Message("a", b"", qos=1))


async def test_an_answer_of_the_wrong_kind_ends_the_connection(scripted: Scripted) -> None:
    async def script(peer: Peer) -> None:
        await peer.admit()
        asked = await peer.receive(mqtt5.SubscribePacket)
        peer.send(mqtt5.PubAckPacket(asked.packet_id))
        await peer.gone()

    async with scripted(script) as broker:
        connection = await broker.data()
        with pytest.raises(ConnectionLostError, match="unexpected PubAckPacket"):
            await connection.subscribe("a")


async def test_packets_may_come_in_any_pieces(scripted: Scripted, kind: Kind) -> None:
    sizes = (0, 1, 120, 130, 20_000, RECEIVE_BYTES, 3 * RECEIVE_BYTES, 5)
    stream = b"".join(mqtt5.PublishPacket("a", bytes([n % 251]) * n).write() for n in sizes)

    async def script(peer: Peer) -> None:
        await peer.admit()
        cuts = [*range(400), *range(400, len(stream), 70_001), len(stream)]
        for start, stop in pairwise(cuts):
            peer.send(stream[start:stop])
            await peer.writer.drain()
            await asyncio.sleep(0)
        await peer.gone()

    async with scripted(script) as broker:
        connection = await broker.connect(kind)
        got = [await anext(connection.messages()) for _ in sizes]
        connection.abort()

    assert [message.payload for message in got] == [bytes([n % 251]) * n for n in sizes]


# -- answers -------------------------------------------------------------------------------------


async def test_a_refused_subscription_names_its_filter(scripted: Scripted, kind: Kind) -> None:
    async def script(peer: Peer) -> None:
        await peer.admit()
        for code in (
            mqtt5.SubAckReasonCode.NOT_AUTHORIZED,
            mqtt5.SubAckReasonCode.GRANTED_QOS_AT_MOST_ONCE,
        ):
            asked = await peer.receive(mqtt5.SubscribePacket)
            assert asked.topic_filters[0].retain_as_published
            peer.send(mqtt5.SubAckPacket(asked.packet_id, [code]))
        await peer.gone()

    async with scripted(script) as broker:
        connection = await broker.connect(kind)
        with pytest.raises(BrokerRefusedError, match="subscribe to 'a/#': not authorized"):
            await connection.subscribe("a/#", qos=1)
        with pytest.raises(BrokerRefusedError, match="grants 'a/#' at QoS 0 only"):
            await connection.subscribe("a/#", qos=1)


async def test_a_refused_unsubscription_names_its_filter(scripted: Scripted) -> None:
    async def script(peer: Peer) -> None:
        await peer.admit()
        left = await peer.receive(mqtt5.UnsubscribePacket)
        code = mqtt5.UnsubAckReasonCode.NOT_AUTHORIZED
        peer.send(mqtt5.UnsubAckPacket(left.packet_id, [code]))
        await peer.gone()

    async with scripted(script) as broker:
        connection = await broker.data()
        with pytest.raises(BrokerRefusedError, match="unsubscribe from 'a/#': not authorized"):
            await connection.unsubscribe("a/#")


async def test_a_refused_message_names_its_topic(scripted: Scripted, kind: Kind) -> None:
    async def script(peer: Peer) -> None:
        await peer.admit()
        asked = await peer.receive(mqtt5.PublishPacket)
        assert asked.packet_id is not None
        code = mqtt5.PubAckReasonCode.NOT_AUTHORIZED
        peer.send(mqtt5.PubAckPacket(asked.packet_id, reason_code=code))
        await peer.gone()

    async with scripted(script) as broker:
        connection = await broker.connect(kind)
        with pytest.raises(BrokerRefusedError, match="a message to a/b: not authorized"):
            await connection.publish(Message("a/b", b"", qos=1))


async def test_what_a_broker_does_not_offer_is_not_asked_of_it(
    scripted: Scripted, kind: Kind
) -> None:
    async def script(peer: Peer) -> None:
        await peer.admit(max_qos=mqtt5.QoS.AT_MOST_ONCE, retain_available=False)
        await peer.gone()

    async with scripted(script) as broker:
        connection = await broker.connect(kind)
        with pytest.raises(BrokerRefusedError, match="no QoS 1"):
            await connection.publish(Message("a", b"", qos=1))
        with pytest.raises(BrokerRefusedError, match="retains no messages"):
            await connection.publish(Message("a", b"", retain=True))


async def test_the_brokers_receive_maximum_holds_even_after_cancellations(
    scripted: Scripted, kind: Kind
) -> None:
    """Three may be in flight; a publish that nobody waits for any more still is."""

    async def script(peer: Peer) -> None:
        await peer.admit(receive_max=3)
        in_flight = [await peer.receive(mqtt5.PublishPacket) for _ in range(3)]
        for acknowledged in (2, *[1] * 7):
            fence = await peer.receive(mqtt5.PublishPacket)
            assert fence.packet_id is None, "more in flight than the broker takes"
            for _ in range(acknowledged):
                peer.send(mqtt5.PubAckPacket(in_flight.pop(0).packet_id or 0))
                in_flight.append(await peer.receive(mqtt5.PublishPacket))
        peer.send(*(mqtt5.PubAckPacket(one.packet_id or 0) for one in in_flight))
        await peer.gone()

    async with scripted(script) as broker:
        connection = await broker.connect(kind)
        publishing = [
            asyncio.create_task(connection.publish(Message("a", b"", qos=1))) for _ in range(14)
        ]
        await asyncio.sleep(0)
        publishing[0].cancel()  # in flight
        publishing[12].cancel()  # waiting for its turn, as the last
        publishing[13].cancel()
        for waiting in publishing[1:9]:
            await connection.publish(Message("fence", b""))
            await waiting
        answers = await asyncio.gather(*publishing[9:12])

    assert answers == [True, True, True]


async def test_who_waits_for_a_place_in_flight_is_told_of_the_end(
    scripted: Scripted, kind: Kind
) -> None:
    async def script(peer: Peer) -> None:
        await peer.admit(receive_max=1)
        await peer.receive(mqtt5.PublishPacket)

    async with scripted(script) as broker:
        connection = await broker.connect(kind)
        publishing = [connection.publish(Message("a", b"", qos=1)) for _ in range(5)]
        ends = await asyncio.gather(*publishing, return_exceptions=True)

    assert [type(end) for end in ends] == [ConnectionLostError] * 5


async def test_a_socket_that_closes_before_it_is_written_to_is_left_alone(
    scripted: Scripted,
) -> None:
    async def script(peer: Peer) -> None:
        await peer.admit()
        await peer.gone()

    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
    async with scripted(script) as broker:
        connection = await broker.connect("control")
        publishing = asyncio.create_task(connection.publish(Message("a", b"b", qos=1)))
        asyncio.get_running_loop().call_soon(connection.abort)
        with pytest.raises(ConnectionLostError):
            await publishing
        for _ in range(3):
            await asyncio.sleep(0)
    assert complaints == []


async def test_packet_ids_in_use_are_passed_over(scripted: Scripted) -> None:
    seen: list[int | None] = []

    async def script(peer: Peer) -> None:
        await peer.admit()
        kept = await peer.receive(mqtt5.PublishPacket)
        for _ in range(6):
            one = await peer.receive(mqtt5.PublishPacket)
            seen.append(one.packet_id)
            peer.send(mqtt5.PubAckPacket(one.packet_id or 0))
        seen.append(kept.packet_id)
        peer.send(mqtt5.PubAckPacket(kept.packet_id or 0))
        await peer.gone()

    async with scripted(script) as broker:
        connection = await broker.data()
        first = asyncio.create_task(connection.publish(Message("a", b"", qos=1)))
        await asyncio.sleep(0)
        connection._packet_id = PACKET_ID_MAX - 3  # as if so many had been used
        for _ in range(6):
            await connection.publish(Message("a", b"", qos=1))
        assert await first
    assert seen == [*range(PACKET_ID_MAX - 2, PACKET_ID_MAX + 1), 2, 3, 4, 1]


def test_a_process_out_of_files_does_not_blame_the_broker() -> None:
    told = unreachable("h:1883", OSError(errno.EMFILE, "Too many open files"))
    assert str(told).startswith("this process may open no connection to h:1883")
    assert "ulimit -n" in str(told)
