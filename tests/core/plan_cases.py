"""Cases for the planner, and an oracle that tries all: every cut, every node, every door.

The oracle knows the latency model and the rules from their description only; it shares no code
with the planner. Figures are chosen so that every latency is a whole number of nanoseconds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from dsi_mqtt.core.deployment import Deployment, Policy, Privacy, SplitPart, parse_units
from dsi_mqtt.core.model import ModelGraph, ModelSpec, Tie, Unit, UnitRange
from dsi_mqtt.core.plan import Infeasible, Plan, plan
from dsi_mqtt.core.profile import Link, NodeView

KIB = 1 << 10
MIB = 1 << 20
HOP_NS = 500_000
SEGMENT_NS = 300_000

Held = Mapping[str, list[UnitRange]]


@dataclass(frozen=True)
class Case:
    deployment: Deployment
    graph: ModelGraph
    nodes: tuple[NodeView, ...]
    held: Held

    def planned(self) -> Plan | Infeasible:
        return plan(self.deployment, self.graph, self.nodes, held=self.held)


# --- the oracle -----------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Best:
    latency_ns: int
    segments: int
    path: tuple[str | int, ...]


def oracle(case: Case) -> Best | None:
    """The best placement without spares, or with them where there is none."""
    plain = [node for node in case.nodes if not node.spare]
    return _best(case, plain) or _best(case, list(case.nodes))


def _best(case: Case, nodes: list[NodeView]) -> Best | None:
    nodes = [node for node in nodes if node.node not in case.deployment.policy.forbid]
    return min(
        (
            Best(_latency_ns(case.graph, door, chain), len(chain), _path(door, chain))
            for chain in _chains(case, nodes)
            for door in nodes
            if door_ok(case, door) and _linked([door, *(node for _, node in chain)])
        ),
        default=None,
    )


Chain = tuple[tuple[UnitRange, NodeView], ...]


def _chains(case: Case, nodes: list[NodeView]) -> Iterator[Chain]:
    units = len(case.graph.units)
    for cuts in _cuts(case.deployment, units):
        ranges = [UnitRange(a, b) for a, b in itertools.pairwise((0, *cuts, units))]
        for chosen in itertools.product(nodes, repeat=len(ranges)):
            chain = tuple(zip(ranges, chosen, strict=True))
            neighbours = any(a is b for a, b in itertools.pairwise(chosen))
            if neighbours and case.deployment.split is None:
                continue
            if _obeys(case.deployment, chain) and _fits(case, chain):
                yield chain


def _cuts(deployment: Deployment, units: int) -> Iterator[tuple[int, ...]]:
    most = deployment.policy.max_segments or units
    if deployment.split is not None:
        stops = [parse_units(part.units, "").stop for part in deployment.split]
        if len(stops) <= most:
            yield tuple(stops[:-1])
        return
    for number in range(min(most, units)):
        yield from itertools.combinations(range(1, units), number)


def _obeys(deployment: Deployment, chain: Chain) -> bool:
    where = {unit: node for units, node in chain for unit in range(*units)}
    for text, zones in deployment.privacy.units.items():
        if any(where[unit].zone not in zones for unit in range(*parse_units(text, ""))):
            return False
    for text, name in deployment.policy.pin.items():
        if any(where[unit].node != name for unit in range(*parse_units(text, ""))):
            return False
    parts = deployment.split or ()
    return not parts or all(
        node.node in part.nodes for (_, node), part in zip(chain, parts, strict=True)
    )


def door_ok(case: Case, door: NodeView) -> bool:
    last = len(case.graph.units) - 1
    return all(
        door.zone in zones
        for text, zones in case.deployment.privacy.units.items()
        if 0 in (units := parse_units(text, "")) or last in units
    )


def _linked(nodes: list[NodeView]) -> bool:
    return all(
        not node.unfit and node.link.up_mbit_s > 0 and node.link.down_mbit_s > 0 for node in nodes
    )


def _fits(case: Case, chain: Chain) -> bool:
    for node in {view.node: view for _, view in chain}.values():
        units = {u for held in case.held.get(node.node, []) for u in range(*held)}
        units |= {u for part, view in chain if view.node == node.node for u in range(*part)}
        if _weight(case.graph, units) > node.weight_bytes:
            return False
    return True


def _weight(graph: ModelGraph, units: set[int]) -> int:
    alone = sum(graph.units[unit].weight_bytes for unit in units)
    shared = sum(max(0, len(units & set(t.units)) - 1) * t.weight_bytes for t in graph.ties)
    return alone - shared


def _latency_ns(graph: ModelGraph, door: NodeView, chain: Chain) -> int:
    total = _arrive(door, graph.input_bytes) + HOP_NS + _leave(door, graph.result_bytes) + HOP_NS
    at, nbytes = door, graph.input_bytes
    for units, node in chain:
        total += _hop(at, node, nbytes) + SEGMENT_NS
        total += sum(round(node.unit_s[unit] * 1e9) for unit in range(*units))
        at, nbytes = node, graph.units[units.stop - 1].output_bytes
    return total + _hop(at, door, graph.result_bytes)


def _hop(source: NodeView, target: NodeView, nbytes: int) -> int:
    if source.node == target.node:
        return 0
    return _leave(source, nbytes) + _arrive(target, nbytes) + HOP_NS


def _leave(node: NodeView, nbytes: int) -> int:
    return round(node.link.rtt_ms * 1e6 / 2 + nbytes * 8 / node.link.up_mbit_s * 1e3)


def _arrive(node: NodeView, nbytes: int) -> int:
    return round(node.link.rtt_ms * 1e6 / 2 + nbytes * 8 / node.link.down_mbit_s * 1e3)


def _path(door: NodeView, chain: Chain) -> tuple[str | int, ...]:
    return (door.node, *(step for units, node in chain for step in (node.node, units.stop)))


def found_path(found: Plan) -> tuple[str | int, ...]:
    return (found.door, *(step for s in found.segments for step in (s.node, s.units.stop)))


# --- instances ------------------------------------------------------------------------------------

NAMES = ("a", "b", "c", "d")
ZONES = ("x", "y")
RATES = (8.0, 80.0, 800.0, 80.0, 800.0, math.inf)
SIZES = st.sampled_from([0, 1_000, 100_000])


def once_in(draw: st.DrawFn, times: int) -> bool:
    return draw(st.integers(1, times)) == times


@st.composite
def ranges(draw: st.DrawFn, units: int) -> str:
    start = draw(st.integers(0, units - 1))
    return f"{start}:{draw(st.integers(start + 1, units))}"


@st.composite
def links(draw: st.DrawFn) -> Link:
    if once_in(draw, 12):
        return Link(up_mbit_s=0.0)
    rates = st.sampled_from(RATES)
    return Link(draw(rates), draw(rates), draw(st.sampled_from([0.0, 1.0, 4.0, 20.0])))


@st.composite
def node_views(draw: st.DrawFn, name: str, graph: ModelGraph) -> NodeView:
    costs = st.sampled_from([0.0, 0.001, 0.002, 0.005, 0.01, 0.02])
    units = len(graph.units)
    eighths = draw(st.sampled_from([0, 2, 3, 3, 4, 5, 6, 8]))
    return NodeView(
        node=name,
        incarnation="1",
        zone=draw(st.sampled_from(ZONES)),
        weight_bytes=sum(unit.weight_bytes for unit in graph.units) * eighths // 8,
        unit_s=tuple(draw(st.lists(costs, min_size=units, max_size=units))),
        link=draw(links()),
        spare=once_in(draw, 5),
        unfit="is online but refuses the model: it is not here" if once_in(draw, 12) else "",
    )


@st.composite
def graphs(draw: st.DrawFn) -> ModelGraph:
    units = draw(st.sampled_from([1, 2, 3, 4, 4, 5, 5]))
    weights = [draw(st.sampled_from([0, 2, 3, 3, 4, 6])) * 100 * KIB for _ in range(units)]
    ties: tuple[Tie, ...] = ()
    if units > 1 and once_in(draw, 4):
        tied = draw(st.sets(st.integers(0, units - 1), min_size=2))
        ties = (Tie(tuple(sorted(tied)), min(weights[unit] for unit in tied) // 2),)
    return ModelGraph(
        digest="sha256:00",
        tier="fake",
        units=tuple(Unit(f"u{i}", weight, 0.0, draw(SIZES)) for i, weight in enumerate(weights)),
        ties=ties,
        input_bytes=draw(SIZES),
        result_bytes=draw(SIZES),
    )


@st.composite
def splits(draw: st.DrawFn, units: int) -> tuple[SplitPart, ...]:
    cuts = sorted(draw(st.sets(st.integers(1, units - 1)))) if units > 1 else []
    some = st.sets(st.sampled_from(NAMES), min_size=1).map(lambda names: tuple(sorted(names)))
    return tuple(
        SplitPart(f"{a}:{b}", draw(some)) for a, b in itertools.pairwise((0, *cuts, units))
    )


@st.composite
def deployments(draw: st.DrawFn, units: int) -> Deployment:
    """Each kind of rule now and then, contradictions included."""
    zones = st.sampled_from([("x",), ("y",), ("x", "y")])
    rules = [(draw(ranges(units)), draw(zones)) for _ in range(draw(st.sampled_from([0, 0, 1, 2])))]
    pinned = {draw(ranges(units)): draw(st.sampled_from(NAMES))} if once_in(draw, 6) else {}
    return Deployment(
        "case",
        ModelSpec(tier="fake"),
        privacy=Privacy(dict(rules)),
        policy=Policy(
            max_segments=draw(st.integers(1, units)) if once_in(draw, 4) else None,
            pin=pinned,
            forbid=(draw(st.sampled_from(NAMES)),) if once_in(draw, 10) else (),
        ),
        split=draw(splits(units)) if once_in(draw, 6) else None,
    )


@st.composite
def cases(draw: st.DrawFn, *, rules: bool = True) -> Case:
    graph = draw(graphs())
    units = len(graph.units)
    names = NAMES[: draw(st.sampled_from([0, 1, 2, 3, 3, 4, 4, 4, 4]))]
    views = [draw(node_views(name, graph)) for name in names]
    if once_in(draw, 3):
        # Alike but for the name: equal latencies, and nodes that stand for each other.
        views = [replace(views[i % 2], node=view.node) for i, view in enumerate(views)]
    held = {}
    if names and once_in(draw, 4):
        held = {draw(st.sampled_from(names)): [parse_units(draw(ranges(units)), "")]}
    deployment = Deployment("case", ModelSpec(tier="fake"))
    return Case(draw(deployments(units)) if rules else deployment, graph, tuple(views), held)
