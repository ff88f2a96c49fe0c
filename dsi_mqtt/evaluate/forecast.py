"""A cheap estimate of how a fixed placement would do over a whole run, to choose whom to simulate.

Second by second, on what is true: the latency of a request that waits for none, and the work that
piles up at each station (a node, its uplink, its downlink) as if inputs flowed in evenly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from dsi_mqtt.core.plan import Plan
from dsi_mqtt.core.problem import HOP_S, SEGMENT_S
from dsi_mqtt.core.table import DOOR
from dsi_mqtt.evaluate.policies import key_of
from dsi_mqtt.evaluate.truth import Truth
from dsi_mqtt.sim.node import Node

Legs = dict[str, list[int]]


def likely_best(
    truth: Truth, nodes: Mapping[str, Node], placements: Iterable[Plan], count: int
) -> list[Plan]:
    """Those that are estimated to violate the target least, the best first."""
    distinct = {key_of(each): each for each in placements}
    rated = [(share_late(truth, nodes, each), i, each) for i, each in enumerate(distinct.values())]
    return [each for _, _, each in sorted(rated, key=lambda rating: rating[:2])[:count]]


def share_late(truth: Truth, nodes: Mapping[str, Node], placement: Plan) -> float:
    """Of the inputs of a run, those that come while a request would take too long."""
    start = min(requests.from_s for requests in truth.scenario.requests)
    target = (truth.spec.sla.latency_ms or 0.0) / 1e3
    longest = truth.spec.deadline_s
    still, down, up, work = _of_a_request(placement, truth, nodes)
    backlog: defaultdict[object, float] = defaultdict(float)
    late = total = 0.0
    for second in range(int(start), int(truth.scenario.duration_s)):
        rate = truth.question(second, second + 1.0).aim.rate_per_s
        total += rate
        takes, busy = still, dict(work)
        for name, node in nodes.items():
            legs = down.get(name, []) + up.get(name, [])
            takes += len(legs) * node.link.rtt_s(second) / 2
            for way, sizes in ((node.link.down, down), (node.link.up, up)):
                bits = 8e-6 * sum(sizes.get(name, []))
                pace = way.mbit_s(second)
                if bits:
                    busy[way] = bits / pace if pace else longest
                    takes += busy[way]
        for station, spent in busy.items():
            grown = backlog[station] + rate * spent - 1.0
            backlog[station] = min(max(0.0, grown), longest)
        gone = any(truth.lost(name, second, second + 1.0) for name in placement.nodes)
        if gone or takes + sum(backlog.values()) > target:
            late += rate
    return late / total if total else 0.0


def _of_a_request(
    placement: Plan, truth: Truth, nodes: Mapping[str, Node]
) -> tuple[float, Legs, Legs, dict[object, float]]:
    """Seconds that depend on no link, bytes down and up by node, and work by node."""
    down: Legs = {}
    up: Legs = {}
    work: dict[object, float] = {}
    still = 2 * HOP_S
    for source, target, nbytes in _hops(placement, truth):
        still += HOP_S if source and target else 0.0
        if source:
            up.setdefault(source, []).append(nbytes)
        if target:
            down.setdefault(target, []).append(nbytes)
    for part in placement.segments:
        spent = nodes[part.node].processor.cost_s(truth.graph, part.units) + SEGMENT_S
        work[part.node] = work.get(part.node, 0.0) + spent
        still += spent
    return still, down, up, work


def _hops(placement: Plan, truth: Truth) -> Iterator[tuple[str, str, int]]:
    """What passes a link: from, to, bytes; an empty name is the broker's side of the door."""
    yield "", placement.door, truth.graph.input_bytes
    for hop in placement.hops:
        source = placement.door if hop.source == DOOR else hop.source
        target = placement.door if hop.target == DOOR else hop.target
        if source != target:
            yield source, target, hop.nbytes
    yield placement.door, "", truth.graph.result_bytes
