"""The policies that adaptive is compared with, as scripts of a simulated site.

All of them plan with the planner that serves, for what the deployment asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, get_args

from dsi_mqtt.core.deployment import Deployment, parse_units
from dsi_mqtt.core.plan import Infeasible, Plan, plan
from dsi_mqtt.core.profile import NodeView
from dsi_mqtt.evaluate.truth import Truth
from dsi_mqtt.sim.node import Node

Name = Literal[
    "static-start",
    "static-hindsight",
    "cloud",
    "edge",
    "adaptive",
    "causal-oracle",
    "clairvoyant",
]
NAMES: Final[tuple[Name, ...]] = get_args(Name)
CLOUD: Final = "cloud"
# How late the causal oracle knows what is true.
LATE_S: Final = 2.0
# A request is in the chain for about so long, of which the clairvoyant knows what will be.
AHEAD_S: Final = 1.0


@dataclass(slots=True)
class Fixed:
    """One placement for the whole run; nobody moves it when a node of it is gone."""

    placement: Plan

    def choose(self, nodes: Mapping[str, Node], now: float) -> Plan | None:  # noqa: ARG002 - whatever they are
        return self.placement


@dataclass(slots=True)
class Oracle:
    """Plans on what is true, and moves for free. ahead: knows what will be, else what was.

    deciding_s: what each look took, of the real time. chosen: every placement that it has chosen.
    """

    truth: Truth
    ahead: bool
    stopwatch: Callable[[], float] = time.perf_counter
    deciding_s: list[float] = field(default_factory=list)
    chosen: dict[object, Plan] = field(default_factory=dict)
    _asked: object = None
    _found: Plan | None = None

    def choose(self, nodes: Mapping[str, Node], now: float) -> Plan | None:
        began = self.stopwatch()
        truth = self.truth
        if self.ahead:
            stays = {n: at for n, at in nodes.items() if not truth.lost(n, now, now + 2 * AHEAD_S)}
            # Inputs of this second; the late ones are in the chain in the next.
            views = truth.views(stays, (now, now, now, now + AHEAD_S))
            question = truth.question(now, now + AHEAD_S)
        else:
            then = max(0.0, now - LATE_S)
            views = truth.views(nodes, (then,))
            question = truth.question(max(0.0, then - 1.0), max(then, 1.0))
        if self._asked == (views, question):
            return self._found
        found = plan(truth.spec, truth.graph, views, question=question)
        self.deciding_s.append(self.stopwatch() - began)
        self._asked = views, question
        self._found = None if isinstance(found, Infeasible) else found
        if self._found is not None:
            self.chosen.setdefault(key_of(self._found), self._found)
        return self._found


def key_of(placement: Plan) -> object:
    """What makes two placements the same."""
    return placement.door, tuple((part.units, part.node) for part in placement.segments)


def on_cloud(truth: Truth, views: tuple[NodeView, ...]) -> Plan | None:
    """As many units as zones allow on a node of the cloud; None: zones, or memory, allow none."""
    clouds = [view for view in views if view.zone == CLOUD]
    if not clouds:
        return None
    zones = truth.spec.privacy.units
    open_to = set(range(len(truth.graph.units)))
    for units, allowed in zones.items():
        if CLOUD not in allowed:
            open_to -= set(range(*parse_units(units, "privacy.units")))
    if not open_to:
        return None
    pins = {f"{unit}:{unit + 1}": clouds[0].node for unit in sorted(open_to)}
    pinned = replace(truth.spec, policy=replace(truth.spec.policy, pin=pins))
    return _planned(truth, pinned, views)


def on_edge(truth: Truth, views: tuple[NodeView, ...]) -> Plan | None:
    """The best placement without any node of the cloud."""
    return _planned(truth, truth.spec, tuple(view for view in views if view.zone != CLOUD))


def on_single_nodes(truth: Truth, views: tuple[NodeView, ...]) -> list[Plan]:
    """Each node that can do all of it, with the best door."""
    found = (_planned(truth, truth.spec, (view,)) for view in views)
    return [placement for placement in found if placement is not None]


def _planned(truth: Truth, spec: Deployment, views: tuple[NodeView, ...]) -> Plan | None:
    found = plan(spec, truth.graph, views, question=truth.question(0.0, 1.0))
    return found if isinstance(found, Plan) else None
