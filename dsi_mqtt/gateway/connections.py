"""HTTP connections: how many, how long one waits for a request, how long it may take nothing.

uvicorn bounds none of this: half a head waits for ever, and so does an answer that nobody reads.
Whether it is read is asked of the kernel, now and then: a slow reader's connection takes more from
here only when much of what the kernel holds is gone, and a stream may never fill that.
"""

from __future__ import annotations

import asyncio
import fcntl
import math
import socket
import struct
import termios
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from dsi_mqtt.core.sizes import KIB
from dsi_mqtt.gateway.refusals import SERVER, ApiError

# Bytes of answers that wait here and in the kernel, beyond which nobody seems to read them.
WAITING_MAX: Final = 16 * KIB
SENDING_MAX: Final = 128 * KIB
# A closed socket lingers: yes, for 0 seconds.
_NOT_AT_ALL: Final = struct.pack("ii", 1, 0)
# Linux alone tells how much was acknowledged: `tcpi_bytes_acked` of its `struct tcp_info`.
TELLS: Final = hasattr(socket, "TCP_INFO")
_ACKED: Final = struct.Struct("=120xQ")
# A second, that whoever reads must take; who is slower reads as good as nothing.
TAKEN_LEAST: Final = KIB


@dataclass(frozen=True, slots=True)
class Bounds:
    """What connections may take.

    head_s: from the opening, or the last answer, until a request's head has come whole. stall_s:
    in which what waits to be taken must be, or as much as `TAKEN_LEAST` says. at_once: connections
    that are served. A quarter of that, beyond, are told that they are too many, and further ones
    are hung up on.
    """

    head_s: float = 20.0
    stall_s: float = 30.0
    at_once: int = 512

    @property
    def open_max(self) -> int:
        return self.at_once + max(1, self.at_once // 4)


class Connection(H11Protocol):
    """One connection, which is ended where it keeps nobody but itself waiting."""

    bounds: ClassVar[Bounds] = Bounds()

    def __init__(self, *given: Any, **named: Any) -> None:  # noqa: ANN401 - uvicorn's, as they are
        super().__init__(*given, **named)
        self.timeout_keep_alive = math.ceil(self.bounds.head_s)  # uvicorn's own is shorter
        self._head: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    # --- what uvicorn and asyncio tell --------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WAITING_MAX)
        if len(self.connections) > self.bounds.open_max:
            self._hang_up()
            return
        if len(self.connections) > self.bounds.at_once:
            self.app = _full
        self._await_head()
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_asked():
            self._cancel_head()

    def on_response_complete(self) -> None:
        self._await_head()
        super().on_response_complete()
        if self._is_asked():  # the next request had come before the answer
            self._cancel_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_head()
        if self._stall is not None:
            self._stall.cancel()
        super().connection_lost(exc)

    # --- bounds -------------------------------------------------------------------------------

    def _is_asked(self) -> bool:
        cycle: Any = self.cycle  # None before the first request, other than uvicorn's types say
        return cycle is not None and not cycle.response_complete

    def _await_head(self) -> None:
        self._cancel_head()
        self._head = self.loop.call_later(self.bounds.head_s, self._no_head)

    def _no_head(self) -> None:
        if self.transport.get_write_buffer_size():  # the last answer is still being taken, or not
            self._await_head()
        else:
            self.timeout_keep_alive_handler()

    def _cancel_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _watch(self) -> None:
        """Looks, in a while, whether what waits to be taken now has been by then."""
        if not TELLS:
            return
        own: socket.socket = self.transport.get_extra_info("socket")
        waits = self.transport.get_write_buffer_size() + kept_by_kernel(own)
        self._stall = self.loop.call_later(self.bounds.stall_s, self._look, waits, acked(own))

    def _look(self, waited: int, before: int) -> None:
        own: socket.socket = self.transport.get_extra_info("socket")
        least = min(waited, TAKEN_LEAST * self.bounds.stall_s)
        if acked(own) - before < least:
            # What the answer is made from hears of that as of any client that goes.
            self._hang_up()
        else:
            self._watch()

    def _hang_up(self) -> None:
        """At once: what waits to be sent is dropped, by the kernel too."""
        own: socket.socket = self.transport.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NOT_AT_ALL)
        self.transport.abort()


def bounded(given: Bounds) -> type[Connection]:
    """Connections within these bounds."""

    class Bounded(Connection):
        bounds = given

    return Bounded


def kept_by_kernel(own: socket.socket) -> int:
    """Bytes written to a connection that its peer has not acknowledged."""
    try:
        (held,) = struct.unpack("i", fcntl.ioctl(own.fileno(), termios.TIOCOUTQ, bytes(4)))
    except (OSError, ValueError):  # it is closed
        return 0
    return int(held)


def acked(own: socket.socket) -> int:
    """Bytes that the peer has acknowledged since the connection began."""
    (count,) = _ACKED.unpack(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED.size))
    return int(count)


def bound_kernel(listening: socket.socket) -> None:
    """Connections accepted there keep little to send."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENDING_MAX)


async def _full(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's
    refusal = ApiError(
        503, "too many connections are open here; ask again later", kind=SERVER, code="unavailable"
    )
    headers = {**refusal.headers, "Connection": "close"}
    await JSONResponse(refusal.body, refusal.status, headers)(scope, receive, send)
