"""The whole of one node as a state machine: holdings, relay, and the doors it keeps.

`handle(event, now) -> effects` is all there is. What the parts know of each other passes through
here: the relay asks the holdings what it may compute, doors ask `peers` who lives, and the
holdings learn from the doors' reports which tables are still used.

An old table is used until every door that may have requests in it says otherwise: the one that
the serving table names and, for one deadline after it was named, those that were named before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any, Final, get_args

from dsi_mqtt.core import events as ev
from dsi_mqtt.core.deployment import FALLBACK_MARK, Deployment
from dsi_mqtt.core.door import Door
from dsi_mqtt.core.effects import CloseModel, Effects, ReportStatus
from dsi_mqtt.core.holdings import Holdings
from dsi_mqtt.core.ingress import HAND_OVER_S, Ingress
from dsi_mqtt.core.message import WORK, Activation, Failure
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.namesake import Namesake
from dsi_mqtt.core.node import (
    FREE,
    Capabilities,
    DoorLoad,
    DoorReport,
    NodeState,
    NodeStatus,
    SegmentLoad,
    Upkeep,
)
from dsi_mqtt.core.peers import Member, Peers
from dsi_mqtt.core.relay import Relay
from dsi_mqtt.core.runs import TextEvent
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.core.table import DOOR, BrokerUrls, DoorPlace, Table
from dsi_mqtt.core.withdrawals import Withdrawals

# Of what a door may hold, beside what runs and what may wait: windows, so that what is sent again
# finds room, and inputs that are being refused, or none would be read while one has as many.
HOLD_WINDOWS: Final = 2
HOLD_REFUSED: Final = 256
HOLD_BYTES: Final = 64 * MIB
_UNDEPLOYED: Final = Failure("unavailable", "this deployment has been removed")


Handlers = dict[type, Callable[[Any, float], Effects]]
DoorEvent = (
    ev.InputArrived
    | ev.CancelArrived
    | ev.RecordFound
    | ev.RecordWritten
    | ev.ReplyPublished
    | ev.DeviceSpoke
    | ev.HearingChanged
    | ev.HearingProven
    | TextEvent
)


class Worker:
    """State machine of one node. Identity and capabilities are fixed for an incarnation."""

    def __init__(
        self,
        node: str,
        incarnation: str,
        *,
        zone: str,
        capabilities: Capabilities,
        brokers: BrokerUrls,
        pid: int = 0,
        spare: bool = False,
        upkeep: Upkeep = FREE,
    ) -> None:
        self.node = node
        self.incarnation = incarnation
        self._zone = zone
        self._capabilities = capabilities
        self._brokers = brokers
        self._pid = pid
        self._spare = spare
        self._upkeep = upkeep
        self._draining = False
        self._holdings = Holdings(node, incarnation, capabilities.weight_bytes)
        self._relay = Relay(incarnation, self._holdings)
        self._peers = Peers()
        self._namesake = Namesake(incarnation)
        self._withdrawals = Withdrawals(incarnation)
        self._numbers = count(1)
        self._doors: dict[str, Door] = {}
        self._ingresses: dict[str, Ingress] = {}
        self._keepers: dict[str, tuple[Member, float]] = {}
        self._before: dict[str, Member] = {}
        self._handlers: Handlers = {
            **self._of_retained_state(),
            **self._of_engines(),
            **self._of_doors(),
            ev.ActivationArrived: self._activation_arrived,
            ev.ActivationBroke: lambda e, _: self._relay.broke(e.header),
            ev.DataReconnected: self._data_reconnected,
            ev.BrokersMoved: self._brokers_moved,
            ev.ControlReconnected: self._control_reconnected,
            ev.Ticked: self._ticked,
        }

    def _of_retained_state(self) -> Handlers:
        return {
            ev.SpecArrived: self._spec_arrived,
            ev.SpecGone: self._spec_gone,
            ev.TableArrived: self._table_arrived,
            ev.StatusArrived: self._status_arrived,
            ev.StatusRemoved: self._status_removed,
            ev.DesiredArrived: self._desired_arrived,
            ev.RetainedRead: self._retained_read,
        }

    def _of_engines(self) -> Handlers:
        holdings, relay = self._holdings, self._relay
        return {
            ev.ModelOpened: self._model_opened,
            ev.ModelRefused: self._model_refused,
            ev.UnitsLoaded: lambda e, _: holdings.units_loaded(e.deployment, e.units, e.warm_ms),
            ev.UnitsFailed: lambda e, _: holdings.units_failed(e.deployment, e.units, e.reason),
            ev.Computed: relay.computed,
            ev.ComputeFailed: lambda e, now: relay.compute_failed(e.job, e.failure, now),
            ev.ComputeStale: lambda e, now: relay.compute_stale(e.job, e.have, now),
            ev.StateExported: lambda e, _: relay.caches.exported(e),
            ev.StateImported: lambda e, _: relay.caches.imported(e),
            ev.StateStale: lambda e, _: relay.caches.stale(e),
        }

    def _of_doors(self) -> Handlers:
        told: dict[type, Callable[[Door, Any, float], Effects]] = {
            ev.InputArrived: lambda door, e, now: door.input_arrived(e.input, now),
            ev.CancelArrived: lambda door, e, now: door.cancelled(e.key, now),
            ev.RecordFound: lambda door, e, now: door.record_found(e.record, now),
            ev.RecordWritten: lambda door, e, now: door.record_written(e.record, now),
            ev.ReplyPublished: lambda door, e, now: door.reply_published(e.request, now),
            ev.DeviceSpoke: lambda door, e, now: door.device_spoke(e.device, now),
            ev.HearingChanged: lambda door, e, _: door.hearing(hears=e.hears),
            ev.HearingProven: lambda door, e, now: door.hearing_proven(e.asked_at, now),
            **dict.fromkeys(get_args(TextEvent), Door.text_event),
        }
        return {
            **{kind: partial(self._for_door, act) for kind, act in told.items()},
            ev.IngressOpened: self._ingress_opened,
            ev.IngressLost: self._ingress_lost,
            ev.NonceReturned: self._nonce_returned,
        }

    def handle(self, event: ev.Event, now: float) -> Effects:
        """Everything that follows from `event` at `now` (seconds of a monotonic clock)."""
        effects = self._handlers[type(event)](event, now)
        for effect in list(effects):
            if isinstance(effect, CloseModel):
                effects += self._relay.model_closed(effect.deployment, now)
        return effects

    # --- questions ----------------------------------------------------------------------------

    def status(self, *, leaving: bool = False) -> NodeStatus:
        state: NodeState = "offline" if leaving else "draining" if self._draining else "online"
        return NodeStatus(
            self.node,
            self.incarnation,
            state,
            self._zone,
            self._pid,
            self._spare,
            self._brokers,
            self._capabilities,
            self._holdings.model_reports(),
            self._holdings.holding_reports(),
            tuple(
                DoorReport(name, door.oldest(), self._ingresses[name].is_held)
                for name, door in sorted(self._doors.items())
            ),
            self._holdings.seen(),
            self._upkeep,
        )

    def will(self) -> NodeStatus:
        return NodeStatus(self.node, self.incarnation, "offline", self._zone)

    def segment_loads(self) -> tuple[SegmentLoad, ...]:
        return self._relay.loads()

    def sessions(self) -> dict[str, int]:
        return self._relay.sessions()

    def door_loads(self) -> tuple[DoorLoad, ...]:
        return tuple(door.load() for _, door in sorted(self._doors.items()))

    def next_tick(self, now: float) -> float:
        """The earliest time at which `Ticked` has effects, unless another event comes before.

        Asked behind a tick: what an event leaves to the next tick is done by then. A shell that
        ticks all the time need not ask; one for which a tick costs something may.
        """
        due = [self._holdings.next_tick(), self._relay.next_tick(now)]
        due += [door.next_tick() for door in self._doors.values()]
        due += [ingress.next_tick() for ingress in self._ingresses.values()]
        for name, (_, since) in self._keepers.items():
            spec = self._holdings.spec(name)
            ends = since + (spec.deadline_s if spec is not None else 0.0) + HAND_OVER_S
            due += [ends] if ends >= now else []
        return min(due)

    @property
    def is_depended_on(self) -> bool:
        """Whether somebody would wait for it, were it gone: it has a door or a part, or is to."""
        return bool(self._doors) or self._holdings.has_parts()

    # --- tables and doors ---------------------------------------------------------------------

    def _spec_arrived(self, event: ev.SpecArrived, now: float) -> Effects:
        name = event.deployment.name
        self._withdrawals.spec_arrived(name)
        effects = self._holdings.spec_arrived(event.deployment)
        door = self._doors.get(name)
        if door is not None:
            effects += door.spec_changed(event.deployment, now)
            effects += self._tell_models(name, door, now)
        return effects + self._keep_door(name, now)

    def _spec_gone(self, event: ev.SpecGone, now: float) -> Effects:
        effects = self._holdings.spec_gone(event.deployment)
        return effects + self._keep_door(event.deployment, now)

    def _retained_read(self, _event: ev.RetainedRead, now: float) -> Effects:
        effects: Effects = []
        for name, is_over in self._withdrawals.read(self._holdings.deployments()).items():
            effects += self._holdings.spec_gone(name)
            effects += self._holdings.tables_over(name) if is_over else []
            effects += self._keep_door(name, now)
        return effects

    def _table_arrived(self, event: ev.TableArrived, now: float) -> Effects:
        name = event.deployment
        self._withdrawals.table_arrived(name)
        effects = self._holdings.document_arrived(name, event.document)
        keeper = self._keeper(name)
        last = self._keepers.get(name, (None, 0.0))[0]
        if keeper is not None and keeper != last:
            self._keepers[name] = keeper, now
            if last is not None:
                self._before[name] = last
        effects += self._keep_door(name, now)
        return effects + self._note_oldest(name, now)

    def _keep_door(self, name: str, now: float) -> Effects:
        """Opens, changes or leaves this node's door as spec and serving table say."""
        spec, table = self._holdings.spec(name), self._serving(name)
        if spec is None or table is None or table.door is None or self._keeper(name) != self._me:
            return self._leave_door(name, now)
        door = self._doors.get(name)
        if door is None:
            door = self._doors[name] = Door(
                self.node, self.incarnation, spec, self._peers, self._numbers
            )
            self._ingresses[name] = Ingress(name, _hold(spec, table.door), HOLD_BYTES)
            self._tell_models(name, door, now)  # it holds nothing that would follow
        ingress = self._ingresses[name]
        ingress.holds(_hold(spec, table.door), now)
        was_open = ingress.is_open
        effects: Effects = [ReportStatus()]
        effects += ingress.held_elsewhere(self._peers.has_ingress(name), now)
        effects += ingress.named(table.door, now)
        if was_open and not ingress.is_open:
            effects += door.ingress_lost(now)
        return effects + door.named(
            table,
            now,
            coming=self._is_coming(name),
            before=self._before.get(name),
            beside=ingress.waits,
        )

    def _note_beside(self, name: str) -> None:
        """Until a door has the ingress, the one before may have inputs in the chain too."""
        if not self._doors[name].leaving:
            self._doors[name].is_beside(another=self._ingresses[name].waits)

    def _leave_door(self, name: str, now: float) -> Effects:
        door, ingress = self._doors.get(name), self._ingresses.get(name)
        if door is None or ingress is None:
            return []
        undeployed = self._holdings.spec(name) is None
        effects: Effects = []
        if undeployed:
            effects += door.refuse_all(_UNDEPLOYED, now)
        ingress.finishing()
        if not ingress.is_connected:
            effects += door.let_go(now)
        if not undeployed:
            effects += door.replaced(self._serving(name), now)
        if not door.idle:
            return effects  # what it holds is answered first, on the connection it came by
        if self._is_to_be_taken(name, ingress) and not undeployed:
            # What comes is passed on until the next door takes it.
            return [*effects, *ingress.lets_go(door.lets_go)]
        effects += door.forget_deaths() if undeployed else []
        del self._doors[name], self._ingresses[name]
        forget = undeployed or self._has_other_session(name, ingress)
        return [*effects, *ingress.not_named(forget=forget), ReportStatus()]

    def _is_to_be_taken(self, name: str, ingress: Ingress) -> bool:
        """Whether another door is named, which takes the connection that is open here."""
        other = self._keeper(name) not in (None, self._me)
        return other and ingress.is_open and not self._has_other_session(name, ingress)

    def _has_other_session(self, name: str, ingress: Ingress) -> bool:
        """Whether inputs wait elsewhere, or will: a leader that knew of none has begun one."""
        document = self._holdings.document(name)
        table = (document.serve or document.prepare) if document is not None else None
        return table is not None and table.door is not None and ingress.is_left_behind(table.door)

    @property
    def _me(self) -> Member:
        return self.node, self.incarnation

    def _keeper(self, name: str) -> Member | None:
        """Who keeps the door, by the serving table."""
        table = self._serving(name)
        return None if table is None else table.keeper

    def _serving(self, name: str) -> Table | None:
        document = self._holdings.document(name)
        return document.serve if document else None

    def _is_coming(self, name: str) -> bool:
        """Whether another table is being prepared."""
        document = self._holdings.document(name)
        return document is not None and document.prepare is not None

    def _for_door(
        self, act: Callable[[Door, Any, float], Effects], event: DoorEvent, now: float
    ) -> Effects:
        door = self._door_of(event.deployment)
        return act(door, event, now) if door is not None else []

    def _door_of(self, model: str) -> Door | None:
        """model: as nodes call it."""
        return self._doors.get(model.removesuffix(FALLBACK_MARK))

    def _model_opened(self, event: ev.ModelOpened, now: float) -> Effects:
        effects = self._holdings.model_opened(event.deployment, event.graph, event.codec_errors)
        graph = self._holdings.graph(event.deployment)
        return effects + self._tell_model(event.deployment, graph, now)

    def _model_refused(self, event: ev.ModelRefused, now: float) -> Effects:
        effects = self._holdings.model_refused(event.deployment, event.reason, now)
        return effects + self._tell_model(event.deployment, None, now)

    def _tell_model(self, model: str, graph: ModelGraph | None, now: float) -> Effects:
        door = self._door_of(model)
        if door is None:
            return []
        return door.model_is(graph, now, fallback=model.endswith(FALLBACK_MARK))

    def _tell_models(self, name: str, door: Door, now: float) -> Effects:
        fallback = self._holdings.graph(name + FALLBACK_MARK)
        effects = door.model_is(self._holdings.graph(name), now)
        return [*effects, *door.model_is(fallback, now, fallback=True)]

    # --- ingress ------------------------------------------------------------------------------

    def _ingress_opened(self, event: ev.IngressOpened, _now: float) -> Effects:
        ingress = self._ingresses.get(event.deployment)
        return [*ingress.opened(), ReportStatus()] if ingress is not None else []

    def _nonce_returned(self, event: ev.NonceReturned, _now: float) -> Effects:
        ingress = self._ingresses.get(event.deployment)
        return ingress.nonce_returned() if ingress is not None else []

    def _ingress_lost(self, event: ev.IngressLost, now: float) -> Effects:
        door, ingress = self._doors.get(event.deployment), self._ingresses.get(event.deployment)
        if door is None or ingress is None:
            return []
        effects = door.ingress_lost(now)
        return [*effects, *ingress.lost(now), ReportStatus()]

    # --- peers --------------------------------------------------------------------------------

    def _status_arrived(self, event: ev.StatusArrived, now: float) -> Effects:
        status = event.status
        if status.node == self.node:
            self._withdrawals.heard(status)
            return self._namesake.heard(status)
        if not self._peers.heard(status):
            return []
        effects: Effects = []
        for name, door in self._doors.items():
            effects += door.peers_changed(now)
            effects += self._ingresses[name].held_elsewhere(self._peers.has_ingress(name), now)
            self._note_beside(name)
        for name in self._holdings.deployments():
            effects += self._note_oldest(name, now)
        return effects

    def _status_removed(self, event: ev.StatusRemoved, _now: float) -> Effects:
        if event.node == self.node:
            return [ReportStatus()]  # it is wrong about the living
        self._peers.removed(event.node)
        return []

    def _brokers_moved(self, event: ev.BrokersMoved, _now: float) -> Effects:
        self._brokers = event.brokers
        return [ReportStatus()]

    def _control_reconnected(self, _event: ev.ControlReconnected, _now: float) -> Effects:
        self._namesake.connected()
        self._withdrawals.connected()
        return [ReportStatus()]

    def _note_oldest(self, name: str, now: float) -> Effects:
        """Passes on to the holdings which tables are still used, as far as all doors say."""
        keeper, since = self._keepers.get(name, (None, 0.0))
        if keeper is None or keeper != self._keeper(name):
            return []
        reports = self._peers.oldest(name)
        door = self._doors.get(name)
        if door is not None:
            reports[self._me] = door.oldest()
        if keeper not in reports:
            return []
        spec = self._holdings.spec(name)
        deadline_s = spec.deadline_s if spec is not None else 0.0
        if now - since > deadline_s + HAND_OVER_S:
            return self._holdings.oldest_in_use(name, reports[keeper])
        return self._holdings.oldest_in_use(name, min(reports.values()))

    def _desired_arrived(self, event: ev.DesiredArrived, _now: float) -> Effects:
        if self._draining == event.desired.drain:
            return []
        self._draining = event.desired.drain
        return [ReportStatus()]

    # --- traffic ------------------------------------------------------------------------------

    def _activation_arrived(self, event: ev.ActivationArrived, now: float) -> Effects:
        activation = event.activation
        header = activation.header
        if header.target != DOOR:
            return self._for_segment(activation, now)
        door = self._door_of(header.deployment)
        if door is None:
            return []
        if header.kind == "done":
            return door.done(activation, now)
        if header.kind == "input":
            # Where the ingress is open, what was passed on has come by it, or will.
            drop = header.passed is not None and self._ingresses[door.deployment].is_open
            return [] if drop else door.input_passed_on(activation, now)
        if header.kind in ("stale", "lost"):
            return door.broke(header, now)
        if header.kind == "credit":
            door.alive(header, now)
        return []

    def _for_segment(self, activation: Activation, now: float) -> Effects:
        header = activation.header
        if header.kind in WORK:
            return self._relay.work_arrived(activation, now)
        if header.kind == "cancel":
            return self._relay.cancelled(header, now)
        if header.kind == "credit":
            return self._relay.credit_arrived(header, now)
        if header.kind == "state":
            return self._relay.state_arrived(activation, now)
        return []

    def _data_reconnected(self, _event: ev.DataReconnected, now: float) -> Effects:
        effects = self._relay.reconnected(now)
        for door in self._doors.values():
            effects += door.data_reconnected(now)
        return effects

    def _ticked(self, _event: ev.Ticked, now: float) -> Effects:
        effects = [*self._holdings.tick(now), *self._relay.tick(now)]
        for name, door in list(self._doors.items()):
            effects += door.tick(now)
            effects += self._ingresses[name].tick(now)
            self._note_beside(name)
            anew = self._ingresses[name].anew(now, calm=not door.answering)
            effects += [*door.ingress_lost(now), *anew, ReportStatus()] if anew else []
            if door.leaving:
                effects += self._keep_door(name, now)
        for name in self._holdings.deployments():
            effects += self._note_oldest(name, now)
        return effects


def _hold(spec: Deployment, place: DoorPlace) -> int:
    """Inputs that a door may hold. What is too much is to be refused at once, so it is read.

    In powers of two: another number takes another connection.
    """
    count = max(2, place.window * HOLD_WINDOWS) + HOLD_REFUSED + spec.may_wait
    return 1 << (count - 1).bit_length()
