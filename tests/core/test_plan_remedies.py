"""What the planner says would help: it is true, and asks for no more than is needed."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Final

from hypothesis import event, given, settings

from dsi_mqtt.core.deployment import Deployment, Policy, Privacy
from dsi_mqtt.core.model import ModelGraph, ModelSpec, Unit
from dsi_mqtt.core.plan import Infeasible, Plan, check, plan
from dsi_mqtt.core.profile import Link, NodeView
from tests.core.plan_cases import (
    MIB,
    ZONES,
    Case,
    cases,
    door_ok,
    oracle,
)
from tests.thoroughness import examples

# Who is there and takes no part: told behind the remedy, and none itself.
BESIDE: Final = r" \(node .*\)$"


@settings(max_examples=examples(300))
@given(cases())
def test_remedy_is_true(case: Case) -> None:
    if check(case.deployment, case.graph):
        return
    found = case.planned()
    if isinstance(found, Plan) or found.remedy.endswith("…"):
        return
    event(re.sub(r"[\d.]+|node [a-d]|zone \w", "_", found.remedy))
    assert oracle(remedied(case, found.remedy)) is not None


def test_a_node_that_must_move_closes_no_gap_where_it_was() -> None:
    """It is the only one in its zone, and pinned to units of another."""
    units = tuple(Unit(f"u{i}", 0, 0.0, 1000) for i in range(3))
    down = Link(0.0, 100.0, 2.0)
    nodes = (
        NodeView("a", "1", "x", MIB, (0.01,) * 3, down),
        NodeView("b", "1", "y", MIB, (0.01,) * 3),
    )
    deployment = Deployment(
        "case",
        ModelSpec(tier="fake"),
        privacy=Privacy({"1:2": ("y",), "2:3": ("x",)}),
        policy=Policy(pin={"0:2": "a"}),
    )
    case = Case(deployment, ModelGraph("sha256:00", "fake", units), nodes, {})
    found = case.planned()
    assert isinstance(found, Infeasible)
    assert oracle(remedied(case, found.remedy)) is not None


@settings(max_examples=examples(150))
@given(cases())
def test_remedy_asks_for_the_least_memory(case: Case) -> None:
    if check(case.deployment, case.graph):
        return
    found = case.planned()
    if isinstance(found, Plan) or found.constraint != "memory":
        return
    amount = re.match(r"([\d.]+) MiB more of weights on ", found.remedy)
    assert amount is not None
    remedy = re.sub(BESIDE, "", found.remedy)
    less = remedy.replace(amount[1], f"{float(amount[1]) - 0.1:.1f}", 1)
    assert oracle(remedied(case, less)) is None
    if found.field != "nodes":
        alone = (f"{less.rsplit(' ', 1)[0]} {node.node}" for node in case.nodes)
        assert all(oracle(remedied(case, other)) is None for other in alone)


def remedied(case: Case, remedy: str) -> Case:
    """What a person makes of a remedy who does what it says."""
    nodes = {node.node: node for node in case.nodes}
    touched: list[str] = []
    deployment = case.deployment
    clauses = re.sub(BESIDE, "", remedy)
    for clause in re.split(r"; (?:then )?| and (?=move|bring)", clauses):
        if match := re.fullmatch(r"start (?:a node|node (\S+))(?: in zone (\S+))?", clause):
            name, zone = match[1] or f"new{len(nodes)}", match[2] or _any_zone(case)
            nodes[name] = NodeView(name, "1", zone, 0, (0.0,) * len(case.graph.units))
            touched.append(name)
        elif match := re.fullmatch(r"(let|bring the link of) node (\S+) (?:take part|up)", clause):
            node = nodes[match[2]]
            mended = replace(node, unfit="") if match[1] == "let" else replace(node, link=Link())
            nodes[match[2]] = mended
            touched.append(match[2])
        elif match := re.fullmatch(r"move node (\S+) to zone (\S+)", clause):
            nodes[match[1]] = replace(nodes[match[1]], zone=match[2])
            touched.append(match[1])
        elif match := re.fullmatch(r"let (?:it|each) hold ([\d.]+) MiB .* at least", clause):
            for name in touched:
                least = max(nodes[name].weight_bytes, math.ceil(float(match[1]) * MIB))
                nodes[name] = replace(nodes[name], weight_bytes=least)
        elif match := re.fullmatch(
            r"([\d.]+) MiB more of weights on (?:every node|node (\S+))", clause
        ):
            for name in [match[2]] if match[2] else list(nodes):
                most = nodes[name].weight_bytes + math.ceil(float(match[1]) * MIB)
                nodes[name] = replace(nodes[name], weight_bytes=most)
        elif match := re.fullmatch(r"set policy.max_segments to (\d+)", clause):
            policy = replace(deployment.policy, max_segments=int(match[1]))
            deployment = replace(deployment, policy=policy)
        else:
            assert clause == "set split to null", clause
            deployment = replace(deployment, split=None)
    return replace(case, deployment=deployment, nodes=tuple(nodes.values()))


def _any_zone(case: Case) -> str:
    """Where a node is not told to be in a zone, it may be in any that the door may be in."""
    return next((zone for zone in ZONES if door_ok(case, NodeView("", "", zone, 0, ()))), "")


def test_a_remedy_counts_what_caches_take() -> None:
    graph = ModelGraph("m", "fake", tuple(Unit(f"u{i}", MIB, 1.0, 4) for i in range(4)))
    node = NodeView("a", "1", "z", 0, (0.0,) * 4, cache_bytes=9 * MIB, overdrawn_bytes=2 * MIB)
    found = plan(Deployment("d", ModelSpec(tier="fake")), graph, [node])
    assert isinstance(found, Infeasible)
    assert "9.0 MiB on each are for caches (generation.kv_mib_max)" in found.message
    assert found.remedy == "6.0 MiB more of weights on node a"
