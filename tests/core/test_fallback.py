"""A smaller model that serves while the deployment's own cannot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dsi_mqtt.core.deployment import (
    FALLBACK_MARK,
    Deployment,
    Fallback,
    Generation,
    Policy,
    Privacy,
    without_effect,
)
from dsi_mqtt.core.grounds import DRAINS
from dsi_mqtt.core.model import ModelGraph, Unit, Vocabulary
from dsi_mqtt.core.table import Table, TableDocument
from tests.core.orchestra import GRAPH, MIB, SPEC, Node, Site, placed

SMALL = ModelGraph("sha256:2", "fake", tuple(Unit(f"s{i}", 10 * MIB, 1e7, 64) for i in range(2)))
WITH = replace(SPEC, fallback=Fallback("/tiny"), policy=Policy(cooldown_s=5.0))


def small(name: str, **how: Any) -> Node:
    """A node that holds two units: the fallback, or a third of the model."""
    return Node(name, f"{name}1", room=2, small=SMALL, **how)


def large(name: str, **how: Any) -> Node:
    return Node(name, f"{name}1", room=len(GRAPH.units), small=SMALL, **how)


def falls(site: Site) -> bool:
    """Whether the fallback serves, and nothing is prepared."""
    return site.serve.state == "fallback" and site.document.prepare is None


def fallen(*nodes: Node, spec: Deployment = WITH, checked: bool = True) -> Site:
    """A site whose large node has gone, so that the fallback serves on the others."""
    site = Site(large("big"), *nodes, check=no_gap if checked else None)
    site.deploy(spec)
    site.until(site.serves).run(10.0)
    site.kill("big")
    return site.until(lambda: falls(site))


def no_gap(site: Site, document: TableDocument) -> None:
    """What serves is given up only where somebody on whom it depends is gone."""
    before = site.documents.get(document.serve.deployment) if document.serve else None
    if before is None or before.serve is None or document.serve is None:
        return
    alive = {node.key for node in site.nodes.values()}
    if before.serve.serves and before.serve.members() <= alive:
        assert document.serve.serves, "a chain that serves was given up before the next"


def model_of(table: Table) -> str | None:
    return table.model.digest if table.model else None


def test_where_the_model_fits_nowhere_any_more_the_fallback_serves_and_says_why() -> None:
    site = fallen(small("a"), small("b"))
    assert model_of(site.serve) == "sha256:2"
    assert site.serve.deployment == SPEC.name
    assert site.serve.model_name == SPEC.name + FALLBACK_MARK
    assert site.serve.reason is not None
    assert "MiB" in site.serve.reason
    assert site.serve.door is not None
    assert site.kinds()[-1] == "fallback"
    before = [d.serve.state for d in site.published[-2:] if d.serve is not None]
    assert before == ["unavailable", "fallback"]


def test_it_makes_way_by_itself_and_beside_what_serves() -> None:
    site = fallen(small("a"), small("b"))
    site.join(replace(large("big"), incarnation="big2"))
    site.until(lambda: site.serves("big"))
    assert model_of(site.serve) == "sha256:1"
    assert site.serve.state == "serving"
    assert site.kinds()[-1] == "place"
    assert site.run(20.0).serves("big")


def test_it_makes_way_no_sooner_than_the_cooldown() -> None:
    site = fallen(small("a"), spec=replace(WITH, policy=Policy(cooldown_s=60.0)))
    site.join(replace(large("big"), incarnation="big2"))
    site.run(40.0)
    assert falls(site)
    site.until(lambda: site.serves("big"), within=40.0)


def test_where_there_is_no_room_for_both_it_goes_first() -> None:
    nodes = [small("a", gflops=50.0), small("b"), small("c")]
    site = Site(*nodes[:2])
    site.deploy(WITH)
    site.until(lambda: "hazards" in site.documents and falls(site))
    site.join(nodes[2])
    site.until(lambda: site.serves("a", "b", "c"), within=60.0)
    assert model_of(site.serve) == "sha256:1"
    assert {s.units.stop - s.units.start for s in site.serve.segments} == {2}


def test_it_serves_from_the_beginning_where_the_model_never_fitted() -> None:
    site = Site(small("a"))
    site.deploy(WITH)
    site.until(lambda: "hazards" in site.documents and falls(site))
    assert placed(site.serve) == [("a", "0:2")]


def test_it_also_serves_where_no_node_can_open_the_model() -> None:
    site = Site(small("a", refuses="model.path: no such folder"))
    site.deploy(WITH)
    site.until(lambda: "hazards" in site.documents and falls(site), within=60.0)
    assert "no such folder" in str(site.serve.reason)


def test_a_fallback_that_breaks_is_placed_anew() -> None:
    site = fallen(small("a"), small("b"))
    first = placed(site.serve)[0][0]
    other = "b" if first == "a" else "a"
    site.kill(first)
    site.until(lambda: falls(site) and {name for name, _ in placed(site.serve)} == {other})


def drained(site: Site) -> str:
    """The node on which the fallback serves, and which drains from now on."""
    (name,) = {node for node, _ in placed(site.serve)}
    site.nodes[name].state = "draining"
    return name


def test_a_fallback_leaves_a_node_that_drains_and_nothing_is_given_up_before() -> None:
    site = fallen(small("a"), small("b"))
    reason, first = site.serve.reason, drained(site)
    since = len(site.published)
    site.until(lambda: falls(site) and first not in dict(placed(site.serve)))
    assert [d.serve and d.serve.state for d in site.published[since:]] == ["fallback"] * 2
    assert first not in {name for name, _ in site.serve.members()}
    assert site.serve.reason == reason
    assert (site.decided[-1].kind, site.decided[-1].reason) == (
        "fallback",
        "the fallback leaves a node that drains",
    )
    told = site.decided[-1].explanation
    assert told is not None
    assert [(each.what, each.why) for each in told.rejected[:1]] == [("present", DRAINS)]


def test_a_fallback_stays_on_a_node_that_drains_until_there_is_another_place() -> None:
    site = fallen(small("a"))
    before = site.serve
    drained(site)
    assert site.run(20.0).serve == before
    assert site.kinds()[-1] == "keep"
    assert DRAINS in site.decided[-1].reason
    site.join(small("b"))
    site.until(lambda: falls(site) and dict(placed(site.serve)) == {"b": "0:2"})


def test_a_draining_fallback_makes_way_before_the_cooldown_is_over() -> None:
    site = fallen(small("a"), spec=replace(WITH, policy=Policy(cooldown_s=600.0)))
    site.join(replace(large("big"), incarnation="big2"))
    site.run(10.0)
    assert falls(site)
    drained(site)
    site.until(lambda: site.serves("big"))


def test_it_is_explained_why_the_fallback_serves_and_not_the_model_itself() -> None:
    site = fallen(small("a"), small("b"))
    told = site.decided[-1].explanation
    assert (site.decided[-1].kind, told and told.kind) == ("fallback", "fallback")
    assert told is not None
    assert told.inputs is not None
    assert {node.node for node in told.inputs.nodes} == {"a", "b"}
    assert told.chosen is not None
    assert [(p.node, str(p.units)) for p in told.chosen.segments] == placed(site.serve)
    (other,) = told.rejected
    assert (other.what, other.why) == ("others", site.serve.reason)


def test_it_is_explained_also_where_the_model_could_not_even_be_planned() -> None:
    site = Site(small("a", refuses="model.path: no such folder"))
    site.deploy(WITH)
    site.until(lambda: "hazards" in site.documents and falls(site), within=60.0)
    (told,) = [d.explanation for d in site.decided if d.kind == "fallback"]
    assert told is not None
    assert told.inputs is not None
    assert [node.node for node in told.inputs.nodes] == ["a"]
    assert "no such folder" in told.reason
    assert told.chosen is not None


def test_where_it_fits_nowhere_either_both_reasons_are_told() -> None:
    site = Site(small("a", zone="street"))
    site.deploy(replace(WITH, privacy=Privacy({"0:1": ("city",)})))
    site.until(lambda: "hazards" in site.documents)
    assert site.run(10.0).serve.state == "unavailable"
    assert "nor can its fallback" in str(site.serve.reason)


def test_all_of_it_stays_in_zones_that_every_rule_allows() -> None:
    rules = Privacy({"0:1": ("city", "edge"), "5:6": ("city",)})
    nodes = [small("a", zone="edge"), small("b", zone="city")]
    site = Site(*nodes)
    site.deploy(replace(WITH, privacy=rules))
    site.until(lambda: "hazards" in site.documents and falls(site))
    assert {name for name, _ in placed(site.serve)} == {"b"}


def test_zones_that_have_nothing_in_common_leave_none_for_it() -> None:
    rules = Privacy({"0:1": ("city", "edge"), "2:3": ("street",), "5:6": ("city",)})
    site = Site(small("a", zone="edge"), small("b", zone="city"))
    site.deploy(replace(WITH, privacy=rules))
    site.until(lambda: "hazards" in site.documents)
    assert site.run(10.0).serve.state == "unavailable"
    assert "no zone is allowed for all units" in str(site.serve.reason)


def test_without_a_fallback_nothing_of_that_happens() -> None:
    site = Site(small("a"))
    site.deploy(SPEC)
    site.until(lambda: "hazards" in site.documents)
    assert site.run(20.0).serve.state == "unavailable"
    assert "fallback" not in site.kinds()


def test_a_model_that_generates_falls_back_and_comes_back_without_its_caches() -> None:
    """Beside its part each node keeps 5 MiB for caches, by the limits of the one file."""
    vocabulary = Vocabulary(256, 100)

    def generates(graph: ModelGraph) -> ModelGraph:
        units = tuple(replace(unit, state_bytes=1024) for unit in graph.units)
        return replace(graph, units=units, vocabulary=vocabulary)

    def node(name: str, room: int) -> Node:
        own, other = generates(GRAPH), generates(SMALL)
        return Node(name, f"{name}1", room=room, graph=own, small=other)

    limits = Generation(context=256, kv_mib_max=5)
    site = Site(node("big", 7), node("a", 3), check=no_gap)
    site.deploy(replace(WITH, kind="generation", generation=limits))
    site.until(site.serves).run(10.0)
    site.kill("big")
    site.until(lambda: falls(site))
    assert (model_of(site.serve), placed(site.serve)) == ("sha256:2", [("a", "0:2")])
    assert site.serve.transfers == ()
    site.join(replace(node("big", 7), incarnation="big2"))
    site.until(lambda: site.serves("big"))
    assert site.serve.transfers == ()


def test_another_orchestrator_goes_on_with_it() -> None:
    site = fallen(small("a"), small("b"))
    known = placed(site.serve)
    site.restart()
    site.run(20.0)
    assert falls(site)
    assert placed(site.serve) == known
    site.join(replace(large("big"), incarnation="big2"))
    site.until(lambda: site.serves("big"))


def test_an_undeployed_one_is_cleared() -> None:
    site = fallen(small("a"), checked=False)
    site.undeploy()
    site.until(lambda: "hazards" not in site.documents)
    assert not [noticed for noticed in site.noticed if "cannot be" in noticed.sentence]


def test_a_deployment_says_what_it_falls_back_to() -> None:
    spec = replace(WITH, privacy=Privacy({"0:1": ("city",)}, 0.5))
    assert without_effect(spec) == without_effect(replace(spec, kind="generation")) == ()
    other = spec.falls_back_to
    assert other is not None
    assert (other.name, other.model.path) == (SPEC.name + FALLBACK_MARK, "/tiny")
    assert (other.privacy.units, other.privacy.max_exposure) == ({}, 0.5)
    assert other.opening != spec.opening
    assert other.falls_back_to is None
