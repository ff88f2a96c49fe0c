"""What `deploy` and `up` say where the orchestrator's reason does not tell a person the cause."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dsi_mqtt.cli.verdict import Wait, other_weights, progress, refusal
from dsi_mqtt.cli.watching import Picture
from dsi_mqtt.core.deployment import Deployment, Privacy, SplitPart
from dsi_mqtt.core.node import Leader
from dsi_mqtt.errors import MESSAGE_MAX
from tests.core.orchestra import GRAPH, NAME, SPEC, Node, Site, serving, three

SPLIT = replace(SPEC, split=(SplitPart("0:3", ("a",)), SplitPart("3:6", ("b",))))


def refused(*nodes: Node) -> tuple[Picture, str]:
    """What is seen, and the reason of the table, once the orchestrator has refused."""
    site = Site(*nodes)
    site.deploy(SPLIT)
    site.until(lambda: "unavailable" in site.kinds())
    picture = Picture(specs=site.specs, documents=site.documents, statuses=site.statuses)
    return picture, site.serve.reason or ""


def changed(site: Site, **fields: Any) -> Picture:
    """What is seen once the orchestrator has said what it makes of another deployment."""
    count = len(site.published)
    site.deploy(replace(SPEC, **fields))
    site.until(lambda: len(site.published) > count).run(0.5)
    return seen(site)


def seen(site: Site) -> Picture:
    return Picture(dict(site.specs), dict(site.documents), dict(site.statuses), leader=site.leader)


def waited(site: Site, spec: Deployment, within: float = 90.0) -> tuple[float, Picture]:
    """Seconds until `deploy` knows what has become of `spec`, and what it has seen by then."""
    began = site.now
    wait = Wait(spec, frozenset(), None, lambda: site.now)
    site.until(lambda: wait.settled(seen(site)), within=within)
    return site.now - began, seen(site)


def test_a_change_that_cannot_be_placed_is_told_with_what_serves_on() -> None:
    site = serving(Node("a", "a-1"))
    picture = changed(site, split=SPLIT.split)
    told = refusal(picture, NAME, served=True)
    start = f"{NAME} cannot be placed, so the former placement serves on: none of b"
    assert str(told).startswith(start)
    assert progress(picture, NAME).startswith("none of b is there")
    picture = changed(site)
    assert refusal(picture, NAME, served=True) is None
    assert progress(picture, NAME) == "it serves"


def test_a_change_that_takes_what_served_down_says_so() -> None:
    picture = changed(serving(Node("a", "a-1")), privacy=Privacy({"0:6": ("vault",)}))
    told = refusal(picture, NAME, served=True)
    assert told is not None
    start = f"{NAME} serves nothing now: units 0:6 must be computed in zone vault"
    assert str(told).startswith(start)
    assert str(told).endswith("let it hold 60.0 MiB of weights at least"), "all of the remedy"
    assert told.__notes__ == ["deploy the former file again, or change what is missing"]
    never = refusal(picture, NAME)
    assert str(never).startswith(f"{NAME} cannot be served: units 0:6 must")
    assert not hasattr(never, "__notes__")


def test_a_leader_that_has_said_farewell_is_nobody() -> None:
    picture = Picture(leader=Leader(1, "n", 0))
    assert progress(picture, NAME).startswith("no orchestrator has answered")


def test_nodes_with_other_weights_are_told_from_nodes_that_are_missing() -> None:
    other = replace(GRAPH, digest="sha256:2")
    picture, reason = refused(Node("a", "a-1"), Node("b", "b-1", graph=other))
    assert reason.startswith("node b is online but has other weights than most")
    told = other_weights(picture, NAME)
    assert told is not None
    assert told.startswith("the nodes a, b have different weights for its model")
    assert len(f"{NAME} cannot be served: {told}") <= MESSAGE_MAX


def test_a_node_that_is_missing_is_the_planners_to_say() -> None:
    picture, reason = refused(Node("a", "a-1"))
    assert reason.startswith("none of b is there")
    assert other_weights(picture, NAME) is None


def test_nodes_are_counted_as_they_come_and_as_they_look_at_the_model() -> None:
    coming = frozenset({"a", "b"})
    site = Site(Node("a", "a-1"))
    site.deploy(SPLIT)
    site.until(lambda: "unavailable" in site.kinds())
    picture = Picture(specs=site.specs, documents=site.documents, statuses=dict(site.statuses))
    picture.leader = Leader(1, "n", 1)
    assert progress(picture, NAME, coming).startswith("1 of 2 nodes are online")
    assert progress(picture, NAME).startswith("none of b is there")  # nobody else is on the way
    status = picture.statuses["a"]
    picture.statuses["b"] = replace(status, node="b", incarnation="b-1", models=())
    assert progress(picture, NAME, coming).startswith("1 of 2 nodes have looked at the model")
    picture.statuses.clear()
    assert progress(picture, NAME, coming).startswith("0 of 2 nodes are online")
    assert progress(picture, NAME).startswith("no node is online; start one")


# --- what counts as the answer ----------------------------------------------------------------


def opened_anew(site: Site, spec: Deployment, *, after_s: float) -> None:
    """As nodes do: the model that was is closed at once, and the other one opened."""
    site.deploy(spec)
    for node in site.nodes.values():
        node.opening, node.known[NAME] = spec.opening, site.now + after_s
        node.graph = replace(GRAPH, digest="sha256:2")


def test_a_table_for_the_model_before_is_no_answer() -> None:
    site = serving(*three(opening=SPEC.opening))
    other = replace(SPEC, model=replace(SPEC.model, options={"seed": 2}))
    opened_anew(site, other, after_s=10.0)
    site.run(1.0)
    assert progress(seen(site), NAME).startswith("0 of 3 nodes have looked at the model")
    after_s, picture = waited(site, other)
    assert after_s > 10.0
    assert refusal(picture, NAME, served=True) is None
    assert site.serve.model is not None
    assert site.serve.model.digest == "sha256:2"
    assert site.serves()


def test_nor_is_one_whose_parts_are_being_loaded_again() -> None:
    """The same weights, opened for a longer context."""
    site = serving(*three(opening=SPEC.opening))
    for node in site.nodes.values():
        node.loads = 5.0
        node.parts = {key: (part, site.now) for key, (part, _) in node.parts.items()}
    site.run(0.1)
    assert progress(seen(site), NAME) == "0 of 2 segments are loaded"
    after_s, _ = waited(site, SPEC)
    assert after_s > 5.0


@pytest.mark.parametrize("described", [0.1, 20.0, None])
def test_a_refusal_is_told_though_a_node_has_yet_to_look(described: float | None) -> None:
    site = serving(*three())
    site.join(Node("d", "d-1", describes=described))
    site.run(2.0)
    spec = replace(SPEC, split=(SplitPart("0:6", ("z",)),))
    site.deploy(spec)
    after_s, picture = waited(site, spec)
    assert "serves on" in str(refusal(picture, NAME, served=True))
    assert (after_s < 10.0) == (described == 0.1)


def test_nor_is_a_refusal_of_what_was_deployed_before() -> None:
    """Whose reason stands until nodes have opened what is deployed now."""
    site = Site(Node("a", "a-1", refuses="no such folder"))
    site.deploy()
    site.until(lambda: "unavailable" in site.kinds()).run(5.0)
    mended = replace(SPEC, model=replace(SPEC.model, options={"seed": 2}))
    site.nodes["a"].refuses = None
    opened_anew(site, mended, after_s=10.0)
    _, picture = waited(site, mended)
    assert refusal(picture, NAME) is None
