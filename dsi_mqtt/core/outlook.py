"""What the living nodes could do for one deployment now: questions about facts, no memory.

`Placing` asks these and decides; nothing here changes anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from dsi_mqtt.core.codecs import worst_of
from dsi_mqtt.core.deployment import Deployment, SplitPart
from dsi_mqtt.core.draft import chain_of
from dsi_mqtt.core.estimate import slice_tokens
from dsi_mqtt.core.failures import NodeKey
from dsi_mqtt.core.formulation import Question, question_of, unpriced
from dsi_mqtt.core.membership import Membership
from dsi_mqtt.core.model import ModelGraph, UnitRange
from dsi_mqtt.core.node import ModelReport, NodeStatus, Telemetry
from dsi_mqtt.core.offered import Coming
from dsi_mqtt.core.plan import EXPANSIONS, Infeasible, Plan, plan, promised
from dsi_mqtt.core.profile import NodeView, complaint, view, views
from dsi_mqtt.core.room import cache_bytes
from dsi_mqtt.core.rules import compile_rules
from dsi_mqtt.core.sharing import Sharing
from dsi_mqtt.core.standing_by import standbys_of, takes_over
from dsi_mqtt.core.table import TERM_MAX, Gone, Stamp, Table
from dsi_mqtt.errors import ConfigError

# Units of a model up to which the search for its placement has all its expansions.
UNITS_SEARCHED: Final = 64
NOTHING: Final = Coming()

Report = tuple[NodeStatus, Telemetry | None]


@dataclass(slots=True)
class Outlook:
    """Questions about deployment `name`.

    opening: of its model; what nodes say of another that had its name does not count. Empty: any.
    sharing: what other deployments take of the nodes. disregards: another whose parts are let go of
    for this one.
    """

    name: str
    members: Membership
    opening: str = ""
    sharing: Sharing = field(default_factory=Sharing)
    disregards: str = ""

    # --- nodes --------------------------------------------------------------------------------

    def online(self) -> list[Report]:
        return [
            (s.without(self.disregards), t)
            for s, t in self.members.reports()
            if s.state == "online"
        ]

    def newest_seen(self) -> Stamp:
        """The newest table that any living node has seen; a term beyond `TERM_MAX` is nobody's."""
        stamps = [s.seen[self.name] for s, _ in self.members.reports() if self.name in s.seen]
        return max((stamp for stamp in stamps if stamp.term < TERM_MAX), default=Stamp(0, "", 0))

    def undescribed(self) -> bool:
        """Whether an online node has yet to say how the model looks from there."""
        return any(self._described(status) is None for status, _ in self.online())

    def still_held(self) -> bool:
        """Whether a node still holds anything of this deployment."""
        return any(
            any(holding.deployment == self.name for holding in status.holdings)
            or any(door.deployment == self.name for door in status.doors)
            for status, _ in self.members.reports()
        )

    def loading_bytes(self, found: Plan) -> int:
        """The most that a node of `found` has yet to load for it."""
        wanted: dict[str, set[int]] = {}
        for segment in found.segments:
            for node in segment.nodes:
                wanted.setdefault(node, set()).update(range(*segment.units))
        return max((self._lacking_bytes(*asked) for asked in wanted.items()), default=0)

    def _lacking_bytes(self, node: str, units: set[int]) -> int:
        status = self.members.status(node)
        graph = self._graph(status) if status is not None else None
        if status is None or graph is None:
            return 0
        there = {
            unit
            for holding in status.holdings
            if holding.deployment == self.name and holding.state == "ready"
            for unit in range(*holding.units)
        }
        return graph.held_bytes(there | units) - graph.held_bytes(there)

    def uses_spare(self, nodes: Iterable[str]) -> bool:
        return bool(self.spares(nodes))

    def spares(self, nodes: Iterable[str]) -> frozenset[NodeKey]:
        """Those of `nodes` that are."""
        statuses = [self.members.status(node) for node in nodes]
        return frozenset((s.node, s.incarnation) for s in statuses if s is not None and s.spare)

    def orphans(self, old: Table | None, door: NodeKey) -> bool:
        """Whether the ingress that this door is to have is nobody's: the door before it is gone."""
        before = old.door if old else None
        if before is None:
            return False
        if (before.node, before.incarnation) == door:
            return before.orphaned
        return not self.members.alive(before.node, before.incarnation)

    # --- tables -------------------------------------------------------------------------------

    def gone(self, table: Table | None) -> tuple[Gone, ...]:
        """Those on whom it depends and who do not live, in that incarnation."""
        members = table.members() if table is not None else ()
        return tuple(sorted(Gone(*each) for each in members if not self.members.alive(*each)))

    def whole(self, table: Table) -> bool:
        """Everyone whom the table names lives, in that incarnation."""
        return not self.gone(table)

    def ready(self, table: Table) -> bool:
        """Every incarnation of the table says that its part is ready."""
        return self.whole(table) and not self.unready(table)

    def unready(self, table: Table) -> frozenset[NodeKey]:
        """Incarnations of the table that have yet to say that all of their part is ready."""
        ready = {
            (status.node, status.incarnation, holding.segment)
            for status, _ in self.members.reports()
            for holding in status.holdings
            if (holding.deployment, holding.stamp) == (self.name, table.stamp)
            and holding.state == "ready"
        }
        return frozenset(
            (replica.node, replica.incarnation)
            for segment in table.segments
            for replica in segment.replicas
            if (replica.node, replica.incarnation, segment.id) not in ready
        )

    def drains(self, table: Table) -> bool:
        statuses = [self.members.status(node) for node, _ in table.members()]
        return any(status is not None and status.state == "draining" for status in statuses)

    # --- the model ----------------------------------------------------------------------------

    def graph(self) -> ModelGraph | None:
        """The model as most nodes have it: a node with other weights must not take part."""
        graphs = [g for s, _ in self.members.reports() if (g := self._graph(s)) is not None]
        counts = Counter(graph.digest for graph in graphs)
        if not counts:
            return None
        chosen = max(sorted(counts), key=counts.__getitem__)
        # One node alone may describe the same weights otherwise.
        alike = Counter(graph for graph in graphs if graph.digest == chosen)
        return max(alike, key=alike.__getitem__)

    def _graph(self, status: NodeStatus) -> ModelGraph | None:
        report = self._described(status)
        return report.graph if report else None

    def _described(self, status: NodeStatus) -> ModelReport | None:
        """What the node says of the model, once it speaks of this one."""
        return status.described(self.name, self.opening)

    def why_no_graph(self) -> str:
        refusals = [
            f"node {status.node} is online but refuses the model: {report.refused}"
            for status, _ in self.online()
            if (report := self._described(status)) is not None and report.refused
        ]
        if refusals:
            return refusals[0]
        if self.online():
            return "no node has described the model yet; look at the workers' logs"
        return "no node is online yet; if none is being started, use `dsi-mqtt worker`"

    def nodes(
        self, spec: Deployment, graph: ModelGraph, coming: Coming = NOTHING
    ) -> tuple[NodeView, ...]:
        """Those that can be planned with."""
        return self._views(spec, graph, self._usable(self.online(), graph, frozenset()), coming)

    def _views(
        self,
        spec: Deployment,
        graph: ModelGraph,
        reports: Iterable[Report],
        coming: Coming = NOTHING,
    ) -> tuple[NodeView, ...]:
        """As others leave them."""
        caches, prompt = cache_bytes(spec, graph), slice_tokens(spec, coming.texts)
        taken = self.sharing.beside(self.name)
        return tuple(
            replace(
                view,
                taken=taken.get(view.node, view.taken),
                unfit=unpriced(spec.prices, view.price),
            )
            for view in views(reports, graph, self.name, caches=caches, prompt=prompt)
        )

    # --- placements ---------------------------------------------------------------------------

    def best(
        self,
        spec: Deployment,
        graph: ModelGraph,
        serve: Table | None,
        *,
        without: Iterable[NodeKey] = (),
        coming: Coming = NOTHING,
        door: str = "",
    ) -> Plan | Infeasible:
        """The best placement on the online nodes, except `without`, beside all of `serve`.

        coming: what does, where it is more or other than the deployment expects. door: the only
        node that may be it; empty: any that rules allow.
        Raises ConfigError when the deployment contradicts itself or the model.
        """
        held = _held_by(serve)
        usable = self._usable(self.online(), graph, frozenset(without))
        seen = self._views(spec, graph, usable, coming)
        unfit = self._unfit({view.node for view in seen}, graph, cache_bytes(spec, graph))
        return plan(
            spec,
            graph,
            [*seen, *unfit],
            held=held,
            expansions=_expansions(graph),
            question=replace(self._question(spec, graph, coming), door=door),
        )

    def heir(
        self,
        spec: Deployment,
        graph: ModelGraph,
        broken: Table,
        without: Iterable[NodeKey],
        coming: Coming = NOTHING,
    ) -> Plan | None:
        """The chain of `broken` on what is left of it: other replicas and stand-bys, which have
        nothing to load, in the places of nodes that have died. None where one is missing, or the
        deployment wants another.
        """
        away = frozenset(without)
        online = self._usable(self.online(), graph, away)
        living = {
            (status.node, status.incarnation)
            for status, _ in online
            for segment in broken.segments
            if (status.node, status.incarnation) in segment.holders()
            and self._lacking_bytes(status.node, set(range(*segment.units))) == 0
        }
        by_hand = takes_over(spec, broken, living)
        if by_hand is None or broken.model is None or broken.model.digest != graph.digest:
            return None
        try:
            found = self.best(by_hand, graph, broken, without=away, coming=coming)
        except ConfigError:  # the deployment wants other cuts by now
            return None
        return found if isinstance(found, Plan) else None

    def standbys(
        self, spec: Deployment, graph: ModelGraph, found: Plan, serve: Table | None
    ) -> tuple[tuple[str, ...], ...]:
        """Of each segment, beside all of `serve`; its own stand-bys stay where they may."""
        nodes = self._views(spec, graph, self._usable(self.online(), graph, frozenset()))
        held = {
            node: {unit for units in ranges for unit in range(*units)}
            for node, ranges in _held_by(serve).items()
        }
        present = {
            (segment.units, standby.node)
            for segment in (serve.segments if serve else ())
            for standby in segment.standbys
        }
        return standbys_of(spec, graph, found, nodes, held=held, present=present)

    def stands_by(self, serve: Table, wanted: tuple[tuple[str, ...], ...]) -> bool:
        """Whether all that are wanted live, and stand by already."""
        return all(
            set(names)
            <= {s.node for s in segment.standbys if self.members.alive(s.node, s.incarnation)}
            for names, segment in zip(wanted, serve.segments, strict=True)
        )

    def present(
        self, spec: Deployment, graph: ModelGraph, serve: Table, coming: Coming = NOTHING
    ) -> Plan | None:
        """What `serve` promises under today's rules, links and load; None: it breaks the rules.

        A node that drains may stay until there is another place.
        """
        limit = spec.policy.max_segments
        too_many = limit is not None and len(serve.segments) > limit
        other_model = serve.model is None or serve.model.digest != graph.digest
        if too_many or other_model or not _follows(serve, spec.split):
            return None
        chain = chain_of(serve)
        if chain is None:
            return None
        alive: list[Report] = [(replace(s, state="online"), t) for s, t in self.members.reports()]
        nodes = self._views(spec, graph, self._usable(alive, graph, frozenset()), coming)
        part = [view for view in nodes if view.node in chain.nodes]
        try:
            return promised(spec, graph, part, chain, question=self._question(spec, graph, coming))
        except ConfigError:  # the deployment contradicts itself
            return None

    def _question(self, spec: Deployment, graph: ModelGraph, coming: Coming) -> Question:
        """With what codecs do to this model, as nodes have measured it."""
        told = (self._described(status) for status, _ in self.members.reports())
        same = (r for r in told if r and r.graph is not None and r.graph.digest == graph.digest)
        measured = worst_of(report.codec_errors for report in same)
        return question_of(spec, coming.rate_per_s, measured, coming.texts)

    def may_go_on(self, spec: Deployment, graph: ModelGraph, serve: Table) -> bool:
        """Whether `serve` breaks none of the rules that protect: zones, forbidden nodes, memory.

        Where units should rather be (cuts, pins, the number of segments) does not count.
        """
        free = replace(spec.policy, pin={}, max_segments=None)
        try:
            return self.present(replace(spec, split=None, policy=free), graph, serve) is not None
        except ConfigError:  # zones that contradict themselves allow nothing
            return False

    def computes(self, serve: Table) -> bool:
        """Whether everyone whom `serve` names has the model open that it was made for."""
        statuses = [self.members.status(node) for node, _ in serve.members()]
        graphs = [self._graph(status) for status in statuses if status is not None]
        digest = serve.model.digest if serve.model else None
        return all(graph is not None and graph.digest == digest for graph in graphs)

    def forbids(self, spec: Deployment, graph: ModelGraph, serve: Table) -> bool:
        """Whether `serve` shows anything to a node that zones or `policy.forbid` keep out.

        Raises ConfigError when the deployment contradicts itself or the model.
        """
        rules = compile_rules(replace(spec, split=None), graph)
        zones = {status.node: status.zone for status, _ in self.members.reports()}
        sees = [
            (replica.node, rules.zones(unit))
            for segment in serve.segments
            for replica in segment.replicas
            for unit in range(*segment.units)
        ]
        if serve.door is not None:
            sees.append((serve.door.node, rules.door_zones()))
        return any(
            node in rules.forbidden or (allowed is not None and zones.get(node) not in allowed)
            for node, allowed in sees
        )

    def keeper(self, spec: Deployment, graph: ModelGraph, known: str | None) -> NodeStatus | None:
        """A node that may keep the door while nothing serves: `known` if it may, else the first.

        Raises ConfigError when the deployment contradicts itself or the model.
        """
        rules = compile_rules(spec, graph)
        nodes = views(self._usable(self.online(), graph, frozenset()), graph, self.name)
        able = [view for view in nodes if rules.may_be_door(view)]
        able.sort(key=lambda view: (view.node != known, view.spare, view.node))
        return self.members.status(able[0].node) if able else None

    def left_out(self, graph: ModelGraph) -> dict[NodeKey, str]:
        """Nodes that are online with this model and cannot be planned with, and why."""
        found = {}
        for status, telemetry in self._usable(self.online(), graph, frozenset()):
            why = complaint(status, telemetry, graph, self.name)
            if why is not None:
                found[status.node, status.incarnation] = why
        return found

    def _unfit(self, planned: Collection[str], graph: ModelGraph, caches: int) -> list[NodeView]:
        """Nodes that are there and cannot be given anything, each with the reason."""
        return [
            replace(view(status, telemetry, graph, self.name, caches=caches), unfit=why)
            for status, telemetry in self.online()
            if status.node not in planned
            and complaint(status, telemetry, graph, self.name) is None
            and (why := self._why_unfit(status, graph))
        ]

    def _why_unfit(self, status: NodeStatus, graph: ModelGraph) -> str:
        report = self._described(status)
        if report is None:
            return "is online and has yet to look at the model"
        if report.refused:
            return f"is online but refuses the model: {report.refused}"
        if report.graph is None or report.graph.digest != graph.digest:
            return "is online but has other weights than most"
        return "is online but could not prepare its part"

    def _usable(
        self, reports: Iterable[Report], graph: ModelGraph, without: frozenset[NodeKey]
    ) -> list[Report]:
        """Those that have the same weights."""
        return [
            (status, telemetry)
            for status, telemetry in reports
            if (status.node, status.incarnation) not in without
            and (reported := self._graph(status)) is not None
            and reported.digest == graph.digest
            and len(reported.units) == len(graph.units)
        ]


def _held_by(table: Table | None) -> dict[str, list[UnitRange]]:
    """What those hold who compute it; stand-bys let go where there is no room."""
    held: dict[str, list[UnitRange]] = {}
    for segment in table.segments if table else ():
        for replica in segment.replicas:
            held.setdefault(replica.node, []).append(segment.units)
    return held


def _expansions(graph: ModelGraph) -> int:
    """Fewer for models of many units, whose every expansion costs more: others wait meanwhile."""
    share = min(1.0, (UNITS_SEARCHED / max(1, len(graph.units))) ** 2)
    return max(1, int(EXPANSIONS * share))


def _follows(serve: Table, split: tuple[SplitPart, ...] | None) -> bool:
    """Whether the cuts and nodes are those given by hand, where any are."""
    if split is None:
        return True
    return len(split) == len(serve.segments) and all(
        part.units == str(segment.units)
        and all(replica.node in part.nodes for replica in segment.replicas)
        for part, segment in zip(split, serve.segments, strict=True)
    )
