"""Who was alone in the chain when something died, seen from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsi_mqtt.core.attempts import Attempts
from dsi_mqtt.core.generations import Generations
from dsi_mqtt.core.request import Input
from dsi_mqtt.core.runs import Runs
from dsi_mqtt.core.two_models import TwoModels
from tests.core.build import Member

if TYPE_CHECKING:
    from tests.core.harness import Node

# A death may be known this much later, and what runs was looked at this long ago.
NEWS_S = 0.06


@dataclass
class Run:
    """One input alone in the chain of one table, or about to be. first, last: when it was seen."""

    members: frozenset[Member]
    first: float
    last: float


class AloneRuns:
    """All of them, and all deaths."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str, int], Run] = {}
        self._deaths: list[tuple[Member, float]] = []

    def look(self, node: Node, now: float) -> None:
        for door in node.machine._doors.values():
            alone = _alone(door._runs)
            if alone is None:
                continue
            given, number, members = alone
            key = given.parsed.body.decode(), node.incarnation, number
            first = self._runs[key].first if key in self._runs else now
            self._runs[key] = Run(members | {(node.name, node.incarnation)}, first, now)

    def died(self, member: Member, now: float) -> None:
        self._deaths.append((member, now))

    def ended_in_death(self, text: str) -> int:
        """How many deaths one of its runs may have ended in."""
        runs = [run for key, run in self._runs.items() if key[0] == text]
        return sum(
            any(
                member in run.members and run.first - NEWS_S <= at <= run.last + NEWS_S
                for run in runs
            )
            for member, at in self._deaths
        )


Alone = tuple[Input, int, frozenset[Member]]


def _alone(runs: Runs) -> Alone | None:
    """The input that is alone in the chain, the number of its run, and who may die of it."""
    if isinstance(runs, TwoModels):
        return _alone_session(runs.own)
    assert isinstance(runs, Attempts)
    running = list(runs._running.values())
    if len(running) != 1:
        return None
    attempt = running[0].attempt
    members = attempt.table.members() if attempt else frozenset[Member]()
    return running[0].given, attempt.number if attempt else 0, members


def _alone_session(runs: Generations) -> Alone | None:
    steps = list(runs._steps)
    if len(steps) == 1 and len(steps[0].rows) == 1:
        ((session, _),) = steps[0].rows
        number = int.from_bytes(steps[0].attempt.request[-8:], "big")
        return session.request.given, number, steps[0].table.members()
    recorded = [s.request.given for s in runs._sessions.values() if s.request.recorded]
    return (recorded[0], 0, frozenset()) if len(recorded) == 1 and not steps else None
