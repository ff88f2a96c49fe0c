"""Which of a door's sessions wait, run, and come into the next step.

As many steps of decoding are in the chain as give most tokens (`depth`), at first as many as it has
nodes, each with about equally many sessions. Slices of prompts go beside them, one session in each.
A suspect, with which a node may have died, goes alone: it starts when nothing is in the chain, and
nothing starts beside it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection
from math import ceil
from typing import Final

from dsi_mqtt.core.depth import Depth
from dsi_mqtt.core.fair import FairQueue
from dsi_mqtt.core.session import Session
from dsi_mqtt.core.steps import Step, Steps
from dsi_mqtt.core.table import Stamp, Table

BATCH_MAX: Final = 64


class Schedule:
    """waiting: for room, by fair shares of devices. running: by name; some are due for a step."""

    def __init__(self) -> None:
        self.waiting: FairQueue[Session] = FairQueue()
        self.running: dict[str, Session] = {}
        self._due: deque[Session] = deque()
        self._depth = Depth()
        self._stamp: Stamp | None = None

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running)

    @property
    def due(self) -> Collection[Session]:
        """Those that run and are in no step."""
        return self._due

    def wait(self, session: Session) -> None:
        """It is to run when there is room."""
        session.state = "waiting"
        request = session.request
        self.waiting.join(session, request.given.device, request.priority, session.room)

    def start(self, session: Session) -> None:
        """It runs from now on, under its name."""
        self.running[session.name] = session
        self.line_up(session)

    def line_up(self, session: Session, *, first: bool = False) -> None:
        """It is due for a step; `first`: its last one came to nothing."""
        session.state = "ready"
        if first:
            self._due.appendleft(session)
        else:
            self._due.append(session)

    def record(self, session: Session) -> None:
        """It goes on when its deaths are retained; until then nothing starts."""
        self._taken([session])
        session.state = "recording"

    def hold(self, session: Session) -> None:
        """It waits for the last of its caches to be copied; then it is lined up again."""
        self._taken([session])
        session.state = "moving"

    def leave(self, session: Session) -> bool:
        """It is over; says whether it ran."""
        session.state = "ended"
        self._taken([session])
        self.waiting.leave(session)
        if self.running.get(session.name) is not session:
            return False  # it had ended before, and another may run under its name, with its caches
        del self.running[session.name]
        return True

    def choose(self, steps: Steps, table: Table, now: float) -> list[Session]:
        """The sessions of the next step, if one may start beside those in the chain."""
        due = [session for session in self._due if session.not_before <= now]
        suspect = next((session for session in due if session.request.suspect), None)
        if suspect is not None:
            return [] if len(steps) or steps.beside else self._taken([suspect])
        if any(session.request.suspect for step in steps for session in step.sessions):
            return []
        nodes = len({replica.node for part in table.segments for replica in part.replicas})
        if table.stamp != self._stamp:
            self._stamp = table.stamp
            self._depth.reset(nodes)
        decodes = sum(step.is_decode for step in steps)
        # What is copied to the nodes of a newer table goes on where it is meanwhile.
        tables = {used.stamp: used for used in (session.table or table for session in due)}
        for used in (tables[stamp] for stamp in sorted(tables, reverse=True)):
            ready = [s for s in due if s.is_decoding and (s.table or table).stamp == used.stamp]
            found = self._next_batch(ready, steps, used)
            if found:
                return self._taken(found)
        filling = [session for session in due if not session.is_decoding]
        if filling and len(steps) - decodes < nodes:
            return self._taken(filling[:1])
        return []

    def _next_batch(self, due: list[Session], steps: Steps, table: Table) -> list[Session]:
        """Sessions on `table` that share replicas, in the order in which they are due; none while
        as many steps of theirs are in the chain as there should be.
        """
        running = [
            session
            for session in self.running.values()
            if session.is_decoding and (session.table or table).stamp == table.stamp
        ]
        ways = Counter(table.way(session.lane) for session in running)
        depth = max(1, self._depth.now // max(1, len(ways)))
        under_way = Counter(
            table.way(step.lane)
            for step in steps
            if step.is_decode and step.table.stamp == table.stamp
        )
        for way in dict.fromkeys(table.way(session.lane) for session in due):
            if under_way[way] < depth:
                same = [session for session in due if table.way(session.lane) == way]
                return _batch(same, ceil(ways[way] / depth))
        return []

    def passed(self, step: Step, now: float) -> None:
        """`step` has come through the chain; its sessions have not gone on yet."""
        if step.is_decode and step.table.stamp == self._stamp:
            self._depth.passed(len(step.rows), self._decoding(), now)

    def _decoding(self) -> int:
        return sum(session.is_decoding for session in self.running.values())

    def _taken(self, sessions: list[Session]) -> list[Session]:
        for session in sessions:
            if session in self._due:
                self._due.remove(session)
        return sessions


def _batch(due: list[Session], share: int) -> list[Session]:
    """So many that all steps in the chain have about equally many."""
    if due[0].alone:
        return due[:1]
    return [session for session in due if not session.alone][: min(BATCH_MAX, share)]
