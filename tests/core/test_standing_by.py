"""Stand-bys: who holds what warm, and what follows when they are needed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsi_mqtt.core.deployment import Deployment, Policy, Privacy
from dsi_mqtt.core.table import Table
from tests.core.orchestra import SPEC, Node, Site, placed, serving

ONE = replace(SPEC, policy=Policy(standbys=1))


def beside(table: Table) -> list[list[str]]:
    return [[standby.node for standby in segment.standbys] for segment in table.segments]


def nodes(*names: str, room: int = 6, gflops: float = 10.0) -> list[Node]:
    return [Node(name, f"{name}1", room=room, gflops=gflops) for name in names]


def split(spec: Deployment = ONE) -> Deployment:
    """Three units must be on one node, three on another."""
    zones = Privacy(units={"0:3": ("edge",), "3:6": ("edge", "cloud")})
    return replace(spec, privacy=zones, policy=replace(spec.policy, max_segments=2))


def test_none_stands_by_where_none_is_asked_for() -> None:
    assert beside(serving(*nodes("a", "b")).serve) == [[]]


def test_another_node_holds_what_serves() -> None:
    site = serving(*nodes("a"), *nodes("b", "c", gflops=9.0), spec=ONE)
    assert placed(site.serve) == [("a", "0:6")]
    assert beside(site.serve) == [["b"]]
    assert any(holding.segment == "s0" for holding in site.statuses["b"].holdings)


def test_the_stand_by_takes_over_with_nothing_to_load() -> None:
    quick, slow = nodes("a"), nodes("b", gflops=6.0)
    late = nodes("c", gflops=8.0)
    site = serving(*quick, *slow, spec=ONE)
    assert beside(site.serve) == [["b"]]
    late[0].loads = 60.0
    site.join(late[0])
    site.run(3.0)
    before = site.now
    site.kill("a")
    site.until(lambda: site.serves("b"))
    assert site.now - before < 1.0
    assert placed(site.serve) == [("b", "0:6")]


def test_a_better_placement_is_taken_up_afterwards() -> None:
    site = serving(*nodes("a"), *nodes("b", gflops=3.0), spec=ONE)
    site.join(Node("c", "c1", room=6, gflops=9.5))
    site.run(10.0)
    site.kill("a")
    site.until(lambda: site.serves("b"))
    site.until(lambda: site.serves("c"))
    assert beside(site.run(10.0).serve) == [["b"]]


def test_where_a_stand_by_dies_another_is_chosen_and_the_chain_stays() -> None:
    site = serving(*nodes("a"), *nodes("b", "c", gflops=9.0), spec=ONE)
    moves = [kind for kind in site.kinds() if kind in ("remap", "resplit")]
    site.kill("b")
    site.until(lambda: site.serves("a") and beside(site.serve) == [["c"]])
    site.run(20.0)
    assert placed(site.serve) == [("a", "0:6")]
    assert [kind for kind in site.kinds() if kind in ("remap", "resplit")] == moves


def test_a_stand_by_that_comes_later_is_taken() -> None:
    site = serving(*nodes("a"), spec=ONE)
    assert beside(site.serve) == [[]]
    site.join(Node("b", "b1", room=6, gflops=9.0))
    site.until(lambda: beside(site.serve) == [["b"]])
    count = len(site.published)
    site.run(60.0)
    assert len(site.published) == count


def test_nobody_stands_by_without_room_or_against_the_rules() -> None:
    small = serving(*nodes("a"), *nodes("b", room=5, gflops=9.0), spec=ONE)
    assert beside(small.serve) == [[]]
    zoned = replace(ONE, privacy=Privacy(units={"0:1": ("edge",)}))
    cloud = Node("b", "b1", room=6, zone="cloud", gflops=9.0)
    site = serving(*nodes("a"), cloud, spec=zoned)
    assert beside(site.serve) == [[]]
    forbidden = replace(ONE, policy=Policy(standbys=1, forbid=("b",)))
    assert beside(serving(*nodes("a", "b"), spec=forbidden).serve) == [[]]


def test_two_may_stand_by_for_each_segment() -> None:
    spec = replace(SPEC, policy=Policy(standbys=2))
    site = serving(*nodes("a", "b", "c", "d", room=3), spec=spec)
    assert len(site.serve.segments) == 2
    assert [len(names) for names in beside(site.serve)] == [1, 1]  # one each before a second


def test_of_replicas_that_are_left_those_serve_that_bear_what_comes() -> None:
    """Three serve what one cannot bear; when one dies, the other two do."""
    busy = replace(SPEC, sla=replace(SPEC.sla, rate_per_s=20.0), policy=Policy(max_segments=1))
    site = serving(*nodes("a", "b", "c"), spec=busy)
    assert len(site.serve.members()) > 1
    gone = next(r.node for r in site.serve.segments[0].replicas)
    site.kill(gone)
    site.until(lambda: site.serves() and gone not in {n for n, _ in site.serve.members()})
    assert len(site.serve.segments[0].replicas) == 2


def test_other_stand_bys_are_no_move() -> None:
    """The cooldown goes on as if nothing had been."""
    spec = replace(ONE, policy=Policy(standbys=1, cooldown_s=30.0))
    site = serving(*nodes("a", gflops=3.0), *nodes("b", "c", gflops=2.0), spec=spec)
    begun = site.now
    site.kill(beside(site.serve)[0][0])
    site.run(5.0)
    site.join(Node("d", "d1", room=6, gflops=12.0))
    site.until(lambda: site.serves("d"), within=40.0)
    assert site.now - begun < 32.0


def test_rules_that_changed_do_not_stand_in_the_way_of_what_is_left() -> None:
    site = serving(*nodes("a", "b", room=3))
    assert len(site.serve.segments) == 2
    site.deploy(replace(SPEC, policy=Policy(max_segments=1)))
    site.run(3.0)
    big = Node("big", "g1", room=6)
    site.join(big)
    site.kill("a")
    site.until(lambda: site.serves("big"))


def test_where_the_door_before_is_gone_nobody_is_waited_for() -> None:
    site = serving(*nodes("a"), *nodes("b", gflops=9.0), spec=ONE)
    before = site.serve
    site.vanish("a")
    site.until(lambda: site.serves("b"))
    assert [table.door and table.door.orphaned for table in (before, site.serve)] == [False, True]
    assert [node for node, _ in site.serve.gone] == ["a"]


@pytest.mark.parametrize("victim", ["first", "last"])
def test_the_rest_of_a_chain_stays_where_it_is(victim: str) -> None:
    site: Site = serving(*nodes("a", "b", room=3), *nodes("c", "d", room=3, gflops=9.0), spec=ONE)
    (first, _), (last, _) = placed(site.serve)
    dies, stays = (first, last) if victim == "first" else (last, first)
    heirs = beside(site.serve)[0 if victim == "first" else 1]
    site.kill(dies)
    site.until(lambda: site.serves(stays, *heirs))
    assert {node for node, _ in placed(site.serve)} == {stays, *heirs}
