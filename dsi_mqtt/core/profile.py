"""What the planner knows of a node: memory, seconds per unit, the link to its home broker.

A node's seconds per unit are estimated from what its hardware was measured to do when the worker
started, and corrected by what it has computed (`core/estimate.py`). A node that has computed
nothing yet is corrected by the median of the others, for an error of the estimate that is common to
all must not make an untried node look better. So it is with links: one that nobody has measured yet
is taken to be like the others.

Telemetry is measured by others: what is nonsense in it (negative, infinite, not a number) is set
aside, and defaults stand in. What a node says of its hardware has no substitute: without it a node
is left out, and the others are planned with all the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from dsi_mqtt.core.estimate import (
    CORRECTION_MAX,
    correction,
    estimate_batched_s,
    estimate_prefill_s,
    estimate_s,
    learned,
    sound,
)
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.node import LinkSample, NodeStatus, Telemetry
from dsi_mqtt.errors import ConfigError

# Of a link nobody has measured yet: a wired site network.
DEFAULT_MBIT_S: Final = 100.0
DEFAULT_RTT_MS: Final = 2.0

# Measurements of one machine on a busy and on a quiet moment differ by about this factor.
LIKENESS: Final = 1.5

# A unit that takes longer for one row is a mistake in what was measured. Sums over a model then
# stay where nanoseconds are counted exactly (`core.problem`).
UNIT_S_MAX: Final = 1e4


@dataclass(frozen=True, slots=True)
class Link:
    """To the home broker and back. A rate of 0 is a link that is down, infinity one that is free.

    Raises ConfigError for rates below 0 and for a round trip that is negative or infinite.
    """

    up_mbit_s: float = DEFAULT_MBIT_S
    down_mbit_s: float = DEFAULT_MBIT_S
    rtt_ms: float = DEFAULT_RTT_MS

    def __post_init__(self) -> None:
        for name in ("up_mbit_s", "down_mbit_s"):
            if not getattr(self, name) >= 0:  # also refuses nan
                raise ConfigError(f"link.{name} is {getattr(self, name)}; give a rate of 0 or more")
        if not 0 <= self.rtt_ms < math.inf:
            raise ConfigError(f"link.rtt_ms is {self.rtt_ms}; give milliseconds, 0 or more")

    @property
    def usable(self) -> bool:
        return self.up_mbit_s > 0 and self.down_mbit_s > 0


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as the planner sees it, for one model.

    weight_bytes: of weights it may hold for this deployment, beside cache_bytes, which are kept
    free for its sessions; overdrawn_bytes: by which what is taken already is too much. unit_s:
    seconds each unit of the model takes here for one reference row. unfit: why it can be given
    nothing although it is there, as in "node a {unfit}"; empty where it can.
    prefill_s: seconds of each unit for a slice of the prompt of the deployment's reference text;
        empty: as many rows one after the other.
    batched: of each unit, the line that a step of decoding takes with many sessions, where it is
        more than `unit_s`: seconds where it begins, and of each session; empty: one after the
        other.
    price: its class in the deployment's prices. watts: when idle and when busy. taken: shares of
    its processor, uplink and downlink that others keep busy. codec_pace: seconds it takes for a
    codec over those of the node that the codec was measured on.
    Raises ConfigError for negative or unbounded values.
    """

    node: str
    incarnation: str
    zone: str
    weight_bytes: int
    unit_s: tuple[float, ...]
    link: Link = Link()
    spare: bool = False
    cache_bytes: int = 0
    overdrawn_bytes: int = 0
    unfit: str = ""
    prefill_s: tuple[float, ...] = ()
    batched: tuple[tuple[float, float], ...] = ()
    price: str = "default"
    watts: tuple[float, float] = (0.0, 0.0)
    taken: tuple[float, float, float] = (0.0, 0.0, 0.0)
    codec_pace: float = 1.0

    @property
    def usable(self) -> bool:
        return not self.unfit and self.link.usable and max(self.taken) < 1

    def seconds(self, phase: str, rows: int) -> tuple[float, ...]:
        """Of each unit, for one trip of this phase with so many rows."""
        if phase == "prefill" and self.prefill_s:
            return self.prefill_s
        if rows == 1:
            return self.unit_s
        if phase == "decode" and self.batched:
            lines = zip(self.unit_s, self.batched, strict=True)
            return tuple(max(alone, at + rows * each) for alone, (at, each) in lines)
        return tuple(rows * seconds for seconds in self.unit_s)

    def __post_init__(self) -> None:
        if self.weight_bytes < 0:
            raise ConfigError(f"node {self.node}: weight_bytes is negative; give 0 or more")
        for name in ("unit_s", "prefill_s"):
            for unit, seconds in enumerate(getattr(self, name)):
                if not 0 <= seconds < math.inf:
                    raise ConfigError(
                        f"node {self.node}: {name}[{unit}] is {seconds}; give seconds, 0 or more"
                    )


