"""Between our records and MQTT 5 packets; pure functions over the codec's types.

The codec's enumerations are no `IntEnum`, whatever its stub says: they have no order and even
zero is true. Take `int()` of them.
"""

from __future__ import annotations

from typing import Final

import mqtt5

from dsi_mqtt.errors import TooLargeError
from dsi_mqtt.transport.base import BrokerLimits, ConnectOptions, Message, Will

REMAINING_LENGTH_MAX: Final = 268_435_455  # four bytes of seven bits, MQTT 5 section 1.5.5
RECEIVE_MAX: Final = 65_535
# Publishes in flight at a time: below the 65,535 packet ids there are, so that one is always free.
IN_FLIGHT_MAX: Final = 32_768
QOS: Final = (mqtt5.QoS.AT_MOST_ONCE, mqtt5.QoS.AT_LEAST_ONCE)

ReasonCode = (
    mqtt5.ConnAckReasonCode
    | mqtt5.PubAckReasonCode
    | mqtt5.SubAckReasonCode
    | mqtt5.UnsubAckReasonCode
    | mqtt5.DisconnectReasonCode
)


def connect_packet(options: ConnectOptions) -> bytes:
    password = options.password
    return mqtt5.ConnectPacket(
        options.client_id,
        username=options.username,
        password=None if password is None else password.encode(),
        clean_start=options.clean_start,
        will=None if options.will is None else _will(options.will),
        keep_alive=options.keep_alive_s,
        session_expiry_interval=options.session_expiry_s,
        receive_max=min(options.hold_count, RECEIVE_MAX),
    ).write()


def _will(will: Will) -> mqtt5.Will:
    return mqtt5.Will(will.topic, payload=will.payload, qos=QOS[will.qos], retain=will.retain)


def granted_limits(packet: mqtt5.ConnAckPacket) -> BrokerLimits:
    return BrokerLimits(
        max_packet_size=packet.max_packet_size,
        receive_max=packet.receive_max,
        server_keep_alive_s=packet.server_keep_alive,
        retain_available=packet.retain_available,
        max_qos=int(packet.max_qos),
    )


def publish_packet(message: Message, packet_id: int | None) -> bytes:
    return _publish(message, bytes(message.payload), packet_id)


def publish_header(message: Message, packet_id: int | None) -> bytes:
    """PUBLISH up to its payload, which is written behind it without passing through the codec."""
    empty = _publish(message, b"", packet_id)
    length_end = 2
    while empty[length_end - 1] & 0x80:
        length_end += 1
    rest = empty[length_end:]
    return empty[:1] + encoded_length(len(rest) + len(message.payload)) + rest


def _publish(message: Message, payload: bytes, packet_id: int | None) -> bytes:
    return mqtt5.PublishPacket(
        message.topic,
        payload,
        qos=QOS[message.qos],
        retain=message.retain,
        packet_id=packet_id,
        message_expiry_interval=message.expiry_s,
        content_type=message.content_type,
        response_topic=message.response_topic,
        correlation_data=message.correlation_data,
        user_properties=list(message.user_properties),
    ).write()


def packet_size(message: Message) -> int:
    """Bytes of the PUBLISH packet that carries `message`."""
    return len(publish_header(message, 1 if message.qos else None)) + len(message.payload)


def encoded_length(length: int) -> bytes:
    """A variable byte integer. Raises TooLargeError for what no MQTT packet can hold."""
    if length > REMAINING_LENGTH_MAX:
        raise TooLargeError(f"a message of {length} bytes exceeds MQTT's limit; send it in chunks")
    encoded = bytearray()
    while length >= 0x80:  # noqa: PLR2004 - seven bits a byte
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)


def received_message(
    packet: mqtt5.PublishPacket, receipt: int | None, pieces: tuple[int, float] = (0, 0.0)
) -> Message:
    # By position: names would cost a quarter more, on every message.
    return Message(
        packet.topic,
        packet.payload,
        int(packet.qos),
        packet.retain,
        packet.duplicate,
        packet.content_type,
        packet.response_topic,
        packet.correlation_data,
        packet.message_expiry_interval,
        tuple(packet.user_properties),
        receipt,
        pieces,
    )


def reason_text(code: ReasonCode) -> str:
    """A reason code in words, as MQTT 5 names it."""
    return code.name.replace("_", " ").lower()
