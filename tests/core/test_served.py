"""One deployment in the orchestrator's hands: when it publishes which document."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsi_mqtt.core.deployment import Deployment, Generation, Policy, Privacy, SplitPart
from dsi_mqtt.core.failures import FORGIVE_S
from dsi_mqtt.core.model import ModelGraph, Vocabulary
from dsi_mqtt.core.node import LinkSample
from dsi_mqtt.core.patience import DESCRIBE_S, SETTLE_S
from dsi_mqtt.core.table import TransferMode
from dsi_mqtt.core.transfers import transfers
from tests.core.orchestra import GRAPH, NAME, SPEC, Node, Site, moving, placed, serving, three

# --- the first placement ----------------------------------------------------------------------


def test_the_first_placement_waits_for_those_who_come() -> None:
    site = Site(Node("a", "a1", gflops=1))
    site.deploy()
    site.run(SETTLE_S * 0.8)
    site.join(Node("b", "b1", gflops=100))
    site.run(SETTLE_S * 0.9)
    assert site.published == []
    site.until(lambda: site.serves("b"))
    assert [(decided.kind, decided.reason) for decided in site.decided] == [("place", "deployed")]


def test_and_for_those_who_have_yet_to_describe_the_model() -> None:
    site = Site(Node("a", "a1", gflops=1), Node("b", "b1", gflops=100, describes=20.0))
    site.deploy()
    site.run(19.0)
    assert site.published == []
    site.until(lambda: site.serves("b"))


def test_but_not_for_ever() -> None:
    site = Site(Node("a", "a1"), Node("b", "b1", describes=None))
    site.deploy()
    site.run(DESCRIBE_S - 1)
    assert site.published == []
    site.until(lambda: site.serves("a"))


def test_a_node_that_comes_and_goes_does_not_hold_it_up_for_ever() -> None:
    site = Site(Node("a", "a1"))
    site.deploy()
    for i in range(int(DESCRIBE_S / 10) + 1):
        site.join(Node("b", f"b{i}", describes=None))
        site.run(10.0)
    assert site.serves("a")


def test_a_node_with_other_weights_takes_no_part() -> None:
    other = ModelGraph("sha256:2", "fake", GRAPH.units)
    site = serving(Node("a", "a1"), Node("b", "b1"), Node("c", "c1", gflops=100, graph=other))
    assert "c" not in dict(placed(site.serve))


@pytest.mark.parametrize(("kv_mib_max", "segments"), [(1, 2), (25, 2), (35, 3), (55, 0)])
def test_room_for_caches_is_kept_on_every_node(kv_mib_max: int, segments: int) -> None:
    """Each of three nodes may hold 60 MiB, and the six units weigh 10 MiB each."""
    units = tuple(replace(unit, state_bytes=4096) for unit in GRAPH.units)
    graph = replace(GRAPH, units=units, vocabulary=Vocabulary(4096, 100))
    site = Site(*(Node(name, f"{name}1", graph=graph) for name in "abc"))
    generation = Generation(context=4096, kv_mib_max=kv_mib_max)
    site.deploy(replace(SPEC, kind="generation", generation=generation))
    site.until(lambda: NAME in site.documents and site.document.serve is not None)
    assert len(site.serve.segments) == segments
    if not segments:
        assert "generation.kv_mib_max" in (site.serve.reason or "")


@pytest.mark.parametrize(("position_bytes", "mode"), [(16, "copy"), (2**24, "recompute")])
def test_a_table_says_how_caches_come_to_other_nodes(
    position_bytes: int, mode: TransferMode
) -> None:
    """Two of three nodes serve, and one of them drains."""
    units = tuple(replace(unit, state_bytes=position_bytes) for unit in GRAPH.units)
    graph = replace(GRAPH, units=units, vocabulary=Vocabulary(4096, 100))
    site = Site(*(Node(name, f"{name}1", graph=graph) for name in "abc"))
    for node in site.nodes.values():
        node.link = LinkSample(rtt_ms=1.0, up_mbit_s=100.0, down_mbit_s=100.0)
    site.deploy(replace(SPEC, kind="generation", generation=Generation(context=64, kv_mib_max=1)))
    site.until(site.serves)
    old = site.serve
    assert old.transfers == ()
    site.nodes[old.segments[0].replicas[0].node].state = "draining"
    site.until(lambda: site.serve.epoch > old.epoch)
    assert {transfer.mode for transfer in site.serve.transfers} == {mode}
    assert site.serve.transfers == transfers(old, site.serve, mode)


def test_a_table_serves_only_when_every_part_is_ready() -> None:
    a, b, _ = three()
    b.loads = 20.0
    site = Site(a, b)
    site.deploy()
    site.until(lambda: NAME in site.documents)
    assert site.document.serve is None
    assert site.prepare.state == "preparing"
    site.run(15.0)
    assert site.document.serve is None
    prepared = site.prepare
    site.until(site.serves)
    assert site.serve == replace(prepared, state="serving")


def test_a_table_says_everything_that_its_readers_need() -> None:
    table = serving(*three()[:2]).serve
    assert (table.deployment, table.leader, table.decision) == (NAME, "n1", "hazards-n1-1")
    assert placed(table) in ([("a", "0:3"), ("b", "3:6")], [("b", "0:3"), ("a", "3:6")])
    assert table.model is not None
    assert (table.model.digest, table.model.units) == (GRAPH.digest, 6)
    assert table.door is not None
    assert table.door.session == "hazards-secret-1-0"
    assert table.door.ingress == "mqtt://c"
    assert [(hop.source, hop.target) for hop in table.hops] == [("s0", "s1")]
    assert table.brokers.keys() == {"a", "b"}
    assert table.forecast is not None
    assert table.forecast.p50_ms > 0


# --- nodes that go, fail and drain ------------------------------------------------------------


def test_a_node_lost_in_serving_is_replaced_before_the_old_table_ends() -> None:
    site = serving(*three())
    old = site.serve
    lost = placed(old)[1][0]
    site.kill(lost)
    site.until(lambda: site.document.prepare is not None)
    assert site.serve == old
    assert lost not in dict(placed(site.prepare))
    site.until(site.serves)
    assert site.kinds() == ["place", "remap"]
    assert site.decided[-1].reason == f"node {lost} is gone"


def test_a_node_that_falls_silent_is_lost_too() -> None:
    site = serving(*three())
    lost = placed(site.serve)[0][0]
    site.vanish(lost)
    site.until(lambda: site.serves(*({"a", "b", "c"} - {lost})))


def test_also_the_only_one() -> None:
    site = serving(Node("a", "a1"))
    site.vanish("a")
    site.until(lambda: site.serve.state == "unavailable")


def test_a_node_lost_in_preparing_leaves_what_serves_untouched() -> None:
    site = serving(Node("a", "a1", gflops=1), spec=moving())
    old = site.serve
    site.join(Node("b", "b1", gflops=100, loads=None))
    site.until(lambda: site.document.prepare is not None)
    assert placed(site.prepare) == [("b", "0:6")]
    site.kill("b")
    site.until(site.serves)
    assert placed(site.serve) == placed(old)
    assert site.serve.stamp > site.published[-2].order[0]


def test_a_new_life_of_a_node_is_another_node() -> None:
    site = serving(Node("a", "a1"))
    site.join(Node("a", "a2"))
    site.until(lambda: site.serves() and site.serve.members() == {("a", "a2")})


def test_a_chain_that_broke_is_mended_without_waiting_for_a_newcomer() -> None:
    site = serving(*three())
    site.join(Node("d", "d1", describes=30.0))
    site.kill(placed(site.serve)[0][0])
    site.until(site.serves, within=2.0)


def test_but_what_cannot_be_mended_waits_for_the_newcomer() -> None:
    a, b, _ = three()
    site = serving(a, b)
    old = site.serve
    site.join(Node("b", "b2", room=3, describes=30.0))
    site.run(25.0)
    assert site.serve == old
    site.until(site.serves)
    assert ("b", "b2") in site.serve.members()


def test_and_not_for_ever() -> None:
    a, b, _ = three()
    site = serving(a, b)
    old = site.serve
    site.join(Node("b", "b2", room=3, describes=None))
    site.run(DESCRIBE_S - 1)
    assert site.serve == old
    site.until(lambda: site.serve.state == "unavailable")


def test_a_failed_part_excludes_its_node_and_does_not_break_what_serves() -> None:
    site = serving(Node("a", "a1", gflops=1), spec=moving())
    site.join(Node("b", "b1", gflops=100, fails="no room on the disk"))
    site.until(lambda: site.document.prepare is not None)
    site.until(lambda: site.document.prepare is None)
    assert site.serves("a")
    count = len(site.published)
    site.run(5.0)
    assert len(site.published) == count


def test_a_node_that_serves_and_fails_to_prepare_goes_on_serving() -> None:
    a, b, c = three()
    site = serving(a, b, spec=moving())
    a.fails = b.fails = "out of memory"
    site.join(replace(c, gflops=100.0))
    site.until(lambda: site.document.prepare is not None)
    site.until(lambda: site.document.prepare is None)
    assert site.serves("a", "b")
    assert "unavailable" not in site.kinds()


def test_a_failure_is_forgiven_after_a_while() -> None:
    site = serving(Node("a", "a1", gflops=1), spec=moving())
    site.join(Node("b", "b1", gflops=100, fails="busy"))
    site.run(5.0)
    site.nodes["b"].fails = None
    site.run(FORGIVE_S)
    assert site.serves("a")
    site.join(Node("c", "c1", gflops=1))  # any fact makes it look again
    site.until(lambda: site.serves("b"))


def test_when_nobody_else_can_the_failure_is_told() -> None:
    site = Site(Node("a", "a1", fails="layer 3 is missing in the checkpoint"))
    site.deploy()
    site.until(lambda: "unavailable" in site.kinds())
    assert site.serve.reason is not None
    assert site.serve.reason.startswith("node a: layer 3 is missing in the checkpoint; ")


def test_a_draining_node_is_left_once_its_part_is_ready_elsewhere() -> None:
    site = serving(*three())
    drained = placed(site.serve)[0][0]
    site.nodes[drained].state = "draining"
    site.until(lambda: site.serves(*({"a", "b", "c"} - {drained})))
    assert site.serve.door is not None
    assert site.serve.door.node != drained
    assert site.decided[-1].reason == f"node {drained} drains"


def test_a_draining_node_stays_where_there_is_no_other_place() -> None:
    a, b, c = three()
    site = serving(a, b, spec=replace(SPEC, policy=Policy(forbid=("x",))))
    old = site.serve
    a.state = "draining"
    site.run(5.0)
    site.join(Node("x", "x1"))  # a fact that does not help, and is not told again
    site.run(5.0)
    assert site.serve == old
    assert site.kinds() == ["place", "keep"]
    site.join(c)
    site.until(lambda: site.serves("b", "c"))


def test_a_node_that_drains_while_its_part_is_prepared_is_left_afterwards() -> None:
    site = serving(Node("a", "a1", gflops=1), spec=moving())
    site.join(Node("b", "b1", gflops=100, loads=5.0))
    site.until(lambda: site.document.prepare is not None)
    site.nodes["b"].state = "draining"
    site.until(lambda: site.serves("a"))
    assert "b" not in dict(placed(site.serve))


# --- spares -----------------------------------------------------------------------------------


def test_a_spare_is_used_only_when_needed_and_given_back() -> None:
    a, b, c = three(spare=True, gflops=100.0)
    site = serving(a, b, c)
    assert site.serves("a", "b")
    site.kill("a")
    site.until(lambda: site.serves("b", "c"))
    site.join(Node("a", "a2", room=3))
    site.until(lambda: site.serves("a", "b"))


# --- better plans -----------------------------------------------------------------------------


def test_a_small_gain_moves_nothing() -> None:
    site = serving(Node("a", "a1", gflops=10), spec=moving(min_gain=0.15))
    site.join(Node("b", "b1", gflops=11))
    site.run(20.0)
    assert site.serves("a")
    assert len(site.published) == 2
    site.join(Node("c", "c1", gflops=20))
    site.until(lambda: site.serves("c"))


def test_a_cooldown_holds_a_better_plan_back_and_lets_it_go() -> None:
    site = Site(Node("a", "a1", gflops=1))
    site.deploy(moving(cooldown_s=30.0))
    site.until(site.serves)
    site.join(Node("b", "b1", gflops=100))
    site.run(29.0)
    assert site.serves("a")
    site.until(lambda: site.serves("b"), within=3.0)
    assert site.decided[-1].reason == "a better placement was held back by the cooldown"


@pytest.mark.parametrize(("rtt_ms", "door"), [(2.0, "a"), (400.0, "b")])
def test_a_door_moves_only_where_that_pays_by_itself(rtt_ms: float, door: str) -> None:
    """Three of six units fit anywhere. b is a little better than a, which is near or very far."""
    near = LinkSample(2.0, 100.0, 100.0)
    first = Node("a", "a1", room=3, gflops=20, link=near)
    site = serving(first, Node("d", "d1", room=3, gflops=1, link=near), spec=moving())
    assert site.serve.door is not None
    assert site.serve.door.node == "a"
    first.link = replace(near, rtt_ms=rtt_ms)
    site.join(Node("b", "b1", room=3, gflops=21, link=near))
    site.join(Node("c", "c1", room=3, gflops=20, link=near))
    site.run(30.0)
    assert "d" not in dict(placed(site.serve))
    assert site.serve.door is not None
    assert site.serve.door.node == door


def test_nothing_is_published_while_nothing_changes() -> None:
    site = serving(*three())
    count = len(site.published)
    site.run(120.0)
    assert len(site.published) == count


# --- the deployment changes -------------------------------------------------------------------


def test_a_change_that_the_chain_satisfies_moves_nothing() -> None:
    site = serving(*three())
    old = site.document
    site.deploy(replace(SPEC, policy=Policy(cooldown_s=1.0)))
    site.run(5.0)
    assert site.document == old


@pytest.mark.parametrize("loads", [0.3, 5.0])
def test_a_tighter_privacy_rule_moves_the_chain_even_in_the_cooldown(loads: float) -> None:
    site = serving(Node("a", "a1"), Node("b", "b1", gflops=1, zone="plant", loads=loads))
    assert site.serves("a")
    site.deploy(replace(SPEC, privacy=Privacy({"0:6": ("plant",)})))
    site.until(lambda: site.serves("b"))
    assert site.serve.door is not None
    assert site.serve.door.node == "b"


def test_a_change_during_a_preparation_is_not_lost_when_it_becomes_ready() -> None:
    site = serving(Node("a", "a1", gflops=1, zone="plant"), spec=moving())
    site.join(Node("b", "b1", gflops=100, loads=2.0))
    site.until(lambda: site.document.prepare is not None)
    site.run(1.5)
    site.deploy(replace(moving(), privacy=Privacy({"0:6": ("plant",)})))
    site.join(Node("c", "c1"))
    site.run(10.0)
    assert site.serves("a")
    assert all("b" not in dict(placed(d.serve)) for d in site.published if d.serve)


def test_cuts_by_hand_are_followed_also_when_only_the_nodes_change() -> None:
    def by_hand(*nodes: str) -> Deployment:
        parts = tuple(SplitPart(f"{3 * i}:{3 * i + 3}", (node,)) for i, node in enumerate(nodes))
        return replace(SPEC, split=parts)

    site = serving(*three(), spec=by_hand("a", "b"))
    assert placed(site.serve) == [("a", "0:3"), ("b", "3:6")]
    site.deploy(by_hand("a", "c"))
    site.until(lambda: placed(site.serve) == [("a", "0:3"), ("c", "3:6")])


def test_a_door_that_may_no_longer_see_inputs_moves_although_no_segment_does() -> None:
    parts = (SplitPart("0:3", ("a",)), SplitPart("3:6", ("b",)))
    by_hand = replace(SPEC, split=parts)
    nodes = Node("a", "a1", zone="zone of a"), Node("b", "b1", zone="zone of b")
    site = serving(*nodes, spec=by_hand)
    assert site.serve.door is not None
    other, end = ("a", "0:1") if site.serve.door.node == "b" else ("b", "5:6")
    site.deploy(replace(by_hand, privacy=Privacy({end: (f"zone of {other}",)})))
    site.until(
        lambda: site.serves() and site.serve.door is not None and site.serve.door.node == other
    )
    assert placed(site.serve) == [("a", "0:3"), ("b", "3:6")]


def test_a_contradiction_is_told_and_mended() -> None:
    site = serving(Node("a", "a1"))
    site.deploy(replace(SPEC, privacy=Privacy({"0:9": ("edge",)})))
    site.until(lambda: site.serve.state == "unavailable")
    assert "goes beyond the 6 units" in (site.serve.reason or "")
    site.deploy()
    site.until(site.serves)


def test_no_table_is_made_for_the_model_that_was_there_before() -> None:
    other = replace(SPEC, model=replace(SPEC.model, options={"seed": 2}))
    nodes = three()
    for node in nodes:
        node.opening = SPEC.opening
    site = serving(*nodes)
    site.deploy(other)
    site.run(1.0)  # and the nodes still describe what they have open
    assert not site.document.tables()[1:]
    for node in nodes:
        node.graph, node.opening = ModelGraph("sha256:2", "fake", GRAPH.units), other.opening
    site.until(lambda: site.document.prepare is not None)
    assert site.document.prepare is not None
    assert site.document.prepare.model is not None
    assert site.document.prepare.model.digest == "sha256:2"
    site.until(site.serves)


def test_another_model_is_loaded_beside_the_old_one() -> None:
    nodes = three()
    site = serving(*nodes)
    for node in nodes:
        node.graph = ModelGraph("sha256:2", "fake", GRAPH.units)
    site.until(lambda: site.document.prepare is not None)
    assert site.serve.state == "serving"
    site.until(site.serves)
    assert site.serve.model is not None
    assert site.serve.model.digest == "sha256:2"
