"""A whole site on virtual time: nodes, an ingress broker, clients, and one who makes tables.

The nodes are the real `Worker` machines and the clients the real `PendingInputs`; everything
between them is simulated: ordered links that can lose and repeat, a durable MQTT session that
hands unacknowledged inputs on, engines that compute one thing at a time, deaths and restarts.
Nothing here decides what is right; `invariants` does.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random
from typing import Any

from dsi_mqtt.core import effects as fx
from dsi_mqtt.core import events as ev
from dsi_mqtt.core.activation import Tensor, Tensors, pack_body, unpack_body
from dsi_mqtt.core.client import ClientEffects, PendingInputs, SendInput
from dsi_mqtt.core.message import WORK, Activation, Failure
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.node import Capabilities, NodeStatus
from dsi_mqtt.core.request import Input, ParsedInput, Redelivery, Reply
from dsi_mqtt.core.table import BrokerUrls, Stamp, Table, TableDocument
from dsi_mqtt.core.worker import Worker
from tests.core.build import NAME, Member, document, make_graph, make_spec, make_table

UNITS = 6
TICK_S = 0.05
LINK_S = 0.002
CONTROL_S = 0.005
PADDING = (100, 300, 900)
CREDIT = (2000, 3)
OVERSIZE = 5000

Action = Callable[[], None]


def expected(text: str) -> str:
    """What the model makes of an input, however it is cut."""
    return text + "".join(f",{unit}" for unit in range(UNITS))


@dataclass
class Delivery:
    """One input as the ingress broker holds it."""

    id: bytes | None
    text: str
    duplicate: bool = False


class Site:
    """Everything at one place, driven by `run`."""

    def __init__(self, seed: int, *, nodes: int = 4, window: int = 4, settle_s: float = 0.0) -> None:
        self.rng = Random(seed)
        self.now = 0.0
        self.window = window
        self.loss = 0.0
        self.repetition = 0.0
        self.deaths = 0
        self.check: Callable[[Site, Node], None] = lambda _site, _node: None
        self._due: list[tuple[float, int, Action]] = []
        self._order = count()
        self._arrivals: dict[tuple[str, str], float] = {}
        self.statuses: dict[str, NodeStatus] = {}
        self.document: TableDocument | None = None
        self.nodes = {f"n{i}": Node(self, f"n{i}") for i in range(nodes)}
        self.broker = IngressBroker(self)
        self.client = SimClient(self)
        self.maker = TableMaker(self)
        for node in self.nodes.values():
            node.start()
        self.every(TICK_S, self.maker.reconsider)
        self.run(3.0 + settle_s)

    # --- time ---------------------------------------------------------------------------------

    def after(self, delay: float, action: Action) -> None:
        heapq.heappush(self._due, (self.now + delay, next(self._order), action))

    def every(self, period: float, action: Action) -> None:
        def again() -> None:
            action()
            self.after(period, again)

        self.after(period, again)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._due and self._due[0][0] <= end:
            self.now, _, action = heapq.heappop(self._due)
            action()
        self.now = end

    def run_until(self, reached: Callable[[], bool], limit_s: float) -> bool:
        end = self.now + limit_s
        while not reached() and self.now < end:
            self.run(0.25)
        return reached()

    # --- control ------------------------------------------------------------------------------

    def publish_status(self, status: NodeStatus) -> None:
        self.statuses[status.node] = status
        self._tell_all(ev.StatusArrived(status))
        self.after(CONTROL_S, lambda: self.maker.status_arrived(status))

    def publish_document(self, published: TableDocument) -> None:
        self.document = published
        self._tell_all(ev.TableArrived(NAME, published))

    def _tell_all(self, event: ev.Event) -> None:
        for node in self.nodes.values():
            node.soon(CONTROL_S, event)

    # --- data ---------------------------------------------------------------------------------

    def transmit(self, sender: Node, receiver: str, activation: Activation) -> None:
        if receiver == sender.name:
            sender.soon(0.0, ev.ActivationArrived(activation))
            return
        if not sender.data_up or receiver not in self.nodes:
            return
        copies = 1
        if self.rng.random() < self.loss:
            copies = 0
        elif self.rng.random() < self.repetition and activation.header.kind in WORK:
            copies = 2
        for _ in range(copies):
            edge = (sender.name, receiver)
            at = max(self._arrivals.get(edge, 0.0), self.now + LINK_S)
            self._arrivals[edge] = at
            self.after(at - self.now, lambda: self._deliver(receiver, activation))

    def _deliver(self, receiver: str, activation: Activation) -> None:
        node = self.nodes[receiver]
        if node.data_up:
            node.handle(ev.ActivationArrived(activation))

    # --- questions ----------------------------------------------------------------------------

    @property
    def serving(self) -> Table | None:
        return self.document.serve if self.document else None

    def alive(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.worker is not None]


class Node:
    """One node: the machine, its engine's thread, its connections. A restart is a new life."""

    def __init__(self, site: Site, name: str) -> None:
        self.site = site
        self.name = name
        self.worker: Worker | None = None
        self.life = 0
        self.data_up = False
        self.ingress_receipts: dict[int, Delivery] = {}
        self.engine: set[int] = set()
        self.computed = 0
        self._engine_free = 0.0
        self._status_due = False

    @property
    def incarnation(self) -> str:
        return f"{self.name}.{self.life}"

    @property
    def machine(self) -> Worker:
        assert self.worker is not None
        return self.worker

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        if self.worker is not None:
            return
        self.life += 1
        self.worker = Worker(
            self.name,
            self.incarnation,
            zone="zone",
            capabilities=Capabilities(weight_bytes=10_000),
            brokers=BrokerUrls("mqtt://control", "mqtt://data"),
        )
        self.engine, self._engine_free = set(), self.site.now
        self.data_up = True
        for status in self.site.statuses.values():
            self.handle(ev.StatusArrived(status))
        self.handle(ev.SpecArrived(make_spec(deadline_ms=60_000.0, dedupe_s=20.0)))
        if self.site.document is not None:
            self.handle(ev.TableArrived(NAME, self.site.document))
        self.handle(ev.ControlReconnected())
        self.handle(ev.DataReconnected())
        self._tick(self.life)

    def kill(self, *, will: bool) -> None:
        if self.worker is None:
            return
        testament = self.worker.will()
        self.worker = None
        self.data_up = False
        self.site.deaths += 1
        self.site.broker.left(self.name)
        if will:
            self.site.publish_status(testament)
        else:
            self.site.after(1.0, lambda: self.site.maker.gone(self.name, testament.incarnation))

    def cut_data(self, seconds: float) -> None:
        """The data connection is away for a while."""
        if self.worker is None:
            return
        self.data_up = False
        life = self.life

        def back() -> None:
            if self.worker is not None and self.life == life:
                self.data_up = True
                self.handle(ev.DataReconnected())

        self.site.after(seconds, back)

    def _tick(self, life: int) -> None:
        if self.worker is not None and self.life == life:
            self.handle(ev.Ticked())
            self.site.after(TICK_S, lambda: self._tick(life))

    # --- events in, effects out ---------------------------------------------------------------

    def soon(self, delay: float, event: ev.Event) -> None:
        """An event for this life only."""
        life = self.life

        def arrive() -> None:
            if self.life == life:
                self.handle(event)

        self.site.after(delay, arrive)

    def handle(self, event: ev.Event) -> None:
        if self.worker is None:
            return
        for effect in self.worker.handle(event, self.site.now):
            self._perform(effect)
            if self.worker is None:
                return
        self.site.check(self.site, self)

    def _perform(self, effect: fx.Effect) -> None:
        name = type(effect).__name__
        perform: dict[str, Callable[[Any], None]] = {
            "OpenModel": lambda e: self._thread(0.02, self._open),
            "CloseModel": lambda e: self.engine.clear(),
            "LoadUnits": lambda e: self._thread(0.05, lambda: self._load(e.units)),
            "DropUnits": lambda e: self._thread(
                0.0, lambda: self.engine.difference_update(range(*e.units))
            ),
            "ReportStatus": lambda e: self._report(),
            "Compute": self._compute,
            "Transmit": lambda e: self.site.transmit(self, e.receiver, e.activation),
            "OpenIngress": lambda e: self.site.broker.open(self, e.hold_count),
            "CloseIngress": lambda e: self.site.broker.close(self),
            "EchoNonce": lambda e: self.soon(0.01, ev.NonceReturned(NAME)),
            "PublishReply": lambda e: self.site.broker.reply(self, e.request, e.reply),
            "Acknowledge": lambda e: self.site.broker.acknowledged(self, e.receipt),
            "WriteRecord": lambda e: self.site.broker.record(self, e.record),
        }
        perform[name](effect)

    def _report(self) -> None:
        """Several changes make one message."""
        if self._status_due:
            return
        self._status_due = True
        life = self.life

        def publish() -> None:
            self._status_due = False
            if self.worker is not None and self.life == life:
                self.site.publish_status(self.worker.status())

        self.site.after(0.0, publish)

    # --- engine -------------------------------------------------------------------------------

    def _thread(self, seconds: float, work: Action) -> None:
        """One thing after the other."""
        self._engine_free = max(self._engine_free, self.site.now) + seconds
        life = self.life

        def run() -> None:
            if self.worker is not None and self.life == life:
                work()

        self.site.after(self._engine_free - self.site.now, run)

    def _open(self) -> None:
        self.handle(ev.ModelOpened(NAME, make_graph(UNITS)))

    def _load(self, units: UnitRange) -> None:
        self.engine.update(range(*units))
        self.handle(ev.UnitsLoaded(NAME, units, 1.0))

    def _compute(self, job: fx.Compute) -> None:
        self._thread(self.site.rng.uniform(0.003, 0.04), lambda: self._computed(job))

    def _computed(self, job: fx.Compute) -> None:
        assert self.engine.issuperset(range(*job.units)), "computed on units that are not loaded"
        text = _read(job.tensors)
        if "poison" in text:
            self.kill(will=True)
            self.site.after(0.3, self.start)
            return
        self.computed += 1
        if "raise" in text:
            self.handle(ev.ComputeFailed(job.job, Failure("model_failed", "it raised")))
            return
        text += "".join(f",{unit}" for unit in range(*job.units))
        size = OVERSIZE if "large" in text else self.site.rng.choice(PADDING)
        last = job.units.stop == UNITS
        out = pack_body("text/plain", text.encode()) if last else _write(text, size)
        self.handle(ev.Computed(job.job, out, 0.01))


