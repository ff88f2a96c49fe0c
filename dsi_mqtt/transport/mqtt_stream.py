"""The byte stream of a data connection: packets into and out of one socket.

Framing waits for whole packets: the length is read from the fixed header first, so that a large
packet that arrives in many pieces is parsed once. What a packet means is the business of its
`PacketReader`; how it is written in bytes is the codec's (`mqtt5`).
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import Final, Protocol, cast

import mqtt5

from dsi_mqtt.core.sizes import KIB, MIB

# Two chunks of 256 KiB with their headers fit, so that a partial packet is seldom moved.
RECEIVE_BYTES: Final = 640 * KIB
# Bytes the transport may queue before writers wait.
WRITE_HIGH_BYTES: Final = MIB

_FIXED_HEADER_MAX: Final = 5
_SILENT_TICKS_MAX: Final = 2
_PING: Final = mqtt5.PingReqPacket().write()


class PacketReader(Protocol):
    """Who is told what the stream meets."""

    def packet_received(self, packet: mqtt5.Packet) -> None: ...

    def stream_ended(self, reason: str) -> None:
        """Called once, whoever ended the stream; `reason` follows "the connection ended: "."""


class PacketStream(asyncio.BufferedProtocol):
    """One socket, from connected to ended.

    pieces: of the packet that is handed over, the bytes that came behind its first piece, and the
    seconds until the last of them.

    Invariants: `0 <= start <= end <= len(buffer)`, and bytes `[start, end)` are received but not
    parsed; unless paused they are less than one packet. The socket is read while `end` leaves
    room.
    """

    def __init__(self, reader: PacketReader) -> None:
        self._reader = reader
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._ended = False
        self._initial_buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._buffer = self._initial_buffer
        self._start = 0
        self._end = 0
        self._paused = False
        self._reading = True
        self._congested = False
        self._drain_waiters: deque[asyncio.Future[None]] = deque()
        self._keep_alive: asyncio.TimerHandle | None = None
        self._heard = False
        self._silent_ticks = 0
        # Of the packet that is not whole yet: when its first piece came, and that piece's bytes.
        self._began: tuple[float, int] | None = None
        self.pieces = (0, 0.0)

    @property
    def congested(self) -> bool:
        """Whether writers should wait: the transport holds more than it should queue."""
        return self._congested

    @property
    def arriving(self) -> tuple[int, float]:
        """Of the packet that is there in part: bytes behind its first piece, and for how long."""
        if self._began is None:
            return 0, 0.0
        at, first = self._began
        return self._end - self._start - first, self._loop.time() - at

    # -- what the event loop calls ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(str(exc) if exc else "the broker closed it")
        if not self._closed.done():
            self._closed.set_result(None)

    def pause_writing(self) -> None:
        self._congested = True

    def resume_writing(self) -> None:
        self._congested = False
        while self._drain_waiters:
            waiter = self._drain_waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the loop's signature
        return self._buffer[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        self._end += nbytes
        self._heard = True
        self._parse()

    # -- reading ---------------------------------------------------------------------------------

    def pause(self) -> None:
        """Hands over no more packets.

        The socket is still read while the buffer has room, and no further: so the end of the
        connection is noticed, which a socket that nobody reads would hide.
        """
        self._paused = True
        self._began = None  # how long it takes from here on says nothing of the link

    def resume(self) -> None:
        """Hands over what was received meanwhile, unless the reader pauses again."""
        self._paused = False
        self._parse()

    def _parse(self) -> None:
        length = 0
        while self._start < self._end and not self._paused and not self._ended:
            try:
                length = packet_length(self._buffer, self._start, self._end)
                if not 0 < length <= self._end - self._start:
                    self._begins(length)
                    break
                packet, _ = mqtt5.read(self._buffer[self._start : self._start + length])
            except (ValueError, IndexError) as error:
                self.end(f"the broker sent a malformed packet ({error})")
                return
            self._start += length
            self._whole(length)
            length = 0
            self._reader.packet_received(packet)
        self._make_room(length or _FIXED_HEADER_MAX)
        self._read_while(self._end < len(self._buffer))

    def _begins(self, length: int) -> None:
        """A packet of so many bytes is there in part."""
        if length and self._began is None:
            self._began = self._loop.time(), self._end - self._start

    def _whole(self, length: int) -> None:
        """The packet that is handed over next."""
        self.pieces = (0, 0.0)
        if self._began is not None:
            at, first = self._began
            self.pieces, self._began = (length - first, self._loop.time() - at), None

    def _make_room(self, length: int) -> None:
        """Lets the packet that begins at `start`, of `length` bytes, be received in one piece."""
        rest = self._end - self._start
        if not rest:
            self._buffer = self._initial_buffer  # one that grew for a large message is not kept
            self._start = self._end = 0
            return
        if len(self._buffer) - self._start >= length and self._end < len(self._buffer):
            return
        target = memoryview(bytearray(length)) if length > len(self._buffer) else self._buffer
        target[:rest] = self._buffer[self._start : self._end]
        self._buffer = target
        self._start, self._end = 0, rest

    def _read_while(self, room: bool) -> None:
        if self._ended or room == self._reading:
            return
        self._reading = room
        if room:
            self._live().resume_reading()
        else:
            self._live().pause_reading()

    # -- writing ---------------------------------------------------------------------------------

    def write(self, data: bytes | memoryview) -> None:
        """Queues bytes, which must not change any more.

        On an ended stream nothing happens: its reader has been told.
        """
        if not self._ended:
            self._live().write(data)

    async def drained(self) -> None:
        """Returns when the socket takes bytes again, or the stream has ended."""
        while self._congested and not self._ended:
            waiter = self._loop.create_future()
            self._drain_waiters.append(waiter)
            await waiter

    # -- keep-alive ------------------------------------------------------------------------------

    def keep_alive(self, seconds: float) -> None:
        """Pings from now on, and ends the stream when a ping stays unanswered for `seconds`.

        Whatever is received counts as an answer: PINGRESP waits its turn behind large messages.
        While the socket is not read no answer can be seen and none is missed.
        """
        self._keep_alive = self._loop.call_later(seconds / 2, self._tick, seconds)

    def _tick(self, seconds: float) -> None:
        if self._heard or not self._reading:
            self._silent_ticks = 0
        else:
            self._silent_ticks += 1
        self._heard = False
        # The ping of two ticks ago is a whole keep-alive old.
        if self._silent_ticks >= _SILENT_TICKS_MAX:
            self.end(f"the broker has not answered for {seconds:g} s")
            return
        self.write(_PING)
        self._keep_alive = self._loop.call_later(seconds / 2, self._tick, seconds)

    # -- the end ---------------------------------------------------------------------------------

    def end(self, reason: str) -> None:
        """Drops the socket as it is, unsent bytes with it. Only the first end counts."""
        if not self._ended:
            self._settle(reason)
            if self._transport is not None:
                self._transport.abort()

    async def close(self, last: bytes, timeout_s: float) -> None:
        """Sends `last` behind all that is queued, then ends; a peer that takes none of it is cut.

        Returns when the socket is closed.
        """
        if not self._ended:
            self._live().write(last)
            self._settle("it was closed here")
            self._live().close()
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._closed)
        except TimeoutError:
            self._live().abort()
            await asyncio.shield(self._closed)

    def _settle(self, reason: str) -> None:
        self._ended = True
        if self._keep_alive is not None:
            self._keep_alive.cancel()
        self.resume_writing()  # wakes who waits; they find the stream ended
        self._reader.stream_ended(reason)

    def _live(self) -> asyncio.Transport:
        if self._transport is None:
            raise RuntimeError("the stream is not connected")
        return self._transport


def packet_length(data: memoryview, start: int, end: int) -> int:
    """Bytes of the packet that begins at `start`, 0 while its fixed header is incomplete.

    Raises ValueError for a length field of more than four bytes (MQTT 5, section 1.5.5).
    """
    length = shift = 0
    for index in range(start + 1, min(end, start + _FIXED_HEADER_MAX)):
        byte = data[index]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit
            return index + 1 - start + length
        shift += 7
    if end - start >= _FIXED_HEADER_MAX:
        raise ValueError("its length field never ends")
    return 0
