"""The relay over real sockets: order, bytes, backpressure, and what may befall a link."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from dsi_mqtt.core.sizes import KIB, MIB
from dsi_mqtt.shaping.link import ShapedLink
from dsi_mqtt.sim.links import Figures
from dsi_mqtt.transport.address import parse_broker_url
from dsi_mqtt.transport.loop import run

FAST = Figures(up_mbit_s=1000.0, down_mbit_s=1000.0, rtt_ms=1.0)
SLOW = Figures(up_mbit_s=1.0, down_mbit_s=1.0, rtt_ms=1.0)
Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Far:
    """A server, and every connection of the test; `accepted`: those it has got."""

    url: str = ""
    accepted: asyncio.Queue[Pair] = field(default_factory=asyncio.Queue)
    pairs: list[Pair] = field(default_factory=list)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pairs.append((reader, writer))
        await self.accepted.put((reader, writer))

    async def connect(self, url: str) -> Pair:
        self.pairs.append(await asyncio.open_connection(*parse_broker_url(url)))
        return self.pairs[-1]

    async def both(self, url: str) -> tuple[Pair, Pair]:
        """The two ends of a connection that passes."""
        near = await self.connect(url)
        near[1].write(b"hello")
        there = await self.accepted.get()
        assert await there[0].readexactly(5) == b"hello"
        return near, there


@asynccontextmanager
async def serving() -> AsyncIterator[Far]:
    far = Far()
    server = await asyncio.start_server(far.accept, "127.0.0.1", 0, limit=64 * KIB)
    far.url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield far
    finally:
        server.close()
        for _, writer in far.pairs:
            if not writer.is_closing():
                writer.transport.abort()
        await asyncio.sleep(0)


@asynccontextmanager
async def shaped(figures: Figures) -> AsyncIterator[tuple[ShapedLink, Far, str]]:
    async with serving() as far, ShapedLink(figures) as link, asyncio.timeout(60):
        yield link, far, await link.to(far.url)


def numbered(size: int) -> bytes:
    return b"".join(i.to_bytes(4, "big") for i in range(size // 4))


async def test_bytes_pass_both_ways_in_order_and_none_is_lost() -> None:
    sent = numbered(2 * MIB)
    async with shaped(FAST) as (_, far, url):
        near, there = await far.both(url)

        async def send(pair: Pair) -> None:
            pair[1].write(sent)
            await pair[1].drain()

        _, _, up, down = await asyncio.gather(
            send(near), send(there), there[0].readexactly(len(sent)), near[0].readexactly(len(sent))
        )
    assert up == sent
    assert down == sent


async def test_an_end_passes_behind_the_bytes_and_the_other_way_goes_on() -> None:
    sent = numbered(64 * KIB)
    async with shaped(FAST) as (_, far, url):
        near, there = await far.both(url)
        near[1].write(sent)
        near[1].write_eof()
        assert await there[0].read(-1) == sent
        there[1].write(sent)
        await there[1].drain()
        there[1].close()
        assert await near[0].read(-1) == sent


async def test_a_sender_finds_a_slow_link_full() -> None:
    """All that lies between the two ends is a queue and a few socket buffers."""
    async with shaped(SLOW) as (_, _, url):
        with socket.socket() as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * KIB)
            sender.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sender, tuple(parse_broker_url(url)))
            taken = 0

            async def fill() -> None:
                nonlocal taken
                while True:
                    await loop.sock_sendall(sender, bytes(4 * KIB))
                    taken += 4 * KIB

            with pytest.raises(TimeoutError):
                await asyncio.wait_for(fill(), 0.5)
    assert taken < 512 * KIB


async def test_a_reader_that_takes_nothing_holds_up_its_own_connection_only() -> None:
    async with shaped(FAST) as (_, far, url):
        near, there = await far.both(url)
        there[1].write(bytes(16 * MIB))  # which `near` does not read
        other, beside = await far.both(url)
        beside[1].write(b"passes")
        assert await other[0].readexactly(6) == b"passes"
        assert near[0] is not other[0]


async def test_what_was_cut_goes_on_where_it_was() -> None:
    sent = numbered(256 * KIB)
    async with shaped(FAST) as (link, far, url):
        near, there = await far.both(url)
        link.cut()
        near[1].write(sent)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await there[0].readexactly(1)
        link.mend()
        assert await there[0].readexactly(len(sent)) == sent


async def test_a_half_open_link_accepts_and_passes_nothing_ever_after() -> None:
    async with shaped(FAST) as (link, far, url):
        before = await far.both(url)
        link.half_open()
        during = await far.connect(url)
        await far.accepted.get()
        for pair in (before[0], during):
            pair[1].write(b"lost")
        link.mend()
        after = await far.both(url)
        after[0][1].write(b"passes")
        assert await after[1][0].readexactly(6) == b"passes"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await before[1][0].readexactly(1)


async def test_a_link_that_is_dropped_resets_what_goes_over_it() -> None:
    async with shaped(FAST) as (link, far, url):
        near, there = await far.both(url)
        link.drop()
        for pair in (near, there):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await pair[0].readexactly(1)
        await far.both(url)  # and may be used again


async def test_a_broker_that_is_not_there_ends_the_connection() -> None:
    async with shaped(FAST) as (link, far, _):
        async with serving() as ended:
            pass
        near = await far.connect(await link.to(ended.url))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await near[0].readexactly(1)


async def test_connections_of_one_link_share_it() -> None:
    """What came first has passed when what came behind it over another connection has."""
    async with shaped(SLOW) as (link, data, url), serving() as control:
        bulk, there = await data.both(url)
        small, here = await control.both(await link.to(control.url))
        bulk[1].write(bytes(12 * KIB))
        await there[0].readexactly(1)  # the others are in the relay's queue
        small[1].write(b"behind")
        rest = asyncio.ensure_future(there[0].readexactly(12 * KIB - 1))
        assert await here[0].readexactly(6) == b"behind"
        assert rest.done()


async def test_a_link_may_change_while_it_carries() -> None:
    sent = numbered(1 * MIB)
    async with shaped(SLOW) as (link, far, url):
        near, there = await far.both(url)
        near[1].write(sent)
        await there[0].readexactly(8 * KIB)
        link.shape(FAST)
        assert await there[0].readexactly(len(sent) - 8 * KIB) == sent[8 * KIB :]


def test_what_comes_before_the_other_end_is_there_waits_for_it() -> None:
    """On the loop of our processes, which reads a connection as soon as it has begun."""

    async def first_words() -> None:
        async with shaped(FAST) as (_, far, url):
            for _ in range(50):
                near = await far.connect(url)
                near[1].write(b"hello")
                there = await far.accepted.get()
                assert await there[0].readexactly(5) == b"hello"

    run(first_words())
