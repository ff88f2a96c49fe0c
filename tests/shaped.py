"""A link on loopback that carries no more than it is told to: a proxy in front of a broker."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from dsi_mqtt.core.sizes import KIB
from dsi_mqtt.transport.address import parse_broker_url

# Small beside what is measured with, so that a link takes time for each byte, not for each piece.
_PIECE: Final = 1 * KIB
_BUFFER: Final = 16 * KIB
# So much of what was missed, as sleeps are never short enough, is made up for.
_LATE_S: Final = 0.005


@dataclass
class ShapedLink:
    """up_mbit_s, down_mbit_s: as seen by who connects to `url`; may change at any time."""

    up_mbit_s: float
    down_mbit_s: float
    url: str = ""

    async def carry(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, up: bool
    ) -> None:
        """What comes early waits."""
        clock = asyncio.get_running_loop().time
        free_at = clock()
        try:
            while data := await source.read(_PIECE):
                rate = (self.up_mbit_s if up else self.down_mbit_s) * 1e6 / 8
                free_at = max(free_at, clock() - _LATE_S) + len(data) / rate
                await asyncio.sleep(max(0.0, free_at - clock()))
                target.write(data)
                await target.drain()
        except OSError:
            pass  # either end has gone: the other learns it below
        finally:
            target.transport.abort()


@asynccontextmanager
async def shaped(
    broker_url: str, up_mbit_s: float, down_mbit_s: float
) -> AsyncIterator[ShapedLink]:
    """In front of `broker_url` while the context lives."""
    link, address = ShapedLink(up_mbit_s, down_mbit_s), parse_broker_url(broker_url)
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker = await asyncio.open_connection(address.host, address.port, limit=_BUFFER)
        for carried in (
            link.carry(reader, broker[1], up=True),
            link.carry(broker[0], writer, up=False),
        ):
            task = asyncio.ensure_future(carried)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    listening = socket.socket()
    # What the kernel takes for the proxy would be as good as carried.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    listening.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(connected, sock=listening, limit=_BUFFER)
    link.url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield link
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the loop closes what was aborted in its next turn
