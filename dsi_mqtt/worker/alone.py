"""A node's name is its own: who bears it already is heard before the first word, or behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NoReturn

from dsi_mqtt.errors import ConfigError
from dsi_mqtt.transport.base import ControlConnection, Message
from dsi_mqtt.wire.topics import Topics

# Two intervals of telemetry: long enough to hear another node of the same name.
LISTEN_S: Final = 1.1


class Alone:
    """The shell of `core/namesake.py`, which settles it between two that begin at once.

    report: has this node's status written again.
    """

    def __init__(
        self, node: str, incarnation: str, topics: Topics, report: Callable[[], None]
    ) -> None:
        self._node = node
        self._incarnation = incarnation
        self._telemetry = topics.telemetry
        self._topic = topics.telemetry.name(node=node)
        self._report = report
        self._listened = False
        self._goes = False
        self._doubted = asyncio.Event()
        self._sure = asyncio.Event()
        self._sure.set()
        self._other_lives = asyncio.Event()

    def give_way(self) -> None:
        """Another node of this name stays, if there is one: anybody may have written its status."""
        self._sure.clear()
        self._doubted.set()

    async def may_speak(self) -> None:
        """Returns while nobody else is thought to bear this name."""
        await self._sure.wait()

    def heard(self, message: Message) -> bool:
        """Whether this is telemetry under this name. Raises WireError where it is none."""
        if message.topic != self._topic:
            return False
        said = self._telemetry.payload.decode(message.payload)
        if said.incarnation != self._incarnation:
            self._other_lives.set()
        return True

    async def check(self, connection: ControlConnection) -> None:
        """Two nodes of one name would take turns in one status: the later one does not begin.

        Raises ConfigError. Retained words of an earlier life prove nothing; telemetry does.
        """
        if self._goes:
            await self._end(connection)
        if self._listened:
            return
        await connection.subscribe(self._topic)
        try:
            async with asyncio.timeout(LISTEN_S):
                async for _ in connection.messages():
                    await self._end(connection)
        except TimeoutError:
            await connection.unsubscribe(self._topic)
        self._listened = True

    async def watch(self, connection: ControlConnection) -> NoReturn:
        """Raises ConfigError when this node is the one to go, for the other is heard."""
        while True:
            await self._doubted.wait()
            self._other_lives.clear()
            await connection.subscribe(self._topic)
            try:
                async with asyncio.timeout(LISTEN_S):
                    await self._other_lives.wait()
            except TimeoutError:
                await connection.unsubscribe(self._topic)
            else:
                await self._end(connection)
            self._doubted.clear()
            self._sure.set()
            self._report()

    async def _end(self, connection: ControlConnection) -> NoReturn:
        self._goes = True  # who reads from it may be told first that it has ended, and come back
        await connection.close()  # without a will or farewell: it would speak for the other
        raise ConfigError(f"--name: a node {self._node!r} is online already; give this one another")
