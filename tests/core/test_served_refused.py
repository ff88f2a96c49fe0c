"""A deployment is changed into what cannot be placed: what served serves on where it may."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dsi_mqtt.core.deployment import Deployment, Policy, Privacy, SplitPart
from dsi_mqtt.core.model import ModelGraph
from tests.core.orchestra import GRAPH, NAME, SPEC, Node, Site, moving, placed, serving, three


def by_hand(*nodes: str) -> Deployment:
    """As many units on each of them."""
    each = 6 // len(nodes)
    parts = [SplitPart(f"{each * i}:{each * i + each}", (node,)) for i, node in enumerate(nodes)]
    return replace(SPEC, split=tuple(parts))


def refused(site: Site, spec: Deployment) -> str:
    """Deploys it, and gives the reason that is told while what served serves on."""
    before = site.serve
    site.deploy(spec)
    site.until(lambda: site.document.refused is not None).run(5.0)
    stamp = site.serve.stamp
    assert stamp > before.stamp
    again = replace(before, term=stamp.term, leader=stamp.leader, epoch=stamp.epoch)
    assert site.serve == again
    assert all(node.seen[0] == stamp for node in site.nodes.values())
    return site.document.refused or ""


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (by_hand("z"), "none of z is there"),
        (replace(SPEC, policy=Policy(pin={"0:1": "z"})), "pinned to z: not there"),
        (replace(SPEC, policy=Policy(max_segments=1)), "no placement has 1 segment"),
        (replace(SPEC, split=(SplitPart("0:3", ("a",)),)), "the parts end at 3"),
    ],
)
def test_what_only_wishes_for_another_place_ends_nothing(spec: Deployment, reason: str) -> None:
    site = serving(*three())
    count = len(site.published)
    assert reason in refused(site, spec)
    assert len(site.published) == count + 1
    assert site.kinds()[-1] == "keep"
    assert site.decided[-1].reason == site.document.refused
    site.run(60.0)
    assert len(site.published) == count + 1


def test_the_former_deployment_takes_the_refusal_back() -> None:
    site = serving(*three())
    places = placed(site.serve)
    refused(site, by_hand("z"))
    epoch = site.serve.epoch
    site.deploy()
    site.until(lambda: site.document.refused is None)
    assert site.run(5.0).serves()
    assert (placed(site.serve), site.serve.epoch) == (places, epoch + 1)


def test_what_was_missing_comes_and_the_change_takes_place() -> None:
    site = serving(*three())
    refused(site, by_hand("z"))
    site.join(Node("z", "z1"))
    site.until(lambda: site.document.prepare is not None)
    assert (site.document.refused, site.serve.state) == (None, "serving")
    site.until(lambda: site.serves("z"))


def test_another_reason_is_told_too() -> None:
    site = serving(*three())
    first = refused(site, by_hand("z", "y"))
    site.join(Node("z", "z1"))
    site.until(lambda: site.document.refused not in (None, first))
    assert "none of y is there" in (site.document.refused or "")
    assert site.run(3.0).serves()


@pytest.mark.parametrize(
    "change",
    [
        {"privacy": Privacy({"0:1": ("vault",)})},  # of a segment and the door
        {"privacy": Privacy({"2:3": ("vault",)})},  # of a segment
        {"policy": Policy(forbid=("a",))},
        {"privacy": Privacy({"2:3": ("vault",)}), "split": (SplitPart("0:6", ("z",)),)},
        {"privacy": Privacy({"0:9": ("edge",)}), "split": (SplitPart("0:6", ("z",)),)},
    ],
)
def test_never_against_a_new_rule_that_protects(change: dict[str, Any]) -> None:
    site = serving(Node("a", "a1"))
    site.deploy(replace(SPEC, **change))
    site.until(lambda: site.serve.state == "unavailable")
    assert site.document.refused is None
    assert site.run(5.0).serve.state == "unavailable"


def test_nor_with_a_door_that_may_see_no_input() -> None:
    """No segment breaks the rule: the door alone does."""
    parts = (SplitPart("0:5", ("a",)), SplitPart("5:6", ("b",)))
    nodes = Node("a", "a1", zone="zone of a"), Node("b", "b1", zone="zone of b")
    site = serving(*nodes, spec=replace(SPEC, split=parts))
    assert site.serve.door is not None
    door = site.serve.door.node
    other, end = ("a", "0:1") if door == "b" else ("b", "5:6")
    absent = (SplitPart("0:5", ("a",)), SplitPart("5:6", ("z",)))
    site.deploy(replace(SPEC, split=absent, privacy=Privacy({end: (f"zone of {other}",)})))
    site.until(lambda: site.serve.state == "unavailable")
    assert site.serve.door is not None
    assert site.serve.door.node == other


def test_nor_with_weights_that_are_gone() -> None:
    nodes = three()
    site = serving(*nodes)
    for node in nodes:
        node.graph = ModelGraph("sha256:2", "fake", GRAPH.units)
    site.deploy(by_hand("z"))
    site.until(lambda: site.serve.state == "unavailable").run(5.0)
    assert site.serve.state == "unavailable"


def test_a_chain_that_breaks_afterwards_is_gone() -> None:
    site = serving(*three())
    refused(site, by_hand("z"))
    site.kill(placed(site.serve)[0][0])
    site.until(lambda: site.serve.state == "unavailable")
    assert (site.document.refused, "none of z is there" in (site.serve.reason or "")) == (
        None,
        True,
    )


def test_a_preparation_is_given_up() -> None:
    site = serving(Node("a", "a1", gflops=1), spec=moving())
    site.join(Node("b", "b1", gflops=100, loads=5.0))
    site.until(lambda: site.document.prepare is not None)
    refused(site, by_hand("z"))
    assert site.serves("a")


def test_the_next_leader_goes_on_with_it() -> None:
    site = serving(*three())
    refused(site, by_hand("z"))
    before = site.document
    site.restart()
    site.run(10.0)
    assert site.orchestrator.leading
    assert site.documents[NAME] == before


def test_a_refusal_waits_for_no_node_that_has_yet_to_look() -> None:
    site = serving(*three())
    site.join(Node("d", "d1", describes=None))
    site.run(2.0)
    site.deploy(by_hand("z"))
    site.until(lambda: site.document.refused is not None, within=0.5)


def test_nor_does_what_a_new_rule_forbids_serve_on_until_then() -> None:
    site = serving(Node("a", "a1"))
    site.join(Node("d", "d1", describes=None))
    site.run(2.0)
    site.deploy(replace(SPEC, privacy=Privacy({"0:1": ("vault",)})))
    site.until(lambda: site.serve.state == "unavailable", within=0.5)


def opened_anew(site: Site, **change: Any) -> None:
    """Another model is deployed: all close theirs, and open that one sooner or later."""
    spec = replace(SPEC, model=replace(SPEC.model, options={"seed": 2}), **change)
    site.deploy(spec)
    for number, node in enumerate(site.nodes.values()):
        node.graph, node.opening = replace(GRAPH, digest="sha256:2"), spec.opening
        node.known[NAME] = site.now + 3.0 * number


def test_nodes_that_open_another_model_one_after_another_are_waited_for() -> None:
    site = serving(*three())
    opened_anew(site)
    site.until(lambda: site.serve.model is not None and site.serve.model.digest == "sha256:2")
    assert "unavailable" not in site.kinds()


def test_but_not_where_the_former_chain_is_forbidden() -> None:
    site = serving(*three())
    opened_anew(site, privacy=Privacy({"2:3": ("vault",)}))
    site.until(lambda: site.serve.state == "unavailable", within=0.5)
