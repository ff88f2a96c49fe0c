"""A whole site on virtual time: nodes, an ingress broker, clients, and one who makes tables.

The nodes are the real `Worker` machines and the clients the real `PendingInputs`; everything
between them is simulated: ordered links that can lose and repeat, a durable MQTT session that
hands unacknowledged inputs on, engines that compute one thing at a time, deaths and restarts.
Nothing here decides what is right; `invariants` does.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any

from dsi_mqtt.core import effects as fx
from dsi_mqtt.core import events as ev
from dsi_mqtt.core.activation import Tensor, Tensors, pack_body, unpack_body
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.message import WORK, Activation, Failure
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.node import Capabilities, NodeStatus
from dsi_mqtt.core.table import BrokerUrls, Table, TableDocument
from dsi_mqtt.core.worker import Worker
from tests.core.build import NAME, make_graph, make_spec
from tests.core.harness_broker import LINK_S, IngressBroker, SimClient
from tests.core.harness_maker import UNITS, TableMaker
from tests.core.harness_runs import AloneRuns

TICK_S = 0.05
CONTROL_S = 0.005
PADDING = (100, 300, 900)
OVERSIZE = 5000

Action = Callable[[], None]


def expected(text: str) -> str:
    """What the model makes of an input, however it is cut."""
    return text + "".join(f",{unit}" for unit in range(UNITS))


class Site:
    """Everything at one place, driven by `run`."""

    def __init__(
        self,
        seed: int,
        *,
        nodes: int = 4,
        window: int = 4,
        settle_s: float = 0.0,
        node: type[Node] | None = None,
        client: type[SimClient] = SimClient,
        maker: type[TableMaker] = TableMaker,
    ) -> None:
        self.rng = Random(seed)
        self.now = 0.0
        self.window = window
        self.loss = 0.0
        self.repetition = 0.0
        self.deaths = 0
        self.check: Callable[[Site, Node], None] = lambda _site, _node: None
        self.alone = AloneRuns()
        self._due: list[tuple[float, int, Action]] = []
        self._order = count()
        self._arrivals: dict[tuple[str, str], float] = {}
        self.statuses: dict[str, NodeStatus] = {}
        self.document: TableDocument | None = None
        self.nodes = {f"n{i}": (node or Node)(self, f"n{i}") for i in range(nodes)}
        self.broker = IngressBroker(self)
        self.client = client(self)
        self.maker = maker(self)
        for each in self.nodes.values():
            each.start()
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

    weight_bytes = 10_000

    def __init__(self, site: Site, name: str) -> None:
        self.site = site
        self.name = name
        self.worker: Worker | None = None
        self.life = 0
        self.data_up = False
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

    def spec(self) -> Deployment:
        return make_spec(deadline_ms=60_000.0, dedupe_s=20.0)

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        if self.worker is not None:
            return
        self.life += 1
        self.worker = Worker(
            self.name,
            self.incarnation,
            zone="zone",
            capabilities=Capabilities(weight_bytes=self.weight_bytes),
            brokers=BrokerUrls("mqtt://control", "mqtt://data"),
        )
        self.engine, self._engine_free = set(), self.site.now
        self.data_up = True
        for status in self.site.statuses.values():
            self.handle(ev.StatusArrived(status))
        self.handle(ev.SpecArrived(self.spec()))
        if self.site.document is not None:
            self.handle(ev.TableArrived(NAME, self.site.document))
        self.handle(ev.ControlReconnected())
        self.handle(ev.DataReconnected())
        self._tick(self.life)

    def kill(self, *, will: bool) -> None:
        if self.worker is None:
            return
        testament = self.worker.will()
        self.site.deaths += 1
        self.site.alone.died((self.name, self.incarnation), self.site.now)
        self.worker = None
        self.data_up = False
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
        worker = self.worker
        if worker is None:
            return
        for effect in worker.handle(event, self.site.now):
            self._perform(effect)
            if self.worker is not worker:
                return  # it died of it
        self.site.alone.look(self, self.site.now)
        self.site.check(self.site, self)

    def _perform(self, effect: fx.Effect) -> None:
        self.performers()[type(effect).__name__](effect)

    def performers(self) -> dict[str, Callable[[Any], None]]:
        return {
            "OpenModel": lambda e: self._thread(0.02, self._open),
            "CloseModel": lambda e: self.engine.clear(),
            "LoadUnits": lambda e: self._thread(0.05, lambda: self._load(e.units)),
            "DropUnits": lambda e: self._thread(
                0.0, lambda: self.engine.difference_update(range(*e.units))
            ),
            "ReportStatus": lambda e: self._report(),
            "Compute": self._compute,
            "Transmit": lambda e: self.site.transmit(self, e.receiver, e.activation),
            "OpenAnswers": lambda e: None,
            "OpenIngress": lambda e: self.site.broker.open(self, e.hold_count),
            "CloseIngress": lambda e: self.site.broker.close(self),
            "EchoNonce": lambda e: self.soon(0.01, ev.NonceReturned(NAME)),
            "PublishReply": lambda e: self.site.broker.reply(self, e.request, e.reply),
            "Acknowledge": lambda e: self.site.broker.acknowledged(self, e.receipt),
            "WriteRecord": lambda e: self.site.broker.record(self, e.record),
        }

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
