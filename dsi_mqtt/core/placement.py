"""What a placement is and promises: as the planner tells it, and as it is asked about one.

The latency model stands in `core.problem`; what it comes to under load in `core.queueing` and, of
generations, in `core.cadence`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from dsi_mqtt.core.account import Account, account
from dsi_mqtt.core.aim import Aim, Phase
from dsi_mqtt.core.cadence import Cadence
from dsi_mqtt.core.codecs import RAW
from dsi_mqtt.core.deployment import Sla
from dsi_mqtt.core.formulation import Question
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.path import Path, Step
from dsi_mqtt.core.pressure import Pressure
from dsi_mqtt.core.problem import Problem
from dsi_mqtt.core.rules import Rules
from dsi_mqtt.core.search import Outcome
from dsi_mqtt.core.table import DOOR
from dsi_mqtt.core.ways import Way, Weights, busy, mean, ways_of


@dataclass(frozen=True, slots=True)
class PlannedSegment:
    """compute_s: of one reference row on `node`, with the segment's fixed cost. replicas: all nodes
    that serve it, with weights; empty: `node` alone.
    """

    units: UnitRange
    node: str
    compute_s: float
    replicas: tuple[tuple[str, float], ...] = ()

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(node for node, _ in self.replicas) or (self.node,)


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
class Chain:
    """A placement that is given: its door, its segments in order, and by phase the codec of each
    hop between two of them. replicas: of each segment, as in `PlannedSegment`; empty: none has any.
    """

    door: str
    segments: tuple[tuple[UnitRange, str], ...]
    codecs: tuple[Mapping[str, str], ...]
    replicas: tuple[tuple[tuple[str, float], ...], ...] = ()

    @property
    def nodes(self) -> frozenset[str]:
        beside = (node for replicas in self.replicas for node, _ in replicas)
        return frozenset({self.door, *(node for _, node in self.segments), *beside})


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
    meets_sla: what most requests stay within is what the deployment asks for, if it does.
    wait_s: that `sla.percentile` of the requests stay within under the load that was planned for;
        infinite where more come than can be served.
    account: its cost, traffic and exposure.
    cadence: of generations, what texts may expect; then the times above are those of a whole text
        that is alone, and the wait is what others make of it.
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
    cadence: Cadence | None = None

    @property
    def chain(self) -> Chain:
        return Chain(
            self.door,
            tuple((segment.units, segment.node) for segment in self.segments),
            tuple(dict(hop.codecs) for hop in self.hops[1:-1]),
            tuple(segment.replicas for segment in self.segments)
            if any(segment.replicas for segment in self.segments)
            else (),
        )

    @property
    def sustained(self) -> bool:
        """Whether it bears the load that it was planned for."""
        return not math.isinf(self.wait_s)

    @property
    def rate_per_s(self) -> float:
        """The most requests that can be served for long."""
        if self.cadence is not None:
            return self.cadence.rate_per_s
        return 1 / self.busiest_s if self.busiest_s > 0 else math.inf

    @property
    def nodes(self) -> frozenset[str]:
        """All that take part, the door among them."""
        return frozenset({self.door, *(node for part in self.segments for node in part.nodes)})

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


def weights_of(problem: Problem, chain: Chain) -> tuple[Weights, ...]:
    """Of each segment of a chain that is a path of `problem`."""
    if not chain.replicas:
        return ((),) * len(chain.segments)
    numbers = {node.node: i for i, node in enumerate(problem.nodes)}
    return tuple(
        tuple((numbers[node], weight) for node, weight in replicas) for replicas in chain.replicas
    )


def path_of(problem: Problem, chain: Chain, question: Question) -> Path | None:
    """None where a node takes no part, or a codec is not allowed."""
    numbers = {node.node: i for i, node in enumerate(problem.nodes)}
    ways = [coding.names(question.trips) for coding in problem.codings]
    if not chain.nodes <= numbers.keys():
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


@dataclass(frozen=True, slots=True)
class Route:
    """A path of the search, as names and nanoseconds. hops, and times of segments, are those of its
    own nodes, the rest is of the mean request.
    """

    door: str
    segments: tuple[PlannedSegment, ...]
    hops: tuple[PlannedHop, ...]
    access_ns: float
    latency_ns: float
    found: Outcome
    ways: tuple[Way, ...]

    @classmethod
    def of(
        cls,
        problem: Problem,
        found: Outcome,
        question: Question,
        weights: tuple[Weights, ...] = (),
    ) -> Route:
        """found: has a path. weights: of replicas, by segment; empty: there are none."""
        assert found.path is not None  # noqa: S101 - so it is asked
        door, steps = found.path
        time = problem.latency
        nodes, stops = [step.node for step in steps], [step.stop for step in steps]
        starts = [0, *stops[:-1]]
        computes = [time.segment_of(*part) for part in zip(nodes, starts, stops, strict=True)]
        codings = [step.coding for step in steps] + [0]
        ends = list(zip((door, *nodes), (*nodes, door), (0, *stops), codings, strict=True))
        hops = [time.hop_of(*end) for end in ends]
        access = float(time.access[door])
        names = [problem.nodes[node].node for node in nodes]
        weights = weights or ((),) * len(steps)
        ways = ways_of(found.path, weights)
        return cls(
            door=problem.nodes[door].node,
            segments=tuple(
                PlannedSegment(
                    UnitRange(start, stop),
                    name,
                    spent / 1e9,
                    tuple((problem.nodes[node].node, weight) for node, weight in replicas),
                )
                for start, stop, name, spent, replicas in zip(
                    starts, stops, names, computes, weights, strict=True
                )
            ),
            hops=tuple(
                PlannedHop(
                    source,
                    target,
                    round(float(problem.bytes_at[way, cut])),
                    spent / 1e9,
                    tuple(problem.codings[way].names(question.trips).items())
                    if 0 < cut < problem.units
                    else (),
                )
                for source, target, cut, way, spent in zip(
                    (DOOR, *names), (*names, DOOR), (0, *stops), codings, hops, strict=True
                )
            ),
            access_ns=access,
            latency_ns=mean(time, ways),
            found=found,
            ways=ways,
        )

    def under_load(self, problem: Problem, rules: Rules, question: Question, sla: Sla) -> Plan:
        """As a plan, with its wait and account by the load and prices of `question`."""
        busiest, found = float(busy(problem, self.ways).max()), self.found
        within = self.latency_ns + (wait := Pressure(question.aim).wait_ns(busiest))
        gap = 0.0 if found.complete else 1.0 - found.lower / found.score
        return Plan(
            segments=self.segments,
            door=self.door,
            latency_s=self.latency_ns / 1e9,
            access_s=self.access_ns / 1e9,
            hops=self.hops,
            busiest_s=busiest / 1e9,
            optimal=found.complete,
            bound=min(1.0, max(0.0, gap)),
            considered=found.considered,
            single_node_latency_s=None,
            meets_sla=sla.latency_ms is None or within <= sla.latency_ms * 1e6,
            wait_s=wait / 1e9,
            account=account(problem, self.ways, rules, question),
        )
