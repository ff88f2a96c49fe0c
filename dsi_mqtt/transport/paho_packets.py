"""Between our records and what paho-mqtt calls them."""

from __future__ import annotations

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from dsi_mqtt.transport.base import BrokerLimits, Message


def connect_properties(session_expiry_s: int) -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
    properties.SessionExpiryInterval = session_expiry_s
    return properties


def publish_properties(message: Message) -> Properties:
    """Only what is set: paho sends an empty property too."""
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # the same
    if message.content_type is not None:
        properties.ContentType = message.content_type
    if message.response_topic is not None:
        properties.ResponseTopic = message.response_topic
    if message.correlation_data is not None:
        properties.CorrelationData = message.correlation_data
    if message.expiry_s is not None:
        properties.MessageExpiryInterval = message.expiry_s
    for pair in message.user_properties:
        properties.UserProperty = pair  # paho appends
    return properties


def received_message(message: paho.MQTTMessage) -> Message:
    # paho sets a property as an attribute, and only when the packet had it.
    found = vars(message.properties) if message.properties is not None else {}
    return Message(
        topic=message.topic,
        payload=bytes(message.payload),
        qos=message.qos,
        retain=message.retain,
        duplicate=message.dup,
        content_type=found.get("ContentType"),
        response_topic=found.get("ResponseTopic"),
        correlation_data=found.get("CorrelationData"),
        expiry_s=found.get("MessageExpiryInterval"),
        user_properties=tuple(found.get("UserProperty", ())),
    )


def granted_limits(properties: Properties | None) -> BrokerLimits:
    found = vars(properties) if properties is not None else {}
    unnamed = BrokerLimits()
    return BrokerLimits(
        max_packet_size=found.get("MaximumPacketSize"),
        receive_max=found.get("ReceiveMaximum", unnamed.receive_max),
        server_keep_alive_s=found.get("ServerKeepAlive"),
        retain_available=bool(found.get("RetainAvailable", 1)),
        max_qos=found.get("MaximumQoS", unnamed.max_qos),
    )
