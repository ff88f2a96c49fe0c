"""A wire between a node and its broker that a test can hold, and cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Wire:
    """Takes connections at `port` and carries them to a broker. cuts: how often it was cut."""

    def __init__(self, broker_port: int) -> None:
        self._broker_port = broker_port
        self._open = asyncio.Event()
        self._open.set()
        self._ends: set[asyncio.StreamWriter] = set()
        self._carriers: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def hold(self) -> None:
        """Nothing passes, and neither end notices."""
        self._open.clear()

    def cut(self) -> None:
        """Ends all connections with all that was on the way; new ones may come."""
        for end in self._ends:
            end.transport.abort()
        self._open.set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1")

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._carriers)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_broker = await asyncio.open_connection("127.0.0.1", self._broker_port)
        for source, target in ((reader, to_broker[1]), (to_broker[0], writer)):
            self._ends.add(target)
            carrier = asyncio.create_task(self._pass_on(source, target))
            self._carriers.add(carrier)
            carrier.add_done_callback(self._carriers.discard)

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self._open.wait()
                target.write(data)
                await target.drain()
        except ConnectionError:
            pass  # it was cut
        finally:
            self._ends.discard(target)
            target.close()


@asynccontextmanager
async def wire_to(broker_port: int) -> AsyncIterator[Wire]:
    wire = Wire(broker_port)
    await wire.start()
    try:
        yield wire
    finally:
        await wire.stop()
