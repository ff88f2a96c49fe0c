"""The planner: which node computes which units, and where the door is, for the least latency.

`plan` is pure and exact: for the same deployment, model and nodes it gives the same plan, and no
other is faster, or the plan says by how much one might be. The latency model stands in
`core.problem`, the search in `core.search`, and both are explained in docs/planning.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from dsi_mqtt.core.account import Account, account
from dsi_mqtt.core.aim import Aim, Phase
from dsi_mqtt.core.codecs import RAW
from dsi_mqtt.core.demand import busiest_ns
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.formulation import Question, formulate
from dsi_mqtt.core.infeasible import Infeasible, Situation, explain
from dsi_mqtt.core.model import ModelGraph, UnitRange
from dsi_mqtt.core.path import Path, Step
from dsi_mqtt.core.pressure import Pressure
from dsi_mqtt.core.problem import Problem
from dsi_mqtt.core.profile import NodeView
from dsi_mqtt.core.rules import Rules, check, compile_rules
from dsi_mqtt.core.search import Outcome, best
from dsi_mqtt.core.table import DOOR
from dsi_mqtt.errors import ConfigError

__all__ = [
    "Chain",
    "Infeasible",
    "Plan",
    "PlannedHop",
    "PlannedSegment",
    "check",
    "plan",
    "promised",
]

# Expansions after which the search gives the best it has; less than a second.
EXPANSIONS: Final = 5_000
IDLE: Final = Question()


@dataclass(frozen=True, slots=True)
class PlannedSegment:
    """compute_s: of one reference row, with the segment's fixed cost."""

    units: UnitRange
    node: str
    compute_s: float


