"""A nodes file as the planner sees it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from dsi_mqtt.core.deployment import Deployment, Sla
from dsi_mqtt.core.model import ModelGraph, ModelSpec, Unit
from dsi_mqtt.core.node import Watts
from dsi_mqtt.core.profile import Link
from dsi_mqtt.core.profiled import ModelProfile, UnitTimes
from dsi_mqtt.core.site import NodeLink, SiteFile, SiteNode, node_views
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.errors import MESSAGE_MAX, ConfigError

GRAPH = ModelGraph("sha256:00", "fake", (Unit("a", MIB, 1e8, 100), Unit("b", MIB, 2e8, 0)))
ONE_PASS = Deployment("d", ModelSpec(tier="fake"))
TEXTS = replace(ONE_PASS, kind="generation", sla=Sla(prompt_tokens=96))
HARDWARE = {"gflops": {"float32": 10}, "memory_gib_s": 60, "overhead_ms": 0.5}


def times(ms: float) -> UnitTimes:
    prefill = {"64": 10 * ms, "128": 20 * ms}
    return UnitTimes("u", 1, 1, 4, {"1": ms, "4": 3 * ms}, prefill)


MEASURED = ModelProfile("sha256:00", "one-pass", (times(1.0), times(2.0)))


def site(**node: Any) -> SiteFile:
    return SiteFile((SiteNode("city", **{"compute": HARDWARE, **node}),))


def test_figures_of_the_hardware_make_a_node() -> None:
    link = NodeLink(up_mbit_s=10, down_mbit_s=0, rtt_ms=40)
    (view,) = node_views(site(zone="cloud", memory_mib=3, spare=True, link=link), GRAPH, ONE_PASS)
    assert view.unit_s == pytest.approx((0.0105, 0.0205))
    assert view.prefill_s == ()
    assert (view.node, view.zone, view.spare) == ("city", "cloud", True)
    assert (view.weight_bytes, view.link) == (3 * MIB, Link(10, 0, 40))


def test_what_a_file_does_not_say_is_assumed() -> None:
    (view,) = node_views(site(), GRAPH, ONE_PASS)
    assert (view.weight_bytes, view.link) == (2 * MIB, Link())


def test_a_profile_makes_a_node() -> None:
    named = site(compute={"profile": "city.json"})
    (view,) = node_views(named, GRAPH, ONE_PASS, {"city.json": MEASURED})
    assert view.unit_s == pytest.approx((0.001, 0.002))
    steps = tuple(replace(unit, decode_ms={"1": 2 * unit.batch_ms["1"]}) for unit in MEASURED.units)
    texts = replace(MEASURED, kind="generation", units=steps)
    (view,) = node_views(named, GRAPH, TEXTS, {"city.json": texts})
    assert view.unit_s == pytest.approx((0.002, 0.004))
    assert view.prefill_s == pytest.approx((0.015, 0.030))
    assert view.cache_bytes + view.weight_bytes == 2 * MIB + view.cache_bytes


def test_a_prompt_is_estimated_for_a_text() -> None:
    (view,) = node_views(site(), GRAPH, TEXTS)
    assert view.prefill_s == pytest.approx((0.9605, 1.9205))


@pytest.mark.parametrize(
    ("node", "field"),
    [
        ({"compute": None}, "compute: is missing"),
        ({"compute": {}}, "compute: is missing"),
        ({"compute": {"gflop": 3}}, "compute.gflop: is no field"),
        ({"compute": {"memory_gib_s": 3}}, "compute.gflops: is missing"),
        ({"compute": {"gflops": 3}}, "compute.memory_gib_s: is missing"),
        ({"compute": {**HARDWARE, "gflops": {"float16": 3}}}, "compute.gflops.float32: is missing"),
        ({"compute": {**HARDWARE, "gflops": -3}}, "compute.gflops: -3 must"),
        ({"compute": {**HARDWARE, "gflops": 0}}, "compute.gflops: 0 must"),
        ({"compute": {**HARDWARE, "gflops": True}}, "compute.gflops: must be a number"),
        ({"compute": {**HARDWARE, "memory_gib_s": math.inf}}, "compute.memory_gib_s: inf"),
        ({"compute": {**HARDWARE, "overhead_ms": -1}}, "compute.overhead_ms: -1"),
        ({"compute": {**HARDWARE, "overhead_ms": "x" * 900}}, "compute.overhead_ms: must be"),
        ({"link": NodeLink(up_mbit_s=-1)}, "link.up_mbit_s: -1"),
        ({"link": NodeLink(down_mbit_s=math.nan)}, "link.down_mbit_s: nan"),
        ({"link": NodeLink(rtt_ms=math.inf)}, "link.rtt_ms: inf"),
        ({"watts": Watts(idle=-1)}, "watts.idle: -1"),
        ({"compute": {"profile": "b.json"}}, "compute.profile: 'b.json' was not read"),
        ({"compute": {"profile": 3}}, "compute.profile: 3 was not read"),
        ({"compute": {"profile": "other.json"}}, "compute.profile: other.json is of another model"),
        ({"compute": {"profile": "texts.json"}}, "compute.profile: texts.json was measured as"),
        ({"compute": {"profile": "zero.json"}}, "compute.profile: zero.json: units[0].batch_ms.1"),
    ],
)
def test_a_figure_that_cannot_be_is_named(node: dict[str, Any], field: str) -> None:
    profiles = {
        "other.json": replace(MEASURED, digest="sha256:01"),
        "texts.json": replace(
            MEASURED,
            kind="generation",
            units=tuple(replace(unit, decode_ms={"1": 1.0}) for unit in MEASURED.units),
        ),
        "zero.json": replace(MEASURED, units=(times(0.0), times(1.0))),
    }
    with pytest.raises(ConfigError) as raised:
        node_views(site(**node), GRAPH, ONE_PASS, profiles)
    assert str(raised.value).startswith(f"nodes[0].{field}")
    assert len(str(raised.value)) <= MESSAGE_MAX
