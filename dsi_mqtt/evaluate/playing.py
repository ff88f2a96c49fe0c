"""One seed of one scenario, played by every policy."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from dsi_mqtt.core.formulation import HOUR_S
from dsi_mqtt.core.plan import Plan
from dsi_mqtt.core.profile import NodeView
from dsi_mqtt.core.sizes import GIB
from dsi_mqtt.evaluate import policies, scenarios
from dsi_mqtt.evaluate.forecast import likely_best
from dsi_mqtt.evaluate.policies import Fixed, Name, Oracle
from dsi_mqtt.evaluate.truth import Truth
from dsi_mqtt.sim.scenario import Scenario
from dsi_mqtt.sim.scripted import Script
from dsi_mqtt.sim.simulation import Decision, Simulation, chain_of
from dsi_mqtt.sim.traces import Trace

# Fixed placements that are simulated whole to find the best, besides start, cloud and edge.
CANDIDATES: Final = 4
# Of the run, from which placements are taken and links are averaged.
SAMPLE_S: Final = 10
SETTLED_S: Final = 30.0

Traces = Mapping[str, Trace]
Choose = Callable[[Truth, tuple[NodeView, ...]], Plan | None]
ORACLES: Final[tuple[tuple[Name, bool], ...]] = (("causal-oracle", False), ("clairvoyant", True))
FIXED: Final[tuple[tuple[Name, Choose], ...]] = (
    ("cloud", policies.on_cloud),
    ("edge", policies.on_edge),
)


@dataclass(frozen=True, slots=True)
class Played:
    """What came of one policy. latencies_s, asked_at: of results. failed_at: of inputs that have
    none. nbytes: in order, over all links. control_bytes: beside them. deciding_s: real time of
    decisions. placement: of a fixed one, as text.
    """

    policy: Name
    asked: int
    latencies_s: array[float]
    asked_at: array[float]
    failed_at: array[float]
    nbytes: int
    control_bytes: int
    cost: float
    decisions: tuple[Decision, ...]
    deciding_s: tuple[float, ...]
    placement: str = ""

    def moves(self, kind: str, after_s: float = 0.0) -> int:
        return sum(d.kind == kind and d.at_s > after_s for d in self.decisions)

    def violations(self, target_s: float) -> int:
        late = sum(took > target_s for took in self.latencies_s)
        return late + self.asked - len(self.latencies_s)

    def took_s(self, otherwise_s: float) -> list[float]:
        """Of every input, in order of size; those without a result count with `otherwise_s`."""
        missing = self.asked - len(self.latencies_s)
        return sorted([*self.latencies_s, *[otherwise_s] * missing])


def play(
    name: str, seed: int, traces: Traces, *, stopwatch: Callable[[], float] = time.perf_counter
) -> dict[Name, Played]:
    """All policies on one scenario, by its name."""
    return play_scenario(scenarios.scenario(name, seed), traces, stopwatch=stopwatch)


def play_scenario(
    scenario: Scenario, traces: Traces, *, stopwatch: Callable[[], float] = time.perf_counter
) -> dict[Name, Played]:
    """All policies on one scenario; those that zones leave nothing to do are left out."""
    stage = _Stage(scenario, traces, stopwatch)
    adaptive, at_start = stage.adaptive()
    found: dict[Name, Played] = {"adaptive": adaptive}
    if at_start is not None:
        found["static-start"] = stage.fixed("static-start", at_start)
    known = [] if at_start is None else [at_start]
    for name, ahead in ORACLES:
        found[name], chosen = stage.oracle(name, ahead=ahead)
        known += chosen
    return found | stage.statics(found, known)


class _Stage:
    """A scenario that is played again and again."""

    def __init__(self, scenario: Scenario, traces: Traces, stopwatch: Callable[[], float]) -> None:
        self._scenario = scenario
        self._traces = traces
        self._stopwatch = stopwatch
        self._truth = Truth(scenario)
        self._name = self._truth.spec.name

    def adaptive(self) -> tuple[Played, Plan | None]:
        """The orchestrator, and what it had placed when the first input came."""
        run = Simulation(self._scenario, self._traces, stopwatch=self._stopwatch)
        run.run()
        begins = min(requests.from_s for requests in self._scenario.requests)
        before = [plan for at, _, plan in run.outcome.plans if at <= begins]
        at_start = before[-1] if before else None
        return self._played("adaptive", run, run.outcome.deciding_s), at_start

    def oracle(self, name: Name, *, ahead: bool) -> tuple[Played, list[Plan]]:
        script = Oracle(self._truth, ahead, self._stopwatch)
        run = self._scripted(script)
        return self._played(name, run, script.deciding_s), list(script.chosen.values())

    def fixed(self, name: Name, placement: Plan) -> Played:
        run = self._scripted(Fixed(placement))
        return self._played(name, run, (), _told(placement))

    def statics(self, found: Mapping[Name, Played], known: list[Plan]) -> dict[Name, Played]:
        """Cloud, edge, and the best fixed placement of all that anybody thought of."""
        run = Simulation(self._scenario, self._traces, scripts={})
        usual = self._truth.typical(run.nodes, range(0, int(self._scenario.duration_s), SAMPLE_S))
        played: dict[Name, Played] = {}
        for name, choose in FIXED:
            placement = choose(self._truth, usual)
            if placement is not None:
                played[name] = self.fixed(name, placement)
                known = [*known, placement]
        known += policies.on_single_nodes(self._truth, usual)
        likely = likely_best(self._truth, run.nodes, known, CANDIDATES)
        tried = [self.fixed("static-hindsight", placement) for placement in likely]
        others = (*played.values(), found.get("static-start"))
        tried += [replace(each, policy="static-hindsight") for each in others if each]
        target_s = (self._truth.spec.sla.latency_ms or 0.0) / 1e3
        if tried:
            played["static-hindsight"] = min(tried, key=lambda each: each.violations(target_s))
        return played

    def _scripted(self, script: Script) -> Simulation:
        run = Simulation(self._scenario, self._traces, scripts={self._name: script})
        run.run()
        return run

    def _played(
        self,
        name: Name,
        run: Simulation,
        deciding_s: Iterable[float],
        placement: str = "",
    ) -> Played:
        (answers,) = run.outcome.answers.values()
        links = [node.link for node in run.nodes.values()]
        return Played(
            name,
            answers.asked,
            answers.latencies_s,
            answers.asked_at,
            answers.failed_at,
            sum(link.up.nbytes + link.down.nbytes for link in links),
            sum(
                node.link.up.control_bytes + node.link.down.control_bytes + node.heard_bytes()
                for node in run.nodes.values()
            ),
            self._cost(run),
            tuple(run.outcome.decisions),
            tuple(deciding_s),
            placement,
        )

    def _cost(self, run: Simulation) -> float:
        """By the deployment's prices: nodes for as long as they are in the chain, and traffic."""
        prices, zones = self._truth.spec.prices, _zones(self._scenario)

        def price(of: Mapping[str, float], node: str) -> float:
            return of.get(zones[node], of.get("default", 0.0))

        plans = run.outcome.plans
        ends = [*(at for at, _, _ in plans[1:]), self._scenario.duration_s]
        hours = sum(
            max(0.0, end - at) / HOUR_S * price(prices.node_hour, node)
            for (at, _, plan), end in zip(plans, ends, strict=False)
            for node in plan.nodes
        )
        sent = sum(
            node.link.up.nbytes / GIB * price(prices.gib, name) for name, node in run.nodes.items()
        )
        return hours + sent


def _zones(scenario: Scenario) -> dict[str, str]:
    return {name: group.zone for group in scenario.nodes for name in group.names()}


def _told(placement: Plan) -> str:
    return f"{chain_of(placement)}; door {placement.door}"
