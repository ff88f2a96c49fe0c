"""A site as the orchestrator sees it, on virtual time: nodes that say what they hold.

Nodes adopt documents, load their parts after a while and report it; one broker retains the
newest of everything. Each document is checked as it is published.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from dsi_mqtt.core.decisions import (
    ClearDocument,
    Decided,
    Noticed,
    PublishDocument,
    PublishExplanations,
    PublishSpec,
)
from dsi_mqtt.core.deployment import FALLBACK_MARK, Deployment, Policy, Sla
from dsi_mqtt.core.explanation import Explanations
from dsi_mqtt.core.leadership import DropLead, PublishLeader, TakeLead
from dsi_mqtt.core.model import ModelGraph, ModelSpec, Unit
from dsi_mqtt.core.node import (
    FREE,
    Capabilities,
    DoorLoad,
    HoldingReport,
    HoldingState,
    Leader,
    LinkSample,
    ModelReport,
    NodeState,
    NodeStatus,
    Telemetry,
    Upkeep,
)
from dsi_mqtt.core.orchestrator import Orchestrator, OrchestratorEffects
from dsi_mqtt.core.policy import BUILTIN_ONLY, Policies
from dsi_mqtt.core.table import BrokerUrls, Stamp, Table, TableDocument

NAME = "hazards"
MIB = 1 << 20
UNITS = 6
TICK_S = 0.05
TELEMETRY_S = 0.5
GRAPH = ModelGraph(
    "sha256:1", "fake", tuple(Unit(f"u{i}", 10 * MIB, 1e8, 4096) for i in range(UNITS))
)
# At rest: where load would count, a test says so.
SPEC = Deployment(NAME, ModelSpec(tier="fake"), sla=Sla(rate_per_s=0.01))


@dataclass
class Node:
    """gflops: its speed. room: how many units' weights it holds. describes, loads: seconds it
    takes; None: never. refuses: the model, and why. fails: what loading ends with. releases:
    whether it lets go of parts. link, doors: as it tells of them. small: the fallback's graph.
    """

    name: str
    incarnation: str
    room: int = UNITS
    gflops: float = 10.0
    zone: str = "edge"
    spare: bool = False
    describes: float | None = 0.1
    loads: float | None = 0.3
    refuses: str | None = None
    fails: str | None = None
    releases: bool = True
    link: LinkSample = field(default_factory=LinkSample)
    doors: tuple[DoorLoad, ...] = ()
    state: NodeState = "online"
    graph: ModelGraph = GRAPH
    small: ModelGraph | None = None
    upkeep: Upkeep = FREE
    opening: str = ""
    newest: dict[str, tuple[Stamp, Stamp]] = field(default_factory=dict)
    known: dict[str, float] = field(default_factory=dict)  # deployment → when it was heard of
    parts: dict[tuple[str, Stamp, str], tuple[HoldingReport, float]] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.incarnation

    @property
    def seen(self) -> tuple[Stamp, Stamp]:
        """The newest document of the one deployment that most tests have."""
        return self.newest.get(NAME, (Stamp(0, "", 0), Stamp(0, "", 0)))

    def adopt(self, deployment: str, document: TableDocument, now: float) -> None:
        if deployment in self.newest and document.order <= self.newest[deployment]:
            return
        self.newest[deployment] = document.order
        wanted = {
            (table.model_name, table.stamp, segment.id): segment
            for table in document.tables()
            for segment in table.segments
            if self.key in segment.holders()
        }
        if self.releases:
            self.parts = {
                key: part
                for key, part in self.parts.items()
                if key in wanted or key[0].removesuffix(FALLBACK_MARK) != deployment
            }
        for key, segment in wanted.items():
            report = HoldingReport(key[0], key[1], segment.id, segment.units, "loading")
            self.parts.setdefault(key, (report, now))

    def status(self, now: float) -> NodeStatus:
        described = self.describes
        return NodeStatus(
            self.name,
            self.incarnation,
            self.state,
            self.zone,
            spare=self.spare,
            brokers=BrokerUrls("mqtt://c", "mqtt://d"),
            capabilities=Capabilities(
                weight_bytes=self.room * 10 * MIB, gflops=self.gflops, memory_gib_s=1000.0
            ),
            upkeep=self.upkeep,
            models=tuple(
                report
                for name, since in sorted(self.known.items())
                if described is not None and now - since >= described
                for report in self._models(name)
            ),
            holdings=tuple(
                self._reported(report, since, now) for report, since in self.parts.values()
            ),
            seen={name: order[0] for name, order in self.newest.items()},
        )

    def _models(self, name: str) -> list[ModelReport]:
        own = None if self.refuses else self.graph
        found = [ModelReport(name, own, self.refuses, opening=self.opening)]
        if self.small is not None:
            found.append(ModelReport(name + FALLBACK_MARK, self.small))
        return found

    def _reported(self, report: HoldingReport, since: float, now: float) -> HoldingReport:
        state: HoldingState = "loading"
        if self.loads is not None and now - since >= self.loads:
            state = "failed" if self.fails else "ready"
        return replace(report, state=state, reason=self.fails if state == "failed" else None)


class Site:
    """One broker, its nodes, and one orchestrator at a time. `run` lets virtual time pass."""

    def __init__(
        self,
        *nodes: Node,
        check: Callable[[Site, TableDocument], None] | None = None,
        policies: Policies = BUILTIN_ONLY,
    ) -> None:
        self._policies = policies
        self.now = 100.0
        self.nodes: dict[str, Node] = {}
        self.specs: dict[str, Deployment] = {}
        self.documents: dict[str, TableDocument] = {}
        self.statuses: dict[str, NodeStatus] = {}
        self.leader: Leader | None = None
        self.published: list[TableDocument] = []
        self.explanations: dict[str, Explanations] = {}
        self.explained: list[PublishExplanations] = []
        self.decided: list[Decided] = []
        self.noticed: list[Noticed] = []
        self.ended: list[str] = []
        self.wills: list[NodeStatus] = []
        self._check = check
        self._started = 0
        self._telemetry_at = 0.0
        for node in nodes:
            self.join(node)
        self.orchestrator = self.restart()

    # --- what people and nodes do -------------------------------------------------------------

    def restart(self) -> Orchestrator:
        """Another orchestrator in place of the one before, which leaves nothing but topics."""
        self._started += 1
        secrets = iter(f"secret-{self._started}-{i}" for i in range(1000))
        self.orchestrator = Orchestrator(f"n{self._started}", lambda: next(secrets), self._policies)
        if self.leader is not None:
            self.leader = replace(self.leader, beat=0)
        self.reconnect()
        return self.orchestrator

    def reconnect(self) -> None:
        """The observing connection is there (again), and everything retained arrives."""
        machine = self.orchestrator
        machine.connected(self.now)
        for status in self.statuses.values():
            self._act(machine.status_arrived(status, self.now))
        for spec in self.specs.values():
            machine.spec_arrived(spec)
        for name, document in self.documents.items():
            self._act(machine.document_seen(name, document, self.now))
        for name, told in self.explanations.items():
            machine.explanations_seen(name, told, self.now)
        if self.leader is not None:
            self._act(machine.leader_seen(self.leader, self.now))
        machine.retained_read(self.now)

    def deploy(self, spec: Deployment = SPEC) -> None:
        self.specs[spec.name] = spec
        self.orchestrator.spec_arrived(spec)
        for node in self.nodes.values():
            node.known.setdefault(spec.name, self.now)

    def undeploy(self) -> None:
        del self.specs[NAME]
        self.orchestrator.spec_gone(NAME)
        for node in self.nodes.values():
            node.known.clear()

    def join(self, node: Node) -> None:
        self.nodes[node.name] = node
        for name in self.specs:
            node.known.setdefault(name, self.now)
        for name, document in self.documents.items():
            node.adopt(name, document, self.now)

    def kill(self, name: str) -> None:
        """The broker sends the will."""
        node = self.nodes.pop(name)
        will = NodeStatus(node.name, node.incarnation, "offline", node.zone)
        self.statuses[name] = will
        self._act(self.orchestrator.status_arrived(will, self.now))

    def vanish(self, name: str) -> None:
        """Silence: the network to it is gone."""
        del self.nodes[name]

    # --- time ---------------------------------------------------------------------------------

    def run(self, seconds: float) -> Site:
        for _ in range(round(seconds / TICK_S)):
            self._step()
        return self

    def until(self, holds: Callable[[], bool], *, within: float = 30.0) -> Site:
        for _ in range(round(within / TICK_S)):
            if holds():
                return self
            self._step()
        raise AssertionError(f"not within {within} s: {self.published[-1:]} {self.decided[-3:]}")

    def _step(self) -> None:
        self.now += TICK_S
        beat = self.now >= self._telemetry_at
        if beat:
            self._telemetry_at = self.now + TELEMETRY_S
        for node in list(self.nodes.values()):
            status = node.status(self.now)
            if self.statuses.get(node.name) != status:
                self.statuses[node.name] = status
                self._act(self.orchestrator.status_arrived(status, self.now))
            if beat:
                said = Telemetry(
                    *(node.name, node.incarnation, 1, 0.0, 1, 1, 1, None),
                    link=node.link,
                    doors=node.doors,
                )
                self._act(self.orchestrator.telemetry_arrived(said, self.now))
        self._act(self.orchestrator.tick(self.now, 1_700_000_000))

    # --- effects ------------------------------------------------------------------------------

    def _act(self, effects: OrchestratorEffects) -> None:
        machine = self.orchestrator
        for effect in effects:
            if isinstance(effect, TakeLead):
                self._act(machine.lead_taken(self.now))
            elif isinstance(effect, DropLead):
                continue
            elif isinstance(effect, PublishLeader):
                self.leader = effect.leader
                self._act(machine.leader_seen(effect.leader, self.now))
            elif isinstance(effect, PublishDocument):
                self._publish(effect.deployment, effect.document)
            elif isinstance(effect, ClearDocument):
                self.ended += [effect.session] if effect.session is not None else []
                self.documents.pop(effect.deployment, None)
                self.explanations.pop(effect.deployment, None)
                machine.document_lost(effect.deployment, self.now)
                machine.explanations_lost(effect.deployment, self.now)
            elif isinstance(effect, PublishExplanations):
                self.explanations[effect.deployment] = effect.document
                self.explained.append(effect)
                machine.explanations_seen(effect.deployment, effect.document, self.now)
            elif isinstance(effect, PublishSpec):
                self.specs[effect.spec.name] = effect.spec
                machine.spec_arrived(effect.spec)
            elif isinstance(effect, Noticed):
                self.noticed.append(effect)
            else:
                self.decided.append(effect)

    def _publish(self, name: str, document: TableDocument) -> None:
        if self._check is not None:
            self._check(self, document)
        self.documents[name] = document
        self.published.append(document)
        for node in self.nodes.values():
            node.adopt(name, document, self.now)
        self._act(self.orchestrator.document_seen(name, document, self.now))

    # --- what is seen -------------------------------------------------------------------------

    @property
    def document(self) -> TableDocument:
        return self.documents[NAME]

    @property
    def serve(self) -> Table:
        table = self.document.serve
        assert table is not None
        return table

    @property
    def prepare(self) -> Table:
        table = self.document.prepare
        assert table is not None
        return table

    def serves(self, *nodes: str) -> bool:
        """Whether a table serves on living nodes (on exactly these, if given), and none is
        prepared.
        """
        document = self.documents.get(NAME)
        if document is None or document.serve is None or document.prepare is not None:
            return False
        named = {node for node, _ in placed(document.serve)}
        alive = document.serve.members() <= {node.key for node in self.nodes.values()}
        return document.serve.state == "serving" and alive and named == set(nodes or named)

    def kinds(self) -> list[str]:
        return [decided.kind for decided in self.decided]


def placed(table: Table) -> list[tuple[str, str]]:
    """(node, units) of each segment."""
    return [(s.replicas[0].node, str(s.units)) for s in table.segments]


def serving(*nodes: Node, spec: Deployment = SPEC) -> Site:
    """A site in which these nodes serve, and everything has come to rest."""
    site = Site(*nodes)
    site.deploy(spec)
    return site.until(site.serves).run(10.0)


def three(**changes: object) -> tuple[Node, Node, Node]:
    """Nodes that hold three units each: two of them are needed."""
    a, b, c = (Node(name, f"{name}1", room=3) for name in "abc")
    for name, value in changes.items():
        setattr(c, name, value)
    return a, b, c


def moving(cooldown_s: float = 0.0, min_gain: float = 0.15) -> Deployment:
    return replace(SPEC, policy=Policy(cooldown_s=cooldown_s, min_gain=min_gain))