def _read(tensors: Tensors) -> str:
    if tensors[0].name == "body":
        return unpack_body(tensors)[1].decode()
    return bytes(tensors[0].data).rstrip(b"\0").decode()


def _write(text: str, size: int) -> Tensors:
    data = text.encode().ljust(size, b"\0")
    return (Tensor("h", "uint8", (len(data),), data),)


class IngressBroker:
    """One durable MQTT session, retained redelivery counts, and the topic of answers."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.queue: deque[Delivery] = deque()
        self.unacknowledged: dict[int, Delivery] = {}
        self.records: dict[str, int] = {}
        self.take_overs = 0
        self._receipts = count(1)
        self._holder: tuple[str, int] | None = None
        self._hold_count = 0

    @property
    def holder(self) -> Node | None:
        if self._holder is None:
            return None
        node = self.site.nodes[self._holder[0]]
        return node if node.worker is not None and node.life == self._holder[1] else None

    def publish(self, delivery: Delivery) -> None:
        self.site.after(LINK_S, lambda: self._enqueue(delivery))

    def open(self, node: Node, hold_count: int) -> None:
        life = node.life

        def connect() -> None:
            if node.worker is None or node.life != life:
                return
            for key, number in list(self.records.items()):
                node.handle(ev.RecordFound(NAME, Redelivery(key, number)))
            if self.holder is not None and self.holder is not node:
                self.take_overs += 1
                self.cut()
            self._requeue()
            self._holder, self._hold_count = (node.name, life), hold_count
            node.handle(ev.IngressOpened(NAME))
            self._push()

        self.site.after(0.01, connect)

    def close(self, node: Node) -> None:
        if self.holder is node:
            self._holder = None
            self._requeue()

    def left(self, name: str) -> None:
        if self._holder is not None and self._holder[0] == name:
            self._holder = None
            self._requeue()

    def cut(self) -> None:
        """The holder's connection ends without a reason."""
        holder = self.holder
        self._holder = None
        self._requeue()
        if holder is not None:
            holder.handle(ev.IngressLost(NAME))

    def forget(self) -> None:
        """Killed: the MQTT session, what it held, and retained counts are gone."""
        self.queue.clear()
        self.unacknowledged.clear()
        self.records.clear()
        self.cut()
        self.site.client.reconnect(0.3)

    def acknowledged(self, node: Node, receipt: int) -> None:
        if self.holder is node:
            self.unacknowledged.pop(receipt, None)
            self._push()

    def reply(self, node: Node, request: bytes, reply: Reply) -> None:
        def taken() -> None:
            self.site.client.receive(reply)
            node_event = ev.ReplyPublished(NAME, request)
            node.soon(LINK_S, node_event)

        self.site.after(LINK_S, taken)

    def record(self, node: Node, record: Redelivery) -> None:
        if record.count:
            self.records[record.key] = record.count
            node.soon(LINK_S, ev.RecordWritten(NAME, record))
        else:
            self.records.pop(record.key, None)

    def _enqueue(self, delivery: Delivery) -> None:
        self.queue.append(delivery)
        self._push()

    def _requeue(self) -> None:
        again = [replace(d, duplicate=True) for d in self.unacknowledged.values()]
        self.unacknowledged.clear()
        self.queue.extendleft(reversed(again))

    def _push(self) -> None:
        while self.queue and len(self.unacknowledged) < self._hold_count:
            holder = self.holder
            if holder is None:
                return
            delivery = self.queue.popleft()
            receipt = next(self._receipts)
            self.unacknowledged[receipt] = delivery
            holder.soon(LINK_S, ev.InputArrived(NAME, self._input(receipt, delivery)))

    def _input(self, receipt: int, delivery: Delivery) -> Input:
        body = delivery.text.encode()
        return Input(
            receipt=receipt,
            request=self.site.rng.randbytes(16),
            device="plain" if delivery.id is None else "device",
            parsed=ParsedInput(None, "text/plain", body),
            digest=body.hex(),
            nbytes=len(body),
            correlation=delivery.id,
            duplicate=delivery.duplicate,
        )


