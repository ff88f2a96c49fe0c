"""`dsi-mqtt bench forecast`, of generations: first tokens, and tokens, of texts at random."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import median
from typing import Final

from dsi_mqtt.cli.bench_forecast import (
    ASK_S,
    AT_REST,
    MEASURE_S,
    SHARE,
    WARM,
    Asked,
    Say,
    at_random,
    beside,
    foretold,
    serving,
)
from dsi_mqtt.cli.bench_forecast_cases import NAME, Case
from dsi_mqtt.cli.site import Site
from dsi_mqtt.client import Client
from dsi_mqtt.core.aim import Texts
from dsi_mqtt.core.latencies import percentile
from dsi_mqtt.core.table import Forecast

# Ids in prompts, which mean nothing.
TOKENS: Final = 200


@dataclass(frozen=True, slots=True)
class Taken:
    """Of one text, in seconds. first_s: until its first token; rest_s: from there to its last."""

    first_s: float
    rest_s: float
    tokens: int


@dataclass(frozen=True, slots=True)
class TextRow:
    """forecast: before traffic, for `rate_per_s` at random. idle: for one text that is alone, which
    is what `alone` are; loaded: those that came at random.
    """

    case: Case
    idle: Forecast
    forecast: Forecast
    rate_per_s: float
    alone: tuple[Taken, ...]
    loaded: tuple[Taken, ...]

    @property
    def idle_errors(self) -> tuple[float, float]:
        return _errors(self.idle, self.alone)

    @property
    def errors(self) -> tuple[float, float]:
        """Of the first token and of the tokens behind it, as forecast for the middle of them."""
        return _errors(self.forecast, self.loaded)

    @property
    def first_s(self) -> float:
        """The middle of those that came at random."""
        return median(text.first_s for text in self.loaded)

    @property
    def first_p95_error(self) -> float:
        took = percentile(sorted(text.first_s for text in self.loaded), SHARE)
        return self.forecast.p95_ms / 1e3 / took - 1


def _errors(told: Forecast, taken: Sequence[Taken]) -> tuple[float, float]:
    first = median(text.first_s for text in taken)
    return told.p50_ms / 1e3 / first - 1, (told.token_p50_ms or 0.0) / 1e3 / token_s(taken) - 1


def token_s(taken: Sequence[Taken]) -> float:
    """From one token to the next, on the mean."""
    return sum(text.rest_s for text in taken) / sum(text.tokens - 1 for text in taken)


async def measure_texts(
    case: Case, texts: int, seed: int, say: Say, patience_s: float = MEASURE_S
) -> TextRow:
    """One case, from nothing to nothing: as `bench_forecast.measure`, with a tenth of the texts
    alone.
    """
    asked = Asked(texts, seed, patience_s)
    return await beside(case, lambda site: _asking(site, case, asked, say))


async def _asking(site: Site, case: Case, asked: Asked, say: Say) -> TextRow:
    texts = case.texts
    assert texts is not None  # noqa: S101 - it is one of `TEXT_CASES`
    _, picture = await serving(site, case, asked, say)
    async with Client(site.url, device="bench") as client:
        for _ in range(WARM):
            await _took(client, texts)
        say(f"{case.name}: texts one by one")
        # What steps take is known from having served a few.
        alone = [await _took(client, texts) for _ in range(max(WARM, asked.requests // 10))]
        table, picture = await serving(site, case, asked, say)
        said = picture.statuses.values(), picture.telemetry.values()
        idle = foretold(*said, case.deployment(AT_REST), table)
        rate = case.load * idle.rate_per_s
        told = foretold(*said, case.deployment(rate), table)
        say(f"{case.name}: texts at random")
        random = Random(f"{asked.seed}/{case.name}")  # noqa: S311 - it must be repeatable
        gaps = [random.expovariate(rate) for _ in range(asked.requests)]
        loaded = await at_random(lambda: _took(client, texts), gaps)
    return TextRow(case, idle, told, rate, tuple(alone), tuple(loaded))


async def _took(client: Client, texts: Texts) -> Taken:
    prompt = [1 + i % TOKENS for i in range(texts.prompt_tokens)]
    started, first, tokens = time.perf_counter(), 0.0, 0
    asked = client.generate(
        NAME, prompt, max_tokens=texts.new_tokens, temperature=0, timeout_s=10 * ASK_S
    )
    async for piece in asked:
        first = first or time.perf_counter()
        tokens += len(piece.tokens)
    return Taken(first - started, time.perf_counter() - first, tokens)
