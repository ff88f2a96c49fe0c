"""A node's name is its own: who bears it already is heard before the first word, or behind it."""

from __future__ import annotations

import asyncio
from typing import Final, NoReturn

from dsi_mqtt.errors import ConfigError
from dsi_mqtt.transport.base import ControlConnection
from dsi_mqtt.wire.topics import Topics

# Two intervals of telemetry: long enough to hear another node of the same name.
LISTEN_S: Final = 1.1


class Alone:
    """The shell of `core/namesake.py`, which settles it between two that begin at once."""

    def __init__(self, node: str, topics: Topics) -> None:
        self._node = node
        self._telemetry = topics.telemetry.name(node=node)
        self._listened = False
        self._ends = asyncio.Event()

    def give_way(self) -> None:
        """Another node of this name stays."""
        self._ends.set()

    async def check(self, connection: ControlConnection) -> None:
        """Two nodes of one name would take turns in one status: the later one does not begin.

        Raises ConfigError. Retained words of an earlier life prove nothing; telemetry does.
        """
        if self._ends.is_set():
            await self._end(connection)
        if self._listened:
            return
        await connection.subscribe(self._telemetry)
        try:
            async with asyncio.timeout(LISTEN_S):
                async for _ in connection.messages():
                    await self._end(connection)
        except TimeoutError:
            await connection.unsubscribe(self._telemetry)
        self._listened = True

    async def watch(self, connection: ControlConnection) -> NoReturn:
        """Raises ConfigError when this node is the one to go."""
        await self._ends.wait()
        await self._end(connection)

    async def _end(self, connection: ControlConnection) -> NoReturn:
        await connection.close()  # without a will or farewell: it would speak for the other
        raise ConfigError(f"--name: a node {self._node!r} is online already; give this one another")
