"""What OpenAI's clients send, read. What cannot be done is refused by its name, never ignored.

A parameter may be given with the value that changes nothing (`n=1`); what only tells who asks or
why (`user`, `metadata`) is let pass.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.errors import InvalidInputError
from dsi_mqtt.gateway.refusals import ApiError, api_error
from dsi_mqtt.wire.asks import WHOLE_MAX, read_ask

INPUTS_MAX: Final = 2048
ROLES: Final = {
    "system": "system",
    "developer": "system",  # the later name of the same
    "user": "user",
    "assistant": "assistant",
}

_SETTINGS: Final = ("temperature", "top_p", "top_k", "stop")
_SERVED: Final = {*_SETTINGS, "model", "stream", "stream_options", "max_tokens", "seed"}
_HARMLESS: Final = {
    "user",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "service_tier",
    "parallel_tool_calls",
}
# What is known and not done: the values that change nothing, beside null.
_NEUTRAL: Final[dict[str, tuple[object, ...]]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "store": (False,),
}
_NEUTRAL_CHAT: Final = _NEUTRAL | {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "audio": (),
    "prediction": (),
    "verbosity": (),
    "web_search_options": (),
}
_NEUTRAL_COMPLETION: Final = _NEUTRAL | {
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (),
}

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A generation: the prompt and the settings as `Client.generate` takes them."""

    prompt: str | list[int] | list[dict[str, str]]
    settings: dict[str, Any]
    stream: bool
    include_usage: bool


@dataclass(frozen=True, slots=True)
class WantedEmbeddings:
    texts: list[str]
    base64: bool


def read_body(payload: bytes) -> Body:
    """Raises ApiError."""
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object")
    return body


def model_of(body: Body) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise _refused("model", "must be the name of a model; GET /v1/models lists them")
    return model


def read_chat(body: Body, defaults: Generation) -> Wanted:
    """Raises ApiError naming the parameter."""
    _check_names(body, _SERVED | {"messages", "max_completion_tokens"}, _NEUTRAL_CHAT)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _refused("messages", "must be a list of at least one message")
    turns = [_turn(message, f"messages.{number}") for number, message in enumerate(messages)]
    return _wanted(body, "messages", turns, defaults)


def read_completion(body: Body, defaults: Generation) -> Wanted:
    """Raises ApiError naming the parameter."""
    _check_names(body, _SERVED | {"prompt"}, _NEUTRAL_COMPLETION)
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        if len(prompt) != 1:
            raise _refused("prompt", "must be one prompt; send each in a request of its own")
        prompt = prompt[0]
    return _wanted(body, "prompt", prompt, defaults)


def read_embeddings(body: Body) -> WantedEmbeddings:
    """Raises ApiError naming the parameter."""
    _check_names(body, {"model", "input", "encoding_format"}, {"dimensions": ()})
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not 0 < len(texts) <= INPUTS_MAX:
        raise _refused("input", f"must be a text, or a list of 1 to {INPUTS_MAX}")
    if not all(isinstance(text, str) and text for text in texts):
        raise _refused("input", "must be texts that are not empty; token ids are not served")
    form = body.get("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise _refused("encoding_format", "must be float or base64")
    return WantedEmbeddings(texts, form == "base64")


def _check_names(body: Body, served: set[str], neutral: dict[str, tuple[object, ...]]) -> None:
    for name, value in body.items():
        if name in served or name in _HARMLESS:
            continue
        if name not in neutral:
            raise ApiError(
                400,
                f"the parameter {name!r:.60} is unknown here; leave it out",
                param=name[:60],
                code="unknown_parameter",
            )
        if value is not None and value not in neutral[name]:
            same = " or ".join(json.dumps(known) for known in neutral[name])
            advice = f"leave it out, or give {same}" if same else "leave it out"
            raise ApiError(
                400,
                f"the parameter {name!r} is not supported; {advice}",
                param=name,
                code="unsupported_parameter",
            )


def _wanted(body: Body, field: str, prompt: Any, defaults: Generation) -> Wanted:  # noqa: ANN401 - checked here
    settings = {name: body[name] for name in _SETTINGS if body.get(name) is not None}
    most = body.get("max_completion_tokens")
    most = body.get("max_tokens") if most is None else most
    if most is not None:
        settings["max_tokens"] = most
    seed = body.get("seed")
    if isinstance(seed, int) and not isinstance(seed, bool):
        settings["seed"] = seed % (WHOLE_MAX + 1)  # theirs may be negative
    elif seed is not None:
        raise _refused("seed", "must be a whole number")
    stream = _flag(body, "stream")
    try:
        # The door's own reading, so that what is wrong is found before it travels.
        read_ask(json.dumps({field: prompt, **settings}).encode(), defaults)
    except InvalidInputError as error:
        raise api_error(error) from None
    return Wanted(prompt, settings, stream, _include_usage(body, stream=stream))


def _turn(message: Any, where: str) -> dict[str, str]:  # noqa: ANN401 - checked here
    if not isinstance(message, dict):
        raise _refused(where, "must be an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise _refused(f"{where}.role", f"must be one of {', '.join(ROLES)}")
    for name, value in message.items():
        if name not in ("role", "content", "name") and value not in (None, [], ""):
            raise _refused(f"{where}.{name}", "is not supported; leave it out")
    return {"role": ROLES[role], "content": _content(message.get("content"), f"{where}.content")}


def _content(content: Any, where: str) -> str:  # noqa: ANN401 - checked here
    if isinstance(content, str):
        return content
    texts = []
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise _refused(where, f"has a part of type {kind!r:.40}; only text is supported")
        texts.append(part["text"])
    if not texts:
        raise _refused(where, "must be a text, or a list of text parts")
    return "".join(texts)


def _include_usage(body: Body, *, stream: bool) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not stream:
        raise _refused("stream_options", "is for stream=true only")
    if not isinstance(options, dict) or options.keys() - {"include_usage", "include_obfuscation"}:
        raise _refused("stream_options", "may have include_usage only")
    return _flag(options, "include_usage")


def _flag(body: Body, name: str) -> bool:
    value = body.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise _refused(name, "must be true or false")


def _refused(param: str, what: str) -> ApiError:
    return ApiError(400, f"{param} {what}", param=param, code="invalid_value")
