"""The requests a door holds, and which of them may run next.

    waiting ◄────────────(its attempt broke)─────────────┐
       ├──(its turn)──────────────────────────────────► running ──(answer)──► over
       └──(its turn, and it is a suspect)──► recording ──(that is retained)──► waiting

A *suspect* may have ended a node: it runs alone. Nothing starts beside it, and it starts when
nothing else runs. Suspects go before the others, or a busy door would never come to them; but
behind each of them a quarter of a window of others goes, or many suspects would keep all others
waiting. More than that, and where as much comes as can be served, the last of many suspects, who
are older than the others, would not run before their deadline.

What was in the chain before goes before what was not, and that by fair shares of its devices.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, Literal

from dsi_mqtt.core.attempt import Attempt
from dsi_mqtt.core.fair import FairQueue
from dsi_mqtt.core.message import Priority
from dsi_mqtt.core.request import Input, Reply

AGAIN_FIRST_S: Final = 2.0
# Of a window, that goes between two suspects.
OTHERS: Final = 0.25

State = Literal["recording", "waiting", "running"]


@dataclass(slots=True, eq=False)
class Request:
    """An input in a door's hands, from its first delivery until its answer is taken.

    receipts: deliveries to acknowledge with the answer. reply: that answer, once there is one.
    state: of a one-pass request without one. attempt: in the chain now, only while running; alone:
    nothing was in the chain beside it. broken: attempts that ended on evidence, but for the counted
    deaths; stale: those that a node refused. suspect: a node died while it may have held this.
    suspect_to: of a generation: positions to compute before it is none. deaths: those that ended
    while it was alone. recorded: it is retained that this door has it in the chain, for the next
    death may be the door's. admitted: when; None: it was answered without being run. priority: that
    it is treated as. on_fallback: attempts on tables of the fallback. started: when
    the newest attempt was.
    """

    id: bytes
    given: Input
    deadline: float
    receipts: list[int] = field(default_factory=list)
    state: State = "waiting"
    attempts: int = 0
    attempt: Attempt | None = None
    alone: bool = False
    broken: int = 0
    stale: int = 0
    deaths: int = 0
    suspect: bool = False
    suspect_to: int = 0
    recorded: bool = False
    not_before: float = 0.0
    probe_at: float = 0.0
    started: float = 0.0
    probes: int = 0
    reply: Reply | None = None
    again_at: float = 0.0
    again_s: float = AGAIN_FIRST_S
    admitted: float | None = None
    priority: Priority = "normal"
    on_fallback: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        return self.given.key


class Line:
    """Requests in the state `waiting`. fresh: those that were never in a chain, and are due."""

    def __init__(self) -> None:
        self._suspects: deque[Request] = deque()
        self._again: deque[Request] = deque()
        self.fresh: FairQueue[Request] = FairQueue()
        self._before_suspects = 0  # how many others may start before the next suspect

    def __len__(self) -> int:
        return len(self._suspects) + len(self._again) + len(self.fresh)

    def join(self, request: Request, *, first: bool = False) -> None:
        """When its turn comes; `first`: at the front, for a request that has waited before."""
        if first:
            (self._suspects if request.suspect else self._again).appendleft(request)
        elif request.suspect:
            self._suspects.append(request)
        else:
            self.fresh.join(request, request.given.device, request.priority)

    def leave(self, request: Request) -> None:
        self.fresh.leave(request)
        for line in (self._suspects, self._again):
            if request in line:
                line.remove(request)

    def find(self, request: bytes) -> Request | None:
        lines = (self._suspects, self._again, self.fresh)
        return next((r for line in lines for r in line if r.id == request), None)

    def next_due(self) -> float:
        """When the first of them may start, as far as it is a matter of time."""
        if self.fresh:
            return 0.0
        lines = (*self._suspects, *self._again)
        return min((request.not_before for request in lines), default=math.inf)

    def next_up(
        self, running: Collection[Request], window: int, now: float, *, beside: bool = False
    ) -> Request | None:
        """Takes out the one that may start beside those running, if any may.

        beside: others run that are not this door's.
        """
        if any(request.suspect for request in running) or len(running) >= window:
            return None
        company = bool(running) or beside
        suspect = self._first_due(self._suspects, now)
        if suspect is not None and (suspect.recorded or not self._before_suspects):
            return None if company else self._take(suspect, window)
        other = self._first_due(self._again, now) or self.fresh.first()
        if other is not None:
            self._before_suspects = max(0, self._before_suspects - 1)
            return self._take(other, window)
        return None if suspect is None or company else self._take(suspect, window)

    def _take(self, request: Request, window: int) -> Request:
        if request in self.fresh:
            self.fresh.take()
        else:
            self.leave(request)
        if request.suspect and request.recorded:  # it really starts; before, it is only retained
            self._before_suspects = max(1, round(OTHERS * window))
        return request

    @staticmethod
    def _first_due(line: deque[Request], now: float) -> Request | None:
        return next((request for request in line if request.not_before <= now), None)
