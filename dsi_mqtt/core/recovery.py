"""What follows for a session when its step came to nothing, and when it is a suspect no more.

All of it ends in one way: the session is due again, or given up.
"""

from __future__ import annotations

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.attempts import (
    BROKEN,
    BROKEN_MAX,
    POISON,
    POISON_AT,
    STALE_FIRST_S,
    STALE_MAX_S,
)
from dsi_mqtt.core.copies import Copies
from dsi_mqtt.core.effects import Effects
from dsi_mqtt.core.message import Failure
from dsi_mqtt.core.runs import Calls
from dsi_mqtt.core.schedule import Schedule
from dsi_mqtt.core.session import Session
from dsi_mqtt.core.steps import Step


class Recovery:
    """retried: how often a session was due again. What broke is not copied, but fed again where it
    goes.
    """

    def __init__(self, schedule: Schedule, copies: Copies, calls: Calls) -> None:
        self._schedule = schedule
        self._copies = copies
        self._calls = calls
        self.retried = 0

    # --- steps that came to nothing -----------------------------------------------------------

    def died(self, session: Session, row: Row, now: float, *, alone: bool) -> Effects:
        """A node has, while the session had `row` in the chain; alone: and no other had any."""
        request = session.request
        request.suspect = True
        request.suspect_to = max(request.suspect_to, row.position + row.tokens)
        request.deaths += alone
        return self.again(session, now, died=alone)

    def again(self, session: Session, now: float, *, died: bool = False) -> Effects:
        """Once more, unless that happens all the time.

        died: of a node, and counted; what has a bound of its own spends no other.
        """
        effects = self._calls.settle(session.request, now)
        self._copies.give_up(session)
        session.broken += not died
        if session.request.deaths >= POISON_AT:
            return effects + self._calls.give_up(session.request, POISON, now)
        if session.broken >= BROKEN_MAX:
            return effects + self._calls.give_up(session.request, BROKEN, now)
        self.line_up(session)
        return effects

    def refused(self, session: Session, now: float, *, newest: bool) -> Effects:
        """A node has left the table, is behind it, or has no room. Nothing is broken by that.

        newest: no newer table serves, and no room will be there sooner: trying at once is in vain.
        """
        if newest:
            session.not_before = now + min(STALE_FIRST_S * 2**session.stale, STALE_MAX_S)
            session.stale += 1
        self._copies.give_up(session)
        self.line_up(session)
        return self._calls.settle(session.request, now)

    def failed(self, step: Step, failure: Failure, now: float) -> Effects:
        """The step of one: its own fault. Of several: who is at fault shows when each is alone."""
        effects: Effects = []
        for session in step.sessions:
            if len(step.rows) == 1:
                effects += self._calls.give_up(session.request, failure, now)
            else:
                session.alone = True
                self.line_up(session)
        return effects

    def line_up(self, session: Session) -> None:
        """It is due again, before the others."""
        self.retried += 1
        self._schedule.line_up(session, first=True)

    # --- suspects -----------------------------------------------------------------------------

    def record(self, session: Session, now: float) -> Effects:
        """It is a suspect's turn."""
        self._schedule.record(session)
        return self._calls.retain(session.request, now)

    def passed(self, session: Session, now: float) -> Effects:
        """It has come past what it was suspected of.

        Where that is a guess, for its door died at a position that nobody knows, and the next one
        dies as well, then farther on: so twice as far. Else a session that ends each door at a
        late token would never be alone at it.
        """
        request = session.request
        request.suspect, request.deaths = False, 0
        request.suspect_to = 2 * request.suspect_to if session.redelivered else 0
        return self._calls.settle(request, now)
