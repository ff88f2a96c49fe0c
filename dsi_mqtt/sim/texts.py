"""Texts of a simulation: a prompt is so many tokens, and what is drawn follows from seed and place.

So a text is the same whichever nodes it ran on, and its device knows every token beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from dsi_mqtt.core.aim import Texts
from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.core.generation import Ask
from dsi_mqtt.sim.scenario import Requests

# Of a token in a prompt or an answer, and of a part of a stream or an answer around them.
TOKEN_BYTES: Final = 8
FRAME_BYTES: Final = 150
# Less is none: lengths are whole numbers.
SPREAD_MIN: Final = 1e-6
# Large primes, so that neighbouring seeds and places draw unlike tokens.
_SEED_STEP: Final = 2_654_435_761
_PLACE_STEP: Final = 40_503


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a device asks a generation for."""

    prompt_tokens: int
    new_tokens: int
    seed: int

    @property
    def nbytes(self) -> int:
        return FRAME_BYTES + self.prompt_tokens * TOKEN_BYTES

    def written(self) -> bytes:
        """As an input holds it."""
        return f"{self.prompt_tokens} {self.new_tokens} {self.seed}".encode()

    @classmethod
    def read(cls, body: bytes) -> Wanted:
        return cls(*map(int, body.split()))

    def ask(self, size: int) -> Ask:
        """Of its own: a prompt that others begin with as well would find their caches."""
        prompt = tuple(drawn(~self.seed, place, size) for place in range(self.prompt_tokens))
        return Ask(prompt, self.new_tokens, seed=self.seed, stream=True)

    def token(self, index: int, size: int) -> int:
        """The one that is drawn as number `index`, of `size` different ones."""
        return drawn(self.seed, self.prompt_tokens + index, size)


def drawn(seed: int, position: int, size: int) -> int:
    """The token at `position`: noise that is keyed as an engine's is."""
    mixed = (seed * _SEED_STEP + position * _PLACE_STEP) % (1 << 61)
    return (mixed ^ (mixed >> 17)) % size


def lengths(asked: Requests, usual: Texts, limits: Generation, random: Random) -> Wanted:
    """One text, its lengths drawn around their means; it fits the model's context."""
    spread = asked.text_spread
    new = min(_length(asked.new_tokens or usual.new_tokens, spread, random), limits.context - 1)
    given = _length(asked.prompt_tokens or usual.prompt_tokens, spread, random)
    return Wanted(min(given, limits.context - new), new, random.getrandbits(31))


def _length(mean: int, spread: float, random: Random) -> int:
    """From a gamma distribution, whose values are above 0."""
    if spread < SPREAD_MIN:
        return mean
    shape = 1 / (spread * spread)
    return max(1, round(random.gammavariate(shape, mean / shape)))
