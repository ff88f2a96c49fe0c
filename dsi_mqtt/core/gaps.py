"""Where the rules leave nobody: units that no node may compute, a door that no node may be.

Memory and the number of segments do not come into it. Where there is no gap, enough of both
makes a placement possible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.profile import Link, NodeView
from dsi_mqtt.core.rules import Rules, Zones, in_zones

Constraint = Literal[
    "no_nodes",
    "zones",
    "memory",
    "pin",
    "split",
    "segments",
    "links",
    "unfit",
    "latency",
    "rate",
    "exposure",
    "targets",
]


@dataclass(frozen=True, slots=True)
class Gap:
    """field: of the deployment file, or a node, or "nodes"."""

    constraint: Constraint
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A node that would close a gap. deed: what a person has to do for it."""

    deed: str
    view: NodeView


def first_gap(rules: Rules, nodes: Sequence[NodeView]) -> Gap | None:
    """The first part of the chain that no node may take; None: each has one."""
    if not nodes:
        return Gap("no_nodes", "nodes", "no node is there to compute anything")
    allowed = [node for node in nodes if node.node not in rules.forbidden]
    if not allowed:
        return Gap("no_nodes", "policy.forbid", "policy.forbid excludes every node there is")
    for span in rules.spans():
        if not _computes(rules, span, nodes):
            return _span_gap(rules, span, allowed)
    if _is_door(rules, nodes):
        return None
    zones = rules.door_zones()
    down = [node for node in allowed if zones is None or node.zone in zones]
    if down:
        return _idle_gap(down, "the door")
    where = in_zones(zones)
    return Gap("zones", "privacy.units", f"the door sees inputs and answers: no node is in {where}")


def newcomers(
    rules: Rules, nodes: Sequence[NodeView], weight_bytes: int
) -> tuple[Newcomer, ...] | None:
    """Nodes that close every gap, each with memory for `weight_bytes` at least.

    One that has the name of a node in `nodes` takes its place. None: where the split names too
    few nodes for the zones that its parts need.
    """
    added: dict[str, Newcomer] = {}
    for _ in range(2):  # again, for one that has to move may leave a gap behind
        for span in rules.spans():
            if not _computes(rules, span, joined(nodes, tuple(added.values()))):
                new = _newcomer(rules, span, nodes, added, weight_bytes)
                added[new.view.node] = new
    if not _is_door(rules, joined(nodes, tuple(added.values()))):
        new = _unnamed(rules, rules.door_zones(), nodes, added, weight_bytes)
        added[new.view.node] = new
    closed = tuple(added.values())
    return closed if first_gap(rules, joined(nodes, closed)) is None else None


def joined(nodes: Sequence[NodeView], added: Sequence[Newcomer]) -> tuple[NodeView, ...]:
    names = {new.view.node for new in added}
    return (*(node for node in nodes if node.node not in names), *(new.view for new in added))


def _computes(rules: Rules, span: UnitRange, nodes: Sequence[NodeView]) -> bool:
    """Whether some node, reachable, may compute all of `span`."""
    reachable = [node for node in nodes if node.usable]
    able = [True] * len(reachable)
    for unit in range(*span):
        able = [a and b for a, b in zip(able, rules.may_compute(unit, reachable), strict=True)]
    return any(able)


def _is_door(rules: Rules, nodes: Sequence[NodeView]) -> bool:
    return any(rules.may_be_door(node) for node in nodes if node.usable)


def _span_gap(rules: Rules, span: UnitRange, allowed: Sequence[NodeView]) -> Gap:
    zones, hosts = rules.home_zones(span), rules.hosts(span)
    pin, part = rules.pin_in(span), rules.part(span.start)
    named = [node for node in allowed if not hosts or node.node in hosts]
    fitting = [node for node in named if zones is None or node.zone in zones]
    if fitting:
        return _idle_gap(fitting, f"units {span}")
    if pin is not None:
        if not named:
            return Gap("pin", pin.field, f"units {pin.units} are pinned to {pin.node}: not there")
        return Gap(
            "pin",
            pin.field,
            f"units {pin.units} are pinned to {pin.node} in zone {named[0].zone}, but "
            f"privacy.units demands {in_zones(zones)}",
        )
    if part is not None:
        where = "there" if not named else f"in {in_zones(zones)}, as privacy.units demands"
        return Gap("split", f"{part.field}.nodes", f"none of {', '.join(part.nodes)} is {where}")
    rule = next(rule for rule in rules.zoned if span.start in rule.units)
    return Gap(
        "zones",
        rule.field,
        f"units {rule.units} must be computed in {in_zones(zones)}, and no node is there",
    )


