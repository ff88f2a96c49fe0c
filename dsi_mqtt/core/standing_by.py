"""Who holds a segment's weights warm beside the node that computes it, and takes over when it dies.

A stand-by has nothing to load when its turn comes, so that a chain with a dead node serves again
as soon as a table says so. It takes memory and no time: what the plan itself needs comes first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from dsi_mqtt.core.deployment import Deployment, SplitPart
from dsi_mqtt.core.model import ModelGraph, UnitRange
from dsi_mqtt.core.placement import Plan
from dsi_mqtt.core.profile import NodeView
from dsi_mqtt.core.rules import Rules, compile_rules
from dsi_mqtt.core.table import Table


def standbys_of(
    spec: Deployment,
    graph: ModelGraph,
    plan: Plan,
    nodes: Sequence[NodeView],
    *,
    held: Mapping[str, Collection[int]],
    present: Collection[tuple[UnitRange, str]] = (),
) -> tuple[tuple[str, ...], ...]:
    """For each segment of `plan`, up to `policy.standbys` nodes, the best one first.

    They may compute all of the segment, are not its own node, and have room for it beside what
    the plan gives them and what they go on holding (`held`, by node). Those that are stand-bys of
    these units already (`present`) stay; then come nodes without a part in the chain, for one that
    has another part may be lost with it, and of those the quicker ones.
    Raises ConfigError where the deployment contradicts itself or the model.
    """
    if not spec.policy.standbys:
        return ((),) * len(plan.segments)
    rules = compile_rules(spec, graph)
    known = {node.node: node for node in nodes if node.usable}
    taken = {name: set(held.get(name, ())) for name in known}
    for segment in plan.segments:
        for name in segment.nodes:
            taken.setdefault(name, set()).update(range(*segment.units))
    chosen: list[list[str]] = [[] for _ in plan.segments]
    for _ in range(spec.policy.standbys):  # one for each segment before a second for any
        for segment, names in zip(plan.segments, chosen, strict=True):
            able = [
                node
                for node in known.values()
                if node.node not in (*segment.nodes, *names)
                and _may(rules, node, segment.units)
                and _fits(graph, node, taken[node.node], segment.units)
            ]
            ranked = sorted(able, key=lambda n: _rank(graph, plan, n, segment.units, present))
            if ranked:
                taken[ranked[0].node] |= set(range(*segment.units))
                names.append(ranked[0].node)
    return tuple(map(tuple, chosen))


def _fits(graph: ModelGraph, node: NodeView, taken: set[int], units: UnitRange) -> bool:
    return graph.held_bytes(taken | set(range(*units))) <= node.weight_bytes


def _may(rules: Rules, node: NodeView, units: UnitRange) -> bool:
    return all(rules.may_compute(unit, (node,))[0] for unit in range(*units))


def _rank(
    graph: ModelGraph,
    plan: Plan,
    node: NodeView,
    units: UnitRange,
    present: Collection[tuple[UnitRange, str]],
) -> tuple[bool, bool, tuple[float, str]]:
    stays = (units, node.node) in present
    return not stays, node.node in plan.nodes, _seconds(graph, node, units)


def _seconds(graph: ModelGraph, node: NodeView, units: UnitRange) -> tuple[float, str]:
    """What a request takes there, with what enters and leaves; its name decides between equals."""
    bits = 8 * (graph.boundary_bytes(units.start) if units.start else graph.input_bytes)
    more = 8 * (graph.boundary_bytes(units.stop) if units.stop < len(graph.units) else 0)
    crossing = bits / node.link.down_mbit_s + more / node.link.up_mbit_s
    return sum(node.unit_s[slice(*units)]) + crossing / 1e6 + node.link.rtt_ms / 1e3, node.node


def takes_over(
    spec: Deployment, table: Table, living: Collection[tuple[str, str]]
) -> Deployment | None:
    """The deployment with the chain of `table` given by hand, stand-bys in the places of those that
    have died; None where no stand-by is left for one.

    living: nodes in their incarnations, of which stand-bys hold their segment.
    """
    parts = []
    for segment in table.segments:
        heir = next((node for node, life in segment.holders() if (node, life) in living), None)
        if heir is None:
            return None
        parts.append(SplitPart(str(segment.units), (heir,)))
    return replace(spec, split=tuple(parts))
