"""A simulated node: the machine of the worker, its link, its connections, and what befalls it.

Effects become messages on the link and time on the processor, and come back as events.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from dsi_mqtt.core import effects as fx
from dsi_mqtt.core import events as ev
from dsi_mqtt.core.activation import OCTETS
from dsi_mqtt.core.node import Telemetry
from dsi_mqtt.core.problem import HOP_S
from dsi_mqtt.core.request import Input, ParsedInput
from dsi_mqtt.core.table import BrokerUrls
from dsi_mqtt.core.worker import Worker
from dsi_mqtt.sim.broker import PACKET_BYTES, SILENT_S, Delivery
from dsi_mqtt.sim.clock import TICKS_PER_S, tick_behind, tick_not_before
from dsi_mqtt.sim.connections import BOTH, RECONNECTS_S, Connections
from dsi_mqtt.sim.copying import CopyQueue
from dsi_mqtt.sim.doorway import Doorway
from dsi_mqtt.sim.engine import Processor, zeros
from dsi_mqtt.sim.engines import Engines
from dsi_mqtt.sim.links import Link, Passage
from dsi_mqtt.sim.place import Place
from dsi_mqtt.sim.vitals import Vitals

# A node listens for others of its name before its first word.
LISTENS_S: Final = 1.2
# The first chunk's header of an activation, with its topic; one without tensors.
HEADER_BYTES: Final = 420
SIGNAL_BYTES: Final = 300
BROKERS: Final = BrokerUrls("mqtt://control", "mqtt://data")
# What also those hear that no table names.
FOR_ALL: Final = (ev.SpecArrived, ev.SpecGone, ev.DesiredArrived)


class Node:
    """One node, through all its lives. life: which. connected, hears_data: by `connections`."""

    def __init__(self, place: Place, name: str, link: Link, processor: Processor) -> None:
        self.name = name
        self.link = link
        self.connected = self.hears_data = False
        self.control_number = self.data_number = 0
        self.machine: Worker | None = None
        self._place = place
        self._clock = place.clock
        self._broker = place.broker
        self.life = 0
        self._awake = False
        self._frozen_at: float | None = None
        self._inbox: list[ev.Event] = []
        self._tick: int | None = None
        self._status_due = False
        self.engines = Engines(place.clock, processor, place.graphs, place.open_s, self.handle)
        self._copies = CopyQueue(place.clock, link.up, self._transmit_now)
        self._vitals = Vitals(link, place.clock, place.broker.telemetry_bytes)
        self._doorway = Doorway(self, place.clock, place.broker)
        self.connections = Connections(self, place)
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
            fx.Transmit: self._transmit,
            **self._doorway.performers(),
        }

    @property
    def alive(self) -> bool:
        return self.machine is not None

    @property
    def frozen(self) -> bool:
        return self._frozen_at is not None

    @property
    def processor(self) -> Processor:
        return self.engines.processor

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """A new life of it, under another incarnation."""
        if self.machine is not None:
            return
        self.life += 1
        group = self.processor.group
        self.machine = Worker(
            self.name,
            f"{self.name}.{self.life}",
            zone=group.zone,
            capabilities=self.processor.capabilities,
            brokers=BROKERS,
            spare=group.spare,
        )
        self.engines.begin()
        self._doorway.begin()
        self._copies.clear()
        self._awake = self._status_due = False
        self._vitals.begin()
        self._inbox.clear()
        self._clock.after(LISTENS_S, self.connections.open, self.life, *BOTH)

    def kill(self) -> None:
        """Its process ends, and the broker notices at once."""
        machine, self.machine, self._frozen_at = self.machine, None, None
        if machine is not None:
            self.connections.lose(machine.will())

    def freeze(self) -> None:
        if self.machine is not None and not self.frozen:
            self._frozen_at = self._clock.now
            self.engines.freeze()
            self._copies.halt()
            self._clock.after(SILENT_S, self._silent, self._clock.now)

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
        if self.machine is not None and not (self.connected and self.hears_data):
            self._notice_loss()

    def link_cut(self) -> None:
        """Nothing passes any more: a long cut ends the connections."""
        self._clock.after(SILENT_S, self._silent, self._clock.now)

    def _silent(self, since: float) -> None:
        """The brokers have heard nothing since then, if it is still so: they end the connections.

        So they do where it has found another one meanwhile that is as silent.
        """
        mute = self._frozen_at == since or self.link.is_cut_since(since, self._clock.now)
        if self.machine is None or not mute or not (self.connected or self.hears_data):
            return
        self.connections.lose(self.machine.will())
        if not self.frozen:
            self._notice_loss()

    # --- connections --------------------------------------------------------------------------

    def _notice_loss(self) -> None:
        if self.machine is None:
            return
        if not self.connected:
            self.misses_control()
        self._clock.after(RECONNECTS_S, self.connections.open, self.life, *BOTH)

    def misses_control(self) -> None:
        """It notices that this connection has ended."""
        for load in self.machine.door_loads() if self.machine is not None else ():
            self.handle(ev.HearingChanged(load.deployment, hears=False))
            self.handle(ev.IngressLost(load.deployment))

    def data_opened(self) -> None:
        self._vitals.connected(self._clock.now)

    def data_ended(self) -> None:
        self._copies.clear()

    def control_ended(self) -> None:
        self.told_bytes += self._broker.told_bytes - self._told_since

    def control_opened(self) -> None:
        """All that is retained comes at once."""
        self._told_since = self._broker.told_bytes
        self.handle(ev.ControlReconnected())
        for spec in list(self._broker.specs.values()):
            self.handle(ev.SpecArrived(spec))
        if self.name in self._broker.desired:
            self.handle(ev.DesiredArrived(self._broker.desired[self.name]))
        if self._awake:
            self._read_retained()
        elif self.name in self._broker.statuses:
            self.handle(ev.StatusArrived(self._broker.statuses[self.name]))
        self.handle(ev.RetainedRead())
        self._doorway.connected()

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
        if self.frozen:
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
        if machine is None or self.frozen:
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
        if self._awake or isinstance(event, FOR_ALL):
            self.receive_aside(event, nbytes)
        else:
            self.link.down.control_bytes += nbytes

    def receive_aside(self, event: ev.Event, nbytes: int = PACKET_BYTES) -> None:
        at = self.link.down.send_aside(nbytes, self._clock.now)
        self._clock.at(at, self._delivered, self.control_number, event)

    def receive(self, event: ev.Event, nbytes: int, begins: float) -> None:
        """From the broker, which passes it on at `begins`."""
        passage = self.link.down.send(nbytes, begins)
        self._measure_in(nbytes, passage)
        data = isinstance(event, ev.ActivationArrived)
        number = self.data_number if data else self.control_number
        self._clock.at(passage.arrives, self._delivered, number, event)

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
        """Of a connection that has ended, nothing is."""
        data = isinstance(event, ev.ActivationArrived)
        if connection == (self.data_number if data else self.control_number):
            self._doorway.hears(event)
            self.handle(event)

    # --- effects: connections -----------------------------------------------------------------

    def _transmit(self, effect: fx.Transmit) -> None:
        activation = effect.activation
        if effect.receiver == self.name:
            self._clock.after(0.0, self.in_life(self.handle), ev.ActivationArrived(activation))
        elif self.hears_data and effect.receiver in self._broker.nodes:
            if activation.header.copy is not None and activation.tensors:
                for told in self._copies.put(effect):
                    self._transmit(told)
            else:
                self._transmit_now(effect)

    def _transmit_now(self, effect: fx.Transmit) -> None:
        size = effect.activation.nbytes
        nbytes = size + HEADER_BYTES if size else SIGNAL_BYTES
        at, number = self.sends(nbytes), self.data_number
        given = effect.receiver, effect.activation, nbytes

        def arrive() -> None:
            if number == self.data_number:
                self._broker.forward(*given)

        self._clock.at(at, arrive)

    def sends(self, nbytes: int) -> float:
        """When it is at the broker."""
        passage = self.link.up.send(nbytes, self._clock.now)
        self._measure_out(nbytes, passage)
        return passage.arrives

    def _measure_in(self, nbytes: int, passage: Passage) -> None:
        self._vitals.receives(nbytes, passage)

    def _measure_out(self, nbytes: int, passage: Passage) -> None:
        self._vitals.sends(nbytes, self._clock.now, passage)

    def ingress_s(self) -> float:
        """What opening a connection takes before anything can be said."""
        return self.link.rtt_s(self._clock.now)

    def _report(self) -> None:
        """Several changes make one message."""
        if not self._status_due:
            self._status_due = True
            self._clock.after(0.0, self.in_life(self._publish_status))

    def _publish_status(self) -> None:
        self._status_due = False
        if self.machine is not None and self.connected:
            status = self.machine.status()
            self.aside(self._broker.status_bytes(status), self._broker.publish_status, status)

    def aside(self, nbytes: int, act: Callable[..., None], *given: object) -> None:
        if self.connected:
            at = self.link.up.send_aside(nbytes, self._clock.now)
            self.at_broker(at, act, *given)

    def at_broker(self, time: float, act: Callable[..., None], *given: object) -> None:
        """By the control connection, if that is still there."""
        connection = self.control_number

        def arrive() -> None:
            if connection == self.control_number:
                act(*given)

        self._clock.at(time, arrive)

    # --- effects: engines ---------------------------------------------------------------------

    def _load(self, effect: fx.LoadUnits) -> None:
        self.engines.load(effect)

    def in_life(self, act: Callable[..., None]) -> Callable[..., None]:
        life = self.life

        def run(*given: object) -> None:
            if life == self.life and self.machine is not None:
                act(*given)

        return run

    # --- telemetry ----------------------------------------------------------------------------

    def telemetry(self) -> Telemetry | None:
        """What it says of itself now; None: nobody hears it."""
        if self.machine is None or not self._is_heard():
            return None
        return self._vitals.telemetry(self.machine, self._clock.now)

    def beat(self) -> str | None:
        """The incarnation that says that it lives; None: nobody hears it, or need know."""
        if self.machine is None or not self.machine.is_depended_on or not self._is_heard():
            return None
        self.link.up.control_bytes += PACKET_BYTES
        return self.machine.incarnation

    def _is_heard(self) -> bool:
        return self.connected and not self.frozen and not self.link.is_cut(self._clock.now)

    # --- what is seen -------------------------------------------------------------------------

    def heard_bytes(self) -> int:
        """Of others' statuses, all of which come to it."""
        now = self._broker.told_bytes - self._told_since if self.connected else 0
        return self.told_bytes + now
