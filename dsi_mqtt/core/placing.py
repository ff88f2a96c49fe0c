"""What is decided of one deployment's placement, and the document that says it.

`Served` says when; here it is asked which placement is best, whether the present one is kept, and
what serves where nothing is feasible: what served before, the fallback, or nothing.
"""

from __future__ import annotations

from dataclasses import replace

from dsi_mqtt.core.agenda import Agenda
from dsi_mqtt.core.choosing import Alternatives, Choice, LookAgain
from dsi_mqtt.core.decisions import (
    Authority,
    ClearDocument,
    Decided,
    Noticed,
    PublishDocument,
    ServedEffects,
)
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.draft import Draft, kind_of, same_chain
from dsi_mqtt.core.explanation import DecisionKind
from dsi_mqtt.core.failures import Failures, NodeKey
from dsi_mqtt.core.fallback import Fallback, Instead
from dsi_mqtt.core.grounds import DRAINS
from dsi_mqtt.core.issuer import Issuer
from dsi_mqtt.core.known import Known
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.outlook import Outlook
from dsi_mqtt.core.patience import SETTLE_S, Patience
from dsi_mqtt.core.plan import Infeasible, Plan
from dsi_mqtt.core.policy import BUILTIN
from dsi_mqtt.core.table import DoorPlace, Table, TableDocument, TableState
from dsi_mqtt.errors import ConfigError, one_sentence


