"""Reading what is retained now, and knowing when all of it has come."""

from __future__ import annotations

from collections.abc import Sequence

from dsi_mqtt.transport.base import Connection, Message


async def read_retained(
    connection: Connection, filters: Sequence[str], marker: str
) -> list[Message]:
    """All retained messages that match `filters`, each topic once.

    marker: a topic of the caller's alone. A message to it is published behind the subscriptions;
    as a broker keeps the order for one client, everything retained has come when it comes back.
    Raises ConnectionLostError.
    """
    for topic_filter in [marker, *filters]:
        # At QoS 0: what nobody acknowledges would fill a data connection to its bound.
        await connection.subscribe(topic_filter, qos=0)
    await connection.publish(Message(marker, b"all retained messages came before", qos=1))
    found: dict[str, Message] = {}
    async for message in connection.messages():
        if message.topic == marker:
            break
        if message.payload:
            found[message.topic] = message
        else:
            found.pop(message.topic, None)
    for topic_filter in [marker, *filters]:
        await connection.unsubscribe(topic_filter)
    return list(found.values())
