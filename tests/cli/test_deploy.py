"""What `deploy` and `up` say where the orchestrator's reason does not tell a person the cause."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dsi_mqtt.cli.deploy import other_weights, progress, refusal
from dsi_mqtt.cli.watching import Picture
from dsi_mqtt.core.deployment import Privacy, SplitPart
from dsi_mqtt.core.node import Leader
from dsi_mqtt.errors import MESSAGE_MAX
from tests.core.orchestra import GRAPH, NAME, SPEC, Node, Site, serving

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
    site.until(lambda: len(site.published) > count)
    return Picture(site.specs, site.documents, site.statuses, leader=site.leader)


def test_a_change_that_cannot_be_placed_is_told_with_what_serves_on() -> None:
    site = serving(Node("a", "a-1"))
    picture = changed(site, split=SPLIT.split)
    told = refusal(picture, NAME, served=True)
    assert told is not None
    assert told.startswith(f"{NAME} cannot be placed, so the former placement serves on: none of b")
    assert len(told) <= MESSAGE_MAX
    assert progress(picture, NAME).startswith("none of b is there")
    picture = changed(site)
    assert refusal(picture, NAME, served=True) is None
    assert progress(picture, NAME) == "it serves"


def test_a_change_that_takes_what_served_down_says_so() -> None:
    picture = changed(serving(Node("a", "a-1")), privacy=Privacy({"0:6": ("vault",)}))
    told = refusal(picture, NAME, served=True)
    assert told is not None
    advice = "serves nothing now; deploy the former file again, or change what is missing"
    assert told.startswith(f"{NAME} {advice}: units 0:6 must be computed in zone vault")
    assert (refusal(picture, NAME) or "").startswith(f"{NAME} cannot be served: units 0:6 must")


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