def _idle_gap(nodes: Sequence[NodeView], what: str) -> Gap:
    """Of nodes that the rules allow: their links are down, or they are unfit."""
    down = sorted(node.node for node in nodes if not node.unfit)
    if down:
        return Gap("links", down[0], f"{what} could be on {', '.join(down)}: link down")
    first = min(nodes, key=lambda node: node.node)
    return Gap("unfit", first.node, f"node {first.node} {first.unfit}")


def _newcomer(
    rules: Rules,
    span: UnitRange,
    nodes: Sequence[NodeView],
    added: Mapping[str, Newcomer],
    weight_bytes: int,
) -> Newcomer:
    zones, hosts = rules.home_zones(span), rules.hosts(span)
    if not hosts:
        return _unnamed(rules, zones, nodes, added, weight_bytes)
    present = {node.node: node for node in nodes}

    def effort(host: str) -> tuple[bool, bool, int]:
        """Rather one whose link alone is down than an unfit or a new one, or one that must move."""
        node = present.get(host)
        return host in added, _moves(node, zones), 2 if node is None else bool(node.unfit)

    name = min(hosts, key=effort)
    if name in present:
        return _mended(rules, present[name], zones, weight_bytes)
    return _started(rules, name, zones, weight_bytes)


def _moves(node: NodeView | None, zones: Zones) -> bool:
    return node is not None and zones is not None and node.zone not in zones


def _unnamed(
    rules: Rules,
    zones: Zones,
    nodes: Sequence[NodeView],
    added: Mapping[str, Newcomer],
    weight_bytes: int,
) -> Newcomer:
    """A node that is down, if there is one; not one that closes another gap, perhaps elsewhere."""
    down = [
        node
        for node in nodes
        if node.node not in rules.forbidden
        and node.node not in added
        and not node.usable
        and (zones is None or node.zone in zones)
    ]
    if down:
        easiest = min(down, key=lambda node: (bool(node.unfit), node.node))
        return _mended(rules, easiest, zones, weight_bytes)
    return _started(rules, None, zones, weight_bytes)


def _started(rules: Rules, name: str | None, zones: Zones, weight_bytes: int) -> Newcomer:
    zone = _best_zone(rules, zones)
    where = "" if zones is None else f" in zone {zone}"
    deed = f"start a node{where}" if name is None else f"start node {name}{where}"
    view = NodeView(
        node=f"(new{where})" if name is None else name,
        incarnation="",
        zone=zone,
        weight_bytes=weight_bytes,
        unit_s=(0.0,) * rules.units,
    )
    return Newcomer(deed, view)


def _mended(rules: Rules, node: NodeView, zones: Zones, weight_bytes: int) -> Newcomer:
    deeds = [f"let node {node.node} take part"] if node.unfit else []
    view = replace(node, weight_bytes=max(node.weight_bytes, weight_bytes), unfit="")
    if not node.link.usable:
        deeds.append(f"bring the link of node {node.node} up")
        view = replace(view, link=Link())
    if _moves(node, zones):
        view = replace(view, zone=_best_zone(rules, zones))
        deeds.append(f"move node {node.node} to zone {view.zone}")
    return Newcomer(" and ".join(deeds), view)


def _best_zone(rules: Rules, zones: Zones) -> str:
    """One of `zones`, where the door may be too if there is such a one."""
    door = rules.door_zones()
    if zones is None:
        return "" if door is None else min(door)
    return min(zones if door is None else zones & door or zones)
