"""The orchestrator as a state machine: what it hears in, tables out.

It leads or watches (`leadership`), knows who lives (`membership`), and keeps one document for
each deployment (`served`). Replanning happens on facts (a node came, went, drains, has loaded
or failed; a deployment came, changed, went), never on a timer, so deciding costs nothing while
nothing changes. The chain serves on when no orchestrator is there.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.leadership import Leadership, LeadershipEffect
from dsi_mqtt.core.membership import Membership
from dsi_mqtt.core.node import Leader, NodeStatus, Telemetry
from dsi_mqtt.core.served import (
    Authority,
    ClearDocument,
    Decided,
    PublishDocument,
    Served,
)
from dsi_mqtt.core.table import TableDocument

OrchestratorEffects = list[PublishDocument | ClearDocument | Decided | LeadershipEffect]


class Orchestrator:
    """State machine. `nonce` is fresh for every process, `secret` makes unguessable text."""

    def __init__(self, nonce: str, secret: Callable[[], str]) -> None:
        self._secret = secret
        self._leadership = Leadership(nonce)
        self._members = Membership()
        self._served: dict[str, Served] = {}
        self._was_leading = False
        self._numbers = count(1)
        self._epochs: dict[str, int] = {}

    @property
    def leading(self) -> bool:
        return self._leadership.leading

    # --- events -------------------------------------------------------------------------------

    def connected(self, now: float) -> None:
        """The observing connection is (again) there; retained state is about to arrive."""
        self._members.connected(now)
        self._leadership.observing_since(now)

    def disconnected(self) -> None:
        self._members.disconnected()
        self._leadership.connection_lost()

    def leader_seen(self, leader: Leader, now: float) -> OrchestratorEffects:
        self._members.heard(now)
        return [*self._leadership.leader_seen(leader, now)]

    def lead_taken(self, now: float) -> OrchestratorEffects:
        return [*self._leadership.lead_taken(now)]

    def lead_lost(self, now: float) -> OrchestratorEffects:
        return [*self._leadership.lead_lost(now)]

    def spec_arrived(self, spec: Deployment) -> None:
        self._of(spec.name).spec_arrived(spec)

    def spec_gone(self, deployment: str) -> None:
        if deployment in self._served:
            self._served[deployment].spec_gone()

    def document_seen(
        self, deployment: str, document: TableDocument, now: float
    ) -> OrchestratorEffects:
        """A retained document, or the echo of one's own."""
        effects: OrchestratorEffects = []
        for table in document.tables():
            effects += self._leadership.term_seen(table.stamp, now)
        self._of(deployment).document_seen(document)
        return effects

    def status_arrived(self, status: NodeStatus, now: float) -> OrchestratorEffects:
        effects: OrchestratorEffects = []
        for stamp in status.seen.values():
            effects += self._leadership.term_seen(stamp, now)
        before = self._members.status(status.node)
        if self._members.status_arrived(status, now):
            joined = before is None or before.incarnation != status.incarnation
            what = "joined" if joined else "drains" if status.state == "draining" else "changed"
            self._all_dirty(f"node {status.node} {what}")
        for served in self._served.values():
            served.status_arrived(status, now)
        return effects

    def telemetry_arrived(self, telemetry: Telemetry, now: float) -> None:
        self._members.telemetry_arrived(telemetry, now)

    def tick(self, now: float, unix_s: int) -> OrchestratorEffects:
        """Due about every 50 ms; does next to nothing while nothing has changed."""
        effects: OrchestratorEffects = [*self._leadership.tick(now, unix_s)]
        for status in self._members.tick(now):
            self._all_dirty(f"node {status.node} is gone")
        if not self._leadership.leading:
            self._was_leading = False
            return effects
        if not self._was_leading:
            self._was_leading = True
            effects += self._took_over()
        leader = self._leadership
        authority = Authority(leader.term, leader.nonce, self._secret, self._numbers, self._epochs)
        for name, served in sorted(self._served.items()):
            effects += served.reconsider(authority, now)
            if served.removed:
                del self._served[name]
        return effects

    # --- parts --------------------------------------------------------------------------------

    def _of(self, deployment: str) -> Served:
        served = self._served.get(deployment)
        if served is None:
            served = self._served[deployment] = Served(deployment, self._members)
        return served

    def _all_dirty(self, reason: str) -> None:
        for served in self._served.values():
            served.mark(reason)

    def _took_over(self) -> OrchestratorEffects:
        """A new leader writes what is retained again: the broker may have lost it."""
        effects: OrchestratorEffects = []
        for name, served in sorted(self._served.items()):
            served.mark("a new leader looks")
            if served.spec is not None and served.document is not None:
                effects.append(PublishDocument(name, served.document))
        return effects