@dataclass
class Outcome:
    """What one client saw of one input."""

    text: str
    results: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    given_up: bool = False

    @property
    def settled(self) -> bool:
        return bool(self.results or self.errors or self.given_up)


class SimClient:
    """A device with the project's client, and a plain one that publishes once and waits."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.pending = PendingInputs()
        self.outcomes: dict[bytes, Outcome] = {}
        self.plain: dict[str, list[str]] = {}
        self._numbers = count(1)
        self._act(self.pending.connected(site.now))
        self._up = True
        site.every(0.1, lambda: self._act(self.pending.tick(site.now)))

    @property
    def settled(self) -> bool:
        return all(o.settled for o in self.outcomes.values()) and all(self.plain.values())

    def submit(self, text: str) -> None:
        number = next(self._numbers)
        id_ = number.to_bytes(16, "big")
        self.outcomes[id_] = Outcome(f"{text}-{number}")
        self._act(self.pending.submitted(id_, self.site.now + 120.0, self.site.now))

    def submit_plain(self) -> None:
        text = f"plain-{next(self._numbers)}"
        self.plain[text] = []
        self.site.broker.publish(Delivery(None, text))

    def receive(self, reply: Reply) -> None:
        word = reply.failure.code if reply.failure else ""
        if reply.correlation is None:
            if not reply.failure:
                self.plain[reply.body.decode().split(",")[0]].append(reply.body.decode())
            return
        outcome = self.outcomes[reply.correlation]
        if not self._up or not self.pending.answered(reply.correlation):
            return
        if word:
            outcome.errors.append(word)
        else:
            outcome.results.append(reply.body.decode())

    def reconnect(self, seconds: float) -> None:
        self._up = False
        self.pending.disconnected()

        def back() -> None:
            self._up = True
            self._act(self.pending.connected(self.site.now))

        self.site.after(seconds, back)

    def _act(self, effects: ClientEffects) -> None:
        for effect in effects:
            if isinstance(effect, SendInput):
                delivery = Delivery(effect.id, self.outcomes[effect.id].text)
                self.site.broker.publish(delivery)
            else:
                self.outcomes[effect.id].given_up = True


class TableMaker:
    """Makes tables as an orchestrator would: prepare, wait until all are ready, serve."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.alive: dict[str, NodeStatus] = {}
        self.moving = False
        self._wills: dict[str, tuple[str, float]] = {}
        self._epochs = count(1)

    def status_arrived(self, status: NodeStatus) -> None:
        known = self.alive.get(status.node)
        if status.state == "offline":
            if known is not None and known.incarnation == status.incarnation:
                self._wills[status.node] = (status.incarnation, self.site.now)
            return
        self._wills.pop(status.node, None)
        self.alive[status.node] = status

    def gone(self, node: str, incarnation: str) -> None:
        known = self.alive.get(node)
        if known is not None and known.incarnation == incarnation:
            del self.alive[node]

    def reconsider(self) -> None:
        for node, (incarnation, since) in list(self._wills.items()):
            if self.site.now - since > 0.25:  # a will is a hint
                del self._wills[node]
                self.gone(node, incarnation)
        shown = self.site.document
        serve, prepare = (shown.serve, shown.prepare) if shown else (None, None)
        if prepare is not None and self._whole(prepare):
            if self._ready(prepare):
                self.site.publish_document(document(replace(prepare, state="serving")))
            return
        broken = serve is None or not self._whole(serve)
        if (broken or self.moving or prepare is not None) and self.alive and self._enough():
            self.moving = False
            self.site.publish_document(document(serve, self._draw()))

    def _enough(self) -> bool:
        """At the start everybody is waited for."""
        return self.site.document is not None or len(self.alive) == len(self.site.nodes)

    def _draw(self) -> Table:
        rng, names = self.site.rng, sorted(self.alive)
        cuts = [0, *sorted(rng.sample(range(1, UNITS), rng.randint(1, 3))), UNITS]
        chosen = [self._member(rng.choice(names)) for _ in cuts[1:]]
        return make_table(
            *zip(chosen, zip(cuts, cuts[1:], strict=False), strict=True),
            epoch=next(self._epochs),
            door=self._member(rng.choice(names)),
            window=self.site.window,
            credit=CREDIT,
        )

    def _member(self, node: str) -> Member:
        return node, self.alive[node].incarnation

    def _whole(self, table: Table) -> bool:
        return all(
            node in self.alive and self.alive[node].incarnation == incarnation
            for node, incarnation in table.members()
        )

    def _ready(self, table: Table) -> bool:
        ready = {
            (status.node, holding.segment)
            for status in self.alive.values()
            for holding in status.holdings
            if holding.stamp == table.stamp and holding.state == "ready"
        }
        return all((s.replicas[0].node, s.id) in ready for s in table.segments)
