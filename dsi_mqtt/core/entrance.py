"""Which generations get in at a door, and which are refused: for want of room, or of time.

An input takes a place in the queue when it comes. When its prompt is read it is known what it asks
for, and whether its turn comes too late; then it is lined up. How fast turns come is measured where
a session that ran leaves its place, whatever ended it.
"""

from __future__ import annotations

from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.core.effects import Effects
from dsi_mqtt.core.generation import Ask
from dsi_mqtt.core.line import Request
from dsi_mqtt.core.message import Failure
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.overload import Pace
from dsi_mqtt.core.promises import Promises
from dsi_mqtt.core.runs import Calls
from dsi_mqtt.core.schedule import Schedule
from dsi_mqtt.core.session import Session
from dsi_mqtt.core.tally import Tally


class Entrance:
    """limits: as the deployment says. pace: of places that come free."""

    def __init__(
        self, limits: Generation, schedule: Schedule, promises: Promises, calls: Calls
    ) -> None:
        self.limits = limits
        self.pace = Pace()
        self._schedule = schedule
        self._promises = promises
        self._calls = calls
        self._unbegun = Tally()

    def came(self, request: Request, held: int, now: float) -> Effects:
        """An input has; who is too much is refused, of what has not begun. held: sessions, with it.

        Suspects stay: they are no more than the ingress holds.
        """
        if not request.suspect:
            self._unbegun.add(request)
        effects: Effects = []
        for _ in range(held - self.limits.sessions_max - self.limits.queue_max):
            found = self._unbegun.surplus(request)
            if found is None:
                break
            effects += self._calls.give_up(found[0], self.pace.full(found[1]), now)
        return effects

    def prompt_read(
        self,
        session: Session,
        ask: Ask,
        tokens: tuple[int, ...],
        graph: ModelGraph,
        now: float,
    ) -> Effects:
        """It may run when there is room, or is refused."""
        refusal = session.begins(ask, tokens, graph, self.limits.context)
        refusal = refusal or self._comes_too_late(session, now)
        request = session.request
        if refusal is not None:
            return self._calls.give_up(request, refusal, now)
        if ask.alive_s is not None:
            self._promises.made(request.id, request.given.device, ask.alive_s, now)
        return []

    def begun(self, request: Request) -> None:
        """It runs, or will not: it is refused no more."""
        self._unbegun.discard(request)

    def begins_anew(self, request: Request) -> None:
        """It does, from its prompt."""
        if not request.suspect:
            self._unbegun.add(request)

    def freed(self, now: float) -> None:
        """A session that ran has left its place."""
        self.pace.through(now, others_wait=bool(self._schedule.waiting))

    def _comes_too_late(self, session: Session, now: float) -> Failure | None:
        """Its deadline would pass before its first step."""
        request, waiting = session.request, self._schedule.waiting
        if request.suspect:
            return None
        device, priority, room = request.given.device, request.priority, session.room
        return self.pace.refuses(
            lambda: waiting.ahead(device, priority, room), len(waiting), request.deadline - now
        )
