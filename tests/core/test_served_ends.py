"""One deployment in the orchestrator's hands: when nothing serves, is withdrawn, or fell back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsi_mqtt.core.deployment import Deployment, Policy, Privacy, SplitPart
from dsi_mqtt.core.plan import Infeasible, plan
from dsi_mqtt.core.profile import views
from dsi_mqtt.core.table import Stamp, TableDocument
from tests.core.orchestra import GRAPH, NAME, SPEC, Node, Site, placed, serving, three

# --- nothing feasible -------------------------------------------------------------------------


def test_what_is_infeasible_says_why_and_a_new_node_mends_it() -> None:
    a, b, _ = three()
    site = Site(a)
    site.deploy()
    site.until(lambda: NAME in site.documents)
    assert site.serve.state == "unavailable"
    told = plan(SPEC, GRAPH, views([(a.status(site.now), None)], GRAPH, NAME))
    assert isinstance(told, Infeasible)
    assert site.serve.reason == told.sentence
    assert (site.serve.segments, site.document.prepare) == ((), None)
    count = len(site.published)
    site.run(10.0)
    assert len(site.published) == count
    site.join(b)
    site.until(lambda: site.serves("a", "b"))


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, split=(SplitPart("0:6", ("gw",)),)),
        replace(SPEC, policy=Policy(pin={"0:2": "gw"})),
        replace(SPEC, privacy=Privacy({"0:1": ("plant",)})),
    ],
)
def test_a_node_that_is_there_and_refuses_is_not_called_missing(spec: Deployment) -> None:
    why = "vibration cannot be imported: No module named 'vibration'"
    site = Site(Node("a", "a1"), Node("gw", "gw1", zone="plant", refuses=why))
    site.deploy(spec)
    site.until(lambda: NAME in site.documents)
    assert site.serve.reason == (
        f"node gw is online but refuses the model: {why}; let node gw take part"
    )
    site.nodes["gw"].refuses = None
    site.until(site.serves)


def test_where_memory_lacks_the_node_that_refuses_is_told_too() -> None:
    site = Site(Node("a", "a1", room=3), Node("b", "b1", room=3, refuses="needs torch"))
    site.deploy()
    site.until(lambda: NAME in site.documents)
    assert (site.serve.reason or "").endswith(
        "MiB more of weights on node a (node b is online but refuses the model: needs torch)"
    )


def test_other_weights_are_told_where_that_node_is_named() -> None:
    other = replace(GRAPH, digest="sha256:2")
    site = Site(Node("a", "a1"), Node("b", "b1"), Node("c", "c1", graph=other))
    site.deploy(replace(SPEC, split=(SplitPart("0:6", ("c",)),)))
    site.until(lambda: NAME in site.documents)
    assert (site.serve.reason or "").startswith("node c is online but has other weights than most")


def test_while_nothing_serves_a_door_in_an_allowed_zone_holds_the_same_session() -> None:
    spec = replace(SPEC, privacy=Privacy({"0:1": ("plant",)}))
    nodes = (
        Node("a", "a1", room=2, zone="plant"),
        Node("b", "b1", room=4),
        Node("c", "c1", room=1, zone="plant"),
    )
    site = serving(*nodes, spec=spec)
    door = site.serve.door
    assert door is not None
    assert door.node == "a"
    site.kill("a")
    site.until(lambda: site.serve.state == "unavailable")
    waiting = site.serve.door
    assert waiting is not None
    assert (waiting.node, waiting.session) == ("c", door.session)
    site.kill("c")
    site.until(lambda: site.serve.door is None)
    site.join(Node("a", "a2", room=2, zone="plant"))
    site.until(site.serves)
    assert site.serve.door is not None
    assert site.serve.door.session == door.session


def test_a_door_that_dies_while_nothing_serves_is_replaced() -> None:
    spec = replace(SPEC, privacy=Privacy({"1:2": ("a zone without nodes",)}))
    site = Site(Node("a", "a1"), Node("b", "b1"))
    site.deploy(spec)
    site.until(lambda: NAME in site.documents)
    first, reason = site.serve.door, site.serve.reason
    assert first is not None
    site.kill(first.node)
    site.until(lambda: site.serve.door != first)
    assert site.serve.door is not None
    assert {first.node, site.serve.door.node} == {"a", "b"}
    assert (site.serve.door.session, site.serve.reason) == (first.session, reason)


def test_a_broken_chain_whose_trouble_was_told_before_is_still_declared_unavailable() -> None:
    a, b, _ = three()
    site = serving(a, b)
    a.state = "draining"
    site.until(lambda: site.kinds()[-1] == "keep")
    site.kill("b")
    site.until(lambda: site.serve.state == "unavailable")


def test_where_there_is_no_room_for_both_the_broken_chain_goes_first() -> None:
    a, b, _ = three()
    site = serving(a, b)
    site.kill("b")
    site.until(lambda: site.serve.state == "unavailable")
    site.join(Node("b", "b2", room=3))
    site.until(site.serves)
    # A rule that swaps the two: neither can hold all six units.
    first = placed(site.serve)[0][0]
    pin = {"5:6": first}
    site.deploy(replace(SPEC, policy=Policy(pin=pin)))
    site.until(lambda: site.document.prepare is not None)
    assert site.serve.reason == "makes room for the next table"
    assert site.serve.door == site.prepare.door
    assert site.prepare.stamp > site.serve.stamp
    site.until(site.serves)
    assert placed(site.serve)[1][0] == first


# --- undeploying ------------------------------------------------------------------------------


def test_undeploying_ends_the_chain_and_then_clears_the_topic() -> None:
    site = serving(*three())
    door = site.serve.door
    session = door.session if door is not None else ""
    site.undeploy()
    site.run(0.05)
    assert (site.serve.state, site.serve.door, site.serve.segments) == ("unavailable", None, ())
    site.until(lambda: NAME not in site.documents)
    assert site.kinds()[-1] == "remove"
    assert site.ended == [session], "its last door may have died"


def test_undeploying_waits_until_everybody_has_released() -> None:
    nodes = three()
    site = serving(*nodes)
    holder = site.nodes[placed(site.serve)[0][0]]
    holder.releases = False
    site.undeploy()
    site.run(5.0)
    assert NAME in site.documents
    holder.parts.clear()
    site.until(lambda: NAME not in site.documents)


def test_a_name_deployed_again_goes_on_above_its_old_epochs() -> None:
    site = serving(*three())
    site.undeploy()
    site.until(lambda: NAME not in site.documents)
    newest = max(node.seen for node in site.nodes.values())
    site.deploy()
    site.until(site.serves)
    assert site.serve.epoch > newest[0].epoch
    assert len({decided.id for decided in site.decided}) == len(site.decided)


# --- retained state that fell back ------------------------------------------------------------


def test_what_fell_back_is_written_again_by_a_leader_that_remembers() -> None:
    site = serving(*three())
    newest = site.document
    site.documents[NAME] = site.published[0]
    site.orchestrator.disconnected()
    site.orchestrator.lead_lost(site.now)
    site.reconnect()
    site.until(lambda: site.document == newest)


def test_what_fell_back_is_replaced_by_a_leader_that_does_not_know_it() -> None:
    site = serving(*three())
    older = site.document
    site.kill(placed(site.serve)[0][0])
    site.until(site.serves)
    newest = site.document
    site.documents = {NAME: older}
    site.restart()
    site.until(lambda: site.serves() and site.document.order > newest.order)
    assert all(node.seen == site.document.order for node in site.nodes.values())


def test_also_when_all_that_the_older_one_names_still_live() -> None:
    site = serving(Node("a", "a1"), Node("b", "b1"))
    older = site.document
    left = site.nodes[placed(site.serve)[0][0]]
    left.state = "draining"
    site.until(lambda: site.serves(*({"a", "b"} - {left.name})))
    left.state = "online"
    newest = site.run(5.0).document
    site.documents = {NAME: older}
    site.restart()
    site.until(lambda: site.serves() and site.document.order > newest.order)
    assert all(node.seen == site.document.order for node in site.nodes.values())


def test_a_retained_table_without_deployment_is_removed_by_the_next_leader() -> None:
    site = serving(*three())
    del site.specs[NAME]
    site.restart()
    count = len(site.published)
    site.until(lambda: NAME not in site.documents)
    assert [d.serve.state for d in site.published[count:] if d.serve] == ["unavailable"]


def test_older_documents_change_nothing() -> None:
    site = serving(*three())
    old = site.document
    assert old.serve is not None
    for stamp in (Stamp(1, "z", 99), old.serve.stamp):
        aged = replace(old.serve, term=stamp.term, leader=stamp.leader, epoch=stamp.epoch - 1)
        site.orchestrator.document_seen(NAME, TableDocument(aged), site.now)
    site.run(3.0)
    assert site.document == old
