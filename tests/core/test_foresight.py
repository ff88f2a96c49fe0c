"""Deployments that have to move at once, and share nodes: each goes where it stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from dsi_mqtt.core.deployment import Deployment, Policy, Sla
from dsi_mqtt.core.orchestrator import FORESIGHT_S
from dsi_mqtt.core.placing import Placing
from dsi_mqtt.core.sharing import DIFFERENCE, Sharing
from tests.core.orchestra import NAME, SPEC, Node, Site, placed

RATE_PER_S = 8.0
WHOLE = Policy(cooldown_s=0.0, max_segments=1, replicas=1)
FREE = replace(SPEC, sla=Sla(rate_per_s=RATE_PER_S), policy=WHOLE)
# Not on c; looked at behind the other one.
BOUND = replace(FREE, name="other", policy=replace(FREE.policy, forbid=("c",)))


def site() -> Site:
    """Both are on a, which is fast; b is a little faster than c."""
    nodes = [Node(name, f"{name}1", room=24) for name in "abc"]
    nodes[0].gflops, nodes[1].gflops = 30.0, 10.5
    made = Site(*nodes)
    for spec in (FREE, BOUND):
        made.deploy(spec)
    made.run(20.0)
    assert where(made) == {NAME: {"a"}, "other": {"a"}}
    return made


def where(made: Site) -> dict[str, set[str]]:
    found = {}
    for name, document in made.documents.items():
        assert document.serve is not None
        assert document.prepare is None
        found[name] = {node for node, _ in placed(document.serve)}
    return found


def drain(made: Site) -> None:
    made.nodes["a"].state = "draining"


def kill(made: Site) -> None:
    made.kill("a")


@pytest.mark.parametrize("befalls", [drain, kill])
def test_each_moves_once_though_the_best_place_is_taken_by_the_other(
    befalls: Callable[[Site], None],
) -> None:
    made = site()
    made.decided.clear()
    befalls(made)
    made.run(30.0)
    assert where(made) == {NAME: {"c"}, "other": {"b"}}
    told = sorted(d.deployment for d in made.decided if d.kind != "keep")
    assert told == [NAME, "other"]


@pytest.mark.parametrize(("befalls", "waits"), [(drain, True), (kill, False)])
def test_a_broken_chain_waits_for_no_foresight_that_takes_long(
    befalls: Callable[[Site], None], *, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = site()
    asked: list[str] = []
    foresees = Placing.foresees

    def seen(placing: Placing, spec: Deployment, now: float) -> bool:
        asked.append(spec.name)
        return foresees(placing, spec, now)

    monkeypatch.setattr(Placing, "foresees", seen)
    made.orchestrator._took_s = dict.fromkeys((NAME, "other"), FORESIGHT_S)
    befalls(made)
    made.run(3.0)
    assert bool(asked) is waits


def test_a_fault_in_what_one_foresees_leaves_the_others_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = site()
    foresees = Placing.foresees

    def faulty(placing: Placing, spec: Deployment, now: float) -> bool:
        if spec.name == NAME:
            raise ZeroDivisionError
        return foresees(placing, spec, now)

    monkeypatch.setattr(Placing, "foresees", faulty)
    drain(made)
    made.run(30.0)
    assert where(made) == {NAME: {"c"}, "other": {"b"}}


def halves(*spares: str) -> Site:
    """Nodes hold half of the model each; spares are faster than those that serve."""
    nodes = [Node(name, f"{name}1", room=6) for name in ("a", "b", *spares)]
    for node in nodes[2:]:
        node.spare, node.gflops = True, 30.0
    made = Site(*nodes)
    for node in nodes:
        node.room = 3
    made.deploy(replace(SPEC, policy=Policy(cooldown_s=0.0)))
    made.run(20.0)
    assert where(made) == {NAME: {"a", "b"}}
    return made


def test_a_spare_takes_part_only_where_it_is_needed_beside_the_others() -> None:
    made = halves("c", "d")
    made.kill("b")
    made.run(30.0)
    (nodes,) = where(made).values()
    assert "a" in nodes
    assert len(nodes) == 2, "one spare is enough"


def test_a_spare_that_is_needed_no_more_is_given_back_beside_one_that_is() -> None:
    made = halves("c", "d")
    node = made.nodes["a"]
    for name in ("a", "b"):
        made.kill(name)
    made.run(30.0)
    assert where(made) == {NAME: {"c", "d"}}
    made.join(replace(node, incarnation="a2", newest={}, parts={}))
    made.run(30.0)
    (nodes,) = where(made).values()
    assert "a" in nodes
    assert len(nodes) == 2


def test_what_is_foreseen_is_no_news_until_it_is_taken() -> None:
    sharing = Sharing()
    some = {"n": (0.5, 0.0, 0.0)}
    assert sharing.foresees("a", some)
    assert not sharing.foresees("a", {"n": (0.5 + DIFFERENCE / 2, 0.0, 0.0)})
    assert sharing.beside("b") == {"n": (0.5 + DIFFERENCE / 2, 0.0, 0.0)}
    assert sharing.news() == set()
    sharing.takes("a", some)
    assert sharing.news() == {"a"}
