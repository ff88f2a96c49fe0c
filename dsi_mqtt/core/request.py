"""Values that a door handles: what a device sent, and what is remembered about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Self

from dsi_mqtt.core.generation import Completion
from dsi_mqtt.core.message import Failure, Priority

# What a device chooses and a door has to remember is short; more is refused.
DEVICE_MAX: Final = 128
CORRELATION_MAX: Final = 1024

# Of a Response Topic: Mosquitto ends the connection of whoever publishes to more.
LEVELS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class ParsedInput:
    """A device's payload, read. `complaint` says why it cannot be served, where it cannot.

    priority: that its device asks for.
    """

    identity: str | None
    content_type: str
    body: bytes
    complaint: str | None = None
    priority: Priority = "normal"


def input_key(device: str, correlation: bytes | None, identity: str | None) -> str | None:
    """What all deliveries of an input share that has an id; None for one without."""
    if correlation is not None:
        return f"{device}/c/{correlation.hex()}"
    return f"{device}/i/{identity}" if identity is not None else None


@dataclass(frozen=True, slots=True)
class Input:
    """One delivery of an input on the ingress connection.

    receipt: the shell's token to acknowledge it by. request: 16 fresh random bytes. digest: of
    topic and payload, tells inputs without an id apart. retained: published with the retain
    flag, which inputs must not have. response_topic: below the device's own answers, or None;
    foreign_topic: it asked for one that is not. deaths: of a copy that another door has passed on,
    where it is a suspect: how many are counted.
    """

    receipt: int
    request: bytes
    device: str
    parsed: ParsedInput
    digest: str
    nbytes: int
    correlation: bytes | None = None
    response_topic: str | None = None
    foreign_topic: bool = False
    duplicate: bool = False
    retained: bool = False
    expiry_s: int | None = None
    deaths: int | None = None

    @property
    def key(self) -> str:
        """What a repetition of the same input shares; see `anonymous`."""
        named = input_key(self.device, self.correlation, self.parsed.identity)
        return named or f"{self.device}/d/{self.digest}"

    @property
    def anonymous(self) -> bool:
        """Without an id two equal inputs are two requests, unless the broker repeats one."""
        return self.correlation is None and self.parsed.identity is None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: a result (`body` of `content_type`, or a completion) or a failure.

    topic: None means the default topic of the device. fallback: the result is of the fallback.
    """

    device: str
    identity: str | None
    correlation: bytes | None
    topic: str | None
    content_type: str = ""
    body: bytes = b""
    failure: Failure | None = None
    completion: Completion | None = None
    fallback: bool = False

    @classmethod
    def result(cls, given: Input, content_type: str, body: bytes) -> Self:
        return cls(
            given.device,
            given.parsed.identity,
            given.correlation,
            given.response_topic,
            content_type,
            body,
        )

    @classmethod
    def completed(cls, given: Input, completion: Completion) -> Self:
        return cls(
            given.device,
            given.parsed.identity,
            given.correlation,
            given.response_topic,
            completion=completion,
            fallback=completion.fallback,
        )

    @classmethod
    def error(cls, given: Input, failure: Failure) -> Self:
        return cls(
            given.device,
            given.parsed.identity,
            given.correlation,
            given.response_topic,
            failure=failure,
        )

    def readdressed(self, given: Input) -> Reply:
        """The same for a repetition, to where that asks for it."""
        return replace(
            self,
            device=given.device,
            identity=given.parsed.identity,
            correlation=given.correlation,
            topic=given.response_topic,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an input, as its device reads it. result: a JSON value, or bytes. fallback: it
    is of the deployment's fallback, for its own model could not serve.
    """

    result: Any
    fallback: bool = False


@dataclass(frozen=True, slots=True)
class Redelivery:
    """Retained record of a suspect. count: of deaths at which it was alone in the chain.

    door: the incarnation of the door that has it in the chain alone; when that has died as well,
    it is one more. Empty: it is not in the chain. position: of a generation: it is a suspect until
    the chain has computed so many.
    """

    key: str
    count: int
    door: str = ""
    position: int = 0

    @property
    def void(self) -> bool:
        """There is nothing to remember: what is retained is cleared."""
        return not self.count and not self.door and not self.position
