"""What a deployment demands of a placement, checked against the model and made ready to ask.

Privacy: `privacy.units` names the zones in which a unit may be computed; where ranges overlap, a
zone must be in all of them. The door sees inputs and answers, so its zone must be allowed for the
first unit and for the last one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from dsi_mqtt.core.deployment import Deployment, SplitPart, parse_units
from dsi_mqtt.core.model import ModelGraph, UnitRange
from dsi_mqtt.core.profile import NodeView
from dsi_mqtt.errors import ConfigError

# Zones something is confined to; None: none in particular.
Zones = frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Zoned:
    """One entry of `privacy.units`. field: how a person finds it in the file."""

    field: str
    units: UnitRange
    zones: frozenset[str]


@dataclass(frozen=True, slots=True)
class Pinned:
    """One entry of `policy.pin`."""

    field: str
    units: UnitRange
    node: str


@dataclass(frozen=True, slots=True)
class Part:
    """One entry of `split`."""

    field: str
    units: UnitRange
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """The constraints of a deployment that do not depend on the nodes there are.

    parts: the cuts given by hand, or empty. max_segments: at least 1.
    """

    units: int
    max_segments: int
    zoned: tuple[Zoned, ...] = ()
    pinned: tuple[Pinned, ...] = ()
    parts: tuple[Part, ...] = ()
    forbidden: frozenset[str] = frozenset()

    def zones(self, unit: int) -> Zones:
        """Zones that may compute `unit`; None: any."""
        return _common(rule.zones for rule in self.zoned if unit in rule.units)

    def door_zones(self) -> Zones:
        """Zones that may see inputs and answers; None: any."""
        ends = (self.zones(0), self.zones(self.units - 1))
        return _common(zones for zones in ends if zones is not None)

    def pin(self, unit: int) -> Pinned | None:
        return next((rule for rule in self.pinned if unit in rule.units), None)

    def part(self, unit: int) -> Part | None:
        return next((part for part in self.parts if unit in part.units), None)

    def spans(self) -> tuple[UnitRange, ...]:
        """The parts given by hand, or each unit: what one node must be able to take at least."""
        if self.parts:
            return tuple(part.units for part in self.parts)
        return tuple(UnitRange(unit, unit + 1) for unit in range(self.units))

    def pin_in(self, span: UnitRange) -> Pinned | None:
        """The pin of the first pinned unit in `span`."""
        pins = (self.pin(unit) for unit in range(*span))
        return next((pin for pin in pins if pin is not None), None)

    def hosts(self, span: UnitRange) -> tuple[str, ...]:
        """Names of the nodes that a pin or the split leaves for `span`; none: any may take it."""
        pin, part = self.pin_in(span), self.part(span.start)
        if pin is not None:
            return (pin.node,)
        nodes = () if part is None else part.nodes
        return tuple(node for node in nodes if node not in self.forbidden)

    def home_zones(self, span: UnitRange) -> Zones:
        """Zones a node must be in to compute `span`, and what it is bound to compute besides.

        That is all that a pin or the split leaves to the same node alone.
        """
        bound = {*range(*span)}
        hosts = self.hosts(span)
        if len(hosts) == 1:
            for other in self.spans():
                if self.hosts(other) == hosts:
                    bound.update(range(*other))
        return _common(zones for unit in bound if (zones := self.zones(unit)) is not None)

    def may_compute(self, unit: int, nodes: Sequence[NodeView]) -> list[bool]:
        """For each of `nodes`, whether it may compute `unit`."""
        zones, pin, part = self.zones(unit), self.pin(unit), self.part(unit)
        return [
            node.node not in self.forbidden
            and (zones is None or node.zone in zones)
            and (pin is None or node.node == pin.node)
            and (part is None or node.node in part.nodes)
            for node in nodes
        ]

    def alike(self) -> list[UnitRange]:
        """All units, in ranges of which the same is demanded."""
        named: tuple[Zoned | Pinned | Part, ...] = (*self.zoned, *self.pinned, *self.parts)
        cuts = {0, self.units, *(cut for rule in named for cut in rule.units)}
        return [UnitRange(*ends) for ends in pairwise(sorted(cuts))]

    def may_be_door(self, node: NodeView) -> bool:
        return node.node not in self.forbidden and self.trusts(node)

    def trusts(self, node: NodeView) -> bool:
        """Whether its zone may see inputs: what is computed elsewhere counts as exposed."""
        return self.trusted((node,))[0]

    def trusted(self, nodes: Sequence[NodeView]) -> list[bool]:
        """For each of `nodes`, whether its zone may see inputs."""
        zones = self.door_zones()
        return [zones is None or node.zone in zones for node in nodes]

    def without_split(self) -> Rules:
        return replace(self, parts=())


def check(deployment: Deployment, graph: ModelGraph) -> tuple[str, ...]:
    """Everything in `deployment` that contradicts itself or the model; each names its field."""
    if not graph.units:
        return ("model: has no units; nothing can be placed",)
    return tuple(_problems(deployment, len(graph.units)))


def compile_rules(deployment: Deployment, graph: ModelGraph) -> Rules:
    """The rules of a deployment. Raises ConfigError with the first thing `check` finds."""
    for problem in check(deployment, graph):
        raise ConfigError(problem)
    units = len(graph.units)
    limit = deployment.policy.max_segments
    return Rules(
        units=units,
        max_segments=units if limit is None else min(limit, units),
        zoned=_zoned(deployment),
        pinned=_pinned(deployment),
        parts=_parts(deployment.split or ()),
        forbidden=frozenset(deployment.policy.forbid),
    )


def in_zones(zones: Zones) -> str:
    return "any zone" if zones is None else f"zone {' or '.join(sorted(zones))}"


def _common(sets: Iterator[frozenset[str]]) -> Zones:
    common: Zones = None
    for zones in sets:
        common = zones if common is None else common & zones
    return common


def _zoned(deployment: Deployment) -> tuple[Zoned, ...]:
    named = ((f'privacy.units["{k}"]', k, v) for k, v in deployment.privacy.units.items())
    return tuple(Zoned(name, parse_units(k, name), frozenset(v)) for name, k, v in named)


def _pinned(deployment: Deployment) -> tuple[Pinned, ...]:
    named = ((f'policy.pin["{k}"]', k, v) for k, v in deployment.policy.pin.items())
    return tuple(Pinned(name, parse_units(k, name), v) for name, k, v in named)


def _parts(split: Sequence[SplitPart]) -> tuple[Part, ...]:
    return tuple(
        Part(f"split[{i}]", parse_units(part.units, f"split[{i}].units"), tuple(part.nodes))
        for i, part in enumerate(split)
    )


def _problems(deployment: Deployment, units: int) -> Iterator[str]:
    limit = deployment.policy.max_segments
    if limit is not None and limit < 1:
        yield f"policy.max_segments: is {limit}; give 1 or more, or leave it out"
    try:
        zoned, pinned = _zoned(deployment), _pinned(deployment)
        parts = None if deployment.split is None else _parts(deployment.split)
    except ConfigError as error:
        yield str(error)
        return
    ranges = [(zone.field, zone.units) for zone in zoned]
    ranges += [(pin.field, pin.units) for pin in pinned]
    ranges += [(f"{part.field}.units", part.units) for part in parts or ()]
    beyond = [(name, given) for name, given in ranges if given.stop > units]
    for name, given in beyond:
        yield f"{name}: {given} goes beyond the {units} units of the model; end it at {units}"
    if beyond:
        return
    forbidden = frozenset(deployment.policy.forbid)
    rules = Rules(units, units, zoned, pinned, parts or (), forbidden)
    torn = list(_zone_problems(rules))
    yield from torn
    if torn:
        return
    yield from _pin_problems(deployment, rules)
    if parts is not None:
        yield from _split_problems(deployment, rules)


def _zone_problems(rules: Rules) -> Iterator[str]:
    empty = [rule for rule in rules.zoned if not rule.zones]
    for rule in empty:
        yield f"{rule.field}: names no zone; name one, or leave the range out"
    if empty:
        return
    for unit, _ in rules.alike():
        if rules.zones(unit) == frozenset():
            names = " and ".join(r.field for r in rules.zoned if unit in r.units)
            yield f"{names} leave no zone for unit {unit}; name one zone in all of them"
            return
    if rules.door_zones() == frozenset():
        yield (
            "privacy.units: no zone is allowed for both the first and the last unit, so no door "
            "may see inputs and answers; name one zone for both"
        )


def _pin_problems(deployment: Deployment, rules: Rules) -> Iterator[str]:
    torn = next((rule for rule in rules.pinned if not _has_home(rules, rule.units)), None)
    if torn is not None:
        yield (
            f"{torn.field}: privacy.units allows no zone for all that {torn.node} must compute; "
            "bind less to it"
        )
    for i, rule in enumerate(rules.pinned):
        if rule.node in deployment.policy.forbid:
            yield f"{rule.field}: {rule.node} is in policy.forbid; take it out of one of the two"
        for other in rules.pinned[:i]:
            overlap = max(rule.units.start, other.units.start) < min(
                rule.units.stop, other.units.stop
            )
            if overlap and rule.node != other.node:
                yield f"{rule.field}: overlaps {other.field} on another node; pin each unit once"


def _split_problems(deployment: Deployment, rules: Rules) -> Iterator[str]:
    if not rules.parts:
        yield "split: is empty; give one part per segment, or null to let the planner choose"
        return
    position = 0
    for part in rules.parts:
        if part.units.start != position:
            yield f"{part.field}.units: starts at {part.units.start}; it must start at {position}"
            return
        position = part.units.stop
        yield from _part_problems(deployment, rules, part)
    if position != rules.units:
        last = rules.parts[-1].field
        yield f"{last}.units: the parts end at {position}; the last must end at {rules.units}"
    limit = deployment.policy.max_segments
    if limit is not None and limit < len(rules.parts):
        yield f"policy.max_segments: is {limit}, and split has {len(rules.parts)} parts; raise it"


def _has_home(rules: Rules, units: UnitRange) -> bool:
    spans = (span for span in rules.spans() if span.start < units.stop and units.start < span.stop)
    return all(rules.home_zones(span) != frozenset() for span in spans)


def _part_problems(deployment: Deployment, rules: Rules, part: Part) -> Iterator[str]:
    if not set(part.nodes).difference(deployment.policy.forbid):
        yield f"{part.field}.nodes: names no node that policy.forbid allows; name one"
    if not _has_home(rules, part.units):
        yield (
            f"{part.field}: privacy.units allows no zone for all that one node must compute; "
            "cut the range, or name more nodes"
        )
    pins = [rule for unit in range(*part.units) if (rule := rules.pin(unit)) is not None]
    if len({rule.node for rule in pins}) > 1:
        yield f"{part.field}.units: {pins[0].field} and {pins[-1].field} differ; cut between them"
    elif pins and pins[0].node not in part.nodes:
        yield f"{part.field}.nodes: lacks {pins[0].node}, named by {pins[0].field}; add it"
