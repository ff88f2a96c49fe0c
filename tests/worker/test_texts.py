"""Texts on their threads: what is begun is written to its end, and nothing of it stays."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import pytest_asyncio

from dsi_mqtt.core import events as ev
from dsi_mqtt.core.deployment import FALLBACK_MARK, Generation
from dsi_mqtt.core.effects import ForgetText, ReadPrompt, WriteText
from dsi_mqtt.core.generation import Prompt
from dsi_mqtt.core.request import ParsedInput
from dsi_mqtt.worker.texts import TextHost
from tests.core.build import NAME

PATIENCE_S: Final = 20.0


class Stream:
    """Counts what it was given: a text that begins anew shows."""

    def __init__(self) -> None:
        self._told = 0

    def push(self, tokens: tuple[int, ...]) -> str:
        if 13 in tokens:
            raise KeyError(13)
        self._told += len(tokens)
        return f"[{self._told}]"

    def flush(self) -> str:
        return "."


class Codec:
    def read(self, prompt: Prompt) -> tuple[int, ...]:
        return tuple(len(word) for word in str(prompt).split())

    def stream(self) -> Stream:
        return Stream()


class Engine:
    def __init__(self, wait: Callable[[], object] = lambda: None) -> None:
        self._wait = wait

    def text(self) -> Codec:
        self._wait()
        return Codec()


class Texts:
    """A text host, the engine that is open, and what was told."""

    def __init__(self) -> None:
        self.open: Any = Engine()
        self._told: asyncio.Queue[ev.Event] = asyncio.Queue()
        self.host = TextHost(lambda _: self.open, self._told.put_nowait)

    async def told(self) -> ev.Event:
        async with asyncio.timeout(PATIENCE_S):
            return await self._told.get()

    @property
    def silent(self) -> bool:
        return self._told.empty()

    def read(self, request: bytes, prompt: str = '"a prompt"', model: str = NAME) -> None:
        parsed = ParsedInput(None, "application/json", prompt.encode())
        self.host.read(ReadPrompt(model, request, parsed, Generation()))

    async def written(self, request: bytes, *tokens: int, last: bool = False) -> ev.Event:
        self.host.write(WriteText(NAME, request, tokens, last))
        return await self.told()

    def forget(self, request: bytes) -> None:
        self.host.forget(ForgetText(NAME, request))

    def close(self) -> None:
        """As the worker does: the engine first."""
        self.open = None
        self.host.close(NAME)


def text(request: bytes, tokens: int, told: str, *, last: bool = False) -> ev.TextWritten:
    return ev.TextWritten(NAME, request, tokens, told, last)


def _threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(f"text {NAME}")]


async def no_thread() -> None:
    async with asyncio.timeout(PATIENCE_S):
        while _threads():  # noqa: ASYNC110 - a thread that ends tells nobody
            await asyncio.sleep(0.005)


@pytest_asyncio.fixture
async def texts() -> AsyncIterator[Texts]:
    texts = Texts()
    yield texts
    texts.host.shut_down()
    await no_thread()


async def test_a_forgotten_text_begins_anew(texts: Texts) -> None:
    assert await texts.written(b"r", 1, 2) == text(b"r", 2, "[2]")
    assert await texts.written(b"other", 1) == text(b"other", 1, "[1]")
    assert await texts.written(b"r", 3, last=True) == text(b"r", 1, "[3].", last=True)
    texts.forget(b"r")
    assert await texts.written(b"r", 1) == text(b"r", 1, "[1]")
    assert await texts.written(b"other", 1) == text(b"other", 1, "[2]")


async def test_a_text_that_has_begun_is_written_to_its_end_though_the_model_was_closed(
    texts: Texts,
) -> None:
    await texts.written(b"r", 1)
    texts.close()
    assert await texts.written(b"r", 2, last=True) == text(b"r", 1, "[2].", last=True)
    texts.forget(b"r")
    await no_thread()


async def test_what_waits_when_the_model_is_closed_is_written_or_refused(texts: Texts) -> None:
    go_on = threading.Event()
    texts.open = Engine(lambda: go_on.wait(PATIENCE_S))
    texts.read(b"first")  # holds the thread
    texts.host.write(WriteText(NAME, b"r", (1,), last=False))
    texts.close()
    go_on.set()
    read = await texts.told()
    assert isinstance(read, ev.PromptRead)
    assert (read.request, read.tokens) == (b"first", (1, 6))
    refused = await texts.told()
    assert isinstance(refused, ev.PromptRefused)
    assert (refused.request, refused.failure.code) == (b"r", "unavailable")
    texts.forget(b"r")
    await no_thread()


async def test_a_text_that_begins_after_the_model_was_closed_is_refused(texts: Texts) -> None:
    await texts.written(b"r", 1)
    texts.forget(b"r")
    texts.close()
    refused = await texts.written(b"new", 1)
    assert isinstance(refused, ev.PromptRefused)
    assert refused.failure.code == "unavailable"
    texts.read(b"another")  # the door asks again when a model is open
    texts.forget(b"new")
    texts.forget(b"r")
    await no_thread()
    assert texts.silent


async def test_a_tokenizer_that_raises_ends_its_generation(texts: Texts) -> None:
    refused = await texts.written(b"r", 13)
    assert isinstance(refused, ev.PromptRefused)
    assert refused.failure.code == "failed"
    assert refused.failure.message.startswith("the text cannot be written")
    assert await texts.written(b"other", 1) == text(b"other", 1, "[1]")


async def test_a_closed_model_is_held_by_no_text(texts: Texts) -> None:
    held = weakref.ref(texts.open)
    texts.read(b"p")
    await texts.told()
    await texts.written(b"r", 1)
    texts.close()
    assert await texts.written(b"r", 1) == text(b"r", 1, "[2]")
    gc.collect()
    assert held() is None


async def test_a_model_that_is_open_again_reads_with_its_own_tokenizer(texts: Texts) -> None:
    await texts.written(b"r", 1)
    texts.close()
    texts.open = Engine()
    texts.read(b"p", '"four words are enough"')
    read = await texts.told()
    assert isinstance(read, ev.PromptRead)
    assert read.tokens == (4, 5, 3, 6)
    assert await texts.written(b"r", 1) == text(b"r", 1, "[2]")


async def test_token_ids_are_none_of_the_fallback_s(texts: Texts) -> None:
    model = NAME + FALLBACK_MARK
    texts.read(b"1", "[5, 6]", model)
    refused = await texts.told()
    assert isinstance(refused, ev.PromptRefused)
    assert (refused.deployment, refused.failure.code) == (model, "unavailable")
    assert "send a text" in refused.failure.message
    texts.read(b"2", '"a prompt"', model)
    assert isinstance(await texts.told(), ev.PromptRead)
    texts.read(b"3", "[5, 6]")
    assert isinstance(await texts.told(), ev.PromptRead)
