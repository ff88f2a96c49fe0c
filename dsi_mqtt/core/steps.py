"""The steps of generations that are in the chain: how they start, are asked for, and end.

A step is an attempt with an id of its own and a row for each of its sessions. It is probed like
any attempt: see `attempts`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.attempt import Attempt
from dsi_mqtt.core.attempts import PROBE_AFTER_S, PROBES_UNANSWERED_MAX, probe_after_s
from dsi_mqtt.core.drawn import tokens_of
from dsi_mqtt.core.effects import Effects, Transmit
from dsi_mqtt.core.message import Activation, Header
from dsi_mqtt.core.peers import Member
from dsi_mqtt.core.session import Session
from dsi_mqtt.core.table import Stamp, Table

_PREFIX_BYTES: Final = 8


@dataclass(slots=True, eq=False)
class Step:
    """alone: nothing was in the chain beside it, and it has one session."""

    attempt: Attempt
    rows: tuple[tuple[Session, Row], ...]
    started: float
    probe_at: float
    alone: bool
    probes: int = 0

    @property
    def table(self) -> Table:
        return self.attempt.table

    @property
    def waited_for(self) -> list[tuple[Session, Row]]:
        """The rows of sessions that still wait for it."""
        return [(session, row) for session, row in self.rows if session.state == "stepping"]

    @property
    def sessions(self) -> list[Session]:
        """Those that still wait for it."""
        return [session for session, _ in self.waited_for]

    @property
    def is_decode(self) -> bool:
        return self.rows[0][1].tokens == 1

    @property
    def lane(self) -> int:
        return self.attempt.lane

    @property
    def patience_s(self) -> float:
        """Until it is asked for."""
        return probe_after_s(self.table, decodes=self.is_decode)

    def drawn(self, done: Activation) -> list[int] | None:
        """See `tokens_of`."""
        return tokens_of(done.tensors, len(self.rows))


@lru_cache(maxsize=64)
def _prefix(incarnation: str) -> bytes:
    return hashlib.sha256(incarnation.encode()).digest()[:_PREFIX_BYTES]


def attempt_id(door: Member, number: int) -> bytes:
    """Of a step, or of what else a door sends into the chain; none has another's number."""
    return _prefix(door[1]) + number.to_bytes(16 - _PREFIX_BYTES, "big")


class Steps:
    """door: whom segments answer. numbers: of steps, unlike any other in this incarnation."""

    def __init__(self, door: Member, numbers: Iterator[int]) -> None:
        self._door = door
        self._numbers = numbers
        self._steps: dict[bytes, Step] = {}
        self._beside = False

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(list(self._steps.values()))

    @property
    def beside(self) -> bool:
        """Whether another door has some in the chain too, so that nothing is alone there."""
        return self._beside

    @beside.setter
    def beside(self, beside: bool) -> None:
        self._beside = beside
        for step in self._steps.values():
            step.alone = step.alone and not beside

    def stamps(self) -> set[Stamp]:
        return {step.table.stamp for step in self._steps.values()}

    def start(self, table: Table, sessions: Sequence[Session], now: float) -> Transmit:
        """One step for `sessions`, each with what it is to be fed next."""
        id_ = attempt_id(self._door, next(self._numbers))
        rows = tuple((session, session.row()) for session in sessions)
        alone = len(sessions) == 1 and not self._steps and not self._beside
        for other in self._steps.values():
            other.alone = False
        attempt = Attempt(id_, 1, table, self._door, sessions[0].lane)
        step = Step(attempt, rows, now, now, alone)
        step.probe_at += step.patience_s
        self._steps[id_] = step
        for session in sessions:
            session.state = "stepping"
        return step.attempt.step(
            tuple(row for _, row in rows),
            [token for session, row in rows for token in session.fed_by(row)],
            tuple(session.sampling if session.samples(row) else None for session, row in rows),
            max(session.request.deadline for session in sessions) - now,
        )

    def ended(self, header: Header) -> Step | None:
        """The step that a message is about, if it was in the chain until now."""
        return self._steps.pop(header.request, None)

    def drop(self, step: Step) -> Effects:
        """Out of the chain with it."""
        self._steps.pop(step.attempt.request, None)
        return step.attempt.cancel()

    def alive(self, header: Header, now: float) -> None:
        step = self._steps.get(header.request)
        if step is not None:
            step.probes, step.probe_at = 0, now + step.patience_s

    def left(self, table: Table, now: float) -> tuple[Effects, list[Step]]:
        """`table` serves: what is under way on nodes that are gone is as if nobody knew of it; on
        those that have no part in the table it is asked for at once, and but once more.
        """
        for step in self:
            if step.attempt.is_lost(table):
                step.probes, step.probe_at = PROBES_UNANSWERED_MAX, now
            elif table.leaves(step.table) and step.probes < PROBES_UNANSWERED_MAX:
                step.probes, step.probe_at = PROBES_UNANSWERED_MAX - 1, now
        return self.probe(now)

    def probe(self, now: float, *, all_: bool = False) -> tuple[Effects, list[Step]]:
        """Asks for those that take long, or for all; also returns those that nobody knows of."""
        effects: Effects = []
        silent = []
        for step in self:
            if not all_ and step.probe_at > now:
                continue
            if step.probes >= PROBES_UNANSWERED_MAX:
                silent.append(step)
                continue
            step.probes += 1
            step.probe_at = now + PROBE_AFTER_S
            effects.append(step.attempt.probe())
        return effects, silent
