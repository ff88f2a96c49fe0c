"""HTTP connections: how many, how long one waits for a request, how long it may take nothing.

uvicorn bounds none of this: half a head waits for ever, and so does an answer that nobody reads.
"""

from __future__ import annotations

import asyncio
import socket
import struct
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
# A second, that whoever reads must take; slower is as good as not at all.
TAKEN_LEAST: Final = KIB


@dataclass(frozen=True, slots=True)
class Bounds:
    """What connections may take.

    head_s: from the opening, or the last answer, until a request's head has come whole. stall_s:
    in which an answer must get on. at_once: connections that are served; as many as a quarter of
    that are told so beyond, and further ones hang up on.
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

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_asked():
            self._cancel_head()

    def on_response_complete(self) -> None:
        self._await_head()
        super().on_response_complete()
        if self._is_asked():  # the next request had come before the answer
            self._cancel_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_stall()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_head()
        self._cancel_stall()
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
            if self._stall is None:
                self._watch()
        else:
            self.timeout_keep_alive_handler()

    def _cancel_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _cancel_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _watch(self) -> None:
        """Looks, in a while, whether what waits to be sent has become less."""
        waits = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(self.bounds.stall_s, self._look, waits)

    def _look(self, before: int) -> None:
        self._stall = None
        waits = self.transport.get_write_buffer_size()
        if waits and before - waits < TAKEN_LEAST * self.bounds.stall_s:
            # What the answer is made from hears of that as of any client that goes.
            self._hang_up()
        elif waits:
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


def bound_kernel(listening: socket.socket, stall_s: float) -> None:
    """Connections accepted there keep little to send, and end when nobody takes it."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENDING_MAX)
    option = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux alone has it
    if option is not None:
        listening.setsockopt(socket.IPPROTO_TCP, option, round(stall_s * 1000))


async def _full(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's
    refusal = ApiError(
        503, "too many connections are open here; ask again later", kind=SERVER, code="unavailable"
    )
    headers = {**refusal.headers, "Connection": "close"}
    await JSONResponse(refusal.body, refusal.status, headers)(scope, receive, send)