class Placing:
    """Of the deployment that is `known`; the other parts are those of `Served`."""

    def __init__(
        self,
        known: Known,
        agenda: Agenda,
        *,
        outlook: Outlook,
        fallback: Fallback,
        choice: Choice,
        failures: Failures,
        patience: Patience,
    ) -> None:
        self._name = known.name
        self._known = known
        self._agenda = agenda
        self._outlook = outlook
        self._fallback = fallback
        self._choice = choice
        self._failures = failures
        self._patience = patience
        self._issuer = Issuer(known.name, outlook)
        self._left_out: frozenset[NodeKey] = frozenset()
        self._kept_because: str | None = None

    # --- facts --------------------------------------------------------------------------------

    def found(self, document: TableDocument) -> None:
        """A newer document than any before, whoever made it."""
        self._issuer.found(document)

    def deployed_anew(self) -> None:
        """Why the present chain was kept is told again."""
        self._kept_because = None

    # --- the placement ------------------------------------------------------------------------

    def place_anew(
        self, spec: Deployment, reason: str, authority: Authority, now: float
    ) -> ServedEffects:
        """What follows from all that is known now. reason: the news that called for it."""
        return [*self._noticed(), *self._place_anew(spec, reason, authority, now)]

    def is_about_to_move(self, spec: Deployment) -> bool:
        """Whether the next look may leave the chain whatever that saves."""
        serve, chain = self._known.intact, self._known.own_chain
        if spec.policy.use != BUILTIN or chain is None or not chain.segments:
            return False
        nodes = [node for node, _ in chain.members()]
        return serve is None or self._outlook.drains(serve) or self._outlook.uses_spare(nodes)

    def foresees(self, spec: Deployment, now: float) -> bool:
        """What it is about to take of the nodes is told the other deployments, before anything is
        decided. Says whether it was something else before.
        """
        graph, without = self._outlook.graph(), self._failures.nodes()
        if graph is None:
            return False
        old, serve = self._known.own_chain, self._known.intact
        try:
            return self._choice.foresees(spec, graph, old, serve, without=without, now=now)
        except ConfigError:  # it is told why when that is decided
            return False

    def _noticed(self) -> list[Noticed]:
        """Nodes that cannot be planned with, each told once for as long as it is there."""
        graph = self._outlook.graph()
        left_out = self._outlook.left_out(graph) if graph is not None else {}
        new = left_out.keys() - self._left_out
        self._left_out = frozenset(left_out)
        return [Noticed(self._name, f"{left_out[node]}; it is left out") for node in sorted(new)]

    def _place_anew(
        self, spec: Deployment, reason: str, authority: Authority, now: float
    ) -> ServedEffects:
        serve, graph = self._known.intact, self._outlook.graph()
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
        serve, old = self._known.intact, self._known.own_chain
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
                    self._agenda.later = reason  # what there is to tell of the chain is told then
                return beside or self._keep(serve, kept or None, authority)
        elif (
            isinstance(found, Infeasible)
            and not self._is_pressing(spec, graph, serve)
            and (
                self._patience.still_arriving(now)
                or self._patience.is_early(self._known.document, now)
            )
        ):
            self._agenda.look(LookAgain(now + SETTLE_S, reason))
            return []
        if isinstance(found, Infeasible):
            return self._refuse(spec, graph, self._why(found), authority)
        self._choice.takes(spec, found)
        if choice.at_once:
            self._agenda.later = "stand-bys have taken over"
        standbys = self._outlook.standbys(spec, graph, found, old)
        draft = Draft(spec, graph, found, self._issuer.decision(authority), reason, standbys)
        return [*told, *self._prepare(draft, authority, now, beside=choice.beside)]

    def _asked(
        self, spec: Deployment, graph: ModelGraph, now: float
    ) -> tuple[Deployment, ServedEffects]:
        """As its policy wants it planned. A chain that has to be replaced does not wait until a
        policy that fails is mended. Raises ConfigError.
        """
        old = self._known.serve
        try:
            return self._choice.asked(spec, graph, now), []
        except ConfigError as error:
            if self._known.intact is not None or old is None or not old.segments:
                raise
            return spec, [Noticed(self._name, f"it is placed as its file says, for {error}")]

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
            self._agenda.look(kept)
        return self._choice.verdict() if kept else None

    # --- where nothing is feasible -------------------------------------------------------------

    def _refuse(
        self, spec: Deployment, graph: ModelGraph, reason: str, authority: Authority
    ) -> ServedEffects:
        """No placement meets the deployment: one from before serves on where it still may."""
        serve = self._known.intact
        if serve is not None and self._outlook.may_go_on(spec, graph, serve):
            self._choice.tells(spec, graph, serve)
            return self._keep(serve, reason, authority, refused=reason)
        try:
            door = self._issuer.waiting_door(self._known.document, spec, graph, authority)
        except ConfigError:  # by rules that contradict themselves nobody may be the door
            door = None
        return self._do_without(reason, door, authority)

    def _do_without(
        self, reason: str, door: DoorPlace | None, authority: Authority
    ) -> ServedEffects:
        """The deployment's own model cannot serve: its fallback does, if that can."""
        serve = self._known.intact
        if serve is not None and self._fallback.suits(serve):
            drains = self._outlook.drains(serve)
            return (
                self._move_fallback(serve, authority)
                if drains
                else self._keep(serve, None, authority)
            )
        found = self._fallback.best(self._failures.nodes())
        if not isinstance(found, Instead):
            beside = "" if found is None else f"; nor can its fallback: {found}"
            return self._give_up(one_sentence(reason + beside), door, authority)
        table = self._fallback.table(found, reason, self._issuer, self._known.document, authority)
        before = self._issuer.unavailable(self._known.document, reason, table.door, authority)
        before = replace(before, decision=table.decision)
        grounds = self._choice.grounds() or found.grounds
        decided = Decided(table.decision, self._name, "fallback", reason, found.plan, grounds)
        return [
            decided,
            self._decide(TableDocument(before, replace(table, epoch=before.epoch + 1))),
        ]

    def _move_fallback(self, serve: Table, authority: Authority) -> ServedEffects:
        """Away from nodes that drain, where there is another place, beside what serves."""
        found = self._fallback.best(self._failures.nodes(), serve)
        if not isinstance(found, Instead):
            self._fallback.tells(serve)
            why = one_sentence(f"{DRAINS}, and the fallback has no other place: {found}")
            return self._keep(serve, why, authority)
        document, why = self._known.document, serve.reason or ""
        table = self._fallback.table(found, why, self._issuer, document, authority)
        reason = "the fallback leaves a node that drains"
        told = Decided(table.decision, self._name, "fallback", reason, found.plan, found.grounds)
        return [told, self._decide(TableDocument(serve, table))]

    def _come_back(
        self, spec: Deployment, graph: ModelGraph, reason: str, authority: Authority, now: float
    ) -> ServedEffects:
        """From the fallback, which is intact, to the deployment's own model, where that can serve
        again: behind the cooldown, unless a node of the fallback drains.
        """
        serve = self._known.intact
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
        leaves = serve is not None and self._outlook.drains(serve)
        if serve is not None and not leaves and self._must_cool(spec, now):
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
        self._agenda.look(LookAgain(until, "its own model was held back by the cooldown"))
        return True

    def _is_pressing(self, spec: Deployment, graph: ModelGraph, serve: Table | None) -> bool:
        """Whether a refusal waits for no node: what was deployed is not what an intact chain does.

        One whose nodes have closed its model computes nothing, whatever is said of it, and some
        open the next model sooner than others: those are waited for, unless rules forbid the chain.
        """
        if serve is None:
            return False
        changed = self._known.changed and self._outlook.computes(serve)
        return changed or self._outlook.forbids(spec, graph, serve)

    def _why(self, found: Infeasible) -> str:
        """The planner's reason, behind that of a node that should have taken part."""
        graph = self._outlook.graph()
        left_out = self._outlook.left_out(graph).values() if graph is not None else ()
        reasons = [*self._failures.reasons(), *left_out]
        return one_sentence("; ".join([*reasons[:1], found.sentence]))

    # --- documents ----------------------------------------------------------------------------

    def _prepare(
        self, draft: Draft, authority: Authority, now: float, *, beside: bool
    ) -> ServedEffects:
        """beside: there is room for the old chain and the new one."""
        old = self._known.serve
        table, serve = self._issuer.table(self._known.document, draft, authority), old
        if not beside:
            serve = self._issuer.unavailable(
                self._known.document, "makes room for the next table", table.door, authority
            )
            serve = replace(serve, decision=draft.decision)
            table = replace(table, epoch=serve.epoch + 1)
        self._choice.moved(now)
        self._choice.chose(draft.plan)
        kind = kind_of(self._known.own_chain, draft.plan)
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
        table = self._issuer.table(self._known.document, draft, authority)
        document = self._decide(TableDocument(serve, table))
        return [self._told(draft.decision, "keep", reason, present), document]

    def promote(self, prepare: Table, now: float) -> ServedEffects:
        """What is prepared is ready, so it serves."""
        serve = self._known.serve
        if serve is None or not same_chain(serve, prepare):
            self._choice.moved(now)
        self._agenda.take_up()
        state: TableState = "fallback" if prepare.is_fallback else "serving"
        promoted = self._issuer.as_of_now(self._known.document, replace(prepare, state=state))
        return [self._decide(TableDocument(promoted))]

    def _keep(
        self, serve: Table, reason: str | None, authority: Authority, *, refused: str | None = None
    ) -> ServedEffects:
        """What serves goes on serving; a preparation that was under way is given up.

        reason: why there is nothing better. refused: why the deployment's rules cannot be met.
        """
        effects: ServedEffects = []
        self._known.changed = False
        self._patience.ends()
        if reason is not None and self._kept_because != reason:
            effects.append(self._told(self._issuer.decision(authority), "keep", reason))
        self._kept_because = reason
        known = self._known.document
        if known is not None and (known.prepare is not None or known.refused != refused):
            stamp = self._issuer.stamp(known, authority)
            again = replace(serve, term=stamp.term, leader=stamp.leader, epoch=stamp.epoch)
            self._known.document = TableDocument(again, refused=refused)
            effects.append(PublishDocument(self._name, self._known.document))
        return effects

    def _give_up(self, reason: str, door: DoorPlace | None, authority: Authority) -> ServedEffects:
        """Nothing feasible: a table says so, once for each reason."""
        serve = self._known.serve
        told = serve is not None and (serve.state, serve.reason) == ("unavailable", reason)
        if told and serve is not None and serve.door == door and self._known.prepare is None:
            self._known.changed = False
            self._patience.ends()
            return []
        self._outlook.sharing.takes(self._name, {})
        table = self._issuer.unavailable(self._known.document, reason, door, authority)
        decided = self._told(table.decision, "unavailable", reason)
        return [decided, self._decide(TableDocument(table))]

    def remove(self, authority: Authority) -> ServedEffects:
        """Undeployed: take the chain out of service, then clear what is retained."""
        self._agenda.reason = None
        self._outlook.sharing.takes(self._name, {})
        serve = self._known.serve
        if self._known.document is None:
            self._known.removed = True
            return []
        if serve is not None and serve.state == "unavailable" and serve.door is None:
            if self._outlook.still_held() or self._fallback.outlook.still_held():
                return []
            self._known.removed = True
            return [ClearDocument(self._name, self._issuer.known_session)]
        table = self._issuer.unavailable(
            self._known.document, "this deployment was removed", None, authority
        )
        self._agenda.mark("removed")
        decided = Decided(table.decision, self._name, "remove", "removed by an operator")
        return [decided, self._decide(TableDocument(table))]

    def _told(
        self, decision: str, kind: DecisionKind, reason: str, plan: Plan | None = None
    ) -> Decided:
        return Decided(decision, self._name, kind, reason, plan, self._choice.grounds())

    def _decide(self, document: TableDocument) -> PublishDocument:
        """A decision has been made: nothing before it is waited for any more."""
        self._known.document = document
        self._known.changed, self._kept_because = False, None
        self._patience.ends()
        return PublishDocument(self._name, document)
