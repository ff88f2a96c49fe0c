"""A node's link to its brokers, on this machine: a TCP relay in front of them.

    async with ShapedLink(Figures(up_mbit_s=10, down_mbit_s=40, rtt_ms=20)) as link:
        control = await link.to("mqtt://127.0.0.1:1883")
        data = await link.to("mqtt://127.0.0.1:1884")

Whoever connects to these URLs shares the link. How it is may change at any time: `shape`,
`throttle`, `cut`, `half_open`, `drop`, and `mend` ends all of them.

What it takes in without sending is a short queue (`clockwork.QUEUE_BYTES`) and what the kernel
holds for a socket, some 10 KB; then senders find their socket full. Connections begin at once: what
the handshake itself would take is not played.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable
from typing import Final, Self, cast

from dsi_mqtt.core.sizes import KIB
from dsi_mqtt.shaping.clockwork import QUEUE_BYTES, Course, Way
from dsi_mqtt.sim.links import Figures
from dsi_mqtt.sim.traces import Trace
from dsi_mqtt.transport.address import parse_broker_url

# What the kernel takes for a socket, in either direction, before it is full; Linux doubles it.
SOCKET_BYTES: Final = 16 * KIB
SEGMENT_BYTES: Final = 1448
# Event loops wake at whole milliseconds (asyncio's at the next, uvloop's at the nearest), so that
# what is due within half of one goes now.
TICK_S: Final = 0.001
EARLY_S: Final = TICK_S / 2
_LESS_S: Final = TICK_S / 10
# What is there this soon after there is room again has waited for it.
HELD_UP_S: Final = 0.002
# Of room, before those that wait for it are read again: not for a few bytes each.
_ROOM_SHARE: Final = 0.5


class ShapedLink:
    """See the module. A trace stands in the place of `figures`, from second `offset_s` of it on."""

    def __init__(self, figures: Figures, trace: Trace | None = None, offset_s: int = 0) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._course = Course(figures, trace, offset_s)
        self.up = _Line(Way(self._course, up=True), self._now)
        self.down = _Line(Way(self._course, up=False), self._now)
        self._servers: list[asyncio.Server] = []
        self._ends: set[_End] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._forgets = False

    async def to(self, broker_url: str) -> str:
        """The URL by which the broker is reached over this link, while it lives.

        Raises ConfigError where `broker_url` is none.
        """
        address = parse_broker_url(broker_url)
        listening = socket.socket()
        _small(listening)
        listening.bind(("127.0.0.1", 0))

        def accepted() -> _End:
            near, far = _End(self, self.up), _End(self, self.down)
            near.other, far.other = far, near
            opening = self._loop.create_task(self._open(near, far, address.host, address.port))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)
            return near

        server = await self._loop.create_server(accepted, sock=listening)
        self._servers.append(server)
        return f"mqtt://127.0.0.1:{listening.getsockname()[1]}"

    async def _open(self, near: _End, far: _End, host: str, port: int) -> None:
        try:
            connection = await self._reach(host, port)
            await self._loop.create_connection(lambda: far, sock=connection)
        except OSError:
            near.abort()
            return
        if near.transport is None:
            far.abort()
        near.look()  # it may be read from now on

    async def _reach(self, host: str, port: int) -> socket.socket:
        found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        connection = socket.socket(found[0][0], socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            _small(connection)
            await self._loop.sock_connect(connection, found[0][4])
        except BaseException:
            connection.close()
            raise
        return connection

    async def close(self) -> None:
        """Ends everything that goes over it."""
        for server in self._servers:
            server.close()
        for opening in self._opening:
            opening.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        self.drop()
        for line in (self.up, self.down):
            line.stop()
        await asyncio.sleep(0)  # the loop closes what was aborted in its next turn

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def mbit_s(self) -> float:
        """What it carries now, in the direction that carries less."""
        if self._forgets:
            return 0.0
        now = self._now()
        rates = (self._course.byte_s(up=up, at=now)[0] for up in (True, False))
        return min(rates) * 8 / 1e6

    # --- how it is ----------------------------------------------------------------------------

    def shape(self, figures: Figures) -> None:
        """Other figures from now on."""
        self._change(lambda: self._course.shape(figures))

    def throttle(self, factor: float) -> None:
        """So much of its rate; a trickle is a small share."""

        def change() -> None:
            self._course.factor = factor

        self._change(change)

    def cut(self) -> None:
        """Nothing passes; connections stand, and go on after `mend`."""
        self.throttle(0.0)

    def half_open(self) -> None:
        """Connections are accepted, and nothing of them ever passes, as if what lay between had
        forgotten them; so it is with those that are there. Those that come after `mend` do.
        """
        self._forgets = True
        for end in tuple(self._ends):
            end.forgotten()

    def drop(self) -> None:
        """All connections are reset, and what was on its way is lost."""
        for end in tuple(self._ends):
            end.abort()

    def mend(self) -> None:
        """As it was made; connections that were forgotten stay so."""
        self._forgets = False
        self.throttle(1.0)

    # --- parts --------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._loop.time() - self._began

    def _change(self, change: Callable[[], None]) -> None:
        """Lets both ways be as they were until now."""
        for line in (self.up, self.down):
            line.way.advance(self._now())
        change()
        for line in (self.up, self.down):
            line.go_on()

    def joined(self, end: _End) -> None:
        self._ends.add(end)
        if self._forgets:
            end.forgotten()

    def left(self, end: _End) -> None:
        self._ends.discard(end)


class _Line:
    """A way with its alarm, and with those that wait for room in it."""

    def __init__(self, way: Way[_End], now: Callable[[], float]) -> None:
        self.way = way
        self._now = now
        self._alarm: asyncio.TimerHandle | None = None
        # In the order of their coming, and since when there is room again.
        self._held_up: dict[_End, float] = {}

    def take(self, sender: _End, data: bytes) -> None:
        """From `sender`, for its other end. No data is its end."""
        now = self._now()
        held_up = now - self._held_up.pop(sender, -math.inf) < HELD_UP_S
        self.way.take(sender.other, data, now, held_up=held_up)
        self.go_on()

    def wait(self, sender: _End) -> None:
        self._held_up[sender] = math.inf

    def leave(self, sender: _End) -> None:
        self._held_up.pop(sender, None)

    def go_on(self) -> None:
        """Delivers what is due, lets those read that found no room, and sets the alarm."""
        for end, data in self.way.arrived(self._now() + EARLY_S):
            end.deliver(data)
        if self.way.room >= _ROOM_SHARE * QUEUE_BYTES:
            for end, since in tuple(self._held_up.items()):
                self._held_up[end] = min(since, self._now())
                end.look()
        self.stop()
        due = self.way.next_at()
        if due is not None:
            wait_s = max(TICK_S, round((due - self._now()) / TICK_S) * TICK_S)
            self._alarm = asyncio.get_running_loop().call_later(wait_s - _LESS_S, self.go_on)

    def stop(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


class _End(asyncio.BufferedProtocol):
    """One of the two sockets of a connection: the node's (near), or the relay's to the broker.

    It is read while the other one is there and takes what comes, and its way has room.
    """

    other: _End

    def __init__(self, link: ShapedLink, line: _Line) -> None:
        self._link = link
        self.line = line
        self.transport: asyncio.Transport | None = None
        self._buffer = memoryview(bytearray(QUEUE_BYTES))
        self._reading = True
        self.full = False
        self._forgotten = False
        self.ended = False  # it has told all that it had to tell
        self.told_end = False
        self._gone = False
        # Not every loop lets a connection that has just begun be paused: what comes before the
        # other end is there waits for it.
        self._early: list[memoryview] = []

    # --- what the event loop calls ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=SOCKET_BYTES)
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._link.joined(self)
        early, self._early = self._early, []
        for data in early:
            self.deliver(data)
        self.look()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the loop's signature
        return self._buffer[: max(1, self.line.way.room)]

    def buffer_updated(self, nbytes: int) -> None:
        self.line.take(self, bytes(self._buffer[:nbytes]))
        self.look()

    def eof_received(self) -> bool:
        """The other direction may go on."""
        self._end()
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the loop's signature
        self.transport = None
        self._gone = True
        self._reading = False
        self._link.left(self)
        self.line.leave(self)
        self._end()
        self.other.look()

    def pause_writing(self) -> None:
        self.full = True
        self.other.look()

    def resume_writing(self) -> None:
        self.full = False
        self.other.look()

    # --- what the link calls ------------------------------------------------------------------

    def look(self) -> None:
        """Whether it is to be read now."""
        there = self.other.transport is not None and not self.other.full
        wanted = there and not (self._forgotten or self.ended)
        room = self.line.way.room > 0
        if wanted and not room:
            self.line.wait(self)
        self._read_while(wanted and room)

    def deliver(self, data: memoryview) -> None:
        """What the other end was told has come; no data: that it has ended."""
        if self.transport is None and not self._gone:
            self._early.append(data)
        if self.transport is None or self._forgotten:
            return
        if data:
            self.transport.write(data)
            return
        self.told_end = True
        if self.ended or self.other.transport is None:
            self.transport.close()  # behind what it has yet to write
        elif self.transport.can_write_eof():
            self.transport.write_eof()

    def forgotten(self) -> None:
        self._forgotten = True
        self.look()

    def abort(self) -> None:
        for end in (self, self.other):
            end.line.way.forget(end.other)
            if end.transport is not None:
                end.transport.abort()

    # --- parts --------------------------------------------------------------------------------

    def _end(self) -> None:
        """Tells the other one, behind all that was sent to it."""
        if not self.ended:
            self.ended = True
            self.line.take(self, b"")
        elif self.other.told_end and self.other.transport is not None:
            self.other.transport.close()
        if self.told_end and self.transport is not None:
            self.transport.close()

    def _read_while(self, wanted: bool) -> None:
        if self.transport is None or wanted == self._reading:
            return
        self._reading = wanted
        if wanted:
            self.transport.resume_reading()
        elif not self.transport.is_closing():
            self.transport.pause_reading()


def _small(connection: socket.socket) -> None:
    """Before it is connected: what the kernel takes for the relay would be as good as carried.

    Segments are those of Ethernet. Loopback's are of 64 KiB, more than such a buffer ever has room
    for, so that a sender who finds it full is told of room by a timer alone, 0.2 s later or more.
    """
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        connection.setsockopt(socket.SOL_SOCKET, option, SOCKET_BYTES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
