"""Control messages as JSON: the frozen dataclasses of `core`, validated by pydantic.

There is no second definition of any message: a `TypeAdapter` reads and writes the very types the
state machines use. Unknown keys are ignored, so that a newer side may add some. Two names differ
on the wire because Python reserves `from`: `source` and `target` are `from` and `to`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Final, Generic, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.errors import TooLargeError, WireError

CONTROL_MAX: Final = MIB
_RENAMED: Final = {"source": "from", "target": "to"}

T = TypeVar("T")


def wire_name(name: str) -> str:
    """What a field is called on the wire."""
    return _RENAMED.get(name, name)


WIRE_CONFIG: Final = ConfigDict(
    alias_generator=wire_name,
    validate_by_alias=True,
    validate_by_name=False,
    extra="ignore",
    ser_json_inf_nan="null",
)


class Codec(Generic[T]):
    """JSON bytes ↔ a frozen dataclass, at most `limit` bytes in either direction.

    check: what is wrong with a value that has the right shape, as "field: why", or None.

    pydantic hands a configuration down to plain dataclasses from what contains them, never to a
    dataclass at the top: so the adapter's type is a tuple of one, whose brackets come off here.
    """

    def __init__(
        self,
        kind: type[T],
        *,
        limit: int = CONTROL_MAX,
        check: Callable[[T], str | None] = lambda _: None,
    ) -> None:
        self._check = check
        self._limit = limit
        self.kind = kind

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        """Made when it is first needed: no command needs all of them, and each takes a while."""
        return TypeAdapter(_tuple_of(self.kind), config=WIRE_CONFIG)

    def encode(self, value: T) -> bytes:
        """Raises TooLargeError."""
        payload: bytes = self._adapter.dump_json((value,), by_alias=True)[1:-1]
        if len(payload) > self._limit:
            raise TooLargeError(
                f"{self.kind.__name__} of {len(payload)} bytes is over {self._limit}"
            )
        return payload

    def decode(self, payload: bytes | memoryview) -> T:
        """Raises WireError naming the first field that is wrong, TooLargeError."""
        if len(payload) > self._limit:
            raise TooLargeError(
                f"{self.kind.__name__} of {len(payload)} bytes is over {self._limit}"
            )
        try:
            (value,) = self._adapter.validate_json(b"[%b]" % bytes(payload))
        except ValidationError as error:
            raise WireError(f"{self.kind.__name__}: {first_complaint(error)}") from None
        wrong = self._check(cast("T", value))
        if wrong is not None:
            raise WireError(f"{self.kind.__name__}: {wrong}")
        return cast("T", value)


def _tuple_of(kind: type[object]) -> Any:  # noqa: ANN401 — a type made at run time
    return tuple[kind]  # type: ignore[valid-type]


def first_complaint(error: ValidationError) -> str:
    """The first thing pydantic found wrong in a tuple of one, and how many more there are."""
    first, *others = complaints(error)
    return f"{first} (and {len(others)} more)" if others else first


def complaints(error: ValidationError, words: Mapping[str, str] | None = None) -> list[str]:
    """Everything pydantic found wrong in a tuple of one, each as "field: what is wrong".

    Names that are not known come first: one of them explains the one that is missing.
    words: by pydantic's error type, what to say instead of its own message; <given> stands for the
        value, <expected> for what is allowed.
    """
    found: list[Any] = list(error.errors(include_url=False))
    found.sort(key=lambda complaint: complaint["type"] != "unexpected_keyword_argument")
    return [_complaint(complaint, words or {}) for complaint in found]


def _complaint(found: Mapping[str, Any], words: Mapping[str, str]) -> str:
    path = ""
    for part in found["loc"][1:]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    message = words.get(found["type"], str(found["msg"]))
    message = message.replace("<expected>", str(found.get("ctx", {}).get("expected")))
    message = message.replace("<given>", f"{found.get('input')!r:.40}")
    return f"{path}: {message}" if path else message
