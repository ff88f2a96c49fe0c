"""Segments that several nodes serve: how requests are spread, and when that is planned."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.deployment import Deployment, Objective, Policy, Prices, Privacy, Sla
from dsi_mqtt.core.duties import busy_along
from dsi_mqtt.core.formulation import question_of
from dsi_mqtt.core.infeasible import Situation
from dsi_mqtt.core.model import ModelGraph, ModelSpec, Unit, UnitRange
from dsi_mqtt.core.offers import condition
from dsi_mqtt.core.path import Path, Step
from dsi_mqtt.core.plan import Infeasible, Plan, plan, promised
from dsi_mqtt.core.profile import Link, NodeView
from dsi_mqtt.core.queueing import waiting_s
from dsi_mqtt.core.rules import compile_rules
from dsi_mqtt.core.table import Replica, Segment
from dsi_mqtt.core.ways import busy, mean, ways_of

MIB = 1 << 20
GRAPH = ModelGraph("sha256:00", "layer", tuple(Unit(f"u{i}", MIB, 1e6, 20_000) for i in range(4)))


def node(
    name: str, ms: float = 10.0, mib: int = 4, mbit_s: float = 1000.0, **more: str
) -> NodeView:
    zone = more.get("zone", "edge")
    return NodeView(name, "i", zone, mib * MIB, (ms / 1e3,) * 4, Link(mbit_s, mbit_s, 1.0))


def spec(rate_per_s: float, **policy: int) -> Deployment:
    sla = Sla(latency_ms=100.0, rate_per_s=rate_per_s)
    return Deployment("d", ModelSpec("/m"), sla=sla, policy=Policy(**policy))  # type: ignore[arg-type]


def planned(given: Deployment, *nodes: NodeView) -> Plan:
    found = plan(given, GRAPH, nodes, question=question_of(given))
    assert isinstance(found, Plan)
    return found


def segment(*weights: float) -> Segment:
    replicas = tuple(Replica(f"n{i}", "x", weight) for i, weight in enumerate(weights))
    return Segment("s0", UnitRange(0, 1), "float32", replicas)


# --- lanes ----------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.05, 1.0), min_size=1, max_size=4), st.integers(0, 10**9))
def test_lanes_that_follow_each_other_are_spread_by_the_weights(
    weights: list[float], first: int
) -> None:
    part = segment(*weights)
    lanes = 400
    counts = Counter(part.replica(first + lane).node for lane in range(lanes))
    for i, weight in enumerate(weights):
        assert counts[f"n{i}"] == pytest.approx(lanes * weight / sum(weights), abs=3)


def test_two_equal_replicas_hardly_ever_get_three_in_a_row() -> None:
    part = segment(0.5, 0.5)
    chosen = [part.replica(lane).node for lane in range(100)]
    assert max(len(list(run)) for _, run in itertools.groupby(chosen)) <= 2


@given(st.lists(st.lists(st.floats(0.05, 1.0), min_size=1, max_size=3), min_size=1, max_size=3))
def test_the_chains_of_a_placement_are_those_that_lanes_take(weights: list[list[float]]) -> None:
    """Counted by lanes, by the very function that nodes choose by."""
    segments = [segment(*each) for each in weights]
    steps = tuple(Step(0, i + 1, 0) for i in range(len(weights)))
    told = ways_of((0, steps), [tuple(enumerate(each)) for each in weights])
    assert sum(way.share for way in told) == pytest.approx(1.0)
    lanes = 4000
    counted = Counter(
        tuple(int(part.replica(lane).node[1:]) for part in segments) for lane in range(lanes)
    )
    shares = {tuple(step.node for step in way.path[1]): way.share for way in told}
    for chain, count in counted.items():
        assert count / lanes == pytest.approx(shares.get(chain, 0.0), abs=0.005)


# --- planning -------------------------------------------------------------------------------------


def test_one_chain_is_enough_where_it_bears_what_comes_in_time() -> None:
    found = planned(spec(5.0), node("a"), node("b"), node("c"))
    assert found.chain.replicas == ()


def test_the_whole_model_is_served_by_several_nodes_where_one_bears_too_little() -> None:
    """Three times 25 a second, with hops that would cost more than they share."""
    nodes = [node(name, mbit_s=20.0) for name in "abc"]
    found = planned(spec(55.0, max_segments=1), *nodes)
    assert found.sustained
    weights = [weight for _, weight in found.segments[0].replicas]
    assert sorted(found.segments[0].nodes) == ["a", "b", "c"]
    assert max(weights) / sum(weights) < 0.45
    assert not planned(spec(55.0, replicas=1, max_segments=1), *nodes).sustained


def test_a_faster_node_gets_more() -> None:
    found = planned(spec(60.0), node("slow", mbit_s=20.0), node("fast", 4.0, mbit_s=20.0))
    weights = dict(found.segments[0].replicas)
    assert weights["fast"] > weights["slow"] > 0


def test_replicas_obey_zones_memory_and_forbidden_nodes() -> None:
    nodes = [
        node("a", mbit_s=20.0),
        node("cloud", zone="cloud", mbit_s=20.0),
        node("small", mib=3, mbit_s=20.0),
        node("old", mbit_s=20.0),
    ]
    given = replace(
        spec(30.0, max_segments=1),
        privacy=Privacy(units={"0:4": ("edge",)}),
        policy=Policy(max_segments=1, forbid=("old",)),
    )
    found = planned(given, *nodes)
    assert found.nodes == {"a"}
    assert not found.sustained


def test_a_segment_in_the_middle_may_have_replicas_while_its_neighbours_have_none() -> None:
    zones = Privacy(units={"0:1": ("city",), "3:4": ("city",)})
    given = replace(spec(40.0, max_segments=3), privacy=zones)
    nodes = [node("city", 2.0, mib=2, zone="city"), node("x", 16.0, mib=2), node("y", 16.0, mib=2)]
    found = planned(given, *nodes)
    assert [len(part.nodes) for part in found.segments] == [1, 2, 1]
    assert found.sustained


def test_what_serves_with_replicas_is_promised_the_same() -> None:
    given = spec(55.0)
    nodes = [node(name, mbit_s=20.0) for name in "abc"]
    found = planned(given, *nodes)
    told = promised(given, GRAPH, nodes, found.chain, question=question_of(given))
    assert told is not None
    assert told.within_s == pytest.approx(found.within_s)
    assert told.account == found.account
    assert told.rate_per_s == pytest.approx(found.rate_per_s)


def test_the_number_of_replicas_can_be_limited() -> None:
    nodes = [node(name, mbit_s=20.0) for name in "abcd"]
    found = planned(spec(90.0, replicas=2, max_segments=1), *nodes)
    assert len(found.segments[0].nodes) == 2


def test_a_target_that_only_replicas_meet_is_met() -> None:
    nodes = [node(name, mbit_s=20.0) for name in "abc"]
    slow = Sla(latency_ms=150.0, rate_per_s=35.0)
    given = replace(spec(35.0, max_segments=1), sla=slow)
    found = plan(given, GRAPH, nodes, question=condition(given))
    assert isinstance(found, Plan)
    assert found.meets_sla
    none = replace(given, policy=Policy(max_segments=1, replicas=1))
    assert isinstance(plan(none, GRAPH, nodes, question=condition(none)), Infeasible)


def test_replicas_are_weighed_like_all_else() -> None:
    """Each costs; two are enough."""
    nodes = [node(name, mbit_s=20.0) for name in "abcd"]
    cheap = spec(26.0, max_segments=1)
    dear = replace(
        cheap,
        prices=Prices(node_hour={"default": 1.0}),
        objective=Objective(latency=1.0, cost=10.0),
    )
    assert len(planned(cheap, *nodes).nodes) == 4
    found = planned(dear, *nodes)
    assert found.sustained
    assert len(found.nodes) == 2
    assert (found.optimal, found.bound) == (False, 1.0)


# --- against trying all ---------------------------------------------------------------------------

SHARES = (0.25, 0.5, 0.75)


def tried_all(given: Deployment, nodes: list[NodeView]) -> float:
    """The least that most requests stay within, over every chain of up to two segments, every door
    and every pair of replicas with shares in fourths.
    """
    question = question_of(given)
    problem = Situation(GRAPH, compile_rules(given, GRAPH), tuple(nodes), {}, question).problem(
        every=True
    )
    numbers = range(len(problem.nodes))
    singles = [((n, 1.0),) for n in numbers]
    pairs = [
        ((a, share), (b, 1 - share))
        for a, b in itertools.combinations(numbers, 2)
        for share in SHARES
    ]
    best = float("inf")
    chains = [(4,), (1, 4), (2, 4), (3, 4)]
    for door, stops in itertools.product(problem.doors, chains):
        for weights in itertools.product([*singles, *pairs], repeat=len(stops)):
            path: Path = (
                door,
                tuple(Step(w[0][0], stop, 0) for w, stop in zip(weights, stops, strict=True)),
            )
            ways = ways_of(path, weights)
            most = float(busy(problem, ways).max()) / 1e9
            wait = waiting_s(given.rate_per_s, most, 0.95)
            best = min(best, mean(problem.latency, ways) / 1e9 + wait)
    return best


@pytest.mark.parametrize(
    ("speeds", "mbit_s", "load"),
    [
        ((12.0, 12.0), 10.0, 1.42),
        ((12.0, 12.0, 8.0), 100.0, 1.58),
        ((12.0, 8.0, 8.0), 100.0, 1.78),
        ((8.0, 4.0), 10.0, 1.28),
        ((8.0, 12.0, 8.0), 100.0, 1.52),
        ((4.0, 4.0, 4.0), 100.0, 1.5),
    ],
)
def test_descent_finds_what_trying_all_finds(
    speeds: tuple[float, ...], mbit_s: float, load: float
) -> None:
    nodes = [node(f"n{i}", ms, mbit_s=mbit_s) for i, ms in enumerate(speeds)]
    rate = load * 1000 / (4 * min(speeds))  # more than the fastest bears alone
    given = replace(spec(rate, max_segments=2), sla=Sla(latency_ms=1.0, rate_per_s=rate))
    found = planned(given, *nodes)
    assert found.sustained
    # Finer shares than those that are tried here may be better still.
    assert found.within_s <= tried_all(given, nodes) * 1.05


def test_the_mean_of_one_way_is_that_way() -> None:
    given = spec(1.0)
    situation = Situation(
        GRAPH, compile_rules(given, GRAPH), (node("a"), node("b")), {}, question_of(given)
    )
    problem = situation.problem()
    path: Path = (0, (Step(0, 2, 0), Step(1, 4, 0)))
    ways = ways_of(path, ((), ()))
    assert mean(problem.latency, ways) == problem.latency.along(*path)
    assert np.array_equal(busy(problem, ways), busy_along(problem, *path))
