"""Who was alone in the chain when something died, seen from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsi_mqtt.core.attempts import Attempts
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
            if not isinstance(door._attempts, Attempts):
                continue
            running = list(door._attempts._running.values())
            if len(running) != 1:
                continue
            attempt = running[0].attempt
            members = attempt.table.members() if attempt else frozenset()
            text = running[0].given.parsed.body.decode()
            key = text, node.incarnation, attempt.number if attempt else 0
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
