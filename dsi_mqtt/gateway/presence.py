"""A client of ours that hangs up ends what it asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

T = TypeVar("T")

# A line that begins with a colon says nothing to whoever reads events.
COMMENT: Final = b": the text goes on\n\n"


class GoneError(Exception):
    """The client has closed its connection: there is nobody to answer."""


async def while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Runs `work` to its end, cancelled as soon as the client goes. Raises GoneError then.

    The body of the request must have been read.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise GoneError
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def kept_alive(events: AsyncIterator[bytes], silent_s: float) -> AsyncIterator[bytes]:
    """`events`, and a comment whenever none has come for `silent_s`: proxies end what is silent."""
    coming: asyncio.Future[bytes | None] | None = None
    try:
        while True:
            coming = asyncio.ensure_future(_next(events))
            while not (await asyncio.wait({coming}, timeout=silent_s))[0]:
                yield COMMENT
            event = coming.result()
            if event is None:
                return
            yield event
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)


async def _next(events: AsyncIterator[bytes]) -> bytes | None:
    return await anext(events, None)


class EventStream(StreamingResponse):
    """Server-sent events. on_end: called when all is sent, the client has gone, or the server."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], on_end: Callable[[], None]) -> None:
        super().__init__(events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()
