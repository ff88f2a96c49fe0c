from __future__ import annotations

import mqtt5
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.errors import TooLargeError
from dsi_mqtt.transport.base import ConnectOptions, Message, Will
from dsi_mqtt.transport.mqtt_packets import (
    QOS,
    REMAINING_LENGTH_MAX,
    connect_packet,
    encoded_length,
    packet_size,
    publish_header,
    publish_packet,
    received_message,
)
from dsi_mqtt.transport.mqtt_stream import packet_length
from tests.thoroughness import examples

TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0+#"), min_size=1, max_size=20
)
MESSAGES = st.builds(
    Message,
    topic=TEXT,
    payload=st.binary(max_size=300) | st.just(bytes(20_000)),
    qos=st.sampled_from([0, 1]),
    retain=st.booleans(),
    content_type=st.none() | TEXT,
    response_topic=st.none() | TEXT,
    correlation_data=st.none() | st.binary(max_size=20),
    expiry_s=st.none() | st.integers(1, 2**32 - 1),
    user_properties=st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple),
)


def length_of(data: bytes) -> int:
    return packet_length(memoryview(b"before" + data + b"after"), 6, 6 + len(data))


@given(MESSAGES)
def test_header_and_payload_are_the_packet_of_the_codec(message: Message) -> None:
    packet_id = 9 if message.qos else None
    written = publish_header(message, packet_id) + message.payload

    whole = mqtt5.PublishPacket(
        message.topic,
        bytes(message.payload),
        qos=QOS[message.qos],
        retain=message.retain,
        packet_id=packet_id,
        message_expiry_interval=message.expiry_s,
        content_type=message.content_type,
        response_topic=message.response_topic,
        correlation_data=message.correlation_data,
        user_properties=list(message.user_properties),
    ).write()

    assert written == whole
    assert publish_packet(message, packet_id) == whole
    assert packet_size(message) == len(whole)
    assert length_of(whole) == len(whole)
    packet, _ = mqtt5.read(memoryview(whole))
    assert isinstance(packet, mqtt5.PublishPacket)
    assert received_message(packet, None) == message


@pytest.mark.parametrize("length", [0, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_lengths_at_the_borders_of_their_bytes(length: int) -> None:
    encoded = encoded_length(length)
    assert length_of(b"\x30" + encoded) == 1 + len(encoded) + length
    for cut in range(len(encoded)):
        assert length_of(b"\x30" + encoded[:cut]) == 0


def test_no_packet_is_longer_than_mqtt_allows() -> None:
    assert encoded_length(REMAINING_LENGTH_MAX) == b"\xff\xff\xff\x7f"
    with pytest.raises(TooLargeError, match="chunks"):
        encoded_length(REMAINING_LENGTH_MAX + 1)


@given(st.binary(max_size=8))
@settings(max_examples=examples(300))
def test_the_length_of_anything_is_a_number_or_refused(data: bytes) -> None:
    endless = len(data) >= 5 and all(byte & 0x80 for byte in data[1:5])
    if endless:
        with pytest.raises(ValueError, match="never ends"):
            length_of(data)
    else:
        assert 0 <= length_of(data) <= REMAINING_LENGTH_MAX + 5


def test_connect_says_what_the_options_say() -> None:
    options = ConnectOptions(
        client_id="c",
        clean_start=False,
        session_expiry_s=77,
        username="u",
        password="p",
        keep_alive_s=9,
        will=Will("w", b"x", qos=1, retain=True),
        hold_count=3,
    )
    written = connect_packet(options)
    packet, _ = mqtt5.read(memoryview(written))

    assert isinstance(packet, mqtt5.ConnectPacket)
    assert (packet.client_id, packet.clean_start) == ("c", False)
    assert (packet.session_expiry_interval, packet.keep_alive) == (77, 9)
    assert packet.receive_max == 3
    assert (packet.username, packet.password) == ("u", b"p")
    assert packet.will is not None
    assert (packet.will.topic, packet.will.payload) == ("w", b"x")
    assert (int(packet.will.qos), packet.will.retain) == (1, True)
