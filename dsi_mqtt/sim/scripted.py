"""A site whose tables are dictated: what a policy without an orchestrator needs to be compared.

The nodes' machines, the door's and the client's are the ones that serve; only what a decision costs
is taken away. A script is asked every second and whenever a node comes or goes; the table that
follows is prepared, ready and served at that very instant: words beside the traffic take no time
and no bytes, weights are there (in memory besides what a node may hold), and the ingress passes
from door to door at once. Requests under way stay on the chain they are on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from dsi_mqtt.core import effects as fx
from dsi_mqtt.core import events as ev
from dsi_mqtt.core.decisions import Decided, Noticed
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.draft import Draft, draft_table, kind_of, places, planned_places
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.node import Leader, NodeStatus, Telemetry
from dsi_mqtt.core.plan import Plan
from dsi_mqtt.core.table import DoorPlace, Stamp, Table, TableDocument
from dsi_mqtt.sim.broker import PACKET_BYTES, Broker, Delivery, Session
from dsi_mqtt.sim.clock import Clock
from dsi_mqtt.sim.journal import Journal
from dsi_mqtt.sim.links import Passage
from dsi_mqtt.sim.node import FOR_ALL, Node

# When the first table is made, by which all nodes have come; and how often it is looked at again.
BEGINS_S: Final = 5.0
EVERY_S: Final = 1.0
TERM: Final = 1
SCRIPT: Final = "script"


class Script(Protocol):
    """What is to serve from `now` on; None: what serves already."""

    def choose(self, nodes: Mapping[str, Node], now: float) -> Plan | None:
        """`nodes`: those that are there and have the model open."""


class FreeNode(Node):
    """A node whose words beside the traffic, and whose loading, cost nothing."""

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]  # as Node takes them
        self.arrived: set[int] = set()

    def told(self, event: ev.Event, nbytes: int) -> None:
        if self.connected and (self._awake or isinstance(event, FOR_ALL)):
            self.receive_aside(event, nbytes)

    def receive_aside(self, event: ev.Event, nbytes: int = PACKET_BYTES) -> None:  # noqa: ARG002 - they cost nothing
        self._clock.after(0.0, self._delivered, self.control_number, event)

    def heard_bytes(self) -> int:
        return 0

    def _measure_in(self, nbytes: int, passage: Passage) -> None:
        """Nobody is told what it would find."""

    def _measure_out(self, nbytes: int, passage: Passage) -> None:
        """The same."""

    def aside(self, nbytes: int, act: Callable[..., None], *given: object) -> None:  # noqa: ARG002 - as above
        if self.connected:
            self.at_broker(self._clock.now, act, *given)

    def ingress_s(self) -> float:
        return 0.0

    def _load(self, effect: fx.LoadUnits) -> None:
        self.engines.load(effect, at_once=True)

    def _delivered(self, connection: int, event: ev.Event) -> None:
        if isinstance(event, ev.InputArrived):
            receipt = event.input.receipt
            if receipt in self._free.passed_on:
                return  # its door has changed while it was on its way
            self.arrived.add(receipt)
        super()._delivered(connection, event)

    @property
    def _free(self) -> FreeBroker:
        if not isinstance(self._broker, FreeBroker):
            raise TypeError("free nodes take part at a free broker only")
        return self._broker


class FreeBroker(Broker):
    """A broker at which an ingress passes to another door at once, as free nodes need it.

    passed_on: receipts of inputs that were on their way to a door which is none any more.
    """

    def __init__(self, clock: Clock, journal: Journal) -> None:
        super().__init__(clock, journal)
        self.passed_on: set[int] = set()
        self._left: dict[tuple[str, str], dict[int, Delivery]] = {}
        self._open: set[tuple[str, str]] = set()  # doors that have not closed theirs

    def publish_status(self, status: NodeStatus) -> None:
        """Nobody waits for a door to let go: what others hear is that it has."""
        doors = tuple(replace(door, ingress_open=False) for door in status.doors)
        super().publish_status(replace(status, doors=doors))

    def status_bytes(self, status: NodeStatus) -> int:  # noqa: ARG002 - they cost nothing
        return 0

    def publish_document(self, deployment: str, document: TableDocument) -> None:
        super().publish_document(deployment, document)
        door = document.serve.door if document.serve else None
        if door is not None:
            self._clock.after(0.0, self._give, deployment, door.session, self.nodes[door.node])

    def _give(self, deployment: str, name: str, node: Node) -> None:
        """To a door that never noticed that another had it meanwhile."""
        session = self.sessions.get(deployment, {}).get(name)
        if session is None or session.holder is node or (deployment, node.name) not in self._open:
            return
        self.open_session(deployment, name, node, session.hold_count)

    def open_session(self, deployment: str, name: str, node: Node, hold_count: int) -> None:
        session = self.sessions.setdefault(deployment, {}).setdefault(name, Session())
        before = session.holder
        if before is not None and before is not node:
            self._leave(deployment, session, before)
        super().open_session(deployment, name, node, hold_count)
        self._open.add((deployment, node.name))

    def close_session(self, deployment: str, node: Node) -> None:
        self._open.discard((deployment, node.name))
        super().close_session(deployment, node)

    def _leave(self, deployment: str, session: Session, before: Node) -> None:
        """What has come to a door stays there; what is on its way goes to the next one."""
        arrived = before.arrived if isinstance(before, FreeNode) else set()
        left = self._left.setdefault((deployment, before.name), {})
        again = []
        for receipt, delivery in session.unacknowledged.items():
            if receipt in arrived:
                left[receipt] = delivery
            else:
                self.passed_on.add(receipt)
                again.append(delivery)
        session.unacknowledged.clear()
        session.queue.extendleft(reversed(again))
        session.holder = None

    def acknowledged(self, deployment: str, node: Node, receipt: int) -> None:
        if self._left.get((deployment, node.name), {}).pop(receipt, None) is None:
            super().acknowledged(deployment, node, receipt)

    def lost(self, node: Node, will: NodeStatus) -> None:
        for (deployment, name), left in self._left.items():
            if name == node.name and left:
                (session,) = self.sessions[deployment].values()
                again = [replace(delivery, duplicate=True) for delivery in left.values()]
                session.queue.extendleft(reversed(again))
                left.clear()
        self._open = {key for key in self._open if key[1] != node.name}
        super().lost(node, will)


@dataclass(slots=True)
class _Member:
    """What is heard of a node."""

    incarnation: str = ""
    online: bool = False
    described: bool = False
    ready: set[tuple[Stamp, str]] = field(default_factory=set)


class ScriptedOrchestrator:
    """Publishes what its script says for one deployment. told: what a log gets."""

    def __init__(
        self,
        spec: Deployment,
        graph: ModelGraph,
        script: Script,
        *,
        clock: Clock,
        broker: Broker,
        told: Callable[[Decided | Noticed], None],
    ) -> None:
        self._spec = spec
        self._graph = graph
        self._script = script
        self._clock = clock
        self._broker = broker
        self._told = told
        self._members: dict[str, _Member] = {}
        self._serve: Table | None = None
        self._prepare: Table | None = None
        self._epoch = 0
        broker.watchers.append(self)
        clock.at(BEGINS_S, self._look)

    def _look(self) -> None:
        self._reconsider()
        self._clock.after(EVERY_S, self._look)

    def _reconsider(self) -> None:
        there = {
            name: self._broker.nodes[name]
            for name, member in sorted(self._members.items())
            if member.online and member.described
        }
        chosen = self._script.choose(there, self._clock.now)
        if chosen is None or not chosen.nodes <= there.keys() or self._is_served(chosen):
            return
        statuses = {name: self._broker.statuses[name] for name in there}
        self._epoch += 1
        stamp = Stamp(TERM, SCRIPT, self._epoch)
        draft = Draft(
            self._spec, self._graph, chosen, f"{SCRIPT}-{self._epoch}", "as the script says"
        )
        table = draft_table(draft, stamp, statuses, SCRIPT)
        self._tell(draft)
        self._prepare = table
        self._broker.publish_document(self._spec.name, TableDocument(self._serve, table))

    def _tell(self, draft: Draft) -> None:
        """Logs a move; not that a node has come back under another incarnation."""
        before, plan = self._serve, draft.plan
        if before is None or before.door is None or not _same(before, before.door, plan):
            kind = kind_of(before, plan)
            self._told(Decided(draft.decision, self._spec.name, kind, draft.reason, plan))

    def _is_served(self, chosen: Plan) -> bool:
        """Whether it serves, or will, on nodes that all live as they are named."""
        table = self._prepare or self._serve
        return (
            table is not None
            and table.door is not None
            and _same(table, table.door, chosen)
            and all(self._members[name].incarnation == life for name, life in table.members())
        )

    def _promote(self) -> None:
        prepare = self._prepare
        if prepare is None or not self._is_ready(prepare):
            return
        self._serve, self._prepare = replace(prepare, state="serving"), None
        self._broker.publish_document(self._spec.name, TableDocument(self._serve))

    def _is_ready(self, table: Table) -> bool:
        return all(
            (table.stamp, segment.id) in self._members[replica.node].ready
            for segment in table.segments
            for replica in segment.replicas
        )

    # --- what the broker says -----------------------------------------------------------------

    def status(self, status: NodeStatus) -> None:
        known = self._members.setdefault(status.node, _Member())
        if status.state == "offline" and status.incarnation != known.incarnation:
            return
        now = _Member(
            status.incarnation,
            status.state == "online",
            status.graph(self._spec.name) is not None,
            {(held.stamp, held.segment) for held in status.holdings if held.state == "ready"},
        )
        self._members[status.node] = now
        if self._prepare is not None:
            self._clock.after(0.0, self._promote)
        came_or_went = (known.incarnation, known.online, known.described) != (
            now.incarnation,
            now.online,
            now.described,
        )
        if came_or_went and self._clock.now >= BEGINS_S:
            self._clock.after(0.0, self._reconsider)

    def telemetry(self, telemetry: Telemetry) -> None:
        """A script knows what it needs."""

    def beat(self, node: str, incarnation: str) -> None:
        """The same."""

    def spec(self, spec: Deployment) -> None:
        """The one it was made with."""

    def document(self, deployment: str, document: TableDocument) -> None:
        """Its own."""

    def leader(self, leader: Leader) -> None:
        """There is none."""

    def lead_lost(self) -> None:
        """There is none."""

    def spec_gone(self, deployment: str) -> None:
        """Where tables are dictated, nothing is undeployed."""

    def document_gone(self, deployment: str) -> None:
        """Nor cleared."""

    def broker_gone(self) -> None:
        """What it says is retained, wherever that may be."""


def _same(table: Table, door: DoorPlace, chosen: Plan) -> bool:
    """Whether the same nodes do the same."""
    return door.node == chosen.door and places(table) == planned_places(chosen)
