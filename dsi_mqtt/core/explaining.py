"""The newest decisions of each deployment, explained on a topic: what the leader writes, and when.

An explanation begins with its decision. What the door measures on the decision's own table comes
later, beside what it measured on the table before: once enough is measured, and when the table
goes. Whoever leads next goes on with what is retained. A write waits for `WRITE_S` after the last
one, so that many decisions in a row cost one; no table waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from dsi_mqtt.core.decisions import Decided, PublishExplanations, ServedEffects
from dsi_mqtt.core.explanation import Deciding, Explanation, Explanations, Measured
from dsi_mqtt.core.grounds import explained
from dsi_mqtt.core.kept import Kept
from dsi_mqtt.core.latencies import P95_MIN, Latencies
from dsi_mqtt.core.node import Telemetry
from dsi_mqtt.core.table import Table, TableDocument

# Of one deployment.
KEPT: Final = 32
WRITE_S: Final = 2.0

# Seconds that pass, to measure with; and where nobody measures.
Stopwatch = Callable[[], float]


def unmeasured() -> float:
    return 0.0


@dataclass(frozen=True, slots=True)
class Moment:
    """now: monotonic; unix_s: since 1970, for people. Both in seconds."""

    now: float
    unix_s: int


class Effort:
    """What the orchestrator itself costs."""

    def __init__(self) -> None:
        self._looks = Latencies()
        self._count = 0
        self._bytes = 0

    def looked(self, seconds: float) -> None:
        self._count += 1
        self._looks.add(seconds)

    def published(self, nbytes: int) -> None:
        self._bytes += nbytes

    def begins(self) -> None:
        """It leads from now on."""
        self._looks.clear()
        self._count = 0

    @property
    def told(self) -> Deciding:
        p50_ms, p95_ms = (
            None if ms is None else round(ms, 3) for ms in (self._looks.p50_ms, self._looks.p95_ms)
        )
        return Deciding(p50_ms, p95_ms, self._count, self._bytes)


class Explaining:
    """State machine of one deployment. deployment: its name."""

    def __init__(self, deployment: str) -> None:
        self.deployment = deployment
        self.explanations: tuple[Explanation, ...] = ()
        self._kept = Kept()
        self._written: Explanations | None = None  # by oneself, since one leads
        self._number = 0
        self._changed = False
        self._write_at = float("-inf")
        self._serving: str | None = None  # the decision whose table serves
        self._measured: Measured | None = None

    # --- what is retained ---------------------------------------------------------------------

    def seen(self, document: Explanations, now: float) -> None:
        """What the topic holds: one's own, or the leader's, which one may have to go on with."""
        if self._written is None:
            self._adopt(document.explanations[-KEPT:])
        elif document.version == self._written.version:
            self._kept.is_right()
        else:
            self._kept.is_wrong(now)

    def lost(self, now: float) -> None:
        """Somebody has cleared the topic, or written what cannot be read."""
        if self._written is not None:
            self._kept.is_wrong(now)

    def forgotten(self, now: float) -> None:
        """It is not among what the broker retains."""
        if self._written is not None:
            self._kept.is_missing(now)

    def _adopt(self, theirs: tuple[Explanation, ...]) -> None:
        """Unless a broker has fallen back to before what one knows."""
        newer = {explanation.id for explanation in self.explanations[:-1]}
        if theirs and theirs[-1].id not in newer and not self._changed:
            self.explanations = theirs

    # --- leading ------------------------------------------------------------------------------

    def takes_over(self) -> None:
        """It is written again: the broker may have lost it."""
        self._changed = bool(self.explanations)

    def lets_go(self) -> None:
        """Somebody else writes from now on."""
        self._written = self._serving = self._measured = None
        self._changed = False

    def decided(self, decided: Decided, moment: Moment, took_s: float) -> Decided:
        """The same with its explanation, which is kept."""
        found = replace(
            explained(decided.id, decided.kind, decided.reason, decided.plan, decided.grounds),
            when=moment.unix_s,
            took_ms=round(took_s * 1e3, 3),
            before=self._measured,
        )
        self.explanations = (*self.explanations, found)[-KEPT:]
        self._changed = True
        return replace(decided, explanation=found)

    def serves(self, document: TableDocument | None) -> None:
        """Which table does now: what was measured on the one before is complete."""
        serve = document.serve if document is not None else None
        decision = None if serve is None else serve.decision
        if decision == self._serving:
            return
        before, measured = self._serving, self._measured
        self._serving, self._measured = decision, None
        if measured is not None:
            self._note(before, after=measured)
            self._note(decision, before=measured)

    def heard(self, document: TableDocument | None, telemetry: Telemetry) -> None:
        """What a node tells, its doors' figures among it."""
        serve = document.serve if document is not None else None
        self.serves(document)
        measured = None if serve is None else _measured(serve, telemetry)
        if serve is None or measured is None:
            return
        self._measured = measured
        own = next((e for e in self.explanations if e.id == serve.decision), None)
        if own is not None and own.after is None and measured.samples >= P95_MIN:
            self._note(own.id, after=measured)

    def _note(
        self, decision: str | None, *, before: Measured | None = None, after: Measured | None = None
    ) -> None:
        """What was measured, in the explanation of that decision, if it is still kept."""
        noted = tuple(
            replace(e, before=before or e.before, after=after or e.after) if e.id == decision else e
            for e in self.explanations
        )
        self._changed = self._changed or noted != self.explanations
        self.explanations = noted

    def due(self, leader: str, effort: Effort, now: float) -> PublishExplanations | None:
        """What to write now; who asks then does."""
        changed = self._changed and now >= self._write_at
        if not changed and not self._kept.due(now):
            return None
        self._number += 1
        self._changed, self._write_at = False, now + WRITE_S
        self._written = Explanations(leader, self._number, effort.told, self.explanations)
        return PublishExplanations(self.deployment, self._written)


def _measured(serve: Table, telemetry: Telemetry) -> Measured | None:
    """By the door of the table that serves, on that very table."""
    door = serve.door
    if door is None or (telemetry.node, telemetry.incarnation) != (door.node, door.incarnation):
        return None
    loads = (load for load in telemetry.doors if load.deployment == serve.deployment)
    return next((Measured.of(load) for load in loads if load.table == serve.stamp), None)


class Explainer:
    """Of all deployments. stopwatch: what looks are measured with."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.stopwatch = stopwatch
        self.effort = Effort()
        self._of: dict[str, Explaining] = {}

    def of(self, deployment: str) -> Explaining:
        if deployment not in self._of:
            self._of[deployment] = Explaining(deployment)
        return self._of[deployment]

    def known(self) -> list[Explaining]:
        return list(self._of.values())

    def forget(self, deployment: str) -> None:
        self._of.pop(deployment, None)

    def takes_over(self) -> None:
        self.effort.begins()
        for explaining in self._of.values():
            explaining.takes_over()

    def lets_go(self) -> None:
        for explaining in self._of.values():
            explaining.lets_go()

    def told(
        self, deployment: str, effects: ServedEffects, moment: Moment, took_s: float
    ) -> ServedEffects:
        """The same effects, their decisions explained."""
        return [
            self.of(deployment).decided(effect, moment, took_s)
            if isinstance(effect, Decided)
            else effect
            for effect in effects
        ]

    def due(self, deployments: Iterable[str], leader: str, now: float) -> list[PublishExplanations]:
        """What to write now, behind everything else."""
        asked = (self._of[name] for name in sorted(deployments) if name in self._of)
        found = (explaining.due(leader, self.effort, now) for explaining in asked)
        return [effect for effect in found if effect is not None]
