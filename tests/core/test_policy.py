"""Rules of one's own: what they may change, what they decide, and what follows when they fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import cast

import pytest

from dsi_mqtt.core.deployment import Deployment, Policy, Privacy
from dsi_mqtt.core.moving import Move
from dsi_mqtt.core.node import LinkSample
from dsi_mqtt.core.policy import BUILTIN_ONLY, Broken, Policies
from dsi_mqtt.core.profile import NodeView
from examples.own_policy.shift_rules import ShiftRules
from tests.core.orchestra import SPEC, Node, Site

FAST, SLOW = LinkSample(2.0, 100.0, 100.0), LinkSample(400.0, 10.0, 10.0)
OWN = replace(SPEC, policy=Policy(use="own", cooldown_s=0.0))

Asks = Callable[[Deployment, Sequence[NodeView]], Deployment]


def as_it_is(deployment: Deployment, nodes: Sequence[NodeView]) -> Deployment:
    assert nodes
    return deployment


@dataclass
class Own:
    asks: Asks = as_it_is
    says: bool = True
    heard: list[Move] = field(default_factory=list)

    def moves(self, move: Move) -> bool:
        self.heard.append(move)
        return self.says


class Failing(Own):
    def moves(self, move: Move) -> bool:
        raise ZeroDivisionError("shift of 0 h")


def site(policies: Policies, spec: Deployment = OWN) -> tuple[Site, Node]:
    a, b = Node("a", "a1", link=FAST), Node("b", "b1", link=LinkSample(2.5, 90.0, 90.0))
    made = Site(a, b, policies=policies)
    made.deploy(spec)
    return made, a


def serving(policies: Policies, spec: Deployment = OWN) -> tuple[Site, Node]:
    made, a = site(policies, spec)
    return made.until(made.serves).run(10.0), a


@pytest.mark.parametrize("says", [True, False])
def test_it_has_the_last_word_on_a_better_placement(*, says: bool) -> None:
    own = Own(says=says)
    made, a = serving({"own": own})
    a.link = SLOW
    assert made.run(10.0).serves("b" if says else "a")
    assert own.heard[-1].gain > 0.5
    assert own.heard[-1].found.nodes == {"b"}


def test_it_is_not_asked_where_the_chain_has_to_go() -> None:
    made, _ = serving({"own": Own(says=False)})
    made.kill("a")
    made.until(lambda: made.serves("b"))


def test_it_changes_what_the_planner_is_asked() -> None:
    def forbids(deployment: Deployment, nodes: Sequence[NodeView]) -> Deployment:
        assert [node.node for node in nodes] == ["a", "b"]
        return replace(deployment, policy=replace(deployment.policy, forbid=("a",)))

    made, _ = serving({"own": Own(forbids)})
    assert made.serves("b")


def test_what_protects_it_cannot_change() -> None:
    def opens(deployment: Deployment, nodes: Sequence[NodeView]) -> Deployment:
        assert nodes
        return replace(deployment, privacy=Privacy())

    spec = replace(OWN, privacy=Privacy(units={"0:6": ("edge",)}))
    made, _ = site({"own": Own(opens)}, spec)
    made.run(20.0)
    assert made.serve.state == "unavailable"
    assert made.serve.reason == ("policy.use: own failed: it changed privacy, which no policy may")


def test_it_cannot_change_what_it_is_shown_either() -> None:
    def clears(deployment: Deployment, nodes: Sequence[NodeView]) -> Deployment:
        assert nodes
        deployment.privacy.units.clear()
        return deployment

    spec = replace(OWN, privacy=Privacy(units={"0:6": ("edge",)}))
    made, _ = site({"own": Own(clears)}, spec)
    made.run(20.0)
    assert made.serve.state == "unavailable"
    assert spec.privacy.units


def test_a_lost_chain_is_placed_by_the_file_where_the_policy_fails() -> None:
    own = Own()
    made, _ = serving({"own": own})

    def fails(deployment: Deployment, nodes: Sequence[NodeView]) -> Deployment:
        raise KeyError(len(nodes), deployment.name)

    own.asks = fails
    made.run(20.0)
    assert made.serves("a")
    made.kill("a")
    made.until(lambda: made.serves("b"))
    assert "placed as its file says" in made.noticed[-1].sentence


def test_rules_are_asked_again_when_time_alone_has_passed() -> None:
    now = [datetime(2026, 3, 3, 5, 58).astimezone()]
    spec = replace(SPEC, policy=Policy(use="shift", cooldown_s=0.0))
    made = Site(
        Node("bench-1", "x1", gflops=100.0),
        Node("hall", "y1"),
        policies={"shift": ShiftRules(lambda: now[0])},
    )
    made.deploy(spec)
    made.until(lambda: made.serves("bench-1")).run(30.0)
    now[0] = datetime(2026, 3, 3, 6, 1).astimezone()
    made.until(lambda: made.serves("hall"), within=90.0)


@pytest.mark.parametrize(
    ("policies", "reason"),
    [
        (
            BUILTIN_ONLY,
            (
                "policy.use: no policy 'own' is installed where the orchestrator runs; "
                "known are builtin"
            ),
        ),
        (
            {"own": Broken("it cannot be loaded: no module named shift")},
            "policy.use: own failed: it cannot be loaded: no module named shift",
        ),
        (
            {"own": Own(cast("Asks", lambda *_: None))},
            "policy.use: own failed: it gave no deployment",
        ),
    ],
)
def test_one_that_cannot_be_asked_places_nothing_and_says_why(
    policies: Policies, reason: str
) -> None:
    made, _ = site(policies)
    made.run(20.0)
    assert (made.serve.state, made.serve.reason) == ("unavailable", reason)


def test_one_that_fails_while_it_serves_leaves_the_chain_as_it_is() -> None:
    made, a = serving({"own": Failing()})
    a.link = SLOW
    assert made.run(20.0).serves("a")
    assert made.decided[-1].kind == "keep"
    assert made.decided[-1].reason == ("policy.use: own failed: ZeroDivisionError: shift of 0 h")


# --- the example ------------------------------------------------------------------------------

WORK, NIGHT = datetime(2026, 3, 3, 10).astimezone(), datetime(2026, 3, 3, 23).astimezone()


@pytest.mark.parametrize(("now", "node"), [(WORK, "hall"), (NIGHT, "bench-1")])
def test_benches_stay_free_while_people_work(now: datetime, node: str) -> None:
    spec = replace(SPEC, policy=Policy(use="shift"))
    made = Site(
        Node("bench-1", "x1", gflops=100.0),
        Node("hall", "y1"),
        policies={"shift": ShiftRules(lambda: now)},
    )
    made.deploy(spec)
    made.until(lambda: made.serves(node))


@pytest.mark.parametrize(("now", "moves"), [(WORK, False), (NIGHT, True)])
def test_a_small_gain_waits_until_they_have_gone(now: datetime, *, moves: bool) -> None:
    """A third of the time: less than is worth it in the day, more than `min_gain`."""
    spec = replace(SPEC, policy=Policy(use="shift", cooldown_s=0.0))
    made, a = serving({"shift": ShiftRules(lambda: now)}, spec)
    a.link = LinkSample(30.0, 100.0, 100.0)
    assert made.run(20.0).serves("b" if moves else "a")
