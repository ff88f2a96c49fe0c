"""What the gateway needs of clients. The command hands it them: rooms of a floor never meet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any, Protocol

from dsi_mqtt.core.generation import Completion
from dsi_mqtt.core.stream import Piece


class Generating(Protocol):
    """One generation: iterated for pieces, or awaited for the whole."""

    @property
    def completion(self) -> Completion: ...

    def __aiter__(self) -> AsyncIterator[Piece]: ...

    def __await__(self) -> Generator[Any, None, Completion]: ...

    def cancel(self) -> None: ...


class Asker(Protocol):
    """Asks deployments over MQTT, as one device. All of it raises RequestError or ConfigError."""

    def generate(
        self,
        deployment: str,
        prompt: str | Sequence[int] | Sequence[Mapping[str, str]],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        timeout_s: float,
    ) -> Generating: ...

    async def infer(
        self,
        deployment: str,
        inputs: Any,  # noqa: ANN401 - any JSON value
        *,
        timeout_s: float,
    ) -> Any:  # noqa: ANN401 - any JSON value
        ...


# By owner of a key, an asker that is a device of its own: a door keeps caches for the device that
# has asked, and how fast an answer comes would tell others what was asked before. Raises
# TransportError where the broker is away.
Askers = Callable[[str], Awaitable[Asker]]
