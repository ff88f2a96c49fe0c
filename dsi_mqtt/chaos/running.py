"""Goes through the trials on a standing system: injects, waits, mends, and closes the rows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from itertools import repeat
from random import Random
from typing import Final

from dsi_mqtt.chaos.faults import PATIENCE_S, STRIKES, Scene
from dsi_mqtt.chaos.ground import Ground, carried
from dsi_mqtt.chaos.journal import Journal
from dsi_mqtt.chaos.layouts import Layout
from dsi_mqtt.chaos.leaders import Leaders
from dsi_mqtt.chaos.ledger import Injection, Ledger
from dsi_mqtt.chaos.load import Load
from dsi_mqtt.chaos.outcome import Row, share
from dsi_mqtt.chaos.plain import PlainClient
from dsi_mqtt.chaos.reference import GENERATING, ONE_PASS
from dsi_mqtt.chaos.trials import (
    ABSENT_SHORT_S,
    MIXED,
    Kind,
    Target,
    Trial,
    absent_s,
    budgets,
    is_whole,
    mixture,
    victims,
)
from dsi_mqtt.chaos.watcher import Watcher, newest
from dsi_mqtt.wire.topics import Topics

NORMAL_S: Final = 8.0
SETTLE_S: Final = 45.0
CACHES_S: Final = 15.0
# What the end of a row takes: its last answers, and until the last caches are freed.
END_S: Final = 12.0
RESTART_S: Final = 0.3
STALL_S: Final = 5.0
# How much later a fault is injected than it might be: at any moment of what goes on.
LATER_S: Final = 0.5
# Of a row without an orchestrator, what its beginning and its end take besides.
AROUND_S: Final = 45.0
# How often it is looked at what links carry.
LOOK_S: Final = 0.25
_NAMES: Final[dict[Kind, str]] = {"one-pass": ONE_PASS, "generation": GENERATING}


@dataclass(slots=True)
class Run:
    """A standing system under trial. broken: what ended unasked, or did not come back."""

    ground: Ground
    layout: Layout
    watcher: Watcher
    leaders: Leaders
    load: Load
    plain: PlainClient
    journal: Journal
    topics: Topics
    seed: int
    down: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    normal: dict[Kind, float] = field(default_factory=dict)
    _deadly: bool = False
    _absent_s: float = ABSENT_SHORT_S
    _restarts: set[asyncio.Task[None]] = field(default_factory=set)

    # --- trials -------------------------------------------------------------------------------

    async def undisturbed(self, seconds: float) -> None:
        """How results come without any fault: what `gap_ms.normal` says."""
        ledgers = self._open(("one-pass", "generation"))
        async with self._flowing(ledgers, Trial("", "any", "end", 0)):
            await asyncio.sleep(seconds)
        for kind, ledger in ledgers.items():
            self.normal[kind] = share(ledger.gaps, 0.99) or 0.0
            self.journal.say(
                f"undisturbed: {ledger.outcomes['right']} of {ledger.inputs} {kind} right, "
                f"99 % of results within {self.normal[kind] * 1e3:.0f} ms of the one before"
            )

    async def trials(self, trials: tuple[Trial, ...], seconds: float) -> list[Row]:
        """One after the other, each with its share of the time."""
        rows: list[Row] = []
        for trial, budget_s in zip(trials, budgets(trials, seconds), strict=True):
            places = zip(repeat(trial), victims(trial, self.seed), strict=False)
            self._absent_s = absent_s(budget_s, AROUND_S)
            rows += await self._trial(trial, places, budget_s, until_whole=True)
        return rows

    async def mixed(self, seconds: float) -> list[Row]:
        """Faults at random, for so long, as one row of each kind."""
        named = Trial(MIXED, "any", "end", 0)
        return await self._trial(named, mixture(self.seed), seconds, until_whole=False)

    async def _trial(
        self,
        named: Trial,
        lots: Iterator[tuple[Trial, Target]],
        budget_s: float,
        *,
        until_whole: bool,
    ) -> list[Row]:
        began, number = time.monotonic(), 0
        ledgers = self._open(named.kinds)
        self.journal.note("trial", fault=named.fault, target=named.target, client=named.client)
        async with self._flowing(ledgers, named):
            for trial, place in lots:
                number += 1
                await self._inject(trial, place, number, ledgers)
                whole = all(
                    is_whole(len(each.injections), each.inputs, kind, trial.enough)
                    for kind, each in ledgers.items()
                )
                late = time.monotonic() - began > budget_s - END_S
                if late or (until_whole and whole):
                    break
        await self._freed(ledgers)
        self.watcher.ledgers = {}
        rows = [Row(named, each, self.normal.get(kind, 0.0)) for kind, each in ledgers.items()]
        for row in rows:
            self._say_row(row, time.monotonic() - began)
        self.journal.flush()
        return rows

    # --- one injection ------------------------------------------------------------------------

    async def _inject(
        self, trial: Trial, place: Target, number: int, ledgers: dict[Kind, Ledger]
    ) -> None:
        await self._settled()
        random = Random(f"{self.seed}/{trial.fault}/{number}")  # noqa: S311 - repeatable
        await asyncio.sleep(trial.hold_s + random.random() * LATER_S)
        node = self._node(place)
        for kind, ledger in ledgers.items():
            before = newest(self.watcher.documents.get(_NAMES[kind]))
            injection = Injection(trial.fault, place, node, trial.proof, time.monotonic(), before)
            ledger.injected(injection)
        self.leaders.note()
        self.journal.note("injected", fault=trial.fault, place=place, node=node, number=number)
        self._deadly = trial.fault in ("poison", "memory_short", "cannot_load")
        try:
            async with STRIKES[trial.fault](self._scene(random, ledgers), node):
                back = await self.watcher.until(
                    lambda: all(_recovered(each) for each in ledgers.values()), PATIENCE_S
                )
                if not back:
                    self._note_nodes()
                await asyncio.sleep(trial.hold_s)
        finally:
            self.journal.note("mended", fault=trial.fault, node=node, number=number)
            self._say_injection(trial, node, number, ledgers)
        await self._settled()
        self._deadly = False

    def _scene(self, random: Random, ledgers: dict[Kind, Ledger]) -> Scene:
        def each(told: str) -> None:
            for ledger in ledgers.values():
                getattr(ledger, told)(time.monotonic())

        return Scene(
            self.ground,
            self.layout,
            self.watcher,
            self.leaders,
            self.load,
            ledgers["one-pass"],
            self.journal,
            self.topics,
            random,
            self.down,
            self._absent_s,
            lambda: each("ended"),
            lambda: each("detected"),
        )

    def _node(self, place: Target) -> str:
        """Who stands there now; nobody where the target is none of the chain's places."""
        document = self.watcher.documents.get(ONE_PASS)
        table = document.serve if document is not None else None
        if table is None or not table.segments or table.door is None:
            usual = {"door": "city", "first": "city", "middle": "north", "last": "south"}
            return usual.get(place, "")
        if place == "door":
            return table.door.node
        index = {"first": 0, "middle": len(table.segments) // 2, "last": -1}.get(place)
        return "" if index is None else table.segments[index].replicas[0].node

    async def _settled(self) -> None:
        """Waits until all is as usual: whose chain, who leads, who is there."""
        if not await self.watcher.until(self._is_usual, SETTLE_S):
            why = self._unusual()
            if time.monotonic() - SETTLE_S >= self.watcher.carried_since:
                self.broken.append(why)  # else it is the links'
            self.journal.note("unsettled", why=why)
            self.journal.say(f"  not as usual after {SETTLE_S:.0f} s: {why}")

    def _is_usual(self) -> bool:
        return not self._unusual()

    def _unusual(self) -> str:
        watcher = self.watcher
        for name in self.ground.nodes:
            status = watcher.statuses.get(name)
            if status is None or status.state != "online":
                return f"node {name} is not online"
            if status.pid != self.ground.pid(name):
                return f"node {name}'s newest process has not spoken"
        if watcher.leader is None or watcher.leader.beat <= 0:
            return "nobody leads"
        for kind, name in _NAMES.items():
            document = watcher.documents.get(name)
            if document is None or document.prepare is not None:
                return f"{name} is being prepared"
            if not self.layout.is_usual(watcher.members(kind)):
                where = ", ".join(sorted(watcher.members(kind))) or "nobody"
                return f"{name} is served by {where}"
        return ""

    # --- rows ---------------------------------------------------------------------------------

    def _open(self, kinds: Iterable[Kind]) -> dict[Kind, Ledger]:
        found = {kind: Ledger(kind) for kind in kinds}
        for kind, ledger in found.items():
            ledger.stamp = newest(self.watcher.documents.get(_NAMES[kind]))
        self.watcher.ledgers = found
        return found

    @asynccontextmanager
    async def _flowing(self, ledgers: dict[Kind, Ledger], trial: Trial) -> AsyncIterator[None]:
        one_pass, generation = ledgers["one-pass"], ledgers.get("generation")
        looking = asyncio.gather(self._look_for_stalls(ledgers), self._look_at_links())
        try:
            if trial.client == "plain":
                async with self.plain.flowing(one_pass, trial.rate_per_s):
                    yield
            else:
                async with self.load.flowing(one_pass, generation, trial.lanes, trial.rate_per_s):
                    yield
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def _look_for_stalls(self, ledgers: dict[Kind, Ledger]) -> None:
        """While a kind gets no answers, what nodes say goes into the journal."""
        before: dict[Kind, int] = {}
        while True:
            await asyncio.sleep(STALL_S)
            for kind, ledger in ledgers.items():
                answered = ledger.inputs - ledger.open
                if ledger.open and answered == before.get(kind):
                    self.journal.note("stalled", kind=kind, open=ledger.open)
                    self._note_nodes()
                before[kind] = answered

    async def _look_at_links(self) -> None:
        """What they carry changes without a word."""
        while True:
            self.watcher.look_whether_feasible()
            await asyncio.sleep(LOOK_S)

    async def _freed(self, ledgers: dict[Kind, Ledger]) -> None:
        """Counts the caches that are left of generations when none runs."""
        ledger = ledgers.get("generation")
        if ledger is None:
            return
        since = time.monotonic()

        def left() -> int:
            told = [self.watcher.telemetry.get(node) for node in carried(self.ground)]
            late = [each is None or each[0] <= since for each in told]
            kept = [each[1].sessions.get(GENERATING, 0) for each in told if each is not None]
            return sum(kept) + sum(late)

        if not await self.watcher.until(lambda: left() == 0, CACHES_S):
            ledger.caches_left = left()
            self.journal.note("caches", left=ledger.caches_left)

    def _note_nodes(self) -> None:
        """What each node said last of its doors and segments: why nothing comes is found there."""
        for name, (at, told) in sorted(self.watcher.telemetry.items()):
            status = self.watcher.statuses.get(name)
            self.journal.note(
                "said", node=name, ago_s=round(time.monotonic() - at, 2),
                doors=[asdict(door) for door in told.doors],
                ingress=[(d.deployment, d.ingress_open) for d in status.doors] if status else [],
                segments=[(s.deployment, s.segment, s.queued) for s in told.segments],
                sessions=told.sessions,
            )  # fmt: skip

    def _say_injection(
        self, trial: Trial, node: str, number: int, ledgers: dict[Kind, Ledger]
    ) -> None:
        parts = []
        for kind, ledger in ledgers.items():
            found = ledger.newest
            if found is not None:
                seen = _seconds(found.detected_at, found.at)
                back = _seconds(found.recovered_at, found.at)
                parts.append(f"{kind}: seen {seen}, recovered {back}, gap {found.gap_s:.2f} s")
                self.journal.note(
                    "recovery", kind=kind, detect_s=_took(found.detected_at, found.at),
                    table_s=_took(found.table_at, found.at),
                    recovery_s=_took(found.recovered_at, found.at), gap_s=round(found.gap_s, 4),
                )  # fmt: skip
        whom = f" {node}" if node else ""
        self.journal.say(f"  {trial.fault}{whom} #{number}: {'; '.join(parts)}")

    def _say_row(self, row: Row, took_s: float) -> None:
        found = row.ledger
        self.journal.say(
            f"{row.trial.fault} {row.trial.target}, {found.kind}: "
            f"{len(found.injections)} injections, {found.outcomes['right']} of {found.inputs} "
            f"right: {'passed' if row.passed else 'FAILED'} in {took_s:.0f} s"
        )
        for failure, times in row.failures().items():
            self.journal.say(f"    {failure}: {times}")
        for reason, times in found.reasons.most_common(3):
            self.journal.say(f"    {times} x {reason}")

    # --- processes ----------------------------------------------------------------------------

    def process_ended(self, name: str, code: int) -> None:
        """Whoever ends unasked is started again; where no fault explains it, it is told."""
        self.journal.note("ended", process=name, code=code, asked=name in self.down)
        if name in self.down:
            return
        if not self._deadly:
            self.broken.append(f"{name} ended with {code}")
            self.journal.note("tail", process=name, tail=self.ground.tail(name))
            self.journal.say(f"  {name} ended with {code}, and nobody had asked for that")
        task = asyncio.create_task(self._start_again(name))
        self._restarts.add(task)
        task.add_done_callback(self._restarts.discard)

    async def _start_again(self, name: str) -> None:
        await asyncio.sleep(RESTART_S)
        self.leaders.forget(name)
        await self.ground.start(name)

    async def close(self) -> None:
        """No process is started again from here on."""
        for task in tuple(self._restarts):
            task.cancel()
        await asyncio.gather(*self._restarts, return_exceptions=True)


def _recovered(ledger: Ledger) -> bool:
    newest_ = ledger.newest
    return newest_ is None or newest_.recovered_at is not None


def _took(at: float | None, since: float) -> float | None:
    return None if at is None else round(at - since, 4)


def _seconds(at: float | None, since: float) -> str:
    return "never" if at is None else f"{at - since:.2f} s"
