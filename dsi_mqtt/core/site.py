"""A nodes file (`schema: dsi.nodes/1`): which nodes there are, and what they are like."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.estimate import (
    estimate_batched_s,
    estimate_prefill_s,
    estimate_s,
    slice_tokens,
)
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.node import Capabilities, Upkeep, Watts
from dsi_mqtt.core.profile import DEFAULT_MBIT_S, DEFAULT_RTT_MS, Link, NodeView
from dsi_mqtt.core.profiled import ModelProfile
from dsi_mqtt.core.room import cache_bytes
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.core.table import BrokerUrls
from dsi_mqtt.errors import ConfigError, one_sentence

SCHEMA: Final = "dsi.nodes/1"


@dataclass(frozen=True, slots=True)
class NodeLink:
    """The link to the home broker; `trace` replays a recorded one in a simulation."""

    up_mbit_s: float | None = None
    down_mbit_s: float | None = None
    rtt_ms: float | None = None
    trace: str | None = None


@dataclass(frozen=True, slots=True)
class SiteNode:
    """memory_mib: of weights it may hold; None: most of the free memory. spare: used only when
    there is no placement without it. compute: a measured profile, or figures of the hardware.
    """

    id: str
    zone: str = "edge"
    broker: str | None = None
    memory_mib: float | None = None
    spare: bool = False
    threads: int = 1
    price: str = "default"
    watts: Watts | None = None
    compute: dict[str, Any] | None = None
    link: NodeLink | None = None

    @property
    def upkeep(self) -> Upkeep:
        return Upkeep(self.price, self.watts or Watts())


@dataclass(frozen=True, slots=True)
class SiteFile:
    nodes: tuple[SiteNode, ...] = ()
    brokers: dict[str, BrokerUrls] = field(default_factory=dict)
    schema: str = SCHEMA


# Of each unit: for a row, for a slice of a prompt, and in steps of many sessions.
Times = tuple[tuple[float, ...], tuple[float, ...], tuple[tuple[float, float], ...]]

_COMPUTE: Final = ("profile", "gflops", "memory_gib_s", "overhead_ms")


def node_views(
    site: SiteFile,
    graph: ModelGraph,
    deployment: Deployment,
    profiles: Mapping[str, ModelProfile] | None = None,
) -> tuple[NodeView, ...]:
    """The nodes as the planner sees them, as far as the file tells: nothing else runs on them.

    profiles: by the name that the file gives them (`wire.profiles.site_profiles`). A node without
    memory_mib has room for everything, one without a link the one that is assumed of any.
    Raises ConfigError that names the field, for a figure that is negative, missing or none.
    """
    caches = cache_bytes(deployment, graph)
    whole = graph.weight_bytes(graph.whole) + caches
    found = []
    for i, node in enumerate(site.nodes):
        try:
            times = _times(node, graph, deployment, profiles or {})
            link = _link(node.link or NodeLink())
            _check_watts(node.watts or Watts())
        except ConfigError as error:
            raise ConfigError(one_sentence(f"nodes[{i}].{error}")) from None
        found.append(_view(node, times, link, whole, caches))
    return tuple(found)


def _view(node: SiteNode, times: Times, link: Link, whole: int, caches: int) -> NodeView:
    unit_s, prefill_s, batched = times
    left = (whole if node.memory_mib is None else int(node.memory_mib * MIB)) - caches
    return NodeView(
        node.id,
        "",
        node.zone,
        max(0, left),
        unit_s,
        link,
        spare=node.spare,
        cache_bytes=caches,
        overdrawn_bytes=max(0, -left),
        prefill_s=prefill_s,
        batched=batched,
        price=node.price,
        watts=(node.upkeep.watts.idle, node.upkeep.watts.busy),
    )


def _times(
    node: SiteNode, graph: ModelGraph, deployment: Deployment, profiles: Mapping[str, ModelProfile]
) -> Times:
    """For the reference text, where there is one."""
    compute, tokens = node.compute, slice_tokens(deployment)
    if not compute:
        raise ConfigError("compute: is missing; give {profile: FILE}, or gflops and memory_gib_s")
    strange = sorted(compute.keys() - set(_COMPUTE))
    if strange:
        raise ConfigError(f"compute.{strange[0]}: is no field here; known: {', '.join(_COMPUTE)}")
    if "profile" in compute:
        return _profiled(compute["profile"], graph, tokens, profiles)
    able = Capabilities(
        gflops=_above_zero(_of_dtype(compute, deployment.model.dtype), "compute.gflops"),
        memory_gib_s=_above_zero(compute.get("memory_gib_s"), "compute.memory_gib_s"),
        overhead_ms=_figure(compute.get("overhead_ms", 0.2), "compute.overhead_ms"),
    )
    units, fed = graph.units, graph.units if tokens else ()
    return (
        tuple(estimate_s(able, unit) for unit in units),
        tuple(estimate_prefill_s(able, unit, tokens) for unit in fed),
        tuple(estimate_batched_s(able, unit, 1.0, 1.0) for unit in fed),
    )


def _profiled(
    name: object, graph: ModelGraph, tokens: int, profiles: Mapping[str, ModelProfile]
) -> Times:
    found = profiles.get(name) if isinstance(name, str) else None
    if found is None:
        raise ConfigError(f"compute.profile: {name!r:.60} was not read; name a file with a profile")
    wrong = found.check()
    if wrong is not None:
        raise ConfigError(f"compute.profile: {name}: {wrong}")
    try:
        found.matches(graph)
    except ConfigError as error:
        raise ConfigError(f"compute.profile: {name} {error}") from None
    if (found.kind == "generation") != bool(tokens):
        raise ConfigError(f"compute.profile: {name} was measured as {found.kind}; measure it again")
    fed = found.units if tokens else ()
    return (
        tuple(unit.row_s() for unit in found.units),
        tuple(unit.prefill_s(tokens) for unit in fed),
        tuple(unit.batched_s() for unit in fed),
    )


def _of_dtype(compute: Mapping[str, Any], dtype: str) -> object:
    """GFLOP/s as one figure, or by dtype."""
    given = compute.get("gflops")
    if not isinstance(given, Mapping):
        return given
    if dtype not in given:
        raise ConfigError(f"compute.gflops.{dtype}: is missing; the deployment's weights are that")
    return given[dtype]


def _link(given: NodeLink) -> Link:
    defaults = {
        "up_mbit_s": DEFAULT_MBIT_S,
        "down_mbit_s": DEFAULT_MBIT_S,
        "rtt_ms": DEFAULT_RTT_MS,
    }
    figures = {
        name: _figure(
            default if getattr(given, name) is None else getattr(given, name), f"link.{name}"
        )
        for name, default in defaults.items()
    }
    return Link(**figures)


def _check_watts(watts: Watts) -> None:
    for name in ("idle", "busy"):
        _figure(getattr(watts, name), f"watts.{name}")


def _figure(value: object, name: str) -> float:
    if value is None:
        raise ConfigError(f"{name}: is missing; give a number")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{name}: must be a number, not {value!r:.40}")
    if not 0 <= value < math.inf:
        raise ConfigError(f"{name}: {value} must be 0 or more and finite")
    return float(value)


def _above_zero(value: object, name: str) -> float:
    figure = _figure(value, name)
    if figure == 0:
        raise ConfigError(f"{name}: 0 must be greater than 0")
    return figure


def nodes_without_effect(site: SiteFile) -> tuple[str, ...]:
    """Fields that are set and that this version accepts but does not act on yet."""
    default = SiteNode(id="")
    names = ("broker", "compute", "link")
    found = [
        f"nodes.{name}"
        for name in names
        if any(getattr(node, name) != getattr(default, name) for node in site.nodes)
    ]
    return (*(["brokers"] if site.brokers else []), *found)
