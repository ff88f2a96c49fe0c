"""What devices send and get: JSON or raw bytes in, JSON out.

In:  `{"input": <any JSON value>, "id": "optional", "priority": "optional"}` as application/json,
     which is also assumed when no Content Type is given (MQTT 3.1.1 has none). Any other JSON is
     the input itself; an object may have an `id` beside its fields. With MQTT 5 also raw bytes with
     another Content Type (text/plain, image/jpeg, application/x-npy, …), and the priority as a user
     property.
Out: `{"id": …, "status": "ok", "result": …}` or
     `{"id": …, "status": "error", "error": {"code": …, "message": …}}`, `overloaded` perhaps with
     `retry_after_s`; a result that is no JSON goes out as it is, under its own Content Type. What
     is of the deployment's fallback has `"fallback": true`, and the user property of that name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final, get_args

from dsi_mqtt.core.activation import JSON, media_type
from dsi_mqtt.core.message import RETRY_AFTER_MAX_S, Failure, Priority
from dsi_mqtt.core.request import Answer, ParsedInput
from dsi_mqtt.errors import InvalidInputError, request_error

ID_MAX: Final = 128
CONTENT_TYPE_MAX: Final = 128
PRIORITY: Final = "priority"
# The user property of an answer of the deployment's fallback.
FALLBACK: Final = ("fallback", "true")
_PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)
_ADVICE: Final = 'send {"input": …, "id": "optional"}'


def parse_input(
    payload: bytes, content_type: str | None, properties: Iterable[tuple[str, str]] = ()
) -> ParsedInput:
    """Reads what a device published. Raises InvalidInputError saying what is wrong.

    What is wrong although an id could be read is a `complaint`, so that the answer can name it.
    properties: the message's user properties.
    """
    parsed, asked = _parsed(payload, content_type)
    asked = next((value for name, value in properties if name == PRIORITY), asked)
    if asked is None or parsed.complaint is not None:
        return parsed
    priority = next((each for each in _PRIORITIES if each == asked), None)
    if priority is None:
        complaint = f"priority {asked!r:.40} is none of {', '.join(_PRIORITIES)}"
        return replace(parsed, complaint=complaint)
    return replace(parsed, priority=priority)


def _parsed(payload: bytes, content_type: str | None) -> tuple[ParsedInput, object]:
    """The input, and the priority that it names beside it."""
    kind = media_type(content_type or "") or JSON
    if len(kind) > CONTENT_TYPE_MAX or not kind.isascii():
        raise InvalidInputError(f"Content Type {kind!r:.40} cannot be read")
    if kind != JSON:
        return ParsedInput(None, kind, payload), None
    try:
        document = json.loads(payload, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"payload is not JSON ({error}); {_ADVICE}") from None
    identity = _identity(document) if isinstance(document, dict) else None
    if isinstance(document, dict) and not document.keys() - {"id"}:
        return ParsedInput(identity, kind, b"", f"field input is missing; {_ADVICE}"), None
    # Without a field `input` all fields are the input's own, but for the id.
    wrapped = isinstance(document, dict) and "input" in document
    priority = document.get(PRIORITY) if wrapped else None
    try:
        return ParsedInput(identity, kind, _body(document)), priority
    except (ValueError, RecursionError):
        complaint = f"the input holds a number or a depth that JSON cannot carry; {_ADVICE}"
        return ParsedInput(identity, kind, b"", complaint), None


def _body(document: object) -> bytes:
    """The input as JSON. Raises ValueError for infinity, which a number like 1e999 is read as."""
    given = document
    if isinstance(document, dict):
        bare = {key: value for key, value in document.items() if key != "id"}
        given = document.get("input", bare)
    text = json.dumps(given, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode(errors="surrogatepass")


def _identity(document: dict[str, Any]) -> str | None:
    identity = document.get("id")
    if identity is None:
        return None
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    if not isinstance(identity, str) or not 0 < len(identity) <= ID_MAX or not _is_utf8(identity):
        raise InvalidInputError(f"field id must be text of 1 to {ID_MAX} characters")
    return identity


def _is_utf8(text: str) -> bool:
    """False for half a character (a lone surrogate), which JSON can name and UTF-8 cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def answer_ok(identity: str | None, body: bytes, *, fallback: bool = False) -> bytes:
    """The answer with a result; `body` is JSON. fallback: it is of the deployment's fallback."""
    mark = b',"fallback":true' if fallback else b""
    named = json.dumps(identity).encode()
    return b'{"id":%b,"status":"ok"%b,"result":%b}' % (named, mark, body)


def answer_error(identity: str | None, failure: Failure) -> bytes:
    error: dict[str, Any] = {"code": failure.code, "message": failure.message}
    if failure.retry_after_s is not None:
        error["retry_after_s"] = failure.retry_after_s
    return json.dumps({"id": identity, "status": "error", "error": error}).encode()


def read_answer(
    payload: bytes,
    content_type: str | None = JSON,
    properties: Iterable[tuple[str, str]] = (),
) -> Answer:
    """The result and its mark. Raises the RequestError an error answer stands for.

    properties: the message's user properties.
    """
    if content_type not in (None, JSON):
        return Answer(payload, fallback=FALLBACK in properties)
    try:
        document = json.loads(payload)
        if document["status"] == "ok":
            return Answer(document["result"], fallback=document.get("fallback") is True)
        error = document["error"]
        code, message = str(error["code"]), str(error["message"])
        after_s = _seconds(error.get("retry_after_s"))
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as problem:
        raise request_error("failed", f"the answer cannot be read: {problem}") from None
    raise request_error(code, message, after_s)


def _seconds(told: object) -> int | None:
    """When to try again, where it is told and can be true."""
    if not isinstance(told, int | float) or not 0 < told < math.inf:
        return None
    return min(math.ceil(told), RETRY_AFTER_MAX_S)
