"""What crosses each cut of a graph: the tensors made before it and used behind it.

A cut lies between two operations; cut *k* lies before operation *k*. What depends on no input
(masks and positions made of sizes, tables made of weights) does not cross: it is *loose*, computed
wherever it is used, for that is cheaper than to send it. Sizes within the model cross as numbers.
A list of tensors cannot cross, so there is no cut between an operation that makes one and those
that take it apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import fx

from dsi_mqtt.engine.torch.graph_export import Exported, Kind


@dataclass(frozen=True, slots=True)
class Boundary:
    """What crosses a cut, in the order of the graph. numbers: sizes, whole ones."""

    tensors: tuple[fx.Node, ...]
    numbers: tuple[fx.Node, ...]


@dataclass(frozen=True, slots=True)
class Flow:
    """A graph in the order in which it is computed.

    steps: its operations. loose: those whose results never cross.
    alive: for every value that may have to cross, the first and the last cut that it crosses.
    """

    graph: fx.Graph
    steps: tuple[fx.Node, ...]
    loose: frozenset[fx.Node]
    alive: Mapping[fx.Node, tuple[int, int]]

    @property
    def ends(self) -> int:
        """The cut behind the last operation."""
        return len(self.steps)

    def crossing(self, cut: int) -> list[fx.Node]:
        return [node for node, (first, last) in self.alive.items() if first <= cut <= last]

    def boundary(self, cut: int) -> Boundary:
        nodes = self.crossing(cut)
        return Boundary(
            tuple(node for node in nodes if is_tensor(node)),
            tuple(node for node in nodes if not is_tensor(node)),
        )

    def roots(self, step: fx.Node) -> list[fx.Node]:
        """The weights and constants that `step` computes with, by itself or what is loose."""
        return [
            node for node in self.path(self.alive, step.all_input_nodes) if node.op == "placeholder"
        ]

    def path(self, given: Iterable[fx.Node], wanted: Iterable[fx.Node]) -> list[fx.Node]:
        """All nodes, in order, by which `wanted` is computed from `given`, without those."""
        found = set(given)
        needed: set[fx.Node] = set()
        ahead = [node for node in wanted if node not in found]
        while ahead:
            node = ahead.pop()
            if node not in found:
                found.add(node)
                needed.add(node)
                ahead += node.all_input_nodes
        return [node for node in self.graph.nodes if node in needed]


def is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta["made"], Kind)


def is_list(node: fx.Node) -> bool:
    return node.meta["made"] is list


def find_flow(exported: Exported) -> Flow:
    graph = exported.graph
    inputs = set(exported.inputs.values())
    steps = tuple(node for node in graph.nodes if node.op == "call_function")
    loose = _loose(graph, inputs)
    last = _last_uses(graph, steps, loose)
    first = {node: index + 1 for index, node in enumerate(steps)}
    alive = {
        node: (first.get(node, 0), last[node])
        for node in graph.nodes
        if node in last and (node.name in inputs or node in first) and node not in loose
    }
    return Flow(graph, steps, frozenset(loose & set(steps)), alive)


def _loose(graph: fx.Graph, inputs: set[str]) -> set[fx.Node]:
    """What can be computed from weights and numbers alone, weights included.

    The size of a tensor that an input made is a number to start from; what is computed from
    numbers is loose again.
    """
    loose: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder":
            if node.name not in inputs:
                loose.add(node)
        elif node.op == "call_function":
            free = (item in loose or item.meta["made"] is int for item in node.all_input_nodes)
            if all(free):
                loose.add(node)
    return loose


def _last_uses(
    graph: fx.Graph, steps: tuple[fx.Node, ...], loose: set[fx.Node]
) -> dict[fx.Node, int]:
    """The last cut that each used value crosses; what is loose uses its own where it is used."""
    place = {node: index for index, node in enumerate(steps)} | {graph.output_node(): len(steps)}
    last: dict[fx.Node, int] = {}
    for node in reversed(graph.nodes):
        uses = [
            last[user] if user in loose else place[user] for user in node.users if user in place
        ]
        if uses:
            last[node] = max(uses)
    return last
