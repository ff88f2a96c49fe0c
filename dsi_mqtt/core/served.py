"""One deployment as the orchestrator keeps it: its document, and when to publish another.

    nothing ──plan──► prepare ──all ready──► serve ──(a node gone, drains, a better plan)──► prepare
       │                                       └──(nothing feasible)──► unavailable
       └──(nothing feasible)──► unavailable ──(a node came)──► prepare

Facts mark it *dirty* with the reason; `reconsider` then looks once and comes to rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

from dsi_mqtt.core.deployment import Deployment, SplitPart
from dsi_mqtt.core.draft import Draft, draft_table, places, planned_places
from dsi_mqtt.core.membership import Membership
from dsi_mqtt.core.model import ModelGraph, UnitRange
from dsi_mqtt.core.node import NodeStatus, Telemetry
from dsi_mqtt.core.plan import Infeasible, Plan, plan
from dsi_mqtt.core.profile import held_bytes, views
from dsi_mqtt.core.table import Door, Stamp, Table, TableDocument
from dsi_mqtt.errors import ConfigError

SETTLE_S: Final = 1.0
DESCRIBE_S: Final = 60.0

DecisionKind = Literal["place", "keep", "remap", "resplit", "unavailable", "remove"]


@dataclass(frozen=True, slots=True)
class PublishDocument:
    deployment: str
    document: TableDocument


@dataclass(frozen=True, slots=True)
class ClearDocument:
    """The deployment is gone and released everywhere: nothing is retained any more."""

    deployment: str


@dataclass(frozen=True, slots=True)
class Decided:
    """For the log: what was decided and why."""

    id: str
    deployment: str
    kind: DecisionKind
    reason: str
    plan: Plan | None = None


ServedEffects = list[PublishDocument | ClearDocument | Decided]


@dataclass(frozen=True, slots=True)
class Authority:
    """In whose name tables are made: the leader's term and nonce, and a source of secrets."""

    term: int
    nonce: str
    secret: Callable[[], str]