def view(
    status: NodeStatus,
    telemetry: Telemetry | None,
    graph: ModelGraph,
    deployment: str,
    *,
    usual: float = 1.0,
    usual_link: Link = Link(),
    caches: int = 0,
    prompt: int = 0,
) -> NodeView:
    """The node as the planner sees it for `deployment`, whose model is `graph`.

    telemetry: the newest of this node, or None; that of an earlier incarnation does not count.
    usual: the correction of a node that has computed nothing of this model. usual_link: where its
    own has not been measured.
    caches: bytes to keep free for its sessions. prompt: tokens of a slice of a prompt; 0:
    the model answers in one pass.
    Raises ConfigError when the status does not say what the hardware can do.
    """
    capabilities = sound(status)
    known = learned(status, telemetry, graph, deployment)
    left = capabilities.weight_bytes - _others_bytes(status, deployment) - caches
    sample = telemetry.link if _current(status, telemetry) and telemetry else LinkSample()
    fed = graph.units if prompt else ()
    return NodeView(
        node=status.node,
        incarnation=status.incarnation,
        zone=status.zone,
        weight_bytes=max(0, left),
        unit_s=tuple(
            estimate_s(capabilities, unit) * known.row_factor(i, usual)
            for i, unit in enumerate(graph.units)
        ),
        link=link_of(sample, usual_link),
        spare=status.spare,
        price=status.upkeep.price,
        watts=(status.upkeep.watts.idle, status.upkeep.watts.busy),
        cache_bytes=caches,
        overdrawn_bytes=max(0, -left),
        prefill_s=tuple(
            estimate_prefill_s(capabilities, unit, prompt) * known.prefill_factor(i, usual)
            for i, unit in enumerate(fed)
        ),
        batched=tuple(
            estimate_batched_s(
                capabilities, unit, known.row_factor(i, usual), known.prefill_factor(i, usual)
            )
            for i, unit in enumerate(fed)
        ),
    )


def views(
    reports: Iterable[tuple[NodeStatus, Telemetry | None]],
    graph: ModelGraph,
    deployment: str,
    *,
    caches: int = 0,
    prompt: int = 0,
) -> tuple[NodeView, ...]:
    """The nodes that can be planned with: online, and telling what their hardware can do.

    Others are left out; `complaint` says why.
    Untried nodes are corrected by the median of the tried ones. Nodes whose speed differs from
    the median by less than `LIKENESS` count as equally fast: so small a difference is noise, and
    must not split a model that one node would serve as well.
    """
    able = [
        (status, telemetry)
        for status, telemetry in reports
        if status.state == "online" and complaint(status, telemetry, graph, deployment) is None
    ]
    known = [factor for s, t in able if (factor := correction(s, t, graph, deployment)) is not None]
    usual = median(known) if known else 1.0
    link = usual_link(t.link for s, t in able if t is not None and _current(s, t))
    seen = [
        view(
            *(s, t, graph, deployment),
            usual=usual,
            usual_link=link,
            caches=caches,
            prompt=prompt,
        )
        for s, t in able
    ]
    return _alike(seen)


def complaint(
    status: NodeStatus, telemetry: Telemetry | None, graph: ModelGraph, deployment: str
) -> str | None:
    """Why this node cannot be planned with, whatever the others are like; None: it can."""
    try:
        seen = view(status, telemetry, graph, deployment, usual=CORRECTION_MAX)
    except ConfigError as error:
        return str(error)
    slowest = max(seen.unit_s, default=0.0)
    if slowest > UNIT_S_MAX:
        return f"node {status.node}: its gflops or memory_gib_s let a unit take {slowest:.3g} s"
    return None


def _alike(nodes: list[NodeView]) -> tuple[NodeView, ...]:
    totals = [sum(node.unit_s) for node in nodes]
    if not totals or median(totals) <= 0:
        return tuple(nodes)
    middle = median(totals)
    shares = [total / middle for total in totals]
    return tuple(
        replace(
            node,
            unit_s=tuple(s / share for s in node.unit_s),
            prefill_s=tuple(s / share for s in node.prefill_s),
            batched=tuple((at / share, each / share) for at, each in node.batched),
        )
        if 1 / LIKENESS < share < LIKENESS
        else node
        for node, share in zip(nodes, shares, strict=True)
    )


def _current(status: NodeStatus, telemetry: Telemetry | None) -> bool:
    return telemetry is not None and telemetry.incarnation == status.incarnation


def _others_bytes(status: NodeStatus, deployment: str) -> int:
    """Bytes of weights that other deployments hold here, or are about to, and of their caches."""
    others = status.deployments() - {deployment}
    return sum(status.held_bytes(name) + status.cache_bytes(name) for name in others)


def link_of(sample: LinkSample, usual: Link = Link()) -> Link:
    """As it was measured; as is usual, where it was not or where a figure is nonsense."""
    up, down, rtt = sample.up_mbit_s, sample.down_mbit_s, sample.rtt_ms
    return Link(
        up if up is not None and _is_sound(up) else usual.up_mbit_s,
        down if down is not None and _is_sound(down) else usual.down_mbit_s,
        rtt if rtt is not None and _is_sound(rtt) else usual.rtt_ms,
    )


def usual_link(samples: Iterable[LinkSample]) -> Link:
    """The median of what each node's link is usually like: that one has fallen says nothing of
    others.
    """
    told = list(samples)

    def middle(figures: Iterable[float | None], default: float) -> float:
        known = [figure for figure in figures if figure is not None and _is_sound(figure)]
        return median(known) if known else default

    return Link(
        middle((_first(s.up_usual_mbit_s, s.up_mbit_s) for s in told), DEFAULT_MBIT_S),
        middle((_first(s.down_usual_mbit_s, s.down_mbit_s) for s in told), DEFAULT_MBIT_S),
        middle((s.rtt_ms for s in told), DEFAULT_RTT_MS),
    )


def _first(*figures: float | None) -> float | None:
    """That is known."""
    return next((figure for figure in figures if figure is not None), None)


def _is_sound(figure: float) -> bool:
    return 0 <= figure < math.inf
