"""What a device asks of a generation, and what it is told: JSON, as docs/generation.md says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from dsi_mqtt.core.activation import JSON, TEXT
from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.core.generation import Ask, Completion, Partial, Prompt, Turn
from dsi_mqtt.core.request import Answer
from dsi_mqtt.errors import InvalidInputError, request_error
from dsi_mqtt.wire.header import TEMPERATURE_MAX

STOPS_MAX: Final = 8
STOP_CHARACTERS_MAX: Final = 64
# What a number of JSON holds exactly, wherever it is read.
WHOLE_MAX: Final = 2**53 - 1
ALIVE_RANGE_S: Final = (1.0, 60.0)
_FIELDS: Final = (
    "prompt",
    "messages",
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "seed",
    "stop",
    "stream",
    "alive_s",
)


def read_ask(body: bytes, defaults: Generation, content_type: str = JSON) -> Ask:
    """A prompt as plain text, or what JSON asks. Raises InvalidInputError naming the field."""
    if content_type == TEXT:
        return _read({"prompt": body.decode(errors="replace")}, defaults)
    if content_type != JSON:
        raise InvalidInputError(f"content type {content_type!r:.40} is not read here; send {JSON}")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"the input is not JSON ({error}); send a prompt") from None
    if isinstance(value, str | list):
        value = {"prompt": value}
    if not isinstance(value, dict):
        raise InvalidInputError("the input must be a prompt, or an object with prompt or messages")
    return _read(value, defaults)


def _read(value: dict[str, Any], defaults: Generation) -> Ask:
    unknown = value.keys() - set(_FIELDS)
    if unknown:
        raise InvalidInputError(
            f"field {min(unknown)!r:.40} is unknown; known are {', '.join(_FIELDS)}"
        )
    return Ask(
        prompt=_prompt(value),
        max_tokens=_whole(value, "max_tokens", defaults.max_tokens, 1, defaults.context),
        temperature=_number(value, "temperature", defaults.temperature, 0.0, TEMPERATURE_MAX),
        top_k=_whole(value, "top_k", 0, 0, WHOLE_MAX),
        top_p=_top_p(value),
        seed=None if value.get("seed") is None else _whole(value, "seed", 0, 0, WHOLE_MAX),
        stop=_stop(value.get("stop")),
        stream=_flag(value, "stream"),
        alive_s=None
        if value.get("alive_s") is None
        else _number(value, "alive_s", 0.0, *ALIVE_RANGE_S),
    )


def completion_body(completion: Completion) -> bytes:
    """The result in the answer of a generation."""
    told = {
        "text": completion.text,
        "tokens": completion.tokens,
        "take": completion.take,
        "hash": completion.hash,
        "finish_reason": completion.finish_reason,
        "usage": {
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": len(completion.tokens),
        },
    }
    return _written(told)


def partial_answer(identity: str | None, partial: Partial) -> bytes:
    """A message of a stream."""
    told: dict[str, object] = {
        "id": identity,
        "status": "partial",
        **({"fallback": True} if partial.fallback else {}),
        "take": partial.take,
        "index": partial.index,
        "tokens": partial.tokens,
        "text": partial.text,
        "hash": partial.hash,
    }
    return _written(told)


def read_partial(payload: bytes) -> Partial | None:
    """None for what is no message of a stream, such as the answer."""
    if b'"partial"' not in payload:
        return None  # not worth reading: an answer may be large
    try:
        told = json.loads(payload)
        if told["status"] != "partial":
            return None
        tokens = tuple(int(token) for token in told["tokens"])
        return Partial(
            int(told["take"]),
            int(told["index"]),
            tokens,
            str(told["text"]),
            str(told["hash"]),
            fallback=told.get("fallback") is True,
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def read_completion(answer: Answer) -> Completion:
    """The result of an answer, as its writer had it. Raises RequestError when it is none."""
    result = answer.result
    try:
        return Completion(
            take=int(result["take"]),
            tokens=tuple(int(token) for token in result["tokens"]),
            text=str(result["text"]),
            hash=str(result["hash"]),
            finish_reason="length" if result["finish_reason"] == "length" else "stop",
            prompt_tokens=int(result["usage"]["prompt_tokens"]),
            fallback=answer.fallback,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise request_error("failed", f"the answer is no generation's: {error!r}") from None


def _written(told: Mapping[str, object]) -> bytes:
    # Half a character may be among what a model says; it is escaped, for UTF-8 has no such.
    return json.dumps(told, ensure_ascii=True, separators=(",", ":")).encode()


def _prompt(value: dict[str, Any]) -> Prompt:
    prompt, messages = value.get("prompt"), value.get("messages")
    if (prompt is None) == (messages is None):
        raise InvalidInputError("give either prompt or messages")
    if messages is not None:
        return _turns(messages)
    if isinstance(prompt, str) and prompt:
        return prompt
    if isinstance(prompt, list) and prompt and all(_is_token(token) for token in prompt):
        return tuple(prompt)
    raise InvalidInputError("field prompt must be a text that is not empty, or a list of token ids")


def _turns(messages: object) -> tuple[Turn, ...]:
    turns = []
    for message in messages if isinstance(messages, list) else ():
        role = message.get("role") if isinstance(message, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(role, str) or not isinstance(content, str):
            break
        turns.append(Turn(role, content))
    else:
        if turns:
            return tuple(turns)
    raise InvalidInputError("field messages must be a list of objects with role and content, texts")


def _stop(value: object) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else [] if value is None else value
    if (
        isinstance(stops, list)
        and len(stops) <= STOPS_MAX
        and all(isinstance(stop, str) and 0 < len(stop) <= STOP_CHARACTERS_MAX for stop in stops)
    ):
        return tuple(stops)
    raise InvalidInputError(
        f"field stop must be a text, or up to {STOPS_MAX}, of 1 to {STOP_CHARACTERS_MAX} characters"
    )


def _top_p(value: dict[str, Any]) -> float:
    top_p = _number(value, "top_p", 1.0, 0.0, 1.0)
    if top_p == 0.0:
        raise InvalidInputError("field top_p must be above 0 and at most 1")
    return top_p


def _alive_s(value: dict[str, Any]) -> float | None:
    if value.get("alive_s") is None:
        return None
    return _number(value, "alive_s", 0.0, *ALIVE_RANGE_S)


def _flag(value: dict[str, Any], name: str) -> bool:
    flag = value.get(name)
    if flag is None or isinstance(flag, bool):
        return bool(flag)
    raise InvalidInputError(f"field {name} must be true or false")


def _whole(value: dict[str, Any], name: str, default: int, least: int, most: int) -> int:
    number = value.get(name)
    if number is None:
        return default
    if _is_whole(number) and least <= number <= most:
        return int(number)
    raise InvalidInputError(f"field {name} must be a whole number from {least} to {most}")


def _number(value: dict[str, Any], name: str, default: float, least: float, most: float) -> float:
    number = value.get(name)
    if number is None:
        return default
    # Not a number is in no range.
    if isinstance(number, int | float) and not isinstance(number, bool) and least <= number <= most:
        return float(number)
    raise InvalidInputError(f"field {name} must be a number from {least:g} to {most:g}")


def _is_token(value: object) -> bool:
    return isinstance(value, int) and _is_whole(value) and 0 <= value <= WHOLE_MAX


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
