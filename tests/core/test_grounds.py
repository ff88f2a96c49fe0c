"""Which nodes an explanation tells of, and what becomes of figures that are out of range."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.core.explanation import FIGURE_MAX, Inputs, limited, rounded
from dsi_mqtt.core.grounds import NODES_MAX, Grounds, explained
from dsi_mqtt.core.infeasible import Infeasible
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.offered import Coming
from dsi_mqtt.core.placement import Chain
from dsi_mqtt.core.profile import Link, NodeView
from tests.thoroughness import examples


def view(node: str, rtt_ms: float) -> NodeView:
    return NodeView(node, f"{node}1", "edge", 100, (0.1, 0.2), Link(math.inf, 50.0, rtt_ms))


def inputs(nodes: tuple[NodeView, ...], chain: Chain | None = None) -> Inputs:
    none = Infeasible("memory", "nodes", "no room", "add some")
    grounds = Grounds(nodes, Coming(2.0), chain, none, None)
    found = explained("d-1", "unavailable", none.sentence, None, grounds).inputs
    assert found is not None
    return found


def test_few_nodes_are_all_told_in_their_order() -> None:
    told = inputs((view("b", 3.0), view("a", 9.0)))
    assert ([node.node for node in told.nodes], told.left_out) == (["b", "a"], 0)
    assert (told.nodes[0].up_mbit_s, told.nodes[0].down_mbit_s) == (None, 50.0)
    assert told.nodes[0].model_s == 0.3


def test_of_many_the_chain_and_the_nearest_are_told() -> None:
    nodes = [view(f"n{i:03}", 1.0 + i) for i in range(NODES_MAX + 30)]
    chain = Chain("far", ((UnitRange(0, 2), "far"),), ())
    told = inputs((*nodes, view("far", 1e6)), chain)
    names = [node.node for node in told.nodes]
    assert len(names) == NODES_MAX
    assert names == [*(f"n{i:03}" for i in range(NODES_MAX - 1)), "far"]
    assert told.left_out == 31


@given(figure=st.floats())
@settings(max_examples=examples(50))
def test_figures_are_told_within_their_bounds(figure: float) -> None:
    assert -FIGURE_MAX <= limited(figure) <= FIGURE_MAX
    told = rounded(figure)
    if told is None:
        assert not 0 <= figure <= FIGURE_MAX
    else:
        assert math.isclose(told, figure, rel_tol=1e-4, abs_tol=1e-300)
