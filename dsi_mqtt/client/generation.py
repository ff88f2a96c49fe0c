"""One generation as its caller sees it: pieces of text as they come, or the whole."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from dsi_mqtt.client.delivery import Call, Delivery
from dsi_mqtt.client.inputs import input_body
from dsi_mqtt.core.generation import Completion, Partial
from dsi_mqtt.core.message import Priority
from dsi_mqtt.core.stream import Piece, TokenStream
from dsi_mqtt.errors import InvalidInputError, RequestCancelledError
from dsi_mqtt.transport.base import Message
from dsi_mqtt.wire.asks import read_completion
from dsi_mqtt.wire.inputs import read_answer

ALIVE_S: Final = 3.0
SEED_BYTES: Final = 6

Turns = Sequence[Mapping[str, str]]


class TextGeneration:
    """Made by `Client.generate`; it is asked for when it is first iterated or awaited.

        async for piece in generation: …    # pieces, as they come
        completion = await generation       # only the whole

    Who leaves the loop, is cancelled, or leaves `async with generation` before the end, cancels
    it. One reader at a time; a slow one gets fewer and longer pieces.
    """

    def __init__(
        self,
        delivery: Delivery,
        deployment: str,
        ask: dict[str, Any],
        timeout_s: float,
        priority: Priority,
    ) -> None:
        self._delivery = delivery
        self._deployment = deployment
        self._ask = ask
        self._timeout_s = timeout_s
        self._priority = priority
        self._stream = TokenStream()
        self._news = asyncio.Event()
        self._call: Call | None = None
        self._completion: Completion | None = None
        self._left = False
        self._read = False

    @property
    def seed(self) -> int:
        """Of the noise: the same seed and the same prompt give the same text."""
        return int(self._ask["seed"])

    @property
    def completion(self) -> Completion:
        """The whole, once it has been read to its end. Raises RuntimeError before."""
        if self._completion is None:
            raise RuntimeError("the generation has not been read to its end")
        return self._completion

    def __aiter__(self) -> AsyncIterator[Piece]:
        """Raises UnknownDeploymentError, DeadlineError, or another RequestError that says why."""
        return self._pieces(stream=True)

    def __await__(self) -> Generator[Any, None, Completion]:
        """The whole. Raises as iterating does."""
        return self._whole().__await__()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Ends it where it still runs; its reader gets RequestCancelledError."""
        if self._completion is None:
            self._left = True
        self._news.set()
        self._leave()

    # --- inside -------------------------------------------------------------------------------

    async def _whole(self) -> Completion:
        async for _ in self._pieces(stream=False):
            pass
        return self.completion

    async def _pieces(self, *, stream: bool) -> AsyncGenerator[Piece, None]:
        """Also where a caller leaves: a generator is closed when nobody iterates it any more."""
        if self._ended():
            return
        if self._read:
            raise RuntimeError("a generation has one reader; it has one already, or had one")
        self._read = True
        try:
            call = await self._begin(stream=stream)
            while True:
                self._check_wanted()
                self._news.clear()
                piece = self._stream.piece()
                if piece is None and not self._ended() and call.answer.done():
                    self._end(call.answer.result())
                    piece = self._stream.piece()
                if piece is not None:
                    yield piece
                elif self._ended():
                    return
                else:
                    await self._news.wait()
        finally:
            self._leave()

    def _ended(self) -> bool:
        return self._completion is not None

    def _check_wanted(self) -> None:
        if self._left:
            raise RequestCancelledError("the generation was cancelled here")

    async def _begin(self, *, stream: bool) -> Call:
        deadline = time.monotonic() + self._timeout_s
        self._check_wanted()
        await self._delivery.known(self._deployment, deadline)
        self._check_wanted()
        body, kind = input_body(self._ask | {"stream": stream})
        self._call = self._delivery.submit(
            self._deployment,
            body,
            kind,
            deadline,
            told=self._told,
            generates=True,
            priority=self._priority,
        )
        self._call.answer.add_done_callback(lambda _: self._news.set())
        return self._call

    def _told(self, partial: Partial) -> None:
        self._stream.told(partial)
        self._news.set()

    def _end(self, answer: Message) -> None:
        told = read_answer(bytes(answer.payload), answer.content_type, answer.user_properties)
        completion = read_completion(told)
        self._stream.answered(completion)
        self._completion = completion

    def _leave(self) -> None:
        if self._call is not None:
            self._delivery.leave(self._call.id)


def ask_for(prompt: object, **settings: object) -> dict[str, Any]:
    """The input that asks for a generation. settings: by their names in the contract; None: not.

    A seed is drawn where none is given: with it a door that takes over tells the same text.
    Raises InvalidInputError.
    """
    items = list(prompt) if isinstance(prompt, Sequence) else []
    if isinstance(prompt, str) and prompt:
        asked: dict[str, Any] = {"prompt": prompt}
    elif items and all(isinstance(item, int) for item in items):
        asked = {"prompt": items}
    elif items and all(isinstance(item, Mapping) for item in items):
        asked = {"messages": [_turn(item) for item in items]}
    else:
        raise InvalidInputError(
            "field prompt must be a text that is not empty, token ids, or messages like "
            '{"role": "user", "content": "…"}'
        )
    if settings.get("seed") is None:
        settings["seed"] = int.from_bytes(os.urandom(SEED_BYTES))
    return asked | {name: value for name, value in settings.items() if value is not None}


def _turn(message: Mapping[str, object]) -> dict[str, object]:
    if not all(isinstance(message.get(name), str) for name in ("role", "content")):
        raise InvalidInputError(
            "field prompt: each of its messages must have role and content, both texts"
        )
    return dict(message)
