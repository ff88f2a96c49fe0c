"""What is true of a site at any moment, whatever anybody has measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsi_mqtt.evaluate.truth import Truth, link_of, usual_link
from dsi_mqtt.sim.scenario import Fault, Requests
from dsi_mqtt.sim.simulation import Simulation
from tests.evaluate.small import FROM_S, UNTIL_S, site


def test_the_load_is_the_mean_over_the_time_and_no_less_than_was_announced() -> None:
    chosen = site()
    spike = Requests("frames", rate_per_s=4.0, from_s=30.0, until_s=32.0)
    truth = Truth(replace(chosen, requests=(*chosen.requests, spike)))
    assert truth.question(0.0, 1.0).aim.rate_per_s == 2.0  # announced; nothing comes yet
    assert truth.question(20.0, 21.0).aim.rate_per_s == 3.0
    assert truth.question(30.0, 31.0).aim.rate_per_s == 7.0
    assert truth.question(31.0, 35.0).aim.rate_per_s == pytest.approx(4.0)


def test_a_link_is_as_it_is_then_and_its_rates_on_the_mean_of_what_a_byte_takes() -> None:
    near = Simulation(site(), scripts={}).nodes["near"].link
    assert link_of(near, (FROM_S - 1,)).up_mbit_s == 30.0
    assert link_of(near, (FROM_S,)).up_mbit_s == pytest.approx(1.8)
    both = link_of(near, (FROM_S - 1, FROM_S))
    assert both.up_mbit_s == pytest.approx(2 / (1 / 30.0 + 1 / 1.8))
    assert both.rtt_ms == pytest.approx(20.0)


def test_what_is_usual_of_a_link_is_the_median() -> None:
    near = Simulation(site(), scripts={}).nodes["near"].link
    moments = (*range(int(FROM_S) - 5, int(FROM_S)), *range(int(FROM_S), int(FROM_S) + 3))
    assert usual_link(near, tuple(moments)).down_mbit_s == 30.0


def test_views_have_what_is_true_of_each_node() -> None:
    chosen = site()
    nodes = Simulation(chosen, scripts={}).nodes
    views = {view.node: view for view in Truth(chosen).views(nodes, (UNTIL_S + 1,))}
    assert views.keys() == nodes.keys()
    assert views["near"].link.up_mbit_s == 30.0
    assert views["gate"].unit_s[0] == pytest.approx(10 * views["near"].unit_s[0], rel=0.1)
    assert views["gate"].weight_bytes == 15 * 1024 * 1024


def test_a_node_is_lost_from_when_it_dies_until_it_is_back() -> None:
    chosen = site()
    killed = Truth(replace(chosen, faults=(*chosen.faults, Fault(25.0, 5.0, kill="far"))))
    spans = [(20.0, 25.0), (24.0, 25.1), (29.9, 31.0), (30.0, 31.0)]
    assert [killed.lost("far", *span) for span in spans] == [False, True, True, False]
    assert not killed.lost("near", 0.0, 100.0)
