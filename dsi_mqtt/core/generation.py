"""What a generation is asked for, and what is told of it while it runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn from logits.

    temperature: 0 takes the likeliest. top_k: of so many likeliest, 0: of all. top_p: of the
    likeliest that make up this share. seed: with the token's position, all that the noise
    depends on. text: which one it is drawn for, the same whoever tells it (`drawn`); none: nobody
    will ask.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    text: bytes = b""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: str
    content: str


Prompt = str | tuple[int, ...] | tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """seed: None lets the door draw one. alive_s: None: the device is not watched."""

    prompt: Prompt
    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    alive_s: float | None = None

    def sampling(self, seed: int) -> Sampling:
        """seed: the one to use where none was given."""
        return Sampling(
            self.temperature, self.top_k, self.top_p, seed if self.seed is None else self.seed
        )


@dataclass(frozen=True, slots=True)
class Partial:
    """Newly committed tokens, the first of them number `index`; `hash` is of all so far.

    fallback: they are of the deployment's fallback.
    """

    take: int
    index: int
    tokens: tuple[int, ...]
    text: str
    hash: str
    fallback: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """The whole of a generation, as its answer tells it. fallback: it is of the deployment's
    fallback, for its own model could not serve.
    """

    take: int
    tokens: tuple[int, ...]
    text: str
    hash: str
    finish_reason: FinishReason
    prompt_tokens: int
    fallback: bool = False


def rolling_hash(before: str, tokens: Iterable[int]) -> str:
    """The hash of what `before` is the hash of and `tokens` behind it; of nothing it is empty."""
    for token in tokens:
        before = hashlib.sha256(f"{before} {token}".encode()).hexdigest()[:16]
    return before
