"""One deployment as the orchestrator keeps it: its document, and when to publish another.

    nothing ──plan──► prepare ──all ready──► serve ──(a node gone, drains, a better plan)──► prepare
       │                        (as it was) ◄──┴──(nothing feasible)──► unavailable
       └──(nothing feasible)──► unavailable ──(a node came)──► prepare

Where nothing is feasible and the file names a fallback, a placement of that is prepared, and serves
until one of the deployment's own model is feasible again (`fallback`).

Facts mark it *dirty* with the reason; `reconsider` then looks once and comes to rest. It looks
again without a new fact only where time itself is one: a cooldown that held a better plan back
has ended, or those who were about to speak have had their time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from dsi_mqtt.core.choosing import Alternatives, Choice, LookAgain
from dsi_mqtt.core.decisions import (
    Authority,
    ClearDocument,
    Decided,
    Noticed,
    PublishDocument,
    PublishSpec,
    ServedEffects,
)
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.draft import Draft, kind_of, same_chain
from dsi_mqtt.core.explanation import DecisionKind
from dsi_mqtt.core.failures import PREPARE_S, Failures, NodeKey
from dsi_mqtt.core.fallback import Fallback, Instead
from dsi_mqtt.core.issuer import Issuer
from dsi_mqtt.core.kept import Kept
from dsi_mqtt.core.membership import Membership
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.node import NodeStatus, Telemetry
from dsi_mqtt.core.outlook import Outlook
from dsi_mqtt.core.patience import SETTLE_S, Patience
from dsi_mqtt.core.plan import Infeasible, Plan
from dsi_mqtt.core.policy import BUILTIN_ONLY, Policies
from dsi_mqtt.core.sharing import Sharing
from dsi_mqtt.core.table import DoorPlace, Table, TableDocument, TableState
from dsi_mqtt.errors import ConfigError, one_sentence

# Facts that alone do not call for another plan.
PREPARED: Final = "prepared"
FOUND: Final = "a table was found"


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
        self.spec: Deployment | None = None
        self.document: TableDocument | None = None
        self.removed = False
        self._outlook = Outlook(name, members, sharing=sharing or Sharing())
        self._fallback = Fallback(name, members, self._outlook.sharing)
        self._issuer = Issuer(name, self._outlook)
        self._members = members
        self._dirty: str | None = None
        self._later: str | None = None  # what a preparation was not given up for
        self._unreadable = False  # what is retained as the deployment
        self._changed = False  # the deployment itself, since the last plan
        self._look_again: LookAgain | None = None
        self._patience = Patience(members, self._outlook)
        self._choice = Choice(name, members, self._outlook, policies)
        self._failures = Failures()
        self._spec_kept = Kept()
        self._table_kept = Kept()
        self._left_out: frozenset[NodeKey] = frozenset()
        self._kept_because: str | None = None

    # --- facts --------------------------------------------------------------------------------

    def mark(self, reason: str) -> None:
        """Something has changed that a placement depends on."""
        if self._dirty in (None, PREPARED, FOUND):
            self._dirty = reason

    def spec_arrived(self, spec: Deployment) -> None:
        self._spec_kept.is_right()
        self._unreadable = False
        if self.spec == spec:
            return
        self.mark("deployed" if self.spec is None else "the deployment changed")
        self.spec, self._changed = spec, True
        self._outlook.opening = spec.opening
        self._fallback.spec_is(spec)
        self._failures.clear()
        self._kept_because = None

    def spec_gone(self) -> None:
        """Withdrawn by an operator."""
        self._spec_kept.is_right()
        self._unreadable = False
        self.spec = None
        self.mark("removed")

    def spec_unreadable(self) -> None:
        """Its topic holds something, but no deployment; nothing is concluded from that."""
        self._unreadable = True

    def spec_forgotten(self, now: float) -> None:
        """The broker does not know it any more, and no operator has withdrawn it."""
        self._spec_kept.is_missing(now)

    def document_lost(self, now: float) -> None:
        """Somebody has cleared the topic, or written what cannot be read."""
        if self.document is not None:
            self._table_kept.is_wrong(now)

    def document_forgotten(self, now: float) -> None:
        """The broker does not know any table."""
        if self.document is not None:
            self._table_kept.is_missing(now)

    def document_seen(self, document: TableDocument, now: float) -> None:
        """A document on the topic, one's own among them."""
        newer = self.document is None or document.order > self.document.order
        if newer or document == self.document:
            self._table_kept.is_right()
        else:
            self._table_kept.is_wrong(now)
        if newer:
            self.document = document
            self._dirty = self._dirty or FOUND
            self._issuer.found(document)

    def status_arrived(self, status: NodeStatus, now: float) -> None:
        """A part that could not be loaded, one that is ready, or a table nobody else knows."""
        prepare = self.document.prepare if self.document else None
        for holding in status.holdings:
            if prepare is None or (holding.deployment, holding.stamp) != (
                prepare.model_name,
                prepare.stamp,
            ):
                continue
            segment = prepare.segment(holding.segment)
            if segment is None or status.node not in {r.node for r in segment.replicas}:
                continue  # a stand-by, which nothing depends on yet
            if holding.state == "failed":
                why = holding.reason or "could not load its part"
                self._failures.failed((status.node, status.incarnation), why, now)
                self.mark(f"node {status.node} could not prepare its part")
            elif holding.state == "ready":
                self._dirty = self._dirty or PREPARED
        if self.spec is None and self.document is not None:
            self.mark("removed")
        elif self._is_outrun():
            self.mark("what was retained is older than what nodes have seen")

    def telemetry_arrived(self, telemetry: Telemetry, now: float) -> None:
        serve = self.document.serve if self.document else None
        if self.spec is None or serve is None or serve.is_fallback:
            return
        if self._serves():
            again = self._choice.heard(self.spec, serve, telemetry, now)
            if again is not None:
                self._look(again)

    def takes_shares(self) -> None:
        """What it serves with keeps nodes busy; a new leader has to be told."""
        serve, graph = self._intact(), self._outlook.graph()
        if serve is not None and serve.is_fallback:
            self._fallback.tells(serve)
        elif self.spec is not None and serve is not None and graph is not None:
            self._choice.tells(self.spec, graph, serve)

    def others_moved(self, other: str, now: float) -> None:
        """Another deployment takes other shares of the nodes."""
        if self.spec is not None and self._serves():
            self._look(self._choice.others_moved(other, now))

    # --- deciding -----------------------------------------------------------------------------

    def reconsider(self, authority: Authority, now: float) -> ServedEffects:
        """What follows from everything that has become known since the last time."""
        return [*self._decided(authority, now), *self._repeated(now)]

    def rest(self) -> None:
        """Nothing is decided before another fact comes."""
        self._dirty = self._look_again = None

    def _decided(self, authority: Authority, now: float) -> ServedEffects:
        self._notice_late(now)
        if self._look_again is not None and self._look_again.at <= now:
            self._dirty, self._look_again = self._dirty or self._look_again.reason, None
        if self._dirty is None:
            return []
        if self.spec is None:
            return [] if self._unreadable else self._remove(authority)
        prepare = self.document.prepare if self.document else None
        if prepare is not None and not self._changed and self._goes_well(prepare):
            if self._dirty not in (PREPARED, FOUND):
                self._later = self._dirty
            self._dirty = None
            return self._promote(prepare, now) if self._outlook_of(prepare).ready(prepare) else []
        if self._must_wait(now):
            return []
        reason, self._dirty, self._later, self._look_again = self._dirty, None, None, None
        return [*self._noticed(), *self._replan(self.spec, reason, authority, now)]

    def _look(self, again: LookAgain) -> None:
        """Another look then, unless there is one before."""
        if self._look_again is None or again.at < self._look_again.at:
            self._look_again = again

    def _must_wait(self, now: float) -> bool:
        """Whether those who are about to speak should be heard first."""
        if self._serves() and self._intact() is None and not self._members.settled(now):
            return True  # whom the table names may yet be heard, after one's own absence
        if self._outlook.graph() is None and self._patience.is_early(self.document, now):
            return True
        is_new = not self._serves() and not self._prepares()
        return (is_new or self._outlook.graph() is None) and self._patience.still_arriving(now)

    def _replan(
        self, spec: Deployment, reason: str, authority: Authority, now: float
    ) -> ServedEffects:
        serve, graph = self._intact(), self._outlook.graph()
        self._choice.begins()
        self._failures.forgive(now)
        if graph is None:
            return self._do_without(self._outlook.why_no_graph(), None, authority)
        if serve is not None and serve.is_fallback:
            return self._come_back(spec, graph, reason, authority, now)
        return self._place(spec, graph, reason, authority, now)

    def _place(
        self, spec: Deployment, graph: ModelGraph, reason: str, authority: Authority, now: float
    ) -> ServedEffects:
        """The deployment's own model, as well as that can be done."""
        serve, old = self._intact(), self._own_chain()
        without = self._failures.nodes()
        try:
            spec, told = self._asked(spec, graph, now)
            choice = self._choice.compare(spec, graph, old, serve, without=without, now=now)
        except ConfigError as error:
            return self._refuse(spec, graph, str(error), authority)
        found = choice.found
        if serve is not None and choice.present is not None:
            kept = self._keeps(spec, serve, choice, now)
            if kept is not None:
                self._choice.takes(spec, choice.present)
                beside = self._stand_by(spec, graph, choice.present, serve, authority)
                if beside:
                    self._later = reason  # what there is to tell of the chain is told then
                return beside or self._keep(serve, kept or None, authority)
        elif (
            isinstance(found, Infeasible)
            and not self._is_pressing(spec, graph, serve)
            and (self._patience.still_arriving(now) or self._patience.is_early(self.document, now))
        ):
            self._look_again = LookAgain(now + SETTLE_S, reason)
            return []
        if isinstance(found, Infeasible):
            return self._refuse(spec, graph, self._why(found), authority)
        self._choice.takes(spec, found)
        if choice.at_once:
            self._later = "stand-bys have taken over"
        standbys = self._outlook.standbys(spec, graph, found, old)
        draft = Draft(spec, graph, found, self._issuer.decision(authority), reason, standbys)
        return [*told, *self._prepare(draft, authority, now, beside=choice.beside)]

    def _asked(
        self, spec: Deployment, graph: ModelGraph, now: float
    ) -> tuple[Deployment, ServedEffects]:
        """As its policy wants it planned. A chain that has to be replaced does not wait until a
        policy that fails is mended. Raises ConfigError.
        """
        old = self.document.serve if self.document else None
        try:
            return self._choice.asked(spec, graph, now), []
        except ConfigError as error:
            if self._intact() is not None or old is None or not old.segments:
                raise
            return spec, [Noticed(self.name, f"it is placed as its file says, for {error}")]

    def _keeps(
        self, spec: Deployment, serve: Table, choice: Alternatives, now: float
    ) -> str | None:
        """Why the chain is kept, empty where there is nothing to tell; None: it is replaced."""
        if isinstance(choice.found, Infeasible):
            return self._why(choice.found)
        try:
            kept = self._choice.keeps(spec, serve, choice, now)
        except ConfigError as error:
            return str(error)
        if isinstance(kept, LookAgain):
            self._look(kept)
        return self._choice.verdict() if kept else None

    # --- what goes wrong ----------------------------------------------------------------------

    def _notice_late(self, now: float) -> None:
        """A preparation that takes too long fails at the nodes that are not ready."""
        prepare = self.document.prepare if self.document else None
        if prepare is None or self.spec is None:
            return
        # Where there is no room for both, what waits for the old table has its deadline besides.
        patience_s = PREPARE_S + self.spec.deadline_s
        if self._failures.is_late(prepare, patience_s, now):
            for node in self._outlook_of(prepare).unready(prepare) - self._failures.nodes():
                self._failures.failed(node, f"is not ready after {patience_s:.0f} s", now)
                self.mark(f"node {node[0]} took too long to prepare its part")

    def _noticed(self) -> list[Noticed]:
        """Nodes that cannot be planned with, each told once for as long as it is there."""
        graph = self._outlook.graph()
        left_out = self._outlook.left_out(graph) if graph is not None else {}
        new = left_out.keys() - self._left_out
        self._left_out = frozenset(left_out)
        return [Noticed(self.name, f"{left_out[node]}; it is left out") for node in sorted(new)]

    def _repeated(self, now: float) -> ServedEffects:
        """What the broker should retain and does not."""
        effects: ServedEffects = []
        if self.spec is not None and self._spec_kept.due(now):
            effects.append(Noticed(self.name, "the broker has forgotten it; it is told again"))
            effects.append(PublishSpec(self.spec))
        if self.document is not None and not self.removed and self._table_kept.due(now):
            effects.append(Noticed(self.name, "its retained table was lost; it is written again"))
            effects.append(PublishDocument(self.name, self.document))
        return effects

    # --- documents ----------------------------------------------------------------------------

    def _prepare(
        self, draft: Draft, authority: Authority, now: float, *, beside: bool
    ) -> ServedEffects:
        """beside: there is room for the old chain and the new one."""
        old = self.document.serve if self.document else None
        table, serve = self._issuer.table(self.document, draft, authority), old
        if not beside:
            serve = self._issuer.unavailable(
                self.document, "makes room for the next table", table.door, authority
            )
            serve = replace(serve, decision=draft.decision)
            table = replace(table, epoch=serve.epoch + 1)
        self._choice.moved(now)
        self._choice.chose(draft.plan)
        kind = kind_of(self._own_chain(), draft.plan)
        return [
            self._told(draft.decision, kind, draft.reason, draft.plan),
            self._decide(TableDocument(serve, table)),
        ]

    def _stand_by(
        self, spec: Deployment, graph: ModelGraph, present: Plan, serve: Table, authority: Authority
    ) -> ServedEffects:
        """The chain that is kept gets other stand-bys, where there are more than it has."""
        wanted = self._outlook.standbys(spec, graph, present, serve)
        if self._outlook.stands_by(serve, wanted):
            return []
        reason = "stand-bys are chosen anew"
        draft = Draft(spec, graph, present, self._issuer.decision(authority), reason, wanted)
        table = self._issuer.table(self.document, draft, authority)
        document = self._decide(TableDocument(serve, table))
        return [self._told(draft.decision, "keep", reason, present), document]

    def _promote(self, prepare: Table, now: float) -> ServedEffects:
        serve = self.document.serve if self.document else None
        if serve is None or not same_chain(serve, prepare):
            self._choice.moved(now)
        self._dirty, self._later = self._later, None
        state: TableState = "fallback" if prepare.is_fallback else "serving"
        promoted = self._issuer.with_door(self.document, replace(prepare, state=state))
        return [self._decide(TableDocument(promoted))]

    def _keep(
        self, serve: Table, reason: str | None, authority: Authority, *, refused: str | None = None
    ) -> ServedEffects:
        """What serves goes on serving; a preparation that was under way is given up.

        reason: why there is nothing better. refused: why the deployment's rules cannot be met.
        """
        effects: ServedEffects = []
        self._changed = False
        self._patience.ends()
        if reason is not None and self._kept_because != reason:
            effects.append(self._told(self._issuer.decision(authority), "keep", reason))
        self._kept_because = reason
        known = self.document
        if known is not None and (known.prepare is not None or known.refused != refused):
            stamp = self._issuer.stamp(known, authority)
            again = replace(serve, term=stamp.term, leader=stamp.leader, epoch=stamp.epoch)
            self.document = TableDocument(again, refused=refused)
            effects.append(PublishDocument(self.name, self.document))
        return effects

    def _refuse(
        self, spec: Deployment, graph: ModelGraph, reason: str, authority: Authority
    ) -> ServedEffects:
        """No placement meets the deployment: one from before serves on where it still may."""
        serve = self._intact()
        if serve is not None and self._outlook.may_go_on(spec, graph, serve):
            self._choice.tells(spec, graph, serve)
            return self._keep(serve, reason, authority, refused=reason)
        try:
            door = self._issuer.waiting_door(self.document, spec, graph, authority)
        except ConfigError:  # by rules that contradict themselves nobody may be the door
            door = None
        return self._do_without(reason, door, authority)

    def _do_without(
        self, reason: str, door: DoorPlace | None, authority: Authority
    ) -> ServedEffects:
        """The deployment's own model cannot serve: its fallback does, if that can."""
        serve = self._intact()
        if serve is not None and self._fallback.suits(serve):
            return self._keep(serve, None, authority)
        found = self._fallback.best(self._failures.nodes())
        if not isinstance(found, Instead):
            beside = "" if found is None else f"; nor can its fallback: {found}"
            return self._give_up(one_sentence(reason + beside), door, authority)
        table = self._fallback.table(found, reason, self._issuer, self.document, authority)
        before = self._issuer.unavailable(self.document, reason, table.door, authority)
        before = replace(before, decision=table.decision)
        decided = Decided(table.decision, self.name, "fallback", reason)
        return [
            decided,
            self._decide(TableDocument(before, replace(table, epoch=before.epoch + 1))),
        ]

    def _come_back(
        self, spec: Deployment, graph: ModelGraph, reason: str, authority: Authority, now: float
    ) -> ServedEffects:
        """From the fallback, which is intact, to the deployment's own model, where that can serve
        again.
        """
        serve = self._intact()
        try:
            spec, told = self._asked(spec, graph, now)
            choice = self._fallback.makes_way(
                self._outlook,
                lambda: self._choice.compare(
                    spec, graph, None, None, without=self._failures.nodes(), now=now
                ),
            )
        except ConfigError as error:
            return self._refuse(spec, graph, str(error), authority)
        found = choice.found
        if isinstance(found, Infeasible):
            return self._refuse(spec, graph, self._why(found), authority)
        if serve is not None and self._must_cool(spec, now):
            return self._keep(serve, None, authority)
        self._choice.takes(spec, found)
        standbys = self._outlook.standbys(spec, graph, found, None)
        draft = Draft(spec, graph, found, self._issuer.decision(authority), reason, standbys)
        return [*told, *self._prepare(draft, authority, now, beside=choice.beside)]

    def _must_cool(self, spec: Deployment, now: float) -> bool:
        """Whether the fallback has served for too short a time to make way yet."""
        until = self._choice.cools_until(spec)
        if now >= until:
            return False
        self._look(LookAgain(until, "its own model was held back by the cooldown"))
        return True

    def _give_up(self, reason: str, door: DoorPlace | None, authority: Authority) -> ServedEffects:
        """Nothing feasible: a table says so, once for each reason."""
        serve = self.document.serve if self.document else None
        told = serve is not None and (serve.state, serve.reason) == ("unavailable", reason)
        if told and serve is not None and serve.door == door and not self._prepares():
            self._changed = False
            self._patience.ends()
            return []
        self._outlook.sharing.takes(self.name, {})
        table = self._issuer.unavailable(self.document, reason, door, authority)
        decided = self._told(table.decision, "unavailable", reason)
        return [decided, self._decide(TableDocument(table))]

    def _remove(self, authority: Authority) -> ServedEffects:
        """Undeployed: take the chain out of service, then clear what is retained."""
        self._dirty = None
        self._outlook.sharing.takes(self.name, {})
        serve = self.document.serve if self.document else None
        if self.document is None:
            self.removed = True
            return []
        if serve is not None and serve.state == "unavailable" and serve.door is None:
            if self._outlook.still_held() or self._fallback.outlook.still_held():
                return []
            self.removed = True
            return [ClearDocument(self.name)]
        table = self._issuer.unavailable(
            self.document, "this deployment was removed", None, authority
        )
        self.mark("removed")
        decided = Decided(table.decision, self.name, "remove", "removed by an operator")
        return [decided, self._decide(TableDocument(table))]

    def _told(
        self, decision: str, kind: DecisionKind, reason: str, plan: Plan | None = None
    ) -> Decided:
        return Decided(decision, self.name, kind, reason, plan, self._choice.grounds())

    def _decide(self, document: TableDocument) -> PublishDocument:
        """A decision has been made: nothing before it is waited for any more."""
        self.document = document
        self._changed, self._kept_because = False, None
        self._patience.ends()
        return PublishDocument(self.name, document)

    @property
    def looks(self) -> int:
        """At placements, since this began."""
        return self._choice.looks

    # --- questions ----------------------------------------------------------------------------

    def _serves(self) -> bool:
        serve = self.document.serve if self.document else None
        return serve is not None and serve.serves

    def _own_chain(self) -> Table | None:
        """What serves, or did, of the deployment's own model."""
        serve = self.document.serve if self.document else None
        return None if serve is not None and serve.is_fallback else serve

    def _outlook_of(self, table: Table) -> Outlook:
        """On the model that the table is of."""
        return self._fallback.outlook if table.is_fallback else self._outlook

    def _prepares(self) -> bool:
        return self.document is not None and self.document.prepare is not None

    def _intact(self) -> Table | None:
        """The serving table, if it serves, is the newest there is, and all its nodes live."""
        serve = self.document.serve if self.document else None
        whole = serve is not None and self._serves() and self._outlook.whole(serve)
        return serve if whole and not self._is_outrun() else None

    def _is_outrun(self) -> bool:
        """Nodes have seen a newer table: a broker has lost it, and nobody knows what it said."""
        return self.document is not None and self._outlook.newest_seen() > self.document.order[0]

    def _goes_well(self, prepare: Table) -> bool:
        return self._outlook.whole(prepare) and not prepare.members() & self._failures.nodes()

    def _is_pressing(self, spec: Deployment, graph: ModelGraph, serve: Table | None) -> bool:
        """Whether a refusal waits for no node: what was deployed is not what an intact chain does.

        One whose nodes have closed its model computes nothing, whatever is said of it, and some
        open the next model sooner than others: those are waited for, unless rules forbid the chain.
        """
        if serve is None:
            return False
        changed = self._changed and self._outlook.computes(serve)
        return changed or self._outlook.forbids(spec, graph, serve)

    def _why(self, found: Infeasible) -> str:
        """The planner's reason, behind that of a node that should have taken part."""
        graph = self._outlook.graph()
        left_out = self._outlook.left_out(graph).values() if graph is not None else ()
        reasons = [*self._failures.reasons(), *left_out]
        return one_sentence("; ".join([*reasons[:1], found.sentence]))
