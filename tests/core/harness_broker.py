"""The simulated ingress: one durable MQTT session, and the clients at its other end."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING

from dsi_mqtt.core import events as ev
from dsi_mqtt.core.client import Abandon, ClientEffects, PendingInputs, SendInput
from dsi_mqtt.core.request import Input, ParsedInput, Redelivery, Reply
from tests.core.build import NAME

if TYPE_CHECKING:
    from tests.core.harness import Node, Site

LINK_S = 0.002


@dataclass
class Delivery:
    """One input as the ingress broker holds it."""

    id: bytes | None
    text: str
    duplicate: bool = False


class IngressBroker:
    """One durable MQTT session, retained redelivery counts, and the topic of answers."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.queue: deque[Delivery] = deque()
        self.unacknowledged: dict[int, Delivery] = {}
        self.records: dict[str, Redelivery] = {}
        self.take_overs = self.hand_overs = 0
        self.open_s = 0.01
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
            for record in list(self.records.values()):
                node.handle(ev.RecordFound(NAME, record))
            if self.holder is not None and self.holder is not node:
                held = self.holder.machine.status().doors[0].ingress_open
                self.take_overs += held
                self.hand_overs += not held
                self.cut()
            self._requeue()
            self._holder, self._hold_count = (node.name, life), hold_count
            node.handle(ev.IngressOpened(NAME))
            self._push()

        self.site.after(self.open_s, connect)

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
        if record.void:
            self.records.pop(record.key, None)
        else:
            self.records[record.key] = record
            node.soon(LINK_S, ev.RecordWritten(NAME, record))

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
        self.plain_errors: list[str] = []  # an error does not say whose it is
        self._numbers = count(1)
        self._act(self.pending.connected(site.now))
        self._up = True
        site.every(0.1, lambda: self._act(self.pending.tick(site.now)))

    @property
    def settled(self) -> bool:
        silent = sum(not results for results in self.plain.values())
        return all(o.settled for o in self.outcomes.values()) and silent <= len(self.plain_errors)

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
            if reply.failure:
                self.plain_errors.append(word)
            else:
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
            elif isinstance(effect, Abandon):
                self.outcomes[effect.id].given_up = True
