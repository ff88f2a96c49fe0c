"""A site whose tables are dictated: nothing is lost by moving, and moving costs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.plan import Plan, PlannedHop, PlannedSegment
from dsi_mqtt.core.table import DOOR
from dsi_mqtt.sim.node import Node
from dsi_mqtt.sim.scenario import Fault, Scenario
from dsi_mqtt.sim.simulation import Simulation
from tests.sim.sites import NAME, scenario


def placement(door: str, *parts: tuple[int, int, str]) -> Plan:
    """`parts`: start, stop and node of each segment."""
    names = [DOOR, *(node for _, _, node in parts), DOOR]
    hops = [PlannedHop(a, b, 0, 0.0) for a, b in pairwise(names)]
    return Plan(
        tuple(PlannedSegment(UnitRange(a, b), node, 0.0) for a, b, node in parts),
        door,
        latency_s=0.1,
        access_s=0.0,
        hops=tuple(hops),
        busiest_s=0.1,
        optimal=True,
        bound=0.0,
        considered=1,
        single_node_latency_s=None,
        meets_sla=True,
    )


HALVES = placement("gw-1", (0, 3, "gw-1"), (3, 6, "gw-2"))
OTHERS = placement("gw-3", (0, 2, "gw-3"), (2, 6, "gw-4"))


class Alternating:
    """Another chain, with another door, every second."""

    def choose(self, nodes: Mapping[str, Node], now: float) -> Plan | None:
        assert len(nodes) == 4
        return (HALVES, OTHERS)[int(now) % 2]


class Fixed:
    def choose(self, nodes: Mapping[str, Node], now: float) -> Plan | None:
        return HALVES


def played(script: Alternating | Fixed, chosen: Scenario) -> Simulation:
    run = Simulation(chosen, scripts={NAME: script})
    run.run()
    return run


def test_moving_every_second_loses_and_repeats_nothing() -> None:
    run = played(Alternating(), scenario(rate_per_s=8.0, duration_s=40.0))
    answers = run.outcome.answers[NAME]
    assert len(answers.latencies_s) == answers.asked > 200
    assert answers.repeated == 0
    assert run.outcome.moves(NAME) >= 34
    # Both chains are the same for an input: nobody waits for a door to let go, or for weights.
    assert max(answers.latencies_s) < 1.0


def test_words_beside_the_traffic_have_no_bytes() -> None:
    run = played(Alternating(), scenario(duration_s=30.0))
    assert sum(n.link.up.control_bytes + n.heard_bytes() for n in run.nodes.values()) == 0


def test_a_fixed_placement_waits_for_its_node_and_serves_again() -> None:
    run = played(Fixed(), scenario(Fault(20.0, 10.0, kill="gw-2"), rate_per_s=2.0))
    answers = run.outcome.answers[NAME]
    assert run.outcome.moves(NAME) == 0
    back = [at for at in answers.asked_at if at > 32.0]
    asked = [*answers.asked_at, *answers.failed_at]
    assert len(back) == sum(at > 32.0 for at in asked) > 20
    assert max(answers.latencies_s) > 5.0  # who asked meanwhile has waited


def test_two_runs_write_the_same() -> None:
    chosen = replace(scenario(duration_s=20.0), seed=3)
    one, two = played(Alternating(), chosen), played(Alternating(), chosen)
    assert one.journal.digest == two.journal.digest
