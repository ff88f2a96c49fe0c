"""Prompts into token ids and token ids into text, on a thread of its own for each deployment.

Beside the engine's thread, so that no text waits for a step that is being computed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from dsi_mqtt.core import events as ev
from dsi_mqtt.core.effects import ForgetText, ReadPrompt, WriteText
from dsi_mqtt.core.message import Failure
from dsi_mqtt.engine.base import Engine, TextCodec, TextStream
from dsi_mqtt.errors import DsiError, RequestError, one_sentence
from dsi_mqtt.wire.asks import read_ask

log = logging.getLogger(__name__)

Emit = Callable[[ev.Event], None]


class TextHost:
    """engine: the one that a deployment has open, or None."""

    def __init__(self, engine: Callable[[str], Engine | None], emit: Emit) -> None:
        self._engine = engine
        self._emit = emit
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self._codecs: dict[str, tuple[Engine, TextCodec]] = {}
        self._streams: dict[bytes, TextStream] = {}

    def read(self, effect: ReadPrompt) -> None:
        self._run(effect.deployment, lambda: self._prompt(effect))

    def write(self, effect: WriteText) -> None:
        self._run(effect.deployment, lambda: self._text(effect))

    def forget(self, effect: ForgetText) -> None:
        self._run(effect.deployment, lambda: self._forget(effect.request))

    def close(self, deployment: str) -> None:
        """The model is closed: its tokenizer goes too."""
        self._codecs.pop(deployment, None)
        thread = self._threads.pop(deployment, None)
        if thread is not None:
            thread.shutdown(wait=False, cancel_futures=True)

    def shut_down(self) -> None:
        for name in list(self._threads):
            self.close(name)

    # --- on the thread ------------------------------------------------------------------------

    def _prompt(self, effect: ReadPrompt) -> ev.Event:
        try:
            ask = read_ask(effect.parsed.body, effect.limits, effect.parsed.content_type)
            tokens = self._codec(effect.deployment).read(ask.prompt)
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

    def _text(self, effect: WriteText) -> ev.Event:
        stream = self._streams.get(effect.request)
        if stream is None:
            stream = self._streams[effect.request] = self._codec(effect.deployment).stream()
        text = stream.push(effect.tokens)
        if effect.last:
            text += stream.flush()
        return ev.TextWritten(
            effect.deployment, effect.request, len(effect.tokens), text, effect.last
        )

    def _forget(self, request: bytes) -> None:
        self._streams.pop(request, None)

    def _codec(self, deployment: str) -> TextCodec:
        engine = self._engine(deployment)
        if engine is None:
            raise DsiError("the model was closed here; try again")
        known = self._codecs.get(deployment)
        if known is None or known[0] is not engine:
            known = self._codecs[deployment] = (engine, engine.text())
        return known[1]

    # --- around it ----------------------------------------------------------------------------

    def _run(self, deployment: str, work: Callable[[], ev.Event | None]) -> None:
        loop = asyncio.get_running_loop()

        def on_thread() -> None:
            try:
                event = work()
            except Exception as error:  # noqa: BLE001 - its generation ends at its deadline
                log.warning("text of %s: %s", deployment, one_sentence(repr(error)))
                return
            if event is not None and not loop.is_closed():
                loop.call_soon_threadsafe(self._emit, event)

        self._thread(deployment).submit(on_thread)

    def _thread(self, deployment: str) -> ThreadPoolExecutor:
        thread = self._threads.get(deployment)
        if thread is None:
            thread = self._threads[deployment] = ThreadPoolExecutor(1, f"text {deployment}")
        return thread
