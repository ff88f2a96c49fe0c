"""One deployment as the orchestrator keeps it: when its table is thought over, and what then.

    nothing ──plan──► prepare ──all ready──► serve ──(a node gone, drains, a better plan)──► prepare
       │                        (as it was) ◄──┴──(nothing feasible)──► unavailable
       └──(nothing feasible)──► unavailable ──(a node came)──► prepare

Where nothing is feasible and the file names a fallback, a placement of that is prepared, and serves
until one of the deployment's own model is feasible again (`fallback`).

Facts mark it with the reason (`agenda`); `reconsider` then looks once (`placing`) and comes to
rest. It looks again without a new fact only where time itself is one: a cooldown that held a better
plan back has ended, or those who were about to speak have had their time.
"""

from __future__ import annotations

import math
from typing import Final

from dsi_mqtt.core.agenda import FOUND, PREPARED, Agenda
from dsi_mqtt.core.choosing import Choice
from dsi_mqtt.core.decisions import Authority, ServedEffects
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.failures import PREPARE_S, Failures
from dsi_mqtt.core.fallback import Fallback
from dsi_mqtt.core.known import Known
from dsi_mqtt.core.membership import Membership
from dsi_mqtt.core.node import HoldingReport, NodeStatus, Telemetry
from dsi_mqtt.core.outlook import Outlook
from dsi_mqtt.core.patience import Patience
from dsi_mqtt.core.placing import Placing
from dsi_mqtt.core.policy import BUILTIN_ONLY, Policies
from dsi_mqtt.core.sharing import Sharing
from dsi_mqtt.core.table import Table, TableDocument

# Of all time that looks may take while a whole chain serves and nothing but figures calls for them:
# while one thinks nobody is heard, and a node that has gone is missed later.
LOOK_SHARE: Final = 0.25


