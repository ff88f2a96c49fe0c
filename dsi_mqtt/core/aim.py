"""What a placement is chosen by: the score that the planner minimises, and what a request is.

    score = latency · (time of a request + its wait under load)     seconds
          + busiest · seconds that a request keeps the busiest station busy
          + cost · money an hour
          + exposure · share of the units that are computed outside of the trusted zones

Each weight says how many seconds of latency one of the other things is worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final, Literal

from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.session import SLICE_TOKENS

Phase = Literal["request", "prefill", "decode"]

# Of a generation whose deployment names no reference text.
PROMPT_TOKENS: Final = 64
NEW_TOKENS: Final = 64


@dataclass(frozen=True, slots=True)
class Trip:
    """A passage through the whole chain. count: how many a request makes. rows: each carries, those
    of as many requests as `shared` among them.
    """

    phase: Phase
    count: int = 1
    rows: int = 1
    shared: int = 1

    @property
    def each(self) -> float:
        """Trips that one request stands for, where others share them."""
        return self.count / self.shared


ONE_PASS: Final = (Trip("request"),)


@dataclass(frozen=True, slots=True)
class Aim:
    """Weights of the score, and the load under which its latency is meant.

    latency: 1 by default. busiest: of throughput, which is one over the busiest station's seconds.
    cost: seconds that one unit of currency an hour is worth. exposure: seconds that all units
    outside of the trusted zones are worth. rate_per_s: requests that come at random; 0 is a system
    at rest. share: of the requests that the latency holds for, between 0 and 1.
    latency_max_s: what that latency must stay within, or None.
    """

    latency: float = 1.0
    busiest: float = 0.0
    cost: float = 0.0
    exposure: float = 0.0
    rate_per_s: float = 0.0
    share: float = 0.95
    latency_max_s: float | None = None

    @property
    def loads(self) -> bool:
        """Whether it matters how long a request keeps stations busy."""
        return self.rate_per_s > 0 or self.busiest > 0

    @classmethod
    def of(cls, deployment: Deployment, *, hard: bool = False) -> Aim:
        """As the deployment's file says. hard: its target is a condition, not a wish."""
        sla, weights = deployment.sla, deployment.objective
        target = sla.latency_ms if deployment.kind == "one-pass" and hard else None
        return cls(
            latency=weights.latency,
            busiest=weights.throughput,
            cost=weights.cost,
            exposure=weights.exposure,
            rate_per_s=deployment.rate_per_s,
            share=sla.percentile / 100,
            latency_max_s=None if target is None else target / 1000,
        )


@dataclass(frozen=True, slots=True)
class Texts:
    """What a generation is like: tokens of its prompt, and those that are drawn."""

    prompt_tokens: int = PROMPT_TOKENS
    new_tokens: int = NEW_TOKENS

    @classmethod
    def of(cls, deployment: Deployment) -> Texts:
        """The deployment's reference text."""
        sla = deployment.sla
        return cls(sla.prompt_tokens or PROMPT_TOKENS, sla.new_tokens or NEW_TOKENS)

    @property
    def slices(self) -> int:
        """Trips that feed the prompt."""
        return ceil(self.prompt_tokens / SLICE_TOKENS)

    @property
    def slice_tokens(self) -> int:
        return ceil(self.prompt_tokens / self.slices)

    @property
    def steps(self) -> int:
        """Trips that decode: the last slice of the prompt has yielded the first token."""
        return max(0, self.new_tokens - 1)

    def trips(self, width: int = 1) -> tuple[Trip, ...]:
        """width: sessions that a step of decoding carries."""
        return (
            Trip("prefill", self.slices, self.slice_tokens),
            Trip("decode", self.steps, rows=width, shared=width),
        )
