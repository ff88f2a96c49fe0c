"""Inputs at a rate and generations in lanes, through the project's client, told to the ledgers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from dsi_mqtt.chaos.journal import Journal
from dsi_mqtt.chaos.ledger import Ledger, Outcome
from dsi_mqtt.chaos.reference import (
    GENERATING,
    LOST_AFTER_S,
    MAX_TOKENS,
    ONE_PASS,
    TEMPERATURE,
    Prompt,
    Reference,
)
from dsi_mqtt.client import Client
from dsi_mqtt.errors import DeadlineError, DsiError, PoisonError


class Load:
    """Whoever asks. Numbers of inputs are never used again.

    changed: called whenever a ledger has been told of an answer or a token. feasible_since: since
    when a chain has been feasible without a break. carried_since: since when links have borne one:
    what is silent because they did not is excused.
    """

    def __init__(
        self,
        client: Client,
        reference: Reference,
        journal: Journal,
        changed: Callable[[], Awaitable[None]],
        *,
        feasible_since: Callable[[], float],
        carried_since: Callable[[], float],
    ) -> None:
        self._client = client
        self._reference = reference
        self._journal = journal
        self._changed = changed
        self._feasible_since = feasible_since
        self._carried_since = carried_since
        self._numbers = count()
        self._texts = reference.texts()
        self._prompts = reference.generations()
        self._asking: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def flowing(
        self, one_pass: Ledger, generation: Ledger | None, lanes: int, rate_per_s: float
    ) -> AsyncIterator[None]:
        """Both kinds go on within the block; behind it all that was asked has come to something."""
        ending = asyncio.Event()
        tasks = [asyncio.create_task(self._at_rate(one_pass, rate_per_s, ending), name="inputs")]
        if generation is not None:
            tasks += [
                asyncio.create_task(self._lane(generation, ending), name="generations")
                for _ in range(lanes)
            ]
        try:
            yield
        finally:
            ending.set()
            await asyncio.gather(*tasks)
            while self._asking:
                await asyncio.gather(*self._asking)

    def burst(self, ledger: Ledger, number: int) -> None:
        """So many inputs at once."""
        for _ in range(number):
            self._ask(ledger)

    def _excused(self, began: float) -> Outcome:
        return "error" if began >= self._feasible_since() else "excused"

    async def poison(self, unit: int) -> Outcome:
        """An input that ends whoever computes that unit. Right: it is refused as poisonous."""
        began = time.monotonic()
        try:
            await self._client.infer(ONE_PASS, {"exit": unit}, timeout_s=LOST_AFTER_S)
        except PoisonError:
            return "right"
        except DsiError as error:
            self._journal.note("poison", came_to=str(error))
            return self._excused(began)
        return "wrong"

    # --- inputs -------------------------------------------------------------------------------

    async def _at_rate(self, ledger: Ledger, rate: float, ending: asyncio.Event) -> None:
        due = time.monotonic()
        while not ending.is_set():
            self._ask(ledger)
            due = max(due + 1 / rate, time.monotonic() - 1)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    def _ask(self, ledger: Ledger) -> None:
        task = asyncio.create_task(self._one(ledger, next(self._numbers), next(self._texts)))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _one(self, ledger: Ledger, number: int, text: str) -> None:
        ledger.sent(number, time.monotonic())

        async def asked() -> Outcome:
            result = await self._client.infer(ONE_PASS, text, timeout_s=LOST_AFTER_S)
            return "right" if result == self._reference.results[text] else "wrong"

        await self._judged(ledger, number, asked)

    # --- generations --------------------------------------------------------------------------

    async def _lane(self, ledger: Ledger, ending: asyncio.Event) -> None:
        while not ending.is_set():
            number, prompt = next(self._numbers), next(self._prompts)
            ledger.sent(number, time.monotonic())

            async def asked(number: int = number, prompt: Prompt = prompt) -> Outcome:
                return await self._generate(ledger, number, prompt)

            await self._judged(ledger, number, asked)

    async def _generate(self, ledger: Ledger, number: int, prompt: Prompt) -> Outcome:
        """Right: the stream, put together, and the answer both tell the reference's tokens."""
        generation = self._client.generate(
            GENERATING,
            prompt.text,
            seed=prompt.seed,
            temperature=TEMPERATURE,
            max_tokens=MAX_TOKENS,
            timeout_s=LOST_AFTER_S,
        )
        shown: list[int] = []
        takes = set[int]()
        async for piece in generation:
            if piece.replaces:
                shown.clear()
            shown += piece.tokens
            takes.add(piece.take)
            ledger.progressed(number, time.monotonic())
            await self._changed()
        told = generation.completion.tokens
        ledger.higher_takes += len(takes | {generation.completion.take}) > 1
        return "right" if tuple(shown) == told == prompt.tokens else "wrong"

    async def _judged(
        self, ledger: Ledger, number: int, asked: Callable[[], Awaitable[Outcome]]
    ) -> None:
        began, why = time.monotonic(), ""
        try:
            outcome = await asked()
        except DsiError as error:
            # Silence until the very end is a loss; whoever is told why has an answer.
            silent = isinstance(error, DeadlineError) and time.monotonic() - began >= LOST_AFTER_S
            lost = silent and began >= self._carried_since()
            outcome, why = "lost" if lost else self._excused(began), str(error)
        now = time.monotonic()
        ledger.answered(number, outcome, now, why)
        fields: dict[str, Any] = {"why": why} if why else {}
        self._journal.note(
            "outcome", kind=ledger.kind, number=number, outcome=outcome,
            took_s=round(now - began, 4), **fields,
        )  # fmt: skip
        await self._changed()
