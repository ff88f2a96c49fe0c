"""The orchestrator as a state machine: what it hears in, tables out.

It leads or watches (`leadership`), knows who lives (`membership`), and keeps one document for
each deployment (`served`). Replanning happens on facts (a node came, went, drains, has loaded
or failed; a deployment came, changed, went), never on a timer, so deciding costs nothing while
nothing changes. The chain serves on when no orchestrator is there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from dsi_mqtt.core.decisions import (
    Authority,
    ClearDocument,
    Decided,
    Noticed,
    PublishDocument,
    PublishExplanations,
    PublishSpec,
    ServedEffects,
)
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.explaining import Explainer, Moment, Stopwatch, unmeasured
from dsi_mqtt.core.explanation import Explanations
from dsi_mqtt.core.leadership import Leadership, LeadershipEffect
from dsi_mqtt.core.membership import Membership
from dsi_mqtt.core.node import Leader, NodeStatus, Telemetry
from dsi_mqtt.core.policy import BUILTIN_ONLY, Policies
from dsi_mqtt.core.served import Served
from dsi_mqtt.core.sharing import Sharing
from dsi_mqtt.core.table import TableDocument
from dsi_mqtt.errors import one_sentence

# A look that takes less keeps nobody waiting.
LONG_S: Final = 0.02
# For so long a long look at one deployment waits for what another has just had prepared.
READY_S: Final = 0.3
# A chain that is broken waits no longer than that for where others would go.
FORESIGHT_S: Final = 0.1
# How often deployments that move at once are asked for their best answers to each other.
ROUNDS: Final = 3

OrchestratorEffects = list[
    PublishDocument
    | ClearDocument
    | PublishSpec
    | PublishExplanations
    | Decided
    | Noticed
    | LeadershipEffect
]


@dataclass(slots=True)
class _Reading:
    """What has arrived on an observing connection that has yet to hand over all it retains."""

    specs: set[str] = field(default_factory=set)
    tables: set[str] = field(default_factory=set)
    explanations: set[str] = field(default_factory=set)


class Orchestrator:
    """State machine. `nonce` is fresh for every process, `secret` makes unguessable text.

    policies: those that deployments may name, by name. stopwatch: what looks are measured with.
    """

    def __init__(
        self,
        nonce: str,
        secret: Callable[[], str],
        policies: Policies = BUILTIN_ONLY,
        stopwatch: Stopwatch = unmeasured,
    ) -> None:
        self._secret = secret
        self._policies = policies
        self._leadership = Leadership(nonce)
        self._members = Membership()
        self._sharing = Sharing()
        self._served: dict[str, Served] = {}
        self._was_leading = False
        self._reading: _Reading | None = None
        self._numbers = count(1)
        self._epochs: dict[str, int] = {}
        self._explainer = Explainer(stopwatch)
        self._took_s: dict[str, float] = {}  # the newest look at each
        self._looked_long = ""  # at whom in the last tick
        self._prepared_at: dict[str, float] = {}  # when a table was published for preparation

    @property
    def leading(self) -> bool:
        return self._leadership.leading

    # --- events -------------------------------------------------------------------------------

    def connected(self, now: float) -> None:
        """The observing connection is (again) there; retained state is about to arrive."""
        self._members.connected(now)
        self._leadership.connected()
        self._reading = _Reading()

    def retained_read(self, now: float) -> None:
        """All that the broker retained when the observing connection came has arrived.

        A deployment that is not among it was withdrawn meanwhile, unless the broker has forgotten
        it: then what it knew of the leader is gone as well, or the deployment's table, which only
        a leader clears.
        """
        reading, self._reading = self._reading, None
        if reading is None:
            return
        leadership = self._leadership
        for name, served in self._served.items():
            tableless = served.document is not None and name not in reading.tables
            if tableless:
                served.document_forgotten(now)
            if served.spec is None or name in reading.specs:
                continue
            if leadership.forgotten or (tableless and not leadership.others_led):
                served.spec_forgotten(now)
            else:
                served.spec_gone()
        for explaining in self._explainer.known():
            if explaining.deployment not in reading.explanations:
                explaining.forgotten(now)
        leadership.observing_since(now)

    def disconnected(self) -> None:
        self._reading = None
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
        if self._reading is not None:
            self._reading.specs.add(spec.name)
        self._of(spec.name).spec_arrived(spec)

    def spec_unreadable(self, deployment: str) -> None:
        """Its topic holds something, but no deployment: the last one that was read stands."""
        if self._reading is not None:
            self._reading.specs.add(deployment)
        self._of(deployment).spec_unreadable()

    def spec_gone(self, deployment: str) -> None:
        if self._reading is not None:
            self._reading.specs.discard(deployment)
        if deployment in self._served:
            self._served[deployment].spec_gone()

    def document_seen(
        self, deployment: str, document: TableDocument, now: float
    ) -> OrchestratorEffects:
        """A retained document, or the echo of one's own."""
        effects: OrchestratorEffects = []
        if self._reading is not None:
            self._reading.tables.add(deployment)
        for table in document.tables():
            effects += self._leadership.term_seen(table.stamp, now)
        self._of(deployment).document_seen(document, now)
        return effects

    def document_lost(self, deployment: str, now: float) -> None:
        """The table's topic was cleared, or holds what cannot be read."""
        if deployment in self._served:
            self._served[deployment].document_lost(now)

    def explanations_seen(self, deployment: str, document: Explanations, now: float) -> None:
        """A retained document, or the echo of one's own."""
        if self._reading is not None:
            self._reading.explanations.add(deployment)
        self._explainer.of(deployment).seen(document, now)

    def explanations_lost(self, deployment: str, now: float) -> None:
        """Their topic was cleared, or holds what cannot be read."""
        if deployment in self._served:
            self._explainer.of(deployment).lost(now)

    def published(self, nbytes: int) -> None:
        """So much was published, topics and payloads."""
        self._explainer.effort.published(nbytes)

    def status_arrived(self, status: NodeStatus, now: float) -> OrchestratorEffects:
        effects: OrchestratorEffects = []
        self._leadership.word(now)
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

    def telemetry_arrived(self, telemetry: Telemetry, now: float) -> OrchestratorEffects:
        self._leadership.word(now)
        back = self._members.returned(telemetry)
        effects = self.status_arrived(back, now) if back is not None else []
        if self._members.telemetry_arrived(telemetry, now):
            for name, served in self._served.items():
                served.telemetry_arrived(telemetry, now)
                if self._leadership.leading:
                    self._explainer.of(name).heard(served.document, telemetry)
        return effects

    def beat_arrived(self, node: str, incarnation: str, now: float) -> None:
        """A node says that it lives, and nothing else."""
        self._leadership.word(now)
        self._members.beat_arrived(node, incarnation, now)

    def tick(self, now: float, unix_s: int) -> OrchestratorEffects:
        """Due about every 50 ms; does next to nothing while nothing has changed."""
        effects: OrchestratorEffects = [*self._leadership.tick(now, unix_s)]
        for status in self._members.tick(now):
            self._all_dirty(f"node {status.node} is gone")
        if not self._leadership.leading:
            if self._was_leading:
                self._explainer.lets_go()
            self._was_leading = False
            return effects
        if not self._was_leading:
            self._was_leading = True
            effects += self._took_over()
        leader = self._leadership
        authority = Authority(leader.term, leader.nonce, self._secret, self._numbers, self._epochs)
        self._foresee(now)
        effects += self._look_at_all(authority, Moment(now, unix_s))
        for moved in sorted(self._sharing.news()):
            for name, served in self._served.items():
                if name != moved:
                    served.others_moved(moved, now)
        return [*effects, *self._explained(now)]

    # --- parts --------------------------------------------------------------------------------

    def _look_at_all(self, authority: Authority, moment: Moment) -> ServedEffects:
        """The quickest first. Behind a look that took long the others wait for the next tick, so
        that what it has decided goes out before, and who speaks meanwhile is heard; then they go
        before it.
        """
        effects: ServedEffects = []

        def turn(name: str) -> tuple[bool, float, str]:
            return name == self._looked_long, self._took_s.get(name, 0.0), name

        turns, self._looked_long = sorted(self._served, key=turn), ""
        for name in turns:
            served, before = self._served[name], self._served[name].looks
            if self._took_s.get(name, 0.0) >= LONG_S and self._is_another_nearly_ready(
                name, moment
            ):
                continue
            effects += self._looked(name, served, authority, moment)
            if served.removed:
                del self._served[name]
                self._took_s.pop(name, None)
                self._prepared_at.pop(name, None)
                self._explainer.forget(name)
            elif served.looks > before and self._took_s[name] >= LONG_S:
                self._looked_long = name
                break
        return effects

    def _is_another_nearly_ready(self, name: str, moment: Moment) -> bool:
        """Whether another table was published for preparation just now: where nodes hold their
        parts already, it can serve before a long look would be over.
        """
        return any(
            other != name and moment.now < since + READY_S and document.prepare is not None
            for other, since in self._prepared_at.items()
            if other in self._served and (document := self._served[other].document) is not None
        )

    def _foresee(self, now: float) -> None:
        """Deployments that are about to leave their chains at once first find out where they would
        go beside each other, or they would answer each other by one table after another.
        """
        moving = {n: s for n, s in sorted(self._served.items()) if s.is_about_to_move(now)}
        if len(moving) < 2:  # noqa: PLR2004 - nobody else
            return
        takes_s = ROUNDS * sum(self._took_s.get(name, 0.0) for name in moving)
        if takes_s > FORESIGHT_S and any(served.is_broken for served in moving.values()):
            return
        for _ in range(ROUNDS):
            if not sum(_foresees(served, now) for served in moving.values()):
                break

    def _looked(
        self, name: str, served: Served, authority: Authority, moment: Moment
    ) -> ServedEffects:
        """What a deployment decides, and what it took to."""
        before, began = served.looks, self._explainer.stopwatch()
        effects = _reconsidered(name, served, authority, moment.now)
        took_s = self._explainer.stopwatch() - began
        self._members.was_busy(took_s)
        if any(isinstance(e, PublishDocument) and e.document.prepare for e in effects):
            self._prepared_at[name] = moment.now + took_s
        if served.looks > before:
            self._explainer.effort.looked(took_s)
            self._took_s[name] = took_s
            for each in self._served.values():
                each.looking_took(took_s, moment.now)
        try:
            return self._explainer.told(name, effects, moment, took_s)
        except Exception as error:  # noqa: BLE001 — whatever it is, what was decided stands
            return [*effects, Noticed(name, one_sentence(f"it cannot be explained: {error!r}"))]

    def _explained(self, now: float) -> OrchestratorEffects:
        """What is told of decisions; what was of a deployment that is gone, is cleared."""
        gone = [e.deployment for e in self._explainer.known() if e.deployment not in self._served]
        for name in gone:
            self._explainer.forget(name)
        for name, served in self._served.items():
            self._explainer.of(name).serves(served.document)
        due = self._explainer.due(self._served, self._leadership.nonce, now)
        return [*map(ClearDocument, gone), *due]

    def _of(self, deployment: str) -> Served:
        served = self._served.get(deployment)
        if served is None:
            served = self._served[deployment] = Served(
                deployment, self._members, self._policies, self._sharing
            )
        return served

    def _all_dirty(self, reason: str) -> None:
        for served in self._served.values():
            served.mark(reason)

    def _took_over(self) -> OrchestratorEffects:
        """A new leader writes what is retained again: the broker may have lost it."""
        effects: OrchestratorEffects = []
        self._explainer.takes_over()
        for name, served in sorted(self._served.items()):
            served.mark("a new leader looks")
            served.takes_shares()
            if served.spec is not None and served.document is not None:
                effects.append(PublishDocument(name, served.document))
        return effects


def _foresees(served: Served, now: float) -> bool:
    """As `Served.foresees`; a fault in it is told by the look that follows."""
    try:
        return served.foresees(now)
    except Exception:  # noqa: BLE001 — whatever it is, it must not end the others
        return False


def _reconsidered(name: str, served: Served, authority: Authority, now: float) -> ServedEffects:
    """What one deployment decides; a fault in it is told, and must not end the others."""
    try:
        return served.reconsider(authority, now)
    except Exception as error:  # noqa: BLE001 — whatever it is, it rests until another fact comes
        served.rest()
        return [Noticed(name, one_sentence(f"it cannot be decided about: {error!r}"))]
