"""What `drain` says before it waits: what a node holds, and what the orchestrator will find."""

from __future__ import annotations

from dataclasses import replace

from dsi_mqtt.cli.drain import outlook
from dsi_mqtt.cli.watching import Picture
from dsi_mqtt.core.deployment import Privacy
from tests.core.orchestra import NAME, SPEC, UNITS, Node, Site, placed, serving
from tests.core.test_fallback import fallen, small

CITY = replace(SPEC, privacy=Privacy({"0:2": ("city",)}))


def picture_of(site: Site) -> Picture:
    return Picture(
        specs=site.specs, documents=site.documents, statuses=site.statuses, leader=site.leader
    )


def city(name: str, *, room: int = UNITS, gflops: float = 10.0) -> Node:
    return Node(name, f"{name}-1", room, gflops, zone="city")


def test_where_nobody_may_take_it_the_orchestrators_own_reason_is_said_at_once() -> None:
    site = serving(city("hall", room=2), Node("gw", "gw-1"), spec=CITY)
    first, second = outlook(picture_of(site), "hall")
    assert first == f"hall holds units 0:2 (0.0 MiB) of {NAME}"
    site.nodes["hall"].state = "draining"
    site.run(2)
    (kept,) = [decided for decided in site.decided if decided.kind == "keep"]
    assert second == f"{NAME} serves on, for it cannot move yet: {kept.reason}"
    assert "start a node in zone city" in kept.reason


def test_where_another_may_take_it_the_plan_is_said_that_then_serves() -> None:
    site = serving(city("hall"), city("tower", gflops=1), spec=CITY)
    (_, second) = outlook(picture_of(site), "hall")
    assert second == f"{NAME} can move: 0:6 on tower, door on tower"
    site.nodes["hall"].state = "draining"
    site.run(3)
    assert {node for node, _ in site.serve.members()} == {"tower"}


def test_a_fallback_moves_as_well_and_its_units_are_told_apart() -> None:
    site = fallen(small("hall"), small("tower"))
    ((node, _),) = placed(site.serve)
    (other,) = {"hall", "tower"} - {node}
    first, second = outlook(picture_of(site), node)
    assert first.startswith(f"{node} holds units 0:2 of the fallback (")
    assert second == f"{NAME} can move: 0:2 on {other}, door on {other}"
    site.nodes[node].state = "draining"
    site.until(lambda: placed(site.serve) == [(other, "0:2")])
    site.until(lambda: outlook(picture_of(site), node) == [])
    (_, stays) = outlook(picture_of(site), other)
    assert stays.startswith(f"{NAME} serves on, for it cannot move yet: ")


def test_without_an_orchestrator_nothing_moves() -> None:
    site = serving(city("hall"), city("tower"), spec=CITY)
    picture = picture_of(site)
    picture.leader = None
    (node,) = {name for name in ("hall", "tower") if outlook(picture, name)}
    assert any("no orchestrator leads" in line for line in outlook(picture, node))


def test_a_busythat_holds_nothing_has_nothing_to_move() -> None:
    site = serving(city("hall"), Node("gw", "gw-1", gflops=0.001), spec=CITY)
    assert outlook(picture_of(site), "gw") == []


def test_what_nodes_say_of_the_model_before_gives_no_plan() -> None:
    nodes = city("hall"), city("tower")
    for node in nodes:
        node.opening = CITY.opening
    site = serving(*nodes, spec=CITY)
    site.deploy(replace(CITY, model=replace(CITY.model, options={"seed": 2})))
    (busy,) = {name for name in ("hall", "tower") if outlook(picture_of(site), name)}
    assert outlook(picture_of(site), busy)[1].endswith("look at the workers' logs")
