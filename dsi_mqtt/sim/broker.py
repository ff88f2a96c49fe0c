"""The simulated brokers: retained state, wills, durable ingress sessions; QoS 1 where it matters.

They pass on values instead of bytes. Orchestrators and devices sit beside them; nodes are a link
away. Two of them are one object here: activations go over the data broker, the rest over control,
and each may be away for itself. What a node reads of others' statuses is who lives, as which
incarnation, and what their doors say (`core.peers`), so a status goes to the other nodes when one
of these is new. And a node that no table names keeps what it hears for later (`Node.wake`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

from dsi_mqtt.core import events as ev
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.effects import PublishPartial
from dsi_mqtt.core.generation import Partial
from dsi_mqtt.core.leadership import GONE
from dsi_mqtt.core.message import Activation
from dsi_mqtt.core.node import Desired, Leader, NodeStatus, Telemetry
from dsi_mqtt.core.problem import HOP_S
from dsi_mqtt.core.request import Redelivery, Reply
from dsi_mqtt.core.table import TableDocument
from dsi_mqtt.sim.clock import Clock
from dsi_mqtt.sim.journal import Journal
from dsi_mqtt.sim.scenario import BrokerName
from dsi_mqtt.sim.texts import Wanted
from dsi_mqtt.wire.topics import Topics

if TYPE_CHECKING:
    from dsi_mqtt.sim.node import Node

# A broker ends a connection that has been silent for one and a half of the keep-alives of 4 s.
SILENT_S: Final = 6.0
# Of a packet beside its payload: topic, properties, fixed header.
PACKET_BYTES: Final = 100

Word = tuple[str, str, object]


class Watcher(Protocol):
    """An orchestrator, as the broker sees it."""

    def status(self, status: NodeStatus) -> None: ...

    def telemetry(self, telemetry: Telemetry) -> None: ...

    def beat(self, node: str, incarnation: str) -> None: ...

    def spec(self, spec: Deployment) -> None: ...

    def spec_gone(self, deployment: str) -> None: ...

    def document(self, deployment: str, document: TableDocument) -> None: ...

    def document_gone(self, deployment: str) -> None: ...

    def leader(self, leader: Leader) -> None: ...

    def lead_lost(self) -> None: ...

    def broker_gone(self) -> None: ...


class Listener(Protocol):
    """Devices, as the broker sees them."""

    def answered(self, reply: Reply) -> None: ...

    def told(self, correlation: bytes, part: Partial) -> None: ...

    def broker_gone(self, *, forgets: bool) -> None: ...


class Stray(Protocol):
    """Who answers what no door will see."""

    def came(self, deployment: str, delivery: Delivery) -> None: ...


@dataclass(slots=True)
class Delivery:
    """wanted: of a generation."""

    correlation: bytes
    device: str
    nbytes: int
    duplicate: bool = False
    wanted: Wanted | None = None


@dataclass(slots=True)
class Session:
    """A durable MQTT session that subscribes to a deployment's inputs."""

    queue: deque[Delivery] = field(default_factory=deque)
    unacknowledged: dict[int, Delivery] = field(default_factory=dict)
    holder: Node | None = None
    hold_count: int = 0


