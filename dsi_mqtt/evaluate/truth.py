"""What is true of a simulated site, whatever anybody has measured: the oracles' knowledge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from statistics import median

from dsi_mqtt.core.formulation import Question, question_of
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.profile import Link, NodeView
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.sim.engine import graph_of
from dsi_mqtt.sim.links import Link as SimLink
from dsi_mqtt.sim.node import Node
from dsi_mqtt.sim.scenario import Scenario


class Truth:
    """Of one run, with its only deployment."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        (self.spec,) = scenario.deployments
        self.graph = graph_of(self.spec)
        self._views: dict[str, NodeView] = {}

    def question(self, start: float, stop: float) -> Question:
        """What the deployment asks, under the load that there is in [start, stop)."""
        asked = question_of(self.spec)
        rate = sum(
            requests.rate_per_s * _overlap(start, stop, requests.from_s, requests.until_s)
            for requests in self.scenario.requests
        ) / (stop - start)
        return replace(asked, aim=replace(asked.aim, rate_per_s=max(rate, asked.aim.rate_per_s)))

    def views(self, nodes: Mapping[str, Node], seconds: Iterable[float]) -> tuple[NodeView, ...]:
        """The nodes with links as they are on the mean over these moments."""
        moments = tuple(seconds)
        return tuple(self._view(node, moments) for node in nodes.values())

    def typical(self, nodes: Mapping[str, Node], seconds: Iterable[float]) -> tuple[NodeView, ...]:
        """The nodes with the medians of their links over these moments."""
        moments = tuple(seconds)
        return tuple(
            replace(self._view(node, moments[:1]), link=usual_link(node.link, moments))
            for node in nodes.values()
        )

    def _view(self, node: Node, moments: tuple[float, ...]) -> NodeView:
        known = self._views.get(node.name)
        if known is None:
            known = self._views[node.name] = self._still(node)
        return replace(known, link=link_of(node.link, moments))

    def _still(self, node: Node) -> NodeView:
        group = node.processor.group
        units = range(len(self.graph.units))
        costs = (node.processor.cost_s(self.graph, UnitRange(i, i + 1)) for i in units)
        return NodeView(node.name, "", group.zone, int(group.memory_mib * MIB), tuple(costs))

    def lost(self, node: str, start: float, stop: float) -> bool:
        """Whether it is gone at any moment of [start, stop)."""
        return any(
            fault.kill == node and fault.at_s < stop and fault.at_s + (fault.for_s or 1e9) > start
            for fault in self.scenario.faults
        )


def link_of(link: SimLink, moments: tuple[float, ...]) -> Link:
    """On the mean over these moments: rates by the time that a byte takes."""
    up = [link.up.mbit_s(at) for at in moments]
    down = [link.down.mbit_s(at) for at in moments]
    rtt = sum(link.rtt_s(at) for at in moments) / len(moments)
    return Link(_together(up), _together(down), rtt * 1e3)


def usual_link(link: SimLink, moments: tuple[float, ...]) -> Link:
    """The median of each figure over these moments."""
    return Link(
        median(link.up.mbit_s(at) for at in moments),
        median(link.down.mbit_s(at) for at in moments),
        median(link.rtt_s(at) for at in moments) * 1e3,
    )


def _together(rates: list[float]) -> float:
    return len(rates) / sum(1 / rate for rate in rates) if min(rates) > 0 else 0.0


def _overlap(start: float, stop: float, begins: float, ends: float | None) -> float:
    return max(0.0, min(stop, stop if ends is None else ends) - max(start, begins))