class Served:
    """State machine of one deployment."""

    def __init__(
        self,
        name: str,
        members: Membership,
        policies: Policies = BUILTIN_ONLY,
        sharing: Sharing | None = None,
    ) -> None:
        self.name = name
        self._members = members
        self._outlook = Outlook(name, members, sharing=sharing or Sharing())
        self._fallback = Fallback(name, members, self._outlook.sharing)
        self._known = Known(name, self._outlook)
        self._agenda = Agenda()
        self._patience = Patience(members, self._outlook)
        self._choice = Choice(name, members, self._outlook, policies)
        self._failures = Failures()
        self._rests_until = -math.inf
        self._placing = Placing(
            self._known,
            self._agenda,
            outlook=self._outlook,
            fallback=self._fallback,
            choice=self._choice,
            failures=self._failures,
            patience=self._patience,
        )

    # --- facts --------------------------------------------------------------------------------

    def mark(self, reason: str) -> None:
        """Something has changed that a placement depends on."""
        self._agenda.mark(reason)

    def spec_arrived(self, spec: Deployment) -> None:
        first = self._known.spec is None
        if not self._known.spec_arrived(spec):
            return
        self.mark("deployed" if first else "the deployment changed")
        self._outlook.opening = spec.opening
        self._fallback.spec_is(spec)
        self._failures.clear()
        self._placing.deployed_anew()

    def spec_gone(self) -> None:
        """Withdrawn by an operator."""
        self._known.spec_gone()
        self.mark("removed")

    def spec_unreadable(self) -> None:
        """Its topic holds something, but no deployment; nothing is concluded from that."""
        self._known.unreadable = True

    def spec_forgotten(self, now: float) -> None:
        """The broker does not know it any more, and no operator has withdrawn it."""
        self._known.spec_forgotten(now)

    def document_lost(self, now: float) -> None:
        """Somebody has cleared the topic, or written what cannot be read."""
        self._known.document_lost(now)

    def document_forgotten(self, now: float) -> None:
        """The broker does not know any table."""
        self._known.document_forgotten(now)

    def document_seen(self, document: TableDocument, now: float) -> None:
        """A document on the topic, one's own among them."""
        if self._known.document_seen(document, now):
            self._agenda.note(FOUND)
            self._placing.found(document)

    def status_arrived(self, status: NodeStatus, now: float) -> None:
        """A part that could not be loaded, one that is ready, or a table nobody else knows."""
        for holding in status.holdings:
            self._part_reported(status, holding, now)
        if self.spec is None and self.document is not None:
            self.mark("removed")
        elif self._known.outrun:
            self.mark("what was retained is older than what nodes have seen")

    def _part_reported(self, status: NodeStatus, holding: HoldingReport, now: float) -> None:
        prepare = self._known.prepare
        about = holding.deployment, holding.stamp
        if prepare is None or about != (prepare.model_name, prepare.stamp):
            return
        segment = prepare.segment(holding.segment)
        if segment is None or status.node not in {r.node for r in segment.replicas}:
            return  # a stand-by, which nothing depends on yet
        if holding.state == "failed":
            why = holding.reason or "could not load its part"
            self._failures.failed((status.node, status.incarnation), why, now)
            self.mark(f"node {status.node} could not prepare its part")
        elif holding.state == "ready":
            self._agenda.note(PREPARED)

    def telemetry_arrived(self, telemetry: Telemetry, now: float) -> None:
        serve = self._known.serve
        if self.spec is None or serve is None or serve.is_fallback:
            return
        if serve.serves:
            again = self._choice.heard(self.spec, serve, telemetry, now)
            if again is not None:
                self._agenda.look(again)

    def takes_shares(self) -> None:
        """What it serves with keeps nodes busy; a new leader has to be told."""
        serve, graph = self._known.intact, self._outlook.graph()
        if serve is not None and serve.is_fallback:
            self._fallback.tells(serve)
        elif self.spec is not None and serve is not None and graph is not None:
            self._choice.tells(self.spec, graph, serve)

    def others_moved(self, other: str, now: float) -> None:
        """Another deployment takes other shares of the nodes."""
        if self.spec is not None and self._known.serves:
            self._agenda.look(self._choice.others_moved(other, now))

    def looking_took(self, seconds: float, now: float) -> None:
        """A look that began at `now` did, at this deployment or another. While it serves, the next
        one for which time alone is the news leaves time to listen.
        """
        self._rests_until = max(self._rests_until, now + seconds / LOOK_SHARE)

    # --- deciding -----------------------------------------------------------------------------

    def reconsider(self, authority: Authority, now: float) -> ServedEffects:
        """What follows from everything that has become known since the last time."""
        return [*self._decided(authority, now), *self._known.repeated(now)]

    def is_about_to_move(self, now: float) -> bool:
        """Whether its chain may be left at the next look, whatever that saves."""
        self._tick(now)
        spec, prepare = self.spec, self._known.prepare
        if spec is None or not self._agenda.is_news:
            return False
        if self._agenda.reason in (None, PREPARED, FOUND):
            return False
        if prepare is not None and not self._known.changed and self._goes_well(prepare):
            return False
        return not self._must_wait(now) and self._placing.is_about_to_move(spec)

    @property
    def is_broken(self) -> bool:
        """Whether somebody that the serving chain needs is gone."""
        return self._known.serves and self._known.intact is None

    def foresees(self, now: float) -> bool:
        """What it is about to take of the nodes is known to the others from here on; says whether
        that is news.
        """
        return self.spec is not None and self._placing.foresees(self.spec, now)

    def rest(self) -> None:
        """Nothing is decided before another fact comes."""
        self._agenda.rest()

    def _decided(self, authority: Authority, now: float) -> ServedEffects:
        self._notice_late(now)
        self._tick(now)
        reason = self._agenda.reason
        if reason is None:
            return []
        if self.spec is None:
            return [] if self._known.unreadable else self._placing.remove(authority)
        prepare = self._known.prepare
        if prepare is not None and not self._known.changed and self._goes_well(prepare):
            self._agenda.put_off()
            ready = self._outlook_of(prepare).ready(prepare)
            return self._placing.promote(prepare, now) if ready else []
        if self._must_wait(now):
            return []
        return self._placing.place_anew(self.spec, self._agenda.take(reason), authority, now)

    def _tick(self, now: float) -> None:
        if self._known.intact is None or now >= self._rests_until:
            self._agenda.tick(now)

    def _must_wait(self, now: float) -> bool:
        """Whether those who are about to speak should be heard first."""
        if self._known.serves and self._known.intact is None and not self._members.settled(now):
            return True  # whom the table names may yet be heard, after one's own absence
        if self._outlook.graph() is None and self._patience.is_early(self.document, now):
            return True
        is_new = not self._known.serves and self._known.prepare is None
        return (is_new or self._outlook.graph() is None) and self._patience.still_arriving(now)

    def _notice_late(self, now: float) -> None:
        """A preparation that takes too long fails at the nodes that are not ready."""
        prepare = self._known.prepare
        if prepare is None or self.spec is None:
            return
        # Where there is no room for both, what waits for the old table has its deadline besides.
        patience_s = PREPARE_S + self.spec.deadline_s
        if self._failures.is_late(prepare, patience_s, now):
            for node in self._outlook_of(prepare).unready(prepare) - self._failures.nodes():
                self._failures.failed(node, f"is not ready after {patience_s:.0f} s", now)
                self.mark(f"node {node[0]} took too long to prepare its part")

    # --- questions ----------------------------------------------------------------------------

    @property
    def spec(self) -> Deployment | None:
        return self._known.spec

    @property
    def document(self) -> TableDocument | None:
        return self._known.document

    @property
    def removed(self) -> bool:
        return self._known.removed

    @property
    def looks(self) -> int:
        """At placements, since this began."""
        return self._choice.looks

    def _outlook_of(self, table: Table) -> Outlook:
        """On the model that the table is of."""
        return self._fallback.outlook if table.is_fallback else self._outlook

    def _goes_well(self, prepare: Table) -> bool:
        return self._outlook.whole(prepare) and not prepare.members() & self._failures.nodes()
