"""A simulated node: the machine of the worker, its link, its processor, and what befalls it.

Effects become messages on the link and time on the processor, and come back as events.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from dsi_mqtt.core import effects as fx
from dsi_mqtt.core import events as ev
from dsi_mqtt.core.activation import OCTETS
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.node import NodeStatus, Telemetry
from dsi_mqtt.core.problem import HOP_S
from dsi_mqtt.core.request import Input, ParsedInput
from dsi_mqtt.core.table import BrokerUrls
from dsi_mqtt.core.worker import Worker
from dsi_mqtt.sim.broker import PACKET_BYTES, SILENT_S, Broker, Delivery
from dsi_mqtt.sim.clock import TICKS_PER_S, Clock, tick_behind, tick_not_before
from dsi_mqtt.sim.copying import CopyQueue
from dsi_mqtt.sim.engine import Processor, zeros
from dsi_mqtt.sim.engines import Engines
from dsi_mqtt.sim.journal import Journal
from dsi_mqtt.sim.links import Link, Passage
from dsi_mqtt.sim.texts import FRAME_BYTES, TOKEN_BYTES, Wanted
from dsi_mqtt.sim.vitals import Vitals

# A node listens for others of its name before its first word.
LISTENS_S: Final = 1.2
# Before a lost connection is opened again.
RECONNECTS_S: Final = 1.0
# The first chunk's header of an activation, with its topic; one without tensors.
HEADER_BYTES: Final = 420
SIGNAL_BYTES: Final = 300
BROKERS: Final = BrokerUrls("mqtt://control", "mqtt://data")


@dataclass(slots=True)
class Place:
    """What a node shares with the others."""

    clock: Clock
    broker: Broker
    journal: Journal
    graphs: dict[str, ModelGraph]
    open_s: float
    number: Callable[[], int]


class Node:
    """One node, through all its lives. `connected`: the broker has its connections."""

    def __init__(self, place: Place, name: str, link: Link, processor: Processor) -> None:
        self.name = name
        self.link = link
        self.connected = False
        self.machine: Worker | None = None
        self._place = place
        self._clock = place.clock
        self._broker = place.broker
        self._life = 0
        self._connection = 0
        self._awake = False
        self._frozen_at: float | None = None
        self._inbox: list[ev.Event] = []
        self._tick: int | None = None
        self._status_due = False
        self.engines = Engines(place.clock, processor, place.graphs, place.open_s, self.handle)
        self._copies = CopyQueue(place.clock, link.up, self._transmit_now)
        self._vitals = Vitals(link, place.clock, place.broker.telemetry_bytes)
        self._told_since = 0
        self.told_bytes = 0
        self._perform = self._performers()

    def _performers(self) -> dict[type, Callable[[Any], None]]:
        return {
            fx.OpenModel: lambda e: self.engines.open(e.deployment),
            fx.CloseModel: lambda e: self.engines.close(e.deployment),
            fx.LoadUnits: self._load,
            fx.DropUnits: self.engines.drop,
            fx.ReportStatus: lambda _: self._report(),
            fx.Compute: self.engines.compute,
            fx.CloseSessions: self.engines.close_sessions,
            fx.ExportState: self.engines.export_state,
            fx.ImportState: self.engines.import_state,
            fx.ReadPrompt: self._read_prompt,
            fx.WriteText: self._write_text,
            fx.ForgetText: lambda _: None,
            fx.PublishPartial: self._publish_partial,
            fx.EchoHearing: self._echo_hearing,
            fx.Transmit: self._transmit,
            fx.OpenIngress: self._open_ingress,
            fx.CloseIngress: lambda e: self._broker.close_session(e.deployment, self),
            fx.EchoNonce: self._echo_nonce,
            fx.PublishReply: self._reply,
            fx.Acknowledge: self._acknowledge,
            fx.WriteRecord: self._write_record,
        }

    @property
    def alive(self) -> bool:
        return self.machine is not None

    @property
    def processor(self) -> Processor:
        return self.engines.processor

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """A new life of it, under another incarnation."""
        if self.machine is not None:
            return
        self._life += 1
        group = self.processor.group
        self.machine = Worker(
            self.name,
            f"{self.name}.{self._life}",
            zone=group.zone,
            capabilities=self.processor.capabilities,
            brokers=BROKERS,
            spare=group.spare,
        )
        self.engines.begin()
        self._copies.clear()
        self._awake = self._status_due = False
        self._vitals.begin()
        self._inbox.clear()
        self._clock.after(LISTENS_S, self._connect, self._life)

    def kill(self) -> None:
        """Its process ends, and the broker notices at once."""
        machine, self.machine, self._frozen_at = self.machine, None, None
        if machine is not None:
            self._lose_connection(machine.will())

    def freeze(self) -> None:
        if self.machine is not None and self._frozen_at is None:
            self._frozen_at = self._clock.now
            self.engines.freeze()
            self._copies.halt()
            self._clock.after(SILENT_S, self._silent, self._connection, self._clock.now)

    def thaw(self) -> None:
        """All that it has not read yet comes at once."""
        if self._frozen_at is None:
            return
        stood_s, self._frozen_at = self._clock.now - self._frozen_at, None
        inbox, self._inbox = self._inbox, []
        self.engines.thaw(stood_s)
        self._copies.resume()
        for event in inbox:
            self.handle(event)
        self._tick_at(tick_behind(self._clock.now))
        if self.machine is not None and not self.connected:
            self._notice_loss()

    def link_cut(self) -> None:
        """Nothing passes any more: a long cut ends the connections."""
        self._clock.after(SILENT_S, self._silent, self._connection, self._clock.now)

    def _silent(self, connection: int, since: float) -> None:
        """The broker has heard nothing since then, if it is still so: it ends the connections."""
        mute = self._frozen_at == since or self.link.is_cut_since(since, self._clock.now)
        if self.machine is None or connection != self._connection or not mute:
            return
        self._lose_connection(self.machine.will())
        if self._frozen_at is None:
            self._notice_loss()

    def _notice_loss(self) -> None:
        if self.machine is None:
            return
        for deployment in [load.deployment for load in self.machine.door_loads()]:
            self.handle(ev.HearingChanged(deployment, hears=False))
            self.handle(ev.IngressLost(deployment))
        self._clock.after(RECONNECTS_S, self._connect, self._life)

    def _lose_connection(self, will: NodeStatus) -> None:
        if not self.connected:
            return
        self.connected = False
        self._connection += 1
        self._copies.clear()
        self.told_bytes += self._broker.told_bytes - self._told_since
        self._place.journal.write(self._clock.now, "lost", node=self.name)
        self._broker.lost(self, will)

    def _connect(self, life: int) -> None:
        if self.machine is None or life != self._life or self.connected:
            return
        if self.link.is_cut(self._clock.now) or self._frozen_at is not None:
            self._clock.after(RECONNECTS_S, self._connect, life)
            return
        self.connected = True
        self._connection += 1
        self._told_since = self._broker.told_bytes
        self.link.up.reset(self._clock.now)
        self.link.down.reset(self._clock.now)
        self._vitals.connected(self._clock.now)
        self._place.journal.write(self._clock.now, "connected", node=self.name, life=self._life)
        for spec in self._broker.specs.values():
            self.handle(ev.SpecArrived(spec))
        if self._awake:
            self._read_retained()
        self.handle(ev.ControlReconnected())
        self.handle(ev.DataReconnected())

    def wake(self) -> None:
        """A table names it: from now on it hears everything, and what is retained first.

        Until then no word about others could have changed anything that it does.
        """
        if self._awake or self.machine is None:
            return
        self._awake = True
        if self.connected:
            self._read_retained()

    def _read_retained(self) -> None:
        for status in list(self._broker.statuses.values()):
            self.handle(ev.StatusArrived(status))
        for deployment, document in list(self._broker.documents.items()):
            self.handle(ev.TableArrived(deployment, document))

    # --- events in ----------------------------------------------------------------------------

    def handle(self, event: ev.Event) -> None:
        machine = self.machine
        if machine is None:
            return
        if self._frozen_at is not None:
            self._inbox.append(event)
            return
        self._vitals.changed()
        for effect in machine.handle(event, self._clock.now):
            self._perform[type(effect)](effect)
        self._tick_at(tick_behind(self._clock.now))

    def _tick_at(self, number: int) -> None:
        if self._tick is None or number < self._tick:
            self._tick = number
            self._clock.at(number / TICKS_PER_S, self._ticked, number)

    def _ticked(self, number: int) -> None:
        if self._tick != number:
            return
        self._tick = None
        machine, now = self.machine, self._clock.now
        if machine is None or self._frozen_at is not None:
            return
        for effect in machine.handle(ev.Ticked(), now):
            self._vitals.changed()
            self._perform[type(effect)](effect)
        if self.machine is machine and (due := machine.next_tick(now)) < math.inf:
            self._tick_at(max(number + 1, tick_not_before(due)) if due > now else number + 1)

    def told(self, event: ev.Event, nbytes: int) -> None:
        """A retained message, which every node gets; what nobody acts on only takes its bytes."""
        if not self.connected:
            return
        if self._awake or isinstance(event, ev.SpecArrived):
            self.receive_aside(event, nbytes)
        else:
            self.link.down.control_bytes += nbytes

    def receive_aside(self, event: ev.Event, nbytes: int = PACKET_BYTES) -> None:
        at = self.link.down.send_aside(nbytes, self._clock.now)
        self._clock.at(at, self._delivered, self._connection, event)

    def receive(self, event: ev.Event, nbytes: int, begins: float) -> None:
        """From the broker, which passes it on at `begins`."""
        passage = self.link.down.send(nbytes, begins)
        self._measure_in(nbytes, passage)
        self._clock.at(passage.arrives, self._delivered, self._connection, event)

    def receive_input(self, deployment: str, receipt: int, delivery: Delivery) -> None:
        wanted = delivery.wanted
        body = zeros(delivery.nbytes) if wanted is None else wanted.written()
        given = Input(
            receipt,
            self._place.number().to_bytes(16, "big"),
            delivery.device,
            ParsedInput(None, OCTETS, body),
            "",
            delivery.nbytes,
            correlation=delivery.correlation,
            duplicate=delivery.duplicate,
        )
        nbytes = delivery.nbytes + PACKET_BYTES
        self.receive(ev.InputArrived(deployment, given), nbytes, self._clock.now + HOP_S)

    def _delivered(self, connection: int, event: ev.Event) -> None:
        if connection == self._connection:
            self.handle(event)

    # --- effects: connections -----------------------------------------------------------------

    def _transmit(self, effect: fx.Transmit) -> None:
        activation = effect.activation
        if effect.receiver == self.name:
            self._clock.after(0.0, self._in_life(self.handle), ev.ActivationArrived(activation))
        elif self.connected and effect.receiver in self._broker.nodes:
            if activation.header.copy is not None and activation.tensors:
                for told in self._copies.put(effect):
                    self._transmit(told)
            else:
                self._transmit_now(effect)

    def _transmit_now(self, effect: fx.Transmit) -> None:
        size = effect.activation.nbytes
        nbytes = size + HEADER_BYTES if size else SIGNAL_BYTES
        at = self._sends(nbytes)
        self._at_broker(at, self._broker.forward, effect.receiver, effect.activation, nbytes)

    def _sends(self, nbytes: int) -> float:
        """When it is at the broker."""
        passage = self.link.up.send(nbytes, self._clock.now)
        self._measure_out(nbytes, passage)
        return passage.arrives

    def _measure_in(self, nbytes: int, passage: Passage) -> None:
        self._vitals.receives(nbytes, passage)

    def _measure_out(self, nbytes: int, passage: Passage) -> None:
        self._vitals.sends(nbytes, self._clock.now, passage)

    def _reply(self, effect: fx.PublishReply) -> None:
        told = effect.reply.completion
        size = len(effect.reply.body) if told is None else len(told.tokens) * TOKEN_BYTES
        nbytes = size + PACKET_BYTES
        if self.connected:
            at = self._sends(nbytes) + HOP_S
            given = effect.deployment, self, effect.request, effect.reply
            self._at_broker(at, self._broker.answer, *given)

    def _acknowledge(self, effect: fx.Acknowledge) -> None:
        self._aside(8, self._broker.acknowledged, effect.deployment, self, effect.receipt)

    def _write_record(self, effect: fx.WriteRecord) -> None:
        self._aside(2 * PACKET_BYTES, self._broker.record, effect.deployment, self, effect.record)

    def _echo_nonce(self, effect: fx.EchoNonce) -> None:
        self._aside(PACKET_BYTES, self.receive_aside, ev.NonceReturned(effect.deployment))

    def _open_ingress(self, effect: fx.OpenIngress) -> None:
        """Connect and subscribe: two round trips, of which the first is of the network's."""
        opened = partial(self._broker.open_session, effect.deployment, self, effect.hold_count)
        self._clock.after(self.link.rtt_s(self._clock.now), self._in_life(self._aside), 8, opened)

    def _report(self) -> None:
        """Several changes make one message."""
        if not self._status_due:
            self._status_due = True
            self._clock.after(0.0, self._in_life(self._publish_status))

    def _publish_status(self) -> None:
        self._status_due = False
        if self.machine is not None and self.connected:
            status = self.machine.status()
            self._aside(self._broker.status_bytes(status), self._broker.publish_status, status)

    def _aside(self, nbytes: int, act: Callable[..., None], *given: object) -> None:
        if self.connected:
            at = self.link.up.send_aside(nbytes, self._clock.now)
            self._at_broker(at, act, *given)

    def _at_broker(self, time: float, act: Callable[..., None], *given: object) -> None:
        connection = self._connection

        def arrive() -> None:
            if connection == self._connection:
                act(*given)

        self._clock.at(time, arrive)

    # --- effects: texts -----------------------------------------------------------------------

    def _read_prompt(self, effect: fx.ReadPrompt) -> None:
        vocabulary = self._place.graphs[effect.deployment].vocabulary
        wanted = Wanted.read(effect.parsed.body)
        ask = wanted.ask(vocabulary.size if vocabulary is not None else 1)
        tokens = tuple(token for token in ask.prompt if isinstance(token, int))
        read = ev.PromptRead(effect.deployment, effect.request, ask, tokens)
        self._clock.after(0.0, self._in_life(self.handle), read)

    def _write_text(self, effect: fx.WriteText) -> None:
        count = len(effect.tokens)
        text = "".join(f" w{token}" for token in effect.tokens)
        written = ev.TextWritten(effect.deployment, effect.request, count, text, effect.last)
        self._clock.after(0.0, self._in_life(self.handle), written)

    def _publish_partial(self, effect: fx.PublishPartial) -> None:
        if self.connected:
            nbytes = FRAME_BYTES + len(effect.partial.tokens) * TOKEN_BYTES
            self._at_broker(self._sends(nbytes) + HOP_S, self._broker.stream, self, effect)

    def _echo_hearing(self, effect: fx.EchoHearing) -> None:
        proven = ev.HearingProven(effect.deployment, effect.asked_at)
        self._aside(PACKET_BYTES, self.receive_aside, proven)

    # --- effects: engines ---------------------------------------------------------------------

    def _load(self, effect: fx.LoadUnits) -> None:
        self.engines.load(effect)

    def _in_life(self, act: Callable[..., None]) -> Callable[..., None]:
        life = self._life

        def run(*given: object) -> None:
            if life == self._life and self.machine is not None:
                act(*given)

        return run

    # --- telemetry ----------------------------------------------------------------------------

    def telemetry(self) -> Telemetry | None:
        """What it says of itself now; None: nobody hears it."""
        now = self._clock.now
        if self.machine is None or not self.connected or self._frozen_at is not None:
            return None
        if self.link.is_cut(now):
            return None
        return self._vitals.telemetry(self.machine, now)

    # --- what is seen -------------------------------------------------------------------------

    def heard_bytes(self) -> int:
        """Of others' statuses, all of which come to it."""
        now = self._broker.told_bytes - self._told_since if self.connected else 0
        return self.told_bytes + now