@dataclass(frozen=True, slots=True)
class PlannedHop:
    """What goes from `source` to `target`, which are nodes, or "door" at both ends of the chain.

    nbytes: of all that a request sends there. transfer_s: 0 within a node. codecs: by phase, else
    raw.
    """

    source: str
    target: str
    nbytes: int
    transfer_s: float
    codecs: tuple[tuple[Phase, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """A placement and what it is expected to take, for one reference row without queueing.

    latency_s: from the broker that has the input to the broker that has the answer:
        `access_s`, the segments and the hops. The door's own hops count, 0 where it computes.
    access_s: input to the door and answer from it.
    hops: door → first segment, between segments, last segment → door.
    optimal: no placement is faster. bound: the share of latency that the best one could save at
        most; 0 when optimal.
    considered: expansions of the search.
    busiest_s: that one request keeps the busiest node, uplink or downlink busy: its inverse is the
        rate that the placement can sustain.
    single_node_latency_s: of the best single node that may and can hold everything; None: none.
    meets_sla: the expected latency is within `sla.latency_ms`, or no such target is set.
    wait_s: that `sla.percentile` of the requests stay within under the load that was planned for;
        infinite where more come than can be served.
    account: its cost, traffic and exposure.
    """

    segments: tuple[PlannedSegment, ...]
    door: str
    latency_s: float
    access_s: float
    hops: tuple[PlannedHop, ...]
    busiest_s: float
    optimal: bool
    bound: float
    considered: int
    single_node_latency_s: float | None
    meets_sla: bool
    wait_s: float = 0.0
    account: Account | None = None

    @property
    def nodes(self) -> frozenset[str]:
        """All that take part, the door among them."""
        return frozenset({self.door, *(segment.node for segment in self.segments)})

    @property
    def compute_s(self) -> float:
        return sum(segment.compute_s for segment in self.segments)

    @property
    def transfer_s(self) -> float:
        return sum(hop.transfer_s for hop in self.hops)

    @property
    def within_s(self) -> float:
        """What most of the requests stay within, under the load."""
        return self.latency_s + self.wait_s

    def score_s(self, aim: Aim) -> float:
        """As `core.aim` defines it; infinite where more come than can be served."""
        if math.isinf(self.wait_s):
            return math.inf
        score = aim.latency * self.within_s + aim.busiest * self.busiest_s
        if self.account is not None:
            score += aim.cost * self.account.cost_per_hour + aim.exposure * self.account.exposure
        return score

    def shares(self, rate_per_s: float) -> dict[str, tuple[float, float, float]]:
        """By node, of the time that so many requests keep its processor and both ways busy."""
        busy = self.account.busy_s if self.account is not None else {}
        return {
            node: (rate_per_s * work, rate_per_s * up, rate_per_s * down)
            for node, (work, up, down) in busy.items()
        }


def plan(
    deployment: Deployment,
    graph: ModelGraph,
    nodes: Sequence[NodeView],
    *,
    held: Mapping[str, Iterable[UnitRange]] | None = None,
    expansions: int = EXPANSIONS,
    question: Question = IDLE,
    told: Question | None = None,
) -> Plan | Infeasible:
    """The best placement that satisfies the deployment, or why there is none.

    nodes: those that may be given work, in any order; draining and offline ones are left out.
    Spares among them take part only when there is no placement without them.
    held: by node, units it goes on holding until the plan serves (make before break); they take
        memory, shared with what the plan gives the node.
    expansions: limit of the search; beyond it `Plan.optimal` may be False.
    question: what is asked of it besides; by default the least latency of one row at rest. A load
        that nothing sustains is answered with the placement that sustains most, unless there is a
        target to meet.
    told: by whose load and prices its wait and account are told, where not by those of `question`.

    Raises ConfigError when the deployment contradicts itself or the model (see `rules.check`),
    or when a node is given twice or its `unit_s` does not match the model.
    """
    rules = compile_rules(deployment, graph)
    _require_matching(graph, nodes)
    kept = {
        node: frozenset(unit for units in ranges for unit in range(*units) if unit in graph.whole)
        for node, ranges in (held or {}).items()
    }
    every = Situation(graph, rules, tuple(nodes), kept, question)
    core = replace(every, nodes=tuple(node for node in nodes if not node.spare))
    complete = True
    for situation in (core, every) if len(core.nodes) < len(nodes) else (every,):
        problem, found = _found(situation, expansions)
        if found.path is not None:
            whole = replace(situation, rules=rules.without_split())
            free = whole.problem() if rules.parts else problem
            alone = free.alone(free.latency)
            route = _Route.of(problem, found.path, question)
            least = None if alone is None else alone[0]
            planned = _planned(route, found, least, deployment.sla.latency_ms, certain=complete)
            basis = question if told is None else told
            return _under_load(planned, problem, found.path, rules, basis)
        complete = complete and found.complete
    return explain(every, proven=complete)


def _found(situation: Situation, expansions: int) -> tuple[Problem, Outcome]:
    question, problem = situation.question, situation.problem()
    found = best(problem, question.aim, expansions)
    if found.path is not None or not question.aim.rate_per_s or question.aim.latency_max_s:
        return problem, found
    widest = Aim(latency=0.0, busiest=1.0)
    problem = replace(situation, question=replace(question, aim=widest)).problem()
    return problem, best(problem, widest, max(1, expansions - found.considered))


@dataclass(frozen=True, slots=True)
class Chain:
    """A placement that is given: its door, its segments in order, and by phase the codec of each
    hop between two of them.
    """

    door: str
    segments: tuple[tuple[UnitRange, str], ...]
    codecs: tuple[Mapping[str, str], ...]

    @property
    def nodes(self) -> frozenset[str]:
        return frozenset({self.door, *(node for _, node in self.segments)})


def promised(
    deployment: Deployment,
    graph: ModelGraph,
    nodes: Sequence[NodeView],
    chain: Chain,
    *,
    question: Question = IDLE,
) -> Plan | None:
    """What `chain` promises, whatever would be better; None where it breaks the rules.

    Cuts given by hand and the number of segments do not count. Raises ConfigError as `plan` does.
    """
    rules = compile_rules(deployment, graph).without_split()
    _require_matching(graph, nodes)
    problem = formulate(graph, rules, nodes, {}, question, every=True)
    path = _path_of(problem, chain, question)
    if path is None or not _obeys(problem, graph, path):
        return None
    route = _Route.of(problem, path, question)
    found = Outcome(path, math.inf, 0, complete=False, lower=0.0)
    planned = _planned(route, found, None, deployment.sla.latency_ms, certain=False)
    return _under_load(planned, problem, path, rules, question)


def _path_of(problem: Problem, chain: Chain, question: Question) -> Path | None:
    """None where a node takes no part, or a codec is not allowed."""
    numbers = {node.node: i for i, node in enumerate(problem.nodes)}
    ways = [coding.names(question.trips) for coding in problem.codings]
    if not {chain.door, *(node for _, node in chain.segments)} <= numbers.keys():
        return None
    entered = [0]
    for ((_, source), (_, target)), codecs in zip(
        pairwise(chain.segments), chain.codecs, strict=True
    ):
        asked = {phase: codecs.get(phase, RAW.name) for phase in ways[0]}
        if source != target and asked not in ways:
            return None
        entered.append(ways.index(asked) if source != target else 0)
    steps = (
        Step(numbers[node], units.stop, way)
        for (units, node), way in zip(chain.segments, entered, strict=True)
    )
    return numbers[chain.door], tuple(steps)


def _obeys(problem: Problem, graph: ModelGraph, path: Path) -> bool:
    door, steps = path
    starts = [0, *(step.stop for step in steps[:-1])]
    held: dict[int, set[int]] = {}
    for start, step in zip(starts, steps, strict=True):
        held.setdefault(step.node, set()).update(range(start, step.stop))
    return (
        door in problem.doors
        and all(problem.allowed[sorted(units), node].all() for node, units in held.items())
        and all(
            graph.held_bytes(units) <= problem.nodes[node].weight_bytes
            for node, units in held.items()
        )
        and all(budget.sums.along(door, steps) <= budget.limit for budget in problem.budgets)
    )


def _require_matching(graph: ModelGraph, nodes: Sequence[NodeView]) -> None:
    names = set()
    for node in nodes:
        if node.node in names:
            raise ConfigError(f"node {node.node}: is given twice; give each node once")
        names.add(node.node)
        if len(node.unit_s) != len(graph.units):
            raise ConfigError(
                f"node {node.node}: unit_s has {len(node.unit_s)} values for the "
                f"{len(graph.units)} units of the model; give one per unit"
            )


@dataclass(frozen=True, slots=True)
class _Route:
    """A path of the search, as names and nanoseconds."""

    door: str
    segments: tuple[PlannedSegment, ...]
    hops: tuple[PlannedHop, ...]
    access_ns: float
    latency_ns: float
    busiest_ns: float

    @classmethod
    def of(cls, problem: Problem, path: Path, question: Question) -> _Route:
        door, steps = path
        time = problem.latency
        nodes, stops = [step.node for step in steps], [step.stop for step in steps]
        starts = [0, *stops[:-1]]
        computes = [time.segment_of(*part) for part in zip(nodes, starts, stops, strict=True)]
        ways = [step.coding for step in steps] + [0]
        ends = list(zip((door, *nodes), (*nodes, door), (0, *stops), ways, strict=True))
        hops = [time.hop_of(*end) for end in ends]
        access = float(time.access[door])
        names = [problem.nodes[node].node for node in nodes]
        return cls(
            door=problem.nodes[door].node,
            segments=tuple(
                PlannedSegment(UnitRange(start, stop), name, spent / 1e9)
                for start, stop, name, spent in zip(starts, stops, names, computes, strict=True)
            ),
            hops=tuple(
                PlannedHop(
                    source,
                    target,
                    int(problem.bytes_at[way, cut]),
                    spent / 1e9,
                    tuple(problem.codings[way].names(question.trips).items())
                    if 0 < cut < problem.units
                    else (),
                )
                for source, target, cut, way, spent in zip(
                    (DOOR, *names), (*names, DOOR), (0, *stops), ways, hops, strict=True
                )
            ),
            access_ns=access,
            latency_ns=access + sum(computes) + sum(hops),
            busiest_ns=busiest_ns(problem, path),
        )


def _under_load(
    planned: Plan, problem: Problem, path: Path, rules: Rules, question: Question
) -> Plan:
    """With its wait and account, by the load and prices of `question`."""
    wait = Pressure(question.aim).wait_ns(busiest_ns(problem, path)) / 1e9
    return replace(planned, wait_s=wait, account=account(problem, path, rules, question))


def _planned(
    route: _Route,
    found: Outcome,
    alone_ns: float | None,
    target_ms: float | None,
    *,
    certain: bool,
) -> Plan:
    """certain: that spares are needed, where they take part."""
    gap = 0.0 if found.complete else 1.0 - found.lower / found.score
    return Plan(
        segments=route.segments,
        door=route.door,
        latency_s=route.latency_ns / 1e9,
        access_s=route.access_ns / 1e9,
        hops=route.hops,
        busiest_s=route.busiest_ns / 1e9,
        optimal=found.complete and certain,
        bound=min(1.0, max(0.0, gap)),
        considered=found.considered,
        single_node_latency_s=None if alone_ns is None else alone_ns / 1e9,
        meets_sla=target_ms is None or route.latency_ns <= target_ms * 1e6,
    )
