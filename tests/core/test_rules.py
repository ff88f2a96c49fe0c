"""Deployments that contradict themselves or the model: each sentence names its field."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsi_mqtt.core.deployment import Deployment, Policy, Privacy, SplitPart
from dsi_mqtt.core.model import ModelGraph, ModelSpec, Unit, UnitRange
from dsi_mqtt.core.profile import NodeView
from dsi_mqtt.core.rules import check, compile_rules
from dsi_mqtt.errors import MESSAGE_MAX, ConfigError

GRAPH = ModelGraph("sha256:00", "fake", tuple(Unit(f"u{i}", 1, 0.0, 1) for i in range(4)))
SOUND = Deployment("d", ModelSpec(tier="fake"))


def private(**zones: str) -> Deployment:
    units = {key[1:].replace("_", ":"): tuple(names.split()) for key, names in zones.items()}
    return replace(SOUND, privacy=Privacy(units))


def pinned(**pins: str) -> Deployment:
    units = {key[1:].replace("_", ":"): name for key, name in pins.items()}
    return replace(SOUND, policy=Policy(pin=units))


def split(*parts: tuple[str, str]) -> Deployment:
    return replace(SOUND, split=tuple(SplitPart(units, tuple(n.split())) for units, n in parts))


@pytest.mark.parametrize(
    ("deployment", "start"),
    [
        (replace(SOUND, policy=Policy(max_segments=0)), "policy.max_segments: is 0"),
        (private(u0_9="x"), 'privacy.units["0:9"]: 0:9 goes beyond the 4 units'),
        (private(u2_2="x"), "privacy.units[\"2:2\"]: '2:2' is no unit range"),
        (private(u0_2=""), 'privacy.units["0:2"]: names no zone'),
        (
            private(u0_2="x", u1_3="y"),
            'privacy.units["0:2"] and privacy.units["1:3"] leave no zone for unit 1',
        ),
        (private(u0_1="x", u3_4="y"), "privacy.units: no zone is allowed for both the first and"),
        (pinned(u0_5="a"), 'policy.pin["0:5"]: 0:5 goes beyond'),
        (pinned(u0_2="a", u1_3="b"), 'policy.pin["1:3"]: overlaps policy.pin["0:2"]'),
        (
            replace(SOUND, policy=Policy(pin={"0:1": "a"}, forbid=("a",))),
            'policy.pin["0:1"]: a is in policy.forbid',
        ),
        (
            replace(private(u1_2="x", u2_3="y"), policy=Policy(pin={"1:3": "a"})),
            'policy.pin["1:3"]: privacy.units allows no zone for all that a must compute',
        ),
        (
            replace(private(u1_2="x", u2_3="y"), policy=Policy(pin={"1:2": "a", "2:3": "a"})),
            'policy.pin["1:2"]: privacy.units allows no zone',
        ),
        (split(), "split: is empty"),
        (split(("1:4", "a")), "split[0].units: starts at 1; it must start at 0"),
        (split(("0:2", "a"), ("3:4", "a")), "split[1].units: starts at 3; it must start at 2"),
        (split(("0:2", "a"), ("1:4", "a")), "split[1].units: starts at 1; it must start at 2"),
        (split(("0:2", "a"), ("2:3", "a")), "split[1].units: the parts end at 3"),
        (split(("0:2", "a"), ("2:5", "a")), "split[1].units: 2:5 goes beyond"),
        (split(("0:2", ""), ("2:4", "a")), "split[0].nodes: names no node"),
        (
            replace(split(("0:4", "a")), policy=Policy(forbid=("a",))),
            "split[0].nodes: names no node that policy.forbid allows",
        ),
        (
            replace(split(("0:2", "a"), ("2:4", "b")), policy=Policy(max_segments=1)),
            "policy.max_segments: is 1, and split has 2 parts",
        ),
        (
            replace(split(("0:4", "b")), policy=Policy(pin={"1:2": "a"})),
            "split[0].nodes: lacks a",
        ),
        (
            replace(split(("0:4", "a b")), policy=Policy(pin={"0:1": "a", "2:3": "b"})),
            'split[0].units: policy.pin["0:1"] and policy.pin["2:3"] differ',
        ),
        (
            replace(split(("0:4", "a b")), privacy=private(u1_2="x", u2_3="y").privacy),
            "split[0]: privacy.units allows no zone for all",
        ),
    ],
)
def test_each_contradiction_is_told_and_names_its_field(deployment: Deployment, start: str) -> None:
    problems = check(deployment, GRAPH)
    assert [p for p in problems if p.startswith(start)], problems
    assert all(len(problem) <= MESSAGE_MAX for problem in problems)
    with pytest.raises(ConfigError):
        compile_rules(deployment, GRAPH)


def test_a_model_without_units_is_refused() -> None:
    assert check(SOUND, replace(GRAPH, units=()))


def test_several_contradictions_are_all_told() -> None:
    policy = Policy(max_segments=0, pin={"0:1": "a"}, forbid=("a",))
    assert len(check(replace(SOUND, policy=policy), GRAPH)) == 2


@pytest.mark.parametrize(
    "deployment",
    [
        SOUND,
        private(u0_2="x y", u1_4="y z"),
        pinned(u0_2="a", u1_2="a"),
        split(("0:1", "a"), ("1:4", "a b")),
        replace(split(("0:1", "a"), ("1:4", "a b")), policy=Policy(pin={"2:3": "b"})),
        replace(SOUND, policy=Policy(max_segments=9, forbid=("gone",))),
    ],
)
def test_sound_deployments_pass(deployment: Deployment) -> None:
    assert check(deployment, GRAPH) == ()


def test_rules_answer_for_units_and_door() -> None:
    deployment = replace(
        private(u0_2="x y", u1_4="y"), policy=Policy(pin={"3:4": "b"}, forbid=("c",))
    )
    rules = compile_rules(deployment, GRAPH)
    nodes = [
        NodeView(name, "1", zone, 0, (0.0,) * 4)
        for name, zone in (("a", "x"), ("b", "y"), ("c", "y"), ("d", "y"))
    ]
    assert rules.may_compute(0, nodes) == [True, True, False, True]
    assert rules.may_compute(1, nodes) == [False, True, False, True]
    assert rules.may_compute(3, nodes) == [False, True, False, False]
    assert [rules.may_be_door(node) for node in nodes] == [False, True, False, True]
    assert rules.home_zones(UnitRange(3, 4)) == frozenset({"y"})
    assert rules.max_segments == 4
