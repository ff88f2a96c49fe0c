"""What OpenAI's clients get: objects and chunks of their API."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dsi_mqtt.core.generation import Completion
from dsi_mqtt.gateway.catalogue import Model

DONE: Final = b"data: [DONE]\n\n"

Reply = dict[str, Any]


def event(value: object) -> bytes:
    """One server-sent event."""
    # Half a character may be among what a model says; it is escaped, for UTF-8 has no such.
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def usage(completion: Completion) -> Reply:
    told = len(completion.tokens)
    return {
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": told,
        "total_tokens": completion.prompt_tokens + told,
    }


@dataclass(frozen=True, slots=True)
class ReplyShape:
    """How one generation is told. chat: as a conversation, else as a bare completion.

    include_usage: every chunk names the usage, which is null in all but a last one of its own.
    """

    id: str
    model: str
    created: int
    chat: bool
    include_usage: bool = False

    def whole(self, completion: Completion) -> Reply:
        if self.chat:
            message = {"role": "assistant", "content": completion.text, "refusal": None}
            choice = self._choice({"message": message}, completion.finish_reason)
        else:
            choice = self._choice({"text": completion.text}, completion.finish_reason)
        kind = "chat.completion" if self.chat else "text_completion"
        return self._reply(kind, [choice]) | {"usage": usage(completion)}

    def first(self) -> list[Reply]:
        """What comes before any text."""
        return [self._chunk({"role": "assistant", "content": ""})] if self.chat else []

    def text(self, text: str) -> Reply:
        return self._chunk({"content": text} if self.chat else text)

    def last(self, completion: Completion) -> list[Reply]:
        """What comes after all text."""
        chunks = [self._chunk({} if self.chat else "", completion.finish_reason)]
        if self.include_usage:
            chunks.append(self._reply(self._chunk_kind, []) | {"usage": usage(completion)})
        return chunks

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _chunk(self, told: object, finish_reason: str | None = None) -> Reply:
        choice = self._choice({"delta" if self.chat else "text": told}, finish_reason)
        chunk = self._reply(self._chunk_kind, [choice])
        return chunk | {"usage": None} if self.include_usage else chunk

    def _choice(self, told: Reply, finish_reason: str | None) -> Reply:
        return {"index": 0, **told, "logprobs": None, "finish_reason": finish_reason}

    def _reply(self, kind: str, choices: list[Reply]) -> Reply:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def embeddings(
    model: str, vectors: Sequence[Sequence[float]], tokens: int, *, as_base64: bool
) -> Reply:
    """tokens: of all the inputs."""
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _base64(vector) if as_base64 else list(vector),
        }
        for index, vector in enumerate(vectors)
    ]
    return {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def model_object(model: Model) -> Reply:
    return {
        "id": model.spec.name,
        "object": "model",
        "created": model.created,
        "owned_by": "dsi-mqtt",
    }


def _base64(vector: Sequence[float]) -> str:
    """32-bit floats, little-endian."""
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()
