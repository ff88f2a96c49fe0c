"""A scenario, run: everything put together, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from random import Random
from typing import Final

from dsi_mqtt.core.aim import Texts
from dsi_mqtt.core.decisions import Decided, Noticed
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.node import Capabilities
from dsi_mqtt.core.plan import Plan
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.core.table import Table, TableDocument
from dsi_mqtt.errors import ConfigError
from dsi_mqtt.sim.arrivals import arrivals
from dsi_mqtt.sim.broker import Broker
from dsi_mqtt.sim.clock import Clock
from dsi_mqtt.sim.devices import WAITS_BEYOND_S, Answers, Device, Stream
from dsi_mqtt.sim.engine import Graphs, Processor
from dsi_mqtt.sim.faults import Faults, Operator
from dsi_mqtt.sim.journal import Journal
from dsi_mqtt.sim.links import Disturbance, Figures, Link
from dsi_mqtt.sim.node import Node
from dsi_mqtt.sim.orchestrator import SimOrchestrator
from dsi_mqtt.sim.place import Place
from dsi_mqtt.sim.scenario import Group, Requests, Scenario
from dsi_mqtt.sim.scripted import FreeBroker, FreeNode, Script, ScriptedOrchestrator
from dsi_mqtt.sim.strays import Strays
from dsi_mqtt.sim.texts import lengths
from dsi_mqtt.sim.traces import SYNTHETIC, Trace, made_up

TELEMETRY_S: Final = 0.5
# What a node may hold where tables are dictated: their script minds what it has room for.
WARM_BYTES: Final = 2**50
# Nodes start within so long.
START_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Decision:
    """At `at_s` of the simulation. chain: what is to serve where, where that was decided."""

    at_s: float
    deployment: str
    kind: str
    reason: str
    chain: str = ""


@dataclass(slots=True)
class Outcome:
    """What came of a scenario, by deployment and by node.

    plans: what was decided to serve, when, for which deployment.
    deciding_s: real time of the orchestrators' ticks that decided something, where a stopwatch
    was given.
    """

    answers: dict[str, Answers] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    notices: list[Decision] = field(default_factory=list)
    documents: dict[str, TableDocument] = field(default_factory=dict)
    plans: list[tuple[float, str, Plan]] = field(default_factory=list)
    deciding_s: list[float] = field(default_factory=list)

    def serving(self, deployment: str) -> Table | None:
        document = self.documents.get(deployment)
        return document.serve if document else None

    def moves(self, deployment: str) -> int:
        kinds = [d.kind for d in self.decisions if d.deployment == deployment]
        return sum(kind in ("remap", "resplit") for kind in kinds)


class Simulation:
    """One run. traces: by name, of a folder; `journal` gets every event.

    scripts: by deployment, what is to serve, in place of all orchestrators (`sim.scripted`).
    stopwatch: a clock of the real time, by which it is told how long decisions took to make.
    Raises ConfigError where the scenario names what is not there.
    """

    def __init__(
        self,
        scenario: Scenario,
        traces: Mapping[str, Trace] | None = None,
        journal: Journal | None = None,
        *,
        scripts: Mapping[str, Script] | None = None,
        stopwatch: Callable[[], float] | None = None,
    ) -> None:
        self.scenario = scenario
        self.clock = Clock()
        self.journal = journal or Journal()
        self._scripts = scripts
        self._stopwatch = stopwatch
        self._node_type = Node if scripts is None else FreeNode
        self.broker = (Broker if scripts is None else FreeBroker)(self.clock, self.journal)
        self.outcome = Outcome(documents=self.broker.documents)
        self.orchestrators: list[SimOrchestrator] = []
        self._traces = traces or {}
        self._started = 0
        self._graphs = Graphs()
        if scripts is not None and scenario.operations:
            raise ConfigError("operations: are not played where a script dictates tables")
        numbers = count(1)
        place = Place(
            self.clock,
            self.broker,
            self.journal,
            self._graphs,
            scenario.open_s,
            lambda: next(numbers),
            self.random,
        )
        for group in scenario.nodes:
            for name in group.names():
                self.broker.nodes[name] = self._node(place, name, group)
        self._operator = Operator(self.clock, self.broker, self.journal)
        Strays(self.clock, self.broker)
        self._begin()
        self._add_devices()
        self._add_faults()

    @property
    def nodes(self) -> dict[str, Node]:
        return self.broker.nodes

    def run(self) -> Outcome:
        """To the end of the requests, and until each has its answer."""
        self.clock.run(self.scenario.duration_s)
        longest = max((spec.deadline_s for spec in self.scenario.all_deployments()), default=0.0)
        end = self.clock.now + longest + 2 * WAITS_BEYOND_S
        while self.clock.now < end and self.unsettled:
            self.clock.run(min(self.clock.now + 1.0, end))
        return self.outcome

    @property
    def unsettled(self) -> int:
        """Inputs without an answer."""
        return sum(found.asked - found.settled for found in self.outcome.answers.values())

    # --- the beginning ------------------------------------------------------------------------

    def random(self, purpose: str) -> Random:
        """Of its own for each purpose, so that one draws no other's numbers."""
        return Random(f"{self.scenario.seed}/{purpose}")  # noqa: S311 - it must be repeatable

    def _node(self, place: Place, name: str, group: Group) -> Node:
        line, random = group.link, self.random(f"node {name}")
        figures = Figures(line.up_mbit_s, line.down_mbit_s, line.rtt_ms)
        trace = self._trace(line.trace, random)
        offset = random.randrange(len(trace)) if trace is not None else 0
        link = Link(figures, trace, offset, self._disturbances(name))
        capabilities = Capabilities(
            weight_bytes=int(group.memory_mib * MIB),
            memory_bytes=int(group.memory_mib * MIB),
            gflops=group.gflops,
            memory_gib_s=group.memory_gib_s,
            overhead_ms=group.overhead_ms,
        )
        if self._scripts is not None:  # a table that is over takes no room away from the next
            capabilities = replace(capabilities, weight_bytes=WARM_BYTES)
        node = self._node_type(place, name, link, Processor(group, capabilities, random))
        self.clock.at(random.random() * START_S, node.start)
        return node

    def _trace(self, name: str | None, random: Random) -> Trace | None:
        if name is None:
            return None
        if name in self._traces:
            return self._traces[name]
        if name == "any" and self._traces:
            return self._traces[random.choice(sorted(self._traces))]
        if name in SYNTHETIC:
            return made_up(name, random)
        known = ", ".join((*SYNTHETIC, *(("any",) if self._traces else ()), *sorted(self._traces)))
        raise ConfigError(f"link.trace: there is no trace {name!r:.40}; known are {known}")

    def _disturbances(self, node: str) -> list[Disturbance]:
        return [
            Disturbance(
                fault.at_s,
                fault.at_s + (fault.for_s or 0.0),
                0.0 if fault.cut else fault.factor,
            )
            for fault in self.scenario.faults
            if node in (fault.cut, fault.throttle)
        ]

    def _begin(self) -> None:
        for _ in range(self.scenario.orchestrators if self._scripts is None else 0):
            self._add_orchestrator()
        for name, script in (self._scripts or {}).items():
            self._add_script(name, script)
        for spec in self.scenario.deployments:
            self.clock.at(START_S, self._operator.deploy, spec)
        if self._scripts is None:
            self.clock.after(TELEMETRY_S, self._tell_telemetry)

    def _add_script(self, deployment: str, script: Script) -> None:
        spec = next(spec for spec in self.scenario.deployments if spec.name == deployment)
        graph = self._graphs.of(spec)
        ScriptedOrchestrator(
            spec, graph, script, clock=self.clock, broker=self.broker, told=self._told
        )

    def _add_orchestrator(self) -> None:
        self._started += 1
        name = f"orchestrator-{self._started}"
        random = self.random(name)
        told = SimOrchestrator(name, self.clock, self.broker, self._told, random)
        told.time_with(self._stopwatch, self.outcome.deciding_s)
        self.orchestrators.append(told)

    def _add_faults(self) -> None:
        faults = Faults(
            self.clock, self.broker, self.journal, self.orchestrators, self._add_orchestrator
        )
        for fault in self.scenario.faults:
            faults.plan(fault)
        for operation in self.scenario.operations:
            self._operator.plan(operation)

    def _add_devices(self) -> None:
        specs = self.scenario.first_deployments()
        for name in specs:
            self.outcome.answers[name] = Answers()
        for number, asked in enumerate(self.scenario.requests):
            until = self.scenario.duration_s if asked.until_s is None else asked.until_s
            times = arrivals(asked, until, self.random(f"arrivals {number}"))
            stream = self._stream(asked, specs[asked.deployment], times, number)
            answers = self.outcome.answers[asked.deployment]
            name = f"device-{number + 1}"
            random = self.random(name)
            Device(name, stream, answers, clock=self.clock, broker=self.broker, random=random)

    def _stream(
        self, asked: Requests, spec: Deployment, times: Iterator[float], number: int
    ) -> Stream:
        graph, random = self._graphs.of(spec), self.random(f"texts {number}")
        if graph.vocabulary is None:
            nbytes = graph.input_bytes if asked.bytes is None else asked.bytes
            return Stream(spec, nbytes, times)
        wanted = partial(lengths, asked, Texts.of(spec), spec.limits, random)
        return Stream(spec, 0, times, wanted, graph.vocabulary.size)

    # --- what goes on -------------------------------------------------------------------------

    def _tell_telemetry(self) -> None:
        for node in self.nodes.values():
            telemetry = node.telemetry()
            if telemetry is not None:
                for watcher in self.broker.watchers:
                    watcher.telemetry(telemetry)
        self.clock.after(TELEMETRY_S, self._tell_telemetry)
        self.clock.after(TELEMETRY_S / 2, self._tell_beats)

    def _tell_beats(self) -> None:
        for name, node in self.nodes.items():
            incarnation = node.beat()
            if incarnation is not None:
                for watcher in self.broker.watchers:
                    watcher.beat(name, incarnation)

    def _told(self, told: Decided | Noticed) -> None:
        now = self.clock.now
        if isinstance(told, Decided):
            chain = chain_of(told.plan) if told.plan else ""
            if told.plan is not None:
                self.outcome.plans.append((now, told.deployment, told.plan))
            decision = Decision(now, told.deployment, told.kind, told.reason, chain)
            self.outcome.decisions.append(decision)
            nodes = [segment.node for segment in told.plan.segments] if told.plan else []
        else:
            decision = Decision(now, told.deployment, "notice", told.sentence)
            self.outcome.notices.append(decision)
            nodes = []
        self.journal.write(
            now,
            "decided",
            deployment=decision.deployment,
            kind=decision.kind,
            reason=decision.reason,
            nodes=nodes,
        )


def chain_of(plan: Plan) -> str:
    """What runs where, as text."""
    return " → ".join(f"{segment.units} {segment.node}" for segment in plan.segments)
