"""For whom the orchestrator waits, and for how long: first words, and parts that never load."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dsi_mqtt.core import outlook
from dsi_mqtt.core.decisions import Noticed
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.failures import FORGIVE_S, PREPARE_S
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.node import Capabilities
from dsi_mqtt.core.patience import DESCRIBE_S, FIRST_S
from dsi_mqtt.core.plan import plan
from tests.core.orchestra import GRAPH, NAME, SPEC, Node, Site, moving, placed, serving, three

# --- the first word about a deployment --------------------------------------------------------


@pytest.mark.parametrize("comes_after_s", [0.5, FIRST_S - 0.5])
def test_nodes_that_start_with_the_orchestrator_are_in_the_first_table(
    comes_after_s: float,
) -> None:
    site = Site()
    site.deploy()
    site.run(comes_after_s)
    site.join(Node("a", "a1", describes=20.0))
    site.until(site.serves)
    assert site.serve.epoch == 1
    assert site.kinds() == ["place"]


def test_also_when_several_are_needed_and_come_one_after_another() -> None:
    site = Site()
    site.deploy()
    for node in three():
        node.room = 2
        site.run(FIRST_S - 0.5)
        site.join(node)
    site.until(site.serves)
    assert site.serve.epoch == 1
    assert site.kinds() == ["place"]


def test_a_site_that_has_no_node_is_told_so_within_seconds() -> None:
    site = Site()
    site.deploy()
    site.until(lambda: NAME in site.documents, within=FIRST_S + 1)
    assert (site.serve.state, site.serve.epoch) == ("unavailable", 1)
    assert (
        site.serve.reason
        == "no node is online yet; if none is being started, use `dsi-mqtt worker`"
    )


def test_and_at_once_where_nobody_has_come_for_long() -> None:
    site = Site().run(20.0)
    site.deploy()
    site.until(lambda: NAME in site.documents, within=0.2)
    assert site.serve.state == "unavailable"


def test_what_few_nodes_cannot_hold_is_told_within_seconds_too() -> None:
    site = Site(Node("a", "a1", room=3))
    site.deploy()
    site.until(lambda: NAME in site.documents, within=FIRST_S + 2)
    assert site.serve.state == "unavailable"


def test_nodes_that_keep_coming_hold_the_first_word_up_for_a_minute_only() -> None:
    site = Site()
    site.deploy()
    for i in range(round(DESCRIBE_S / 2) + 4):
        site.join(Node("a", f"a{i}", room=1))
        site.run(2.0)
    assert NAME in site.documents
    assert site.serve.state == "unavailable"


# --- preparations -----------------------------------------------------------------------------


def test_a_node_that_loads_for_ever_is_planned_around() -> None:
    a, b, c = three()
    site = Site(a, b, c)
    site.deploy()
    site.until(lambda: NAME in site.documents)
    stuck = placed(site.prepare)[0][0]
    site.nodes[stuck].loads = None
    patience_s = PREPARE_S + SPEC.deadline_s
    site.run(patience_s - 5.0)
    assert stuck in dict(placed(site.prepare))
    site.until(lambda: site.serves(*({"a", "b", "c"} - {stuck})), within=10.0)
    assert site.decided[-1].reason == f"node {stuck} took too long to prepare its part"


def test_a_preparation_that_never_ends_leaves_what_serves_as_it_is() -> None:
    site = serving(Node("a", "a1", gflops=1), spec=moving())
    site.join(Node("b", "b1", gflops=100, loads=None))
    site.until(lambda: site.document.prepare is not None)
    site.run(PREPARE_S + SPEC.deadline_s + 1.0)
    assert site.serves("a")
    count = len(site.published)
    site.run(FORGIVE_S / 2)
    assert len(site.published) == count


def test_when_nobody_else_can_the_reason_is_that_it_never_loaded() -> None:
    site = Site(Node("a", "a1", loads=None))
    site.deploy()
    site.run(PREPARE_S + SPEC.deadline_s + 10.0)
    assert site.serve.state == "unavailable"
    assert site.serve.reason is not None
    assert site.serve.reason.startswith("node a: is not ready after 610 s; ")


def test_a_part_that_takes_minutes_is_waited_for() -> None:
    site = Site(Node("a", "a1", loads=PREPARE_S - 10))
    site.deploy()
    site.until(site.serves, within=PREPARE_S + 10)
    assert site.kinds() == ["place"]


# --- nodes that cannot be planned with --------------------------------------------------------


def broken(site: Site, name: str, capabilities: Capabilities | None) -> None:
    """A node that is online and describes the model, but not its hardware."""
    status = replace(
        site.nodes["a"].status(site.now + 1),
        node=name,
        incarnation=f"{name}1",
        capabilities=capabilities,
        holdings=(),
        seen={},
    )
    site.orchestrator.status_arrived(status, site.now)


@pytest.mark.parametrize(
    "capabilities", [None, Capabilities(weight_bytes=2**40, gflops=1e-300), Capabilities(gflops=-1)]
)
def test_a_node_that_cannot_be_viewed_is_left_out_and_told_once(
    capabilities: Capabilities | None,
) -> None:
    site = Site(Node("a", "a1"), Node("b", "b1"))
    site.deploy()
    site.run(0.2)
    broken(site, "rogue", capabilities)
    for _ in range(20):
        site.run(0.5)
        broken(site, "rogue", capabilities)
        site.orchestrator.spec_arrived(replace(SPEC, policy=replace(SPEC.policy, forbid=("x",))))
        site.orchestrator.spec_arrived(SPEC)
    assert site.serves()
    told = [noticed for noticed in site.noticed if "rogue" in noticed.sentence]
    assert len(told) == 1
    assert told[0].sentence.startswith("node rogue: its ")
    assert told[0].sentence.endswith("; it is left out")


def test_a_node_left_out_is_named_where_nothing_else_serves() -> None:
    site = Site(Node("a", "a1", room=3))
    site.deploy()
    site.run(0.2)
    while NAME not in site.documents:
        broken(site, "rogue", None)
        site.run(0.5)
    assert (site.serve.reason or "").startswith("node rogue: its status gives no usable cap")


def test_one_node_alone_cannot_redescribe_the_model() -> None:
    other = ModelGraph(GRAPH.digest, "fake", GRAPH.units[:4])
    nodes = Node("a", "a1", graph=other), Node("b", "b1"), Node("c", "c1")
    site = serving(*nodes)
    assert placed(site.serve)[-1][1].endswith(":6")
    assert site.serves("b") or site.serves("c")


def test_a_fault_in_one_deployment_leaves_the_others_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    def faulty(spec: Deployment, *rest: Any, **options: Any) -> Any:
        if spec.name == "aaa":
            raise ZeroDivisionError("nobody has thought of this")
        return plan(spec, *rest, **options)

    monkeypatch.setattr(outlook, "plan", faulty)
    site = Site(Node("a", "a1"))
    site.deploy(replace(SPEC, name="aaa"))
    site.deploy()
    site.until(site.serves)
    site.run(10.0)
    assert [n for n in site.noticed if n.deployment == "aaa"] == [
        Noticed(
            "aaa", "it cannot be decided about: ZeroDivisionError('nobody has thought of this')"
        )
    ]
    monkeypatch.setattr(outlook, "plan", plan)
    site.join(Node("b", "b1"))
    site.until(lambda: "aaa" in site.documents)
