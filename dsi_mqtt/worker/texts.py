"""Prompts into token ids and token ids into text, on a thread of its own for each deployment.

Beside the engine's thread, so that no text waits for a step that is being computed.

Texts outlive their model here: a door may generate with segments on other nodes. What has begun is
written to its end, with the tokenizer that it began with.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from dsi_mqtt.core import events as ev
from dsi_mqtt.core.deployment import FALLBACK_MARK
from dsi_mqtt.core.effects import ForgetText, ReadPrompt, WriteText
from dsi_mqtt.core.generation import Prompt
from dsi_mqtt.core.message import Failure
from dsi_mqtt.engine.base import Engine, TextCodec, TextStream
from dsi_mqtt.errors import DsiError, RequestError, UnavailableError, one_sentence
from dsi_mqtt.wire.asks import read_ask
from dsi_mqtt.worker.threads import Threads

log = logging.getLogger(__name__)

Emit = Callable[[ev.Event], None]

_OWN_IDS: Final = (
    "token ids are those of the deployment's own model, and its fallback serves now; send a text, "
    "or try later"
)
_CLOSED: Final = Failure("unavailable", "the model was closed here; try again")


@dataclass(slots=True)
class _Texts:
    """Of one deployment. begun: generations of which text was wanted; else only the thread's."""

    begun: set[bytes] = field(default_factory=set)
    codec: tuple[Engine, TextCodec] | None = None
    streams: dict[bytes, TextStream] = field(default_factory=dict)


class TextHost:
    """engine: the one that a deployment has open, or None."""

    def __init__(self, engine: Callable[[str], Engine | None], emit: Emit) -> None:
        self._engine = engine
        self._emit = emit
        self._threads = Threads("text")
        self._texts: dict[str, _Texts] = {}

    def read(self, effect: ReadPrompt) -> None:
        if self._engine(effect.deployment) is None:
            return  # the door asks again when a model is open
        texts = self._texts.setdefault(effect.deployment, _Texts())
        self._run(effect.deployment, partial(self._prompt, texts, effect))

    def write(self, effect: WriteText) -> None:
        deployment, request = effect.deployment, effect.request
        texts = self._texts.get(deployment)
        if self._engine(deployment) is not None:
            texts = self._texts.setdefault(deployment, _Texts())
        elif texts is None or request not in texts.begun:
            told = ev.PromptRefused(deployment, request, _CLOSED)
            asyncio.get_running_loop().call_soon(self._emit, told)
            return
        texts.begun.add(request)
        self._run(deployment, partial(self._text, texts, effect))

    def forget(self, effect: ForgetText) -> None:
        texts = self._texts.get(effect.deployment)
        if texts is None or effect.request not in texts.begun:
            return
        texts.begun.discard(effect.request)
        self._run(effect.deployment, partial(self._forget, texts, effect.request))
        self._end_unused(effect.deployment)

    def close(self, deployment: str) -> None:
        """The model is closed: its tokenizer goes as soon as no text needs it."""
        texts = self._texts.get(deployment)
        if texts is not None:
            self._run(deployment, partial(self._drop_codec, texts))
            self._end_unused(deployment)

    def shut_down(self) -> None:
        for name in list(self._texts):
            self._end(name)

    # --- on the thread ------------------------------------------------------------------------

    def _prompt(self, texts: _Texts, effect: ReadPrompt) -> ev.Event | None:
        try:
            ask = read_ask(effect.parsed.body, effect.limits, effect.parsed.content_type)
            codec = self._codec(texts, effect.deployment)
            if codec is None:
                return None
            tokens = _tokens(codec, ask.prompt, effect.deployment)
        except RequestError as error:
            failure = Failure(error.code, str(error))
        except DsiError as error:
            failure = Failure("unavailable", str(error))
        except Exception as error:  # tokenizers and templates raise of their own
            log.debug("reading a prompt failed", exc_info=True)
            told = one_sentence(f"the prompt cannot be read: {error}")
            failure = Failure("invalid_input", told)
        else:
            return ev.PromptRead(effect.deployment, effect.request, ask, tokens)
        return ev.PromptRefused(effect.deployment, effect.request, failure)

    def _text(self, texts: _Texts, effect: WriteText) -> ev.Event:
        try:
            stream = texts.streams.get(effect.request)
            if stream is None:
                codec = self._codec(texts, effect.deployment)
                if codec is None:
                    return ev.PromptRefused(effect.deployment, effect.request, _CLOSED)
                stream = texts.streams[effect.request] = codec.stream()
            text = stream.push(effect.tokens)
            if effect.last:
                text += stream.flush()
        except Exception as error:  # tokenizers raise of their own
            log.debug("writing text failed", exc_info=True)
            told = one_sentence(f"the text cannot be written: {error}")
            return ev.PromptRefused(effect.deployment, effect.request, Failure("failed", told))
        return ev.TextWritten(
            effect.deployment, effect.request, len(effect.tokens), text, effect.last
        )

    def _forget(self, texts: _Texts, request: bytes) -> None:
        texts.streams.pop(request, None)

    def _drop_codec(self, texts: _Texts) -> None:
        """It holds the engine, and with it the weights."""
        texts.codec = None

    def _codec(self, texts: _Texts, deployment: str) -> TextCodec | None:
        engine = self._engine(deployment)
        if engine is None:
            return None
        if texts.codec is None or texts.codec[0] is not engine:
            texts.codec = engine, engine.text()
        return texts.codec[1]

    # --- around it ----------------------------------------------------------------------------

    def _run(self, deployment: str, work: Callable[[], ev.Event | None]) -> None:
        loop = asyncio.get_running_loop()

        def on_thread() -> None:
            event = work()
            # The loop may be gone when a worker is ended meanwhile.
            if event is not None and not loop.is_closed():
                loop.call_soon_threadsafe(self._emit, event)

        self._threads.submit(deployment, on_thread)

    def _end_unused(self, deployment: str) -> None:
        """Of a model that is closed, once no text is left to write."""
        if self._engine(deployment) is None and not self._texts[deployment].begun:
            self._end(deployment)

    def _end(self, deployment: str) -> None:
        del self._texts[deployment]
        self._threads.end(deployment)


def _tokens(codec: TextCodec, prompt: Prompt, model: str) -> tuple[int, ...]:
    """Raises RequestError where it is no prompt for the model."""
    if model.endswith(FALLBACK_MARK) and isinstance(prompt[0], int):
        raise UnavailableError(_OWN_IDS)
    return codec.read(prompt)
