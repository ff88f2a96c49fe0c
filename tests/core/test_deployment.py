"""Deployments beside each other: what one changes of the other."""

from __future__ import annotations

from dataclasses import replace

from dsi_mqtt.core.deployment import Deployment, Fallback, Privacy, Sla, SplitPart, differences
from dsi_mqtt.core.model import ModelSpec

OLD = Deployment("d", ModelSpec(tier="fake", path="/a"))


def test_equal_deployments_do_not_differ() -> None:
    assert differences(OLD, replace(OLD)) == ()


def test_each_field_that_changes_is_named_with_both_values() -> None:
    new = replace(
        OLD,
        model=replace(OLD.model, path="/b", options={"units": 3}),
        sla=Sla(latency_ms=300),
        privacy=Privacy({"0:2": ("city", "depot")}),
        split=(SplitPart("0:2", ("a", "b")), SplitPart("2:4", ("c",))),
        fallback=Fallback("/tiny"),
    )
    assert differences(OLD, new) == (
        "model.path /a → /b",
        "model.options none → {units: 3}",
        "sla.latency_ms none → 300",
        "privacy.units {} → {0:2: [city, depot]}",
        "split none → [0:2 on a/b, 2:4 on c]",
        "fallback none → Fallback(model='/tiny', options=None)",
    )


def test_a_deadline_that_no_file_names_is_longer_for_generations() -> None:
    assert OLD.deadline_s == 10.0
    assert replace(OLD, kind="generation").deadline_s == 120.0
    assert replace(OLD, kind="generation", sla=Sla(deadline_ms=500)).deadline_s == 0.5


def test_of_a_long_value_the_end_is_kept() -> None:
    new = replace(OLD, model=replace(OLD.model, path="/" + "x" * 100 + "/minilm"))
    (told,) = differences(OLD, new)
    assert told.startswith("model.path /a → …x")
    assert told.endswith("/minilm")
    assert len(told) < 60
