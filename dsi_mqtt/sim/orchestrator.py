"""A simulated orchestrator: the machine, beside the broker, ticked as its process ticks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final

from dsi_mqtt.core.decisions import (
    ClearDocument,
    Decided,
    Noticed,
    PublishDocument,
    PublishExplanations,
    PublishSpec,
)
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.leadership import GONE, DropLead, PublishLeader, TakeLead
from dsi_mqtt.core.node import Leader, NodeStatus, Telemetry
from dsi_mqtt.core.orchestrator import Orchestrator, OrchestratorEffects
from dsi_mqtt.core.table import TableDocument
from dsi_mqtt.sim.broker import Broker
from dsi_mqtt.sim.clock import TICKS_PER_S, Clock, tick_behind
from dsi_mqtt.sim.connecting import Tries

# To open a connection to the broker beside it.
CONNECTS_S: Final = 0.005
# The wall clock at the beginning, from which terms are made.
UNIX_S: Final = 1_700_000_000


class SimOrchestrator:
    """One process. told: what a log gets."""

    def __init__(
        self,
        name: str,
        clock: Clock,
        broker: Broker,
        told: Callable[[Decided | Noticed], None],
        random: Random,
    ) -> None:
        self.name = name
        self._clock = clock
        self._broker = broker
        self._machine = Orchestrator(name, secrets(name).__next__)
        self._alive = True
        self._ticks = False
        self._tries = Tries(random)
        self._farewell: Leader | None = None
        self._stopwatch: Callable[[], float] | None = None
        self._spent: list[float] = []
        self._perform: dict[type, Callable[[Any], object]] = {
            TakeLead: lambda e: clock.after(CONNECTS_S, self._take_lead, e),
            DropLead: lambda _: self._drop_lead(),
            PublishLeader: lambda e: broker.publish_leader(e.leader),
            PublishDocument: lambda e: broker.publish_document(e.deployment, e.document),
            PublishSpec: lambda e: broker.publish_spec(e.spec),
            ClearDocument: lambda e: broker.clear_document(e.deployment, e.session),
            PublishExplanations: lambda _: None,  # nobody reads them here
            Decided: told,
            Noticed: told,
        }
        clock.after(CONNECTS_S, self._connect)

    def time_with(self, stopwatch: Callable[[], float] | None, spent: list[float]) -> None:
        """Adds to `spent` what each tick that decides something takes, by that clock (s)."""
        self._stopwatch, self._spent = stopwatch, spent

    @property
    def leading(self) -> bool:
        return self._machine.leading

    def end(self) -> None:
        self._alive = False
        self._broker.watcher_gone(self)

    def _connect(self) -> None:
        """All that is retained comes at once."""
        machine, broker, now = self._machine, self._broker, self._clock.now
        if not self._alive:
            return
        if not broker.is_there("control"):
            self._clock.after(self._tries.wait_s(now), self._connect)
            return
        self._tries.connected(now)
        machine.connected(now)
        broker.watchers.append(self)
        for status in list(broker.statuses.values()):
            self._act(machine.status_arrived(status, now))
        for spec in broker.specs.values():
            machine.spec_arrived(spec)
        for name, document in list(broker.documents.items()):
            self._act(machine.document_seen(name, document, now))
        if broker.leader is not None:
            self._act(machine.leader_seen(broker.leader, now))
        machine.retained_read(now)
        if not self._ticks:
            self._ticks = True
            self._tick(tick_behind(now))

    def _tick(self, number: int) -> None:
        if self._alive:
            now, stopwatch = self._clock.now, self._stopwatch
            began = stopwatch() if stopwatch is not None else 0.0
            effects = self._machine.tick(now, UNIX_S + int(now))
            if stopwatch is not None and any(isinstance(effect, Decided) for effect in effects):
                self._spent.append(stopwatch() - began)
            self._act(effects)
            self._clock.at((number + 1) / TICKS_PER_S, self._tick, number + 1)

    def _take_lead(self, effect: TakeLead) -> None:
        if not self._alive:
            return
        if not self._broker.is_there("control"):
            self.lead_lost()
            return
        self._farewell = Leader(effect.term, effect.nonce, GONE)
        self._broker.take_lead(self)
        self._act(self._machine.lead_taken(self._clock.now))

    def _drop_lead(self) -> None:
        if self._farewell is not None:
            self._broker.drop_lead(self, self._farewell)

    def _act(self, effects: OrchestratorEffects) -> None:
        for effect in effects:
            self._perform[type(effect)](effect)

    # --- what the broker says -----------------------------------------------------------------

    def status(self, status: NodeStatus) -> None:
        self._act(self._machine.status_arrived(status, self._clock.now))

    def telemetry(self, telemetry: Telemetry) -> None:
        self._act(self._machine.telemetry_arrived(telemetry, self._clock.now))

    def beat(self, node: str, incarnation: str) -> None:
        self._machine.beat_arrived(node, incarnation, self._clock.now)

    def spec(self, spec: Deployment) -> None:
        self._machine.spec_arrived(spec)

    def spec_gone(self, deployment: str) -> None:
        self._machine.spec_gone(deployment)

    def document_gone(self, deployment: str) -> None:
        self._machine.document_lost(deployment, self._clock.now)

    def document(self, deployment: str, document: TableDocument) -> None:
        self._act(self._machine.document_seen(deployment, document, self._clock.now))

    def leader(self, leader: Leader) -> None:
        self._act(self._machine.leader_seen(leader, self._clock.now))

    def lead_lost(self) -> None:
        self._act(self._machine.lead_lost(self._clock.now))

    def broker_gone(self) -> None:
        """Both connections have ended."""
        self._broker.watchers.remove(self)
        self._machine.disconnected()
        self.lead_lost()
        self._clock.after(self._tries.wait_s(self._clock.now), self._connect)


def secrets(name: str) -> Iterator[str]:
    """None of them is one: nobody can guess in a simulation, and runs must be alike."""
    number = 0
    while True:
        number += 1
        yield f"{name}-{number}"
