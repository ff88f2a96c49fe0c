"""What the leader publishes, in order; and behind it, what nobody waits for.

Tables, deployments and beats go one after the other. Explanations go by themselves, of each topic
only the newest, and only while nothing else is there to go: no table waits until the broker has
taken an explanation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from dsi_mqtt.errors import TooLargeError
from dsi_mqtt.transport.base import ControlConnection, Message
from dsi_mqtt.transport.together import first_of

log = logging.getLogger(__name__)


class Outgoing:
    """Of one lead. published: called with the bytes of each topic and payload, once it is taken."""

    def __init__(self, published: Callable[[int], None]) -> None:
        self._published = published
        self._first: asyncio.Queue[Message] = asyncio.Queue()
        self._behind: dict[str, Message] = {}
        self._may_follow = asyncio.Event()
        self._sending = False

    def put(self, message: Message) -> None:
        self._first.put_nowait(message)
        self._behind.pop(message.topic, None)
        self._may_follow.clear()

    def put_behind(self, message: Message) -> None:
        self._behind[message.topic] = message
        self._look()

    async def send_all(self, connection: ControlConnection) -> None:
        """For ever. Raises what ends the connection."""
        await first_of(self._send_first(connection), self._send_behind(connection))

    async def _send_first(self, connection: ControlConnection) -> None:
        while True:
            message = await self._first.get()
            self._sending = True
            await self._send(connection, message)
            self._sending = False
            self._look()

    async def _send_behind(self, connection: ControlConnection) -> None:
        while True:
            await self._may_follow.wait()
            if not self._may_follow.is_set():
                continue  # something has come meanwhile that goes first
            message = self._behind.pop(next(iter(self._behind)))
            self._look()
            await self._send(connection, message)
            self._look()

    def _look(self) -> None:
        """Whether something behind may go now."""
        if self._behind and self._first.empty() and not self._sending:
            self._may_follow.set()
        else:
            self._may_follow.clear()

    async def _send(self, connection: ControlConnection, message: Message) -> None:
        try:
            await connection.publish(message)
        except TooLargeError as error:
            log.error("%s is not published: %s", message.topic, error)  # noqa: TRY400 — a sentence
        else:
            self._published(len(message.topic.encode()) + len(message.payload))