class Broker:
    """State of the site that outlives nodes and orchestrators."""

    def __init__(self, clock: Clock, journal: Journal) -> None:
        self._clock = clock
        self.journal = journal
        self._topics = Topics()
        self.nodes: dict[str, Node] = {}
        self.watchers: list[Watcher] = []
        self.listeners: dict[str, Listener] = {}
        self.statuses: dict[str, NodeStatus] = {}
        self.documents: dict[str, TableDocument] = {}
        self.specs: dict[str, Deployment] = {}
        self.desired: dict[str, Desired] = {}
        self.records: dict[str, dict[str, Redelivery]] = {}
        self.leader: Leader | None = None
        # Of each deployment, by their client ids.
        self.sessions: dict[str, dict[str, Session]] = {}
        self.strays: Stray | None = None
        self.back_at = 0.0  # since when the control broker is there
        self._away: Counter[str] = Counter()
        self.told_bytes = 0  # of statuses, to each node
        self._words: dict[str, Word] = {}
        self._lead: Watcher | None = None
        self._receipts = 0

    # --- coming and going ---------------------------------------------------------------------

    def is_there(self, name: BrokerName) -> bool:
        return not self._away[name]

    def goes(self, name: BrokerName, *, forgets: bool = False, stops: bool = False) -> None:
        """Every connection ends. Killed, a broker publishes no will; stopped, it does all of them.

        What it retains, and the ingress sessions with all that was not acknowledged, is saved at
        every change (`broker/control.conf`), so it is there again unless it `forgets`.
        """
        if name != "data":
            self._control_goes(forgets=forgets, stops=stops)
        if name != "control":
            self._away["data"] += 1
            for node in self.nodes.values():
                if node.hears_data:
                    node.connections.data_gone()

    def comes(self, name: BrokerName) -> None:
        """It may be connected to again."""
        for one in ("control", "data") if name == "both" else (name,):
            self._away[one] -= 1
        if self.is_there("control") and name != "data":
            self.back_at = self._clock.now

    def _control_goes(self, *, forgets: bool, stops: bool) -> None:
        connected = [node for node in self.nodes.values() if node.connected]
        self._away["control"] += 1
        if stops:
            for node in connected:
                self._will(node)
            if self._lead is not None and self.leader is not None:
                self.publish_leader(replace(self.leader, beat=GONE))
        self._lead = None
        for session in self._all_sessions():
            self._release(session)
        for watcher in list(self.watchers):
            watcher.broker_gone()
        for listener in self.listeners.values():
            listener.broker_gone(forgets=forgets)
        for node in connected:
            node.connections.control_gone()
        if forgets:
            self._forget()

    def _will(self, node: Node) -> None:
        if node.machine is not None:
            self.publish_status(node.machine.will())

    def _forget(self) -> None:
        kept = (self.statuses, self.documents, self.specs, self.desired, self.records)
        for retained in (*kept, self.sessions, self._words):
            retained.clear()
        self.leader = None

    # --- retained state -----------------------------------------------------------------------

    def publish_status(self, status: NodeStatus) -> None:
        self.statuses[status.node] = status
        for watcher in list(self.watchers):
            watcher.status(status)
        self.told_bytes += self.status_bytes(status)
        word = status.incarnation, status.state, status.doors
        if self._words.get(status.node) != word:
            self._words[status.node] = word
            self._tell(ev.StatusArrived(status), 0)

    def publish_spec(self, spec: Deployment) -> None:
        self.specs[spec.name] = spec
        for watcher in list(self.watchers):
            watcher.spec(spec)
        nbytes = PACKET_BYTES + len(self._topics.spec.payload.encode(spec))
        for node in self.nodes.values():
            node.told(ev.SpecArrived(spec), nbytes)

    def clear_spec(self, deployment: str) -> None:
        self.specs.pop(deployment, None)
        for watcher in list(self.watchers):
            watcher.spec_gone(deployment)
        for node in self.nodes.values():
            node.told(ev.SpecGone(deployment), PACKET_BYTES)

    def publish_desired(self, node: str, desired: Desired) -> None:
        self.desired[node] = desired
        self.nodes[node].told(ev.DesiredArrived(desired), PACKET_BYTES)

    def clear_document(self, deployment: str, session: str | None) -> None:
        """Nodes go on with the one they have. The deployment's session is ended with it."""
        if session is not None:
            self.forget_session(deployment, session)
        if self.documents.pop(deployment, None) is not None:
            self.journal.write(self._clock.now, "cleared", deployment=deployment)
        for watcher in list(self.watchers):
            watcher.document_gone(deployment)

    def publish_document(self, deployment: str, document: TableDocument) -> None:
        self.documents[deployment] = document
        for table in document.tables():
            for name, _ in sorted(table.named()):
                self.nodes[name].wake()
        self._write_table(deployment, document)
        nbytes = PACKET_BYTES + len(self._topics.table.payload.encode(document))
        self._tell(ev.TableArrived(deployment, document), nbytes)
        for watcher in list(self.watchers):
            watcher.document(deployment, document)

    def _write_table(self, deployment: str, document: TableDocument) -> None:
        serve, prepare = document.serve, document.prepare
        self.journal.write(
            self._clock.now,
            "table",
            deployment=deployment,
            state=serve.state if serve is not None else None,
            epoch=serve.epoch if serve is not None else None,
            prepared=prepare.epoch if prepare is not None else None,
        )

    def status_bytes(self, status: NodeStatus) -> int:
        return PACKET_BYTES + len(self._topics.status.payload.encode(status))

    def telemetry_bytes(self, telemetry: Telemetry) -> int:
        return PACKET_BYTES + len(self._topics.telemetry.payload.encode(telemetry))

    def _tell(self, event: ev.StatusArrived | ev.TableArrived, nbytes: int) -> None:
        """Every node: those that are awake now, the others when they are woken."""
        for node in self.nodes.values():
            node.told(event, nbytes)

    # --- who leads ----------------------------------------------------------------------------

    def take_lead(self, taker: Watcher) -> None:
        """The client id of the leader is one: whoever has it loses it."""
        before, self._lead = self._lead, taker
        if before is not None and before is not taker:
            before.lead_lost()

    def drop_lead(self, watcher: Watcher, leader: Leader) -> None:
        """A farewell, where it still has the connection."""
        if self._lead is watcher:
            self._lead = None
            self.publish_leader(leader)

    def publish_leader(self, leader: Leader) -> None:
        self.leader = leader
        for watcher in list(self.watchers):
            watcher.leader(leader)

    def watcher_gone(self, watcher: Watcher) -> None:
        """Its connections end; the leader's will is published."""
        if watcher in self.watchers:
            self.watchers.remove(watcher)
        if self._lead is watcher:
            self._lead = None
            if self.leader is not None:
                self.publish_leader(replace(self.leader, beat=GONE))

    # --- connections --------------------------------------------------------------------------

    def lost(self, node: Node, will: NodeStatus) -> None:
        """A node's connections have ended: its will is published, its sessions are free."""
        for session in self._all_sessions():
            if session.holder is node:
                self._release(session)
        self.publish_status(will)

    def forward(self, receiver: str, activation: Activation, nbytes: int) -> None:
        """An activation is at the broker; who is not connected does not get it."""
        node = self.nodes[receiver]
        if node.hears_data:
            node.receive(ev.ActivationArrived(activation), nbytes, self._clock.now + HOP_S)

    # --- inputs and answers -------------------------------------------------------------------

    def publish_input(self, deployment: str, delivery: Delivery) -> None:
        """Nobody keeps it before a first door has made the session."""
        for session in self.sessions.get(deployment, {}).values():
            session.queue.append(delivery)
            self._push(deployment, session)
        if self.strays is not None:
            self.strays.came(deployment, delivery)

    def open_session(self, deployment: str, name: str, node: Node, hold_count: int) -> None:
        """Whoever connects has it, and is told what is retained of suspects.

        name: its client id. A connection that the node has to another one of this deployment ends.
        """
        sessions = self.sessions.setdefault(deployment, {})
        session = sessions.setdefault(name, Session())
        before = session.holder
        if before is not None and before is not node:
            before.receive_aside(ev.IngressLost(deployment))
        self.close_session(deployment, node)
        self._release(session)
        session.holder, session.hold_count = node, hold_count
        for record in self.records.get(deployment, {}).values():
            node.receive_aside(ev.RecordFound(deployment, record))
        node.receive_aside(ev.IngressOpened(deployment))
        node.receive_aside(ev.HearingChanged(deployment, hears=True))
        self._push(deployment, session)

    def close_session(self, deployment: str, node: Node) -> None:
        for session in self.sessions.get(deployment, {}).values():
            if session.holder is node:
                self._release(session)

    def forget_session(self, deployment: str, name: str) -> None:
        """With all that waits in it. Whoever holds it loses it."""
        session = self.sessions.get(deployment, {}).pop(name, None)
        if session is not None and session.holder is not None:
            session.holder.receive_aside(ev.IngressLost(deployment))

    def acknowledged(self, deployment: str, node: Node, receipt: int) -> None:
        for session in self.sessions.get(deployment, {}).values():
            if session.holder is node and session.unacknowledged.pop(receipt, None) is not None:
                self._push(deployment, session)

    def record(self, deployment: str, node: Node, record: Redelivery) -> None:
        records = self.records.setdefault(deployment, {})
        if record.void:
            records.pop(record.key, None)
        else:
            records[record.key] = record
            node.receive_aside(ev.RecordWritten(deployment, record))

    def answer(self, deployment: str, node: Node, request: bytes, reply: Reply) -> None:
        """Devices sit beside the broker: they have the answer when it has."""
        self.tell_device(reply)
        node.receive_aside(ev.ReplyPublished(deployment, request))

    def tell_device(self, reply: Reply) -> None:
        self.listeners[reply.device].answered(reply)

    def stream(self, node: Node, effect: PublishPartial) -> None:
        """A part of a text, which devices have when the broker has it."""
        given = effect.given
        if given.correlation is not None:
            self.listeners[given.device].told(given.correlation, effect.partial)
        if effect.ask:
            taken = ev.PartialTaken(effect.deployment, effect.request, heard=True)
            node.receive_aside(taken)

    def _all_sessions(self) -> Iterator[Session]:
        for sessions in self.sessions.values():
            yield from sessions.values()

    def _release(self, session: Session) -> None:
        """What nobody has acknowledged is the next door's, marked as given out before."""
        session.holder = None
        again = [replace(d, duplicate=True) for d in session.unacknowledged.values()]
        session.unacknowledged.clear()
        session.queue.extendleft(reversed(again))

    def _push(self, deployment: str, session: Session) -> None:
        node = session.holder
        while node is not None and session.queue:
            if len(session.unacknowledged) >= session.hold_count:
                return
            self._receipts += 1
            delivery = session.queue.popleft()
            session.unacknowledged[self._receipts] = delivery
            node.receive_input(deployment, self._receipts, delivery)
