"""The estimate by which fixed placements are ranked before some are simulated."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsi_mqtt.core.plan import Plan
from dsi_mqtt.evaluate.forecast import likely_best, share_late
from dsi_mqtt.evaluate.policies import key_of, on_cloud, on_edge
from dsi_mqtt.evaluate.truth import Truth
from dsi_mqtt.sim.scenario import Fault, Scenario
from dsi_mqtt.sim.simulation import Simulation
from tests.evaluate.small import FROM_S, UNTIL_S, site

FIRST_S = 10.0


def edge_of(chosen: Scenario, at_s: float, without: str = "") -> Plan:
    truth, nodes = Truth(chosen), Simulation(chosen, scripts={}).nodes
    views = truth.views({n: node for n, node in nodes.items() if n != without}, (at_s,))
    found = on_edge(truth, views)
    assert found is not None
    return found


def late(chosen: Scenario, placement: Plan) -> float:
    return share_late(Truth(chosen), Simulation(chosen, scripts={}).nodes, placement)


def test_the_share_late_is_that_of_the_time_in_which_its_link_is_slow() -> None:
    chosen = site()
    near = edge_of(chosen, 0.0)
    assert "near" in near.nodes
    share = (UNTIL_S - FROM_S) / (chosen.duration_s - FIRST_S)
    assert share <= late(chosen, near) <= share + 0.1  # what has piled up is late as well
    assert late(replace(chosen, faults=()), near) == 0.0


def test_all_that_come_while_a_node_of_it_is_gone_are_late() -> None:
    chosen = replace(site(), faults=(Fault(20.0, 8.0, kill="far"),))
    far = edge_of(chosen, 0.0, without="near")
    assert late(chosen, far) == pytest.approx(8 / (chosen.duration_s - FIRST_S))
    assert late(chosen, edge_of(chosen, 0.0)) == 0.0


def test_the_likely_best_come_first_and_each_once() -> None:
    chosen = site()
    truth, nodes = Truth(chosen), Simulation(chosen, scripts={}).nodes
    cloud = on_cloud(truth, truth.views(nodes, (0.0,)))
    assert cloud is not None
    placements = [cloud, edge_of(chosen, 0.0), edge_of(chosen, 0.0, without="near")]
    found = likely_best(truth, nodes, [*placements, *placements], count=2)
    assert len({key_of(each) for each in found}) == len(found) == 2
    shares = sorted(late(chosen, each) for each in placements)
    assert [late(chosen, each) for each in found] == shares[:2]
