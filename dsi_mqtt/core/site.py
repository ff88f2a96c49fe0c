"""A nodes file (`schema: dsi.nodes/1`): which nodes there are, and what they are like."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from dsi_mqtt.core.table import BrokerUrls

SCHEMA: Final = "dsi.nodes/1"


@dataclass(frozen=True, slots=True)
class Watts:
    idle: float = 0.0
    busy: float = 0.0


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


@dataclass(frozen=True, slots=True)
class SiteFile:
    nodes: tuple[SiteNode, ...] = ()
    brokers: dict[str, BrokerUrls] = field(default_factory=dict)
    schema: str = SCHEMA


def nodes_without_effect(site: SiteFile) -> tuple[str, ...]:
    """Fields that are set and that this version accepts but does not act on yet."""
    default = SiteNode(id="")
    names = ("broker", "price", "watts", "compute", "link")
    found = [
        f"nodes.{name}"
        for name in names
        if any(getattr(node, name) != getattr(default, name) for node in site.nodes)
    ]
    return (*(["brokers"] if site.brokers else []), *found)
