"""Durable MQTT sessions: how one is ended by others than who holds it."""

from __future__ import annotations

from dsi_mqtt.transport.base import ConnectOptions, Transport


async def end_session(transport: Transport, url: str, client_id: str) -> None:
    """With all that waits in it, and the connection of whoever holds it. Raises TransportError."""
    connection = await transport.data(url, ConnectOptions(client_id=client_id))
    await connection.close()  # it was clean at its start, so it ends here
