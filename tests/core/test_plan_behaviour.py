"""What a plan looks like: the shipped demo's case, nodes that return, spares, limits, extremes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.core.deployment import Deployment, Policy, Privacy, Sla, SplitPart
from dsi_mqtt.core.infeasible import Situation
from dsi_mqtt.core.model import ModelGraph, ModelSpec, Tie, Unit, UnitRange
from dsi_mqtt.core.plan import Infeasible, Plan, plan
from dsi_mqtt.core.profile import Link, NodeView
from dsi_mqtt.core.rules import compile_rules
from dsi_mqtt.core.search import cheapest
from dsi_mqtt.errors import MESSAGE_MAX, ConfigError
from tests.thoroughness import examples

MIB = 1 << 20
DEPLOYMENT = Deployment("hazards", ModelSpec(tier="fake"))
FAST = Link(900.0, 900.0, 0.2)

DEMO = ModelGraph(
    "sha256:00",
    "layer",
    (
        Unit("prelude", int(45.5 * MIB), 1e6, 12_288),
        *(Unit(f"block {i}", int(6.77 * MIB), 1e8, 12_288) for i in range(6)),
        Unit("head", int(0.56 * MIB), 1e6, 0),
    ),
)
DEMO_DEPLOYMENT = replace(DEPLOYMENT, privacy=Privacy({"0:3": ("city",)}))


def node(
    name: str, memory_mib: float, zone: str = "field", *, s: float = 0.002, units: int = 8
) -> NodeView:
    return NodeView(name, "1", zone, int(memory_mib * MIB), (s,) * units, FAST)


def demo_nodes(*memory_mib: float) -> tuple[NodeView, ...]:
    city, first, second = memory_mib
    return node("city", city, "city"), node("gw-1", first), node("gw-2", second)


def graph(*weights_mib: float, nbytes: int = 1_000) -> ModelGraph:
    units = tuple(Unit(f"u{i}", int(w * MIB), 0.0, nbytes) for i, w in enumerate(weights_mib))
    return ModelGraph("sha256:00", "fake", units, (), nbytes, nbytes)


def planned(found: Plan | Infeasible) -> Plan:
    assert isinstance(found, Plan), found
    return found


def placed(found: Plan | Infeasible) -> list[tuple[str, str]]:
    return [(str(segment.units), segment.node) for segment in planned(found).segments]


# --- the demo -------------------------------------------------------------------------------------


def test_demo_needs_three_segments() -> None:
    found = plan(DEMO_DEPLOYMENT, DEMO, demo_nodes(62, 18, 18))
    assert placed(found) == [("0:3", "city"), ("3:5", "gw-1"), ("5:8", "gw-2")]
    assert planned(found).door == "city"
    assert planned(found).single_node_latency_s is None


def test_the_busiest_station_is_the_node_that_computes_longest() -> None:
    found = planned(plan(DEMO_DEPLOYMENT, DEMO, demo_nodes(62, 18, 18)))
    assert found.busiest_s == pytest.approx(3 * 0.002 + 0.0003)


def test_the_busiest_station_is_a_link_where_one_is_slow() -> None:
    slow = replace(demo_nodes(62, 18, 18)[0], link=Link(1.0, 900.0, 0.2))
    found = planned(plan(DEMO_DEPLOYMENT, DEMO, [slow, *demo_nodes(62, 18, 18)[1:]]))
    assert found.door == "city"
    # An activation to the next node, and the answer to its device.
    assert found.busiest_s == pytest.approx((12_288 + DEMO.result_bytes) * 8e-6)


def test_a_node_that_computes_twice_is_busy_twice() -> None:
    ends = replace(
        DEPLOYMENT,
        privacy=Privacy({"0:2": ("city",), "7:8": ("city",)}),
        policy=Policy(pin={"2:7": "gw-1"}),
    )
    found = planned(plan(ends, DEMO, demo_nodes(90, 90, 90)))
    assert placed(found) == [("0:2", "city"), ("2:7", "gw-1"), ("7:8", "city")]
    assert found.busiest_s == pytest.approx(max(3 * 0.002 + 2 * 0.0003, 5 * 0.002 + 0.0003))


def test_demo_does_not_split_when_one_node_holds_it_all() -> None:
    found = planned(plan(DEMO_DEPLOYMENT, DEMO, demo_nodes(200, 200, 200)))
    assert placed(found) == [("0:8", "city")]
    assert found.single_node_latency_s == found.latency_s


def test_plan_tells_its_latency_in_parts() -> None:
    found = planned(plan(DEMO_DEPLOYMENT, DEMO, demo_nodes(62, 18, 18)))
    hop_s = 0.2e-3 + 0.5e-3
    assert [s.compute_s for s in found.segments] == pytest.approx([6.3e-3, 4.3e-3, 6.3e-3])
    assert [(h.source, h.target, h.nbytes) for h in found.hops] == [
        ("door", "city", 256),
        ("city", "gw-1", 12_288),
        ("gw-1", "gw-2", 12_288),
        ("gw-2", "door", 1_024),
    ]
    transfers = [0.0, hop_s + 12_288 * 16 / 900e6, hop_s + 12_288 * 16 / 900e6]
    assert [h.transfer_s for h in found.hops[:3]] == pytest.approx(transfers, rel=1e-5)
    assert found.access_s == pytest.approx(2 * 0.6e-3 + (256 + 1_024) * 8 / 900e6, rel=1e-5)
    assert found.latency_s == pytest.approx(found.access_s + found.compute_s + found.transfer_s)


def test_make_before_break_counts_what_is_held() -> None:
    nodes = demo_nodes(62, 18, 18)
    serving = {"city": [UnitRange(0, 3)], "gw-1": [UnitRange(3, 5)], "gw-2": [UnitRange(5, 8)]}
    assert placed(plan(DEMO_DEPLOYMENT, DEMO, nodes, held=serving)) == [
        ("0:3", "city"),
        ("3:5", "gw-1"),
        ("5:8", "gw-2"),
    ]
    swapped = {"city": [UnitRange(0, 3)], "gw-1": [UnitRange(5, 8)], "gw-2": [UnitRange(3, 5)]}
    assert placed(plan(DEMO_DEPLOYMENT, DEMO, nodes, held=swapped)) == [
        ("0:3", "city"),
        ("3:5", "gw-2"),
        ("5:8", "gw-1"),
    ]
    astride = {"gw-1": [UnitRange(2, 4)], "gw-2": [UnitRange(4, 6)]}
    found = plan(DEMO_DEPLOYMENT, DEMO, nodes, held=astride)
    assert isinstance(found, Infeasible)
    assert found.constraint == "memory"


# --- shape ----------------------------------------------------------------------------------------


def test_a_node_may_return() -> None:
    ends = replace(DEPLOYMENT, privacy=Privacy({"0:1": ("site",), "2:3": ("site",)}))
    nodes = (node("a", 20, "site", units=3), node("b", 10, units=3))
    assert placed(plan(ends, graph(10, 10, 10), nodes)) == [
        ("0:1", "a"),
        ("1:2", "b"),
        ("2:3", "a"),
    ]


def test_weights_that_tie_are_loaded_once_by_a_node_that_returns() -> None:
    ends = replace(DEPLOYMENT, privacy=Privacy({"0:1": ("site",), "2:3": ("site",)}))
    tied = replace(graph(10, 10, 10), ties=(Tie((0, 2), 8 * MIB),))
    nodes = (node("a", 12, "site", units=3), node("b", 10, units=3))
    assert placed(plan(ends, tied, nodes)) == [("0:1", "a"), ("1:2", "b"), ("2:3", "a")]
    less = (node("a", 11.9, "site", units=3), node("b", 10, units=3))
    assert isinstance(plan(ends, tied, less), Infeasible)


def test_equal_latencies_take_fewer_segments_and_then_the_first_names() -> None:
    nodes = [node(name, 20, units=4) for name in "dbca"]
    found = planned(plan(DEPLOYMENT, graph(10, 10, 10, 10), nodes))
    assert (found.door, placed(found)) == ("a", [("0:2", "a"), ("2:4", "b")])


def test_door_is_where_inputs_and_answers_may_be_seen() -> None:
    rules = replace(DEPLOYMENT, privacy=Privacy({"2:3": ("site",)}))
    quick, slow = node("quick", 30, s=0.001, units=3), node("slow", 10, "site", s=0.05, units=3)
    found = planned(plan(rules, graph(10, 10, 10), (quick, slow)))
    assert found.door == "slow"
    assert placed(found) == [("0:2", "quick"), ("2:3", "slow")]


def test_spares_take_part_only_where_nothing_goes_without_them() -> None:
    plain = node("plain", 30, s=0.05, units=3)
    spare = replace(node("spare", 30, s=0.001, units=3), spare=True)
    assert placed(plan(DEPLOYMENT, graph(10, 10, 10), (plain, spare))) == [("0:3", "plain")]
    small = replace(plain, weight_bytes=25 * MIB)
    assert placed(plan(DEPLOYMENT, graph(10, 10, 10), (small, spare))) == [("0:3", "spare")]


def test_split_by_hand_keeps_its_cuts_on_one_node_too() -> None:
    parts = (SplitPart("0:1", ("a",)), SplitPart("1:3", ("b", "a")))
    nodes = (node("a", 30, units=3), node("b", 30, s=0.05, units=3))
    found = planned(plan(replace(DEPLOYMENT, split=parts), graph(10, 10, 10), nodes))
    assert placed(found) == [("0:1", "a"), ("1:3", "a")]
    assert found.hops[1].transfer_s == 0
    assert found.single_node_latency_s == pytest.approx(found.latency_s - 0.3e-3)


def test_pin_max_segments_and_forbid() -> None:
    nodes = [node(name, 20, units=3) for name in "abc"]
    pinned = replace(DEPLOYMENT, policy=Policy(pin={"1:2": "c"}, forbid=("a",)))
    assert placed(plan(pinned, graph(10, 10, 10), nodes)) == [("0:1", "b"), ("1:3", "c")]
    one = replace(DEPLOYMENT, policy=Policy(max_segments=1))
    found = plan(one, graph(10, 10, 10), nodes)
    assert isinstance(found, Infeasible)
    assert (found.constraint, found.remedy) == ("segments", "set policy.max_segments to 2")


def test_latency_target_is_told_and_not_enforced() -> None:
    nodes = (node("a", 30, s=0.1, units=3),)
    late = replace(DEPLOYMENT, sla=Sla(latency_ms=200))
    assert not planned(plan(late, graph(1, 1, 1), nodes)).meets_sla
    assert planned(plan(replace(late, sla=Sla(latency_ms=400)), graph(1, 1, 1), nodes)).meets_sla


# --- why there is none ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deployment", "nodes", "constraint", "field", "remedy"),
    [
        (
            DEMO_DEPLOYMENT,
            (),
            "no_nodes",
            "nodes",
            "start a node in zone city; let it hold 86.7 MiB of weights at least",
        ),
        (
            DEMO_DEPLOYMENT,
            demo_nodes(62, 18, 18)[1:],
            "zones",
            'privacy.units["0:3"]',
            "start a node in zone city; let it hold 59.1 MiB of weights at least",
        ),
        (
            DEMO_DEPLOYMENT,
            demo_nodes(62, 18, 13.5),
            "memory",
            "gw-2",
            "0.1 MiB more of weights on node gw-2",
        ),
        (
            replace(DEMO_DEPLOYMENT, policy=Policy(max_segments=2)),
            demo_nodes(62, 18, 18),
            "segments",
            "policy.max_segments",
            "set policy.max_segments to 3",
        ),
        (
            replace(DEMO_DEPLOYMENT, policy=Policy(pin={"7:8": "gw-9"})),
            demo_nodes(62, 18, 18),
            "pin",
            'policy.pin["7:8"]',
            "start node gw-9; let it hold 0.6 MiB of weights at least",
        ),
        (
            replace(DEMO_DEPLOYMENT, policy=Policy(pin={"0:1": "gw-1"})),
            demo_nodes(62, 18, 18),
            "pin",
            'policy.pin["0:1"]',
            "move node gw-1 to zone city; let it hold 45.5 MiB of weights at least",
        ),
        (
            replace(DEPLOYMENT, split=(SplitPart("0:8", ("gw-9",)),)),
            demo_nodes(62, 18, 18),
            "split",
            "split[0].nodes",
            "start node gw-9; let it hold 86.7 MiB of weights at least",
        ),
        (
            replace(DEMO_DEPLOYMENT, policy=Policy(forbid=("city", "gw-1", "gw-2"))),
            demo_nodes(62, 18, 18),
            "no_nodes",
            "policy.forbid",
            "start a node in zone city; let it hold 86.7 MiB of weights at least",
        ),
        (
            DEPLOYMENT,
            [replace(view, link=Link(0.0, 9.0, 1.0)) for view in demo_nodes(90, 18, 18)[:1]],
            "links",
            "city",
            "bring the link of node city up",
        ),
    ],
)
def test_infeasible_names_constraint_field_and_remedy(
    deployment: Deployment, nodes: tuple[NodeView, ...], constraint: str, field: str, remedy: str
) -> None:
    found = plan(deployment, DEMO, nodes)
    assert isinstance(found, Infeasible)
    assert (found.constraint, found.field, found.remedy) == (constraint, field, remedy)
    assert found.proven
    assert max(len(found.message), len(found.remedy), len(found.sentence)) <= MESSAGE_MAX


def test_an_answer_of_a_search_that_was_cut_off_says_so() -> None:
    """Three units of which a node holds one: together they have room for all."""
    nodes = [node(name, 18, units=3) for name in "ab"]
    cut_off = plan(DEPLOYMENT, graph(10, 10, 10), nodes, expansions=0)
    whole = plan(DEPLOYMENT, graph(10, 10, 10), nodes)
    assert isinstance(cut_off, Infeasible)
    assert isinstance(whole, Infeasible)
    assert (cut_off.proven, whole.proven) == (False, True)
    assert cut_off.message == f"the search was cut off before it found a placement: {whole.message}"


def test_split_whose_names_cannot_be_in_all_the_zones_it_needs() -> None:
    privacy = Privacy({"0:1": ("x",), "1:2": ("y",), "2:3": ("z",), "3:4": ("x",)})
    parts = tuple(SplitPart(f"{i}:{i + 1}", ("a", "b")) for i in range(4))
    rules = replace(DEPLOYMENT, privacy=privacy, split=parts)
    nodes = (node("a", 90, "x", units=4), node("b", 90, "y", units=4))
    found = plan(rules, graph(10, 10, 10, 10), nodes)
    assert isinstance(found, Infeasible)
    assert (found.constraint, found.field) == ("split", "split[2].nodes")
    assert found.remedy.startswith("set split to null; then start a node in zone z")


def test_a_pinned_node_that_has_to_move_leaves_a_gap_behind() -> None:
    privacy = Privacy({"0:1": ("y",), "1:2": ("x",), "2:3": ("y",)})
    rules = replace(DEPLOYMENT, privacy=privacy, policy=Policy(pin={"1:2": "p"}))
    found = plan(rules, graph(10, 10, 10), (node("p", 90, "y", units=3),))
    assert isinstance(found, Infeasible)
    assert found.remedy == (
        "move node p to zone x; start a node in zone y; let each hold 20.0 MiB of weights at least"
    )


# --- extremes -------------------------------------------------------------------------------------


def test_one_unit_without_weight_on_a_node_without_memory() -> None:
    empty = ModelGraph("sha256:00", "fake", (Unit("u", 0, 0.0, 0),), (), 0, 0)
    free = NodeView("a", "1", "", 0, (0.0,), Link(math.inf, math.inf, 0.0))
    assert planned(plan(DEPLOYMENT, empty, (free,))).latency_s == pytest.approx(1.3e-3)


def test_a_node_whose_link_is_down_takes_no_part() -> None:
    nodes = (replace(node("a", 90), link=Link(9.0, 0.0, 1.0)), node("b", 90, s=0.5))
    found = planned(plan(DEPLOYMENT, DEMO, nodes))
    assert (found.door, placed(found)) == ("b", [("0:8", "b")])


def test_very_slow_nodes_and_links_are_ordered_still() -> None:
    slow = Link(1e-6, 1e-6, 1e6)
    nodes = [replace(node(name, 90, s=1e6), link=slow) for name in "ab"]
    found = planned(plan(DEPLOYMENT, DEMO, [nodes[0], replace(nodes[1], unit_s=(1e5,) * 8)]))
    assert placed(found) == [("0:8", "b")]
    assert math.isfinite(found.latency_s)


@pytest.mark.parametrize(
    ("nodes", "sentence"),
    [
        ([node("a", 1), node("a", 2)], "node a: is given twice"),
        ([node("a", 1, units=3)], "node a: unit_s has 3 values for the 8 units"),
    ],
)
def test_nodes_that_do_not_fit_the_question_are_refused(
    nodes: list[NodeView], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        plan(DEPLOYMENT, DEMO, nodes)


# --- properties -----------------------------------------------------------------------------------

COSTS = st.floats(0.0, 0.05)


@st.composite
def node_lists(draw: st.DrawFn) -> list[NodeView]:
    rates = st.floats(0.1, 1e4)
    return [
        NodeView(
            name,
            "1",
            draw(st.sampled_from(["city", "field"])),
            draw(st.integers(0, 70)) * MIB,
            tuple(draw(st.lists(COSTS, min_size=8, max_size=8))),
            Link(draw(rates), draw(rates), draw(st.floats(0.0, 50.0))),
        )
        for name in "abcdef"[: draw(st.integers(2, 6))]
    ]


def latency(nodes: list[NodeView]) -> float:
    found = plan(DEMO_DEPLOYMENT, DEMO, nodes)
    return found.latency_s if isinstance(found, Plan) else math.inf


@settings(max_examples=examples(40))
@given(node_lists(), st.integers(0, 5), st.integers(0, 60))
def test_more_memory_never_hurts(nodes: list[NodeView], which: int, more_mib: int) -> None:
    i = which % len(nodes)
    grown = list(nodes)
    grown[i] = replace(nodes[i], weight_bytes=nodes[i].weight_bytes + more_mib * MIB)
    assert latency(grown) <= latency(nodes)


@settings(max_examples=examples(40))
@given(node_lists(), st.integers(0, 5), st.floats(1.0, 10.0), st.floats(0.0, 50.0))
def test_a_slower_link_never_helps(
    nodes: list[NodeView], which: int, divisor: float, more_ms: float
) -> None:
    i = which % len(nodes)
    link = nodes[i].link
    slower = list(nodes)
    slower[i] = replace(
        nodes[i],
        link=Link(link.up_mbit_s / divisor, link.down_mbit_s / divisor, link.rtt_ms + more_ms),
    )
    assert latency(slower) >= latency(nodes)


@settings(max_examples=examples(40))
@given(node_lists(), st.randoms(use_true_random=False))
def test_order_of_the_nodes_does_not_matter(nodes: list[NodeView], random: object) -> None:
    order = list(nodes)
    random.shuffle(order)  # type: ignore[attr-defined]
    assert plan(DEMO_DEPLOYMENT, DEMO, order) == plan(DEMO_DEPLOYMENT, DEMO, nodes)


def test_prices_of_memory_prove_what_plain_search_cannot() -> None:
    """A fast node short of memory: the plain bound lets it return at will and stays far below."""
    units = 16
    speeds = (0.001, 0.004, 0.005, 0.006, 0.007, 0.008)
    nodes = tuple(node(f"n{i}", 45 + i, s=s, units=units) for i, s in enumerate(speeds))
    big = graph(*[10.0] * units, nbytes=10_000)
    problem = Situation(big, compile_rules(DEPLOYMENT, big), nodes, {}).problem()
    assert not cheapest(problem, 3_000, rounds=0).complete
    assert cheapest(problem, 1_000).complete