class Served:
    """State machine of one deployment."""

    def __init__(self, name: str, members: Membership) -> None:
        self.name = name
        self.spec: Deployment | None = None
        self.document: TableDocument | None = None
        self.dirty: str | None = None
        self.removed = False
        self._members = members
        self._moved_at = float("-inf")
        self._failed: dict[tuple[str, str], str] = {}
        self._told: str | None = None
        self._decisions = 0

    # --- facts --------------------------------------------------------------------------------

    def spec_arrived(self, spec: Deployment) -> None:
        if self.spec != spec:
            self.dirty = "deployed" if self.spec is None else "the deployment changed"
            self.spec = spec
            self._failed.clear()
            self._told = None

    def spec_gone(self) -> None:
        self.spec, self.dirty = None, "removed"

    def document_seen(self, document: TableDocument) -> None:
        if self.document is None or document.order > self.document.order:
            self.document = document
            self.dirty = self.dirty or "a table was found"

    def status_arrived(self, status: NodeStatus) -> None:
        """A part that could not be loaded, or one that is ready."""
        prepare = self.document.prepare if self.document else None
        for holding in status.holdings:
            if prepare is None or (holding.deployment, holding.stamp) != (self.name, prepare.stamp):
                continue
            if holding.state == "failed":
                key = (status.node, status.incarnation)
                self._failed[key] = holding.reason or "could not load its part"
                self.dirty = f"node {status.node} could not prepare its part"
            elif holding.state == "ready":
                self.dirty = self.dirty or "prepared"
        if self.spec is None and self.document is not None:
            self.dirty = "removed"

    # --- deciding -----------------------------------------------------------------------------

    def reconsider(self, authority: Authority, now: float) -> ServedEffects:
        """What follows from everything that has become known since the last time."""
        if self.dirty is None:
            return []
        if self.spec is None:
            return self._remove(authority)
        prepare = self.document.prepare if self.document else None
        if prepare is not None and self._is_ready(prepare):
            return self._promote(prepare, now)
        changed = self.dirty in ("deployed", "the deployment changed")
        if prepare is not None and self._is_whole(prepare) and not changed:
            self.dirty = None  # a preparation that goes well is not given up for a small thing
            return []
        return self._replan(self.spec, authority, now)

    def _replan(self, spec: Deployment, authority: Authority, now: float) -> ServedEffects:
        serve = self._intact()
        if serve is None and self._still_arriving(now):
            return []  # stay dirty: a placement waits until those who come have come
        reason, self.dirty = self.dirty or "", None
        graph = self._graph()
        if graph is None:
            return self._give_up(self._why_no_graph(), authority)
        try:
            found = self._plan(spec, graph)
        except ConfigError as error:
            return self._give_up(str(error), authority)
        if serve is not None and self._stays(serve, found, spec, now):
            return self._keep(serve, found, authority)
        if isinstance(found, Infeasible):
            return self._give_up(found.message, authority)
        self._moved_at = now
        return self._prepare(
            Draft(spec, graph, found, self._decision(authority), reason), authority
        )

    def _plan(self, spec: Deployment, graph: ModelGraph) -> Plan | Infeasible:
        """The best placement beside what serves; without it, if there is no room for both."""
        usable = [
            (status, telemetry)
            for status, telemetry in self._online()
            if (status.node, status.incarnation) not in self._failed
            and (reported := status.graph(self.name)) is not None
            and reported.digest == graph.digest
        ]
        nodes = views(usable, graph, self.name)
        held: dict[str, list[UnitRange]] = {}
        old = self.document.serve if self.document else None
        for segment in old.segments if old else ():
            for replica in segment.replicas:
                held.setdefault(replica.node, []).append(segment.units)
        found = plan(spec, graph, nodes, held=held)
        if isinstance(found, Infeasible) and held and self._intact() is None:
            return plan(spec, graph, nodes)
        return found

    def _stays(self, serve: Table, found: Plan | Infeasible, spec: Deployment, now: float) -> bool:
        """Whether an intact chain is kept rather than replaced by what was found."""
        if not self._obeys(spec, serve):
            return False
        if isinstance(found, Infeasible):
            return True
        if self._drains(serve):
            return False
        if places(serve) == planned_places(found):
            return True
        if self._uses_spare(serve.members()) and not self._uses_spare(_nodes(found)):
            return False
        if now - self._moved_at < spec.policy.cooldown_s or serve.forecast is None:
            return True
        return found.latency_s * 1000 >= serve.forecast.p50_ms * (1 - spec.policy.min_gain)

    def _obeys(self, spec: Deployment, serve: Table) -> bool:
        """Whether the serving placement satisfies the deployment as it is now."""
        graph = self._graph()
        limit = spec.policy.max_segments
        if graph is None or serve.model is None or serve.model.digest != graph.digest:
            return False
        if limit is not None and len(serve.segments) > limit:
            return False
        if spec.split is not None:
            given = [part.units for part in spec.split]
            if given != [str(segment.units) for segment in serve.segments]:
                return False
        as_it_is = tuple(SplitPart(str(units), (node,)) for units, node in places(serve))
        alive = [(s, t) for s, t in self._members.reports() if s.state != "offline"]
        online = [(replace(s, state="online"), t) for s, t in alive]  # a draining node may stay
        try:
            check = replace(spec, split=as_it_is, policy=replace(spec.policy, max_segments=None))
            return isinstance(plan(check, graph, views(online, graph, self.name)), Plan)
        except ConfigError:
            return False

    # --- documents ----------------------------------------------------------------------------

    def _prepare(self, draft: Draft, authority: Authority) -> ServedEffects:
        old = self.document.serve if self.document else None
        nodes = {status.node: status for status, _ in self._members.reports()}
        table = draft_table(draft, self._next(authority), nodes, self._session(authority))
        self._told = None
        serve = old
        if old is not None and not self._fits_beside(old, draft):
            # No room for both: the old chain, which is broken or must be left, goes first.
            serve = self._unavailable("makes room for the next table", table.door, authority)
            table = replace(table, epoch=serve.epoch + 1)
        self.document = TableDocument(serve, table)
        kind = _kind_of(old, draft.plan)
        return [
            Decided(draft.decision, self.name, kind, draft.reason, draft.plan),
            PublishDocument(self.name, self.document),
        ]

    def _promote(self, prepare: Table, now: float) -> ServedEffects:
        self.dirty = None
        self._moved_at = now
        self._failed.clear()
        self.document = TableDocument(replace(prepare, state="serving"), None)
        return [PublishDocument(self.name, self.document)]

    def _keep(self, serve: Table, found: Plan | Infeasible, authority: Authority) -> ServedEffects:
        """What serves goes on serving; a preparation that was under way is given up."""
        effects: ServedEffects = []
        reason = found.message if isinstance(found, Infeasible) else None
        if reason is not None and self._told != reason:
            self._told = reason
            effects.append(Decided(self._decision(authority), self.name, "keep", reason))
        if self.document is not None and self.document.prepare is not None:
            stamp = self._next(authority)
            again = replace(serve, term=stamp.term, leader=stamp.leader, epoch=stamp.epoch)
            self.document = TableDocument(again, None)
            effects.append(PublishDocument(self.name, self.document))
        return effects

    def _give_up(self, reason: str, authority: Authority) -> ServedEffects:
        """Nothing feasible: a table says so, once for each reason."""
        if self._told == reason:
            return []
        self._told = reason
        old = self.document.serve if self.document else None
        door = old.door if old else None
        if door is not None and not self._members.alive(door.node, door.incarnation):
            door = None
        table = self._unavailable(reason, door, authority)
        self.document = TableDocument(table, None)
        return [
            Decided(table.decision, self.name, "unavailable", reason),
            PublishDocument(self.name, self.document),
        ]

    def _remove(self, authority: Authority) -> ServedEffects:
        """Undeployed: take the chain out of service, then clear what is retained."""
        self.dirty = None
        serve = self.document.serve if self.document else None
        if self.document is None:
            self.removed = True
            return []
        if serve is not None and serve.state == "unavailable" and serve.door is None:
            if self._still_held():
                return []
            self.removed = True
            return [ClearDocument(self.name)]
        table = self._unavailable("this deployment was removed", None, authority)
        self.document = TableDocument(table, None)
        self.dirty = "removed"
        return [
            Decided(table.decision, self.name, "remove", "removed by an operator"),
            PublishDocument(self.name, self.document),
        ]

    def _unavailable(self, reason: str, door: Door | None, authority: Authority) -> Table:
        return Table(
            self.name,
            *self._next(authority),
            "unavailable",
            reason,
            self._decision(authority),
            None,
            door,
        )

    def _next(self, authority: Authority) -> Stamp:
        newest = self.document.order[0].epoch if self.document else 0
        return Stamp(authority.term, authority.nonce, newest + 1)

    def _decision(self, authority: Authority) -> str:
        self._decisions += 1
        return f"{self.name}-{authority.nonce}-{self._decisions}"

    def _session(self, authority: Authority) -> str:
        """The ingress session outlives doors and leaders, so its id does."""
        for table in self.document.tables() if self.document else ():
            if table.door is not None:
                return table.door.session
        return f"{self.name}-{authority.secret()}"

    # --- questions ----------------------------------------------------------------------------

    def _intact(self) -> Table | None:
        """The serving table, if it serves and all its nodes live."""
        serve = self.document.serve if self.document else None
        whole = serve is not None and serve.state == "serving" and self._is_whole(serve)
        return serve if whole else None

    def _is_whole(self, table: Table) -> bool:
        return all(
            self._members.alive(*member) and member not in self._failed
            for member in table.members()
        )

    def _is_ready(self, table: Table) -> bool:
        """Every incarnation of the table says that its part is ready."""
        if not self._is_whole(table):
            return False
        ready = {
            (status.node, holding.segment)
            for status, _ in self._members.reports()
            for holding in status.holdings
            if (holding.deployment, holding.stamp) == (self.name, table.stamp)
            and holding.state == "ready"
        }
        return all((r.node, s.id) in ready for s in table.segments for r in s.replicas)

    def _drains(self, table: Table) -> bool:
        statuses = [self._members.status(node) for node, _ in table.members()]
        return any(status is not None and status.state == "draining" for status in statuses)

    def _uses_spare(self, members: frozenset[tuple[str, str]] | frozenset[str]) -> bool:
        names = {m if isinstance(m, str) else m[0] for m in members}
        return any((s := self._members.status(n)) is not None and s.spare for n in names)

    def _still_held(self) -> bool:
        return any(
            any(h.deployment == self.name for h in status.holdings)
            or any(d.deployment == self.name for d in status.doors)
            for status, _ in self._members.reports()
        )

    def _still_arriving(self, now: float) -> bool:
        """A node has just come, or has yet to say how the model looks from there."""
        if self._members.newest_since(now) < SETTLE_S:
            return True
        if now - self._members.changed_at > DESCRIBE_S:
            return False
        return any(
            not any(report.deployment == self.name for report in status.models)
            for status, _ in self._online()
        )

    def _online(self) -> list[tuple[NodeStatus, Telemetry | None]]:
        return [(s, t) for s, t in self._members.reports() if s.state == "online"]

    def _graph(self) -> ModelGraph | None:
        """The model as most nodes have it: a node with other weights must not take part."""
        graphs = [g for s, _ in self._members.reports() if (g := s.graph(self.name)) is not None]
        digests = sorted(g.digest for g in graphs)
        if not digests:
            return None
        chosen = max(digests, key=digests.count)
        return next(g for g in graphs if g.digest == chosen)

    def _why_no_graph(self) -> str:
        refusals = [
            f"node {status.node} refuses the model: {report.refused}"
            for status, _ in self._online()
            for report in status.models
            if report.deployment == self.name and report.refused
        ]
        return refusals[0] if refusals else "no node is online; start one with `dsi-mqtt worker`"

    def _fits_beside(self, old: Table, draft: Draft) -> bool:
        for status, _ in self._members.reports():
            units = [u for u, node in places(old) if node == status.node]
            units += [u for u, node in planned_places(draft.plan) if node == status.node]
            cap = status.capabilities.weight_bytes if status.capabilities else 0
            held = {unit for run in units for unit in range(*run)}
            if held and held_bytes(draft.graph, held) > cap:
                return False
        return True


def _nodes(found: Plan) -> frozenset[str]:
    return frozenset({found.door, *(segment.node for segment in found.segments)})


def _kind_of(old: Table | None, found: Plan) -> DecisionKind:
    if old is None or not old.segments:
        return "place"
    same_cuts = [s.units for s in old.segments] == [s.units for s in found.segments]
    return "remap" if same_cuts else "resplit"
