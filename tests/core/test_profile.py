"""A node as the planner sees it: estimates, corrections, and telemetry that may be nonsense."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.estimate import (
    CORRECTION_MAX,
    PREFILLS_MIN,
    SERVED_MIN,
    correction,
    estimate_prefill_s,
    estimate_s,
    learned,
)
from dsi_mqtt.core.model import ModelGraph, Tie, Unit, UnitRange
from dsi_mqtt.core.node import (
    Capabilities,
    HoldingReport,
    LinkSample,
    ModelReport,
    NodeStatus,
    SegmentLoad,
    Telemetry,
)
from dsi_mqtt.core.profile import LIKENESS, Link, NodeView, complaint, view, views
from dsi_mqtt.core.table import Stamp
from dsi_mqtt.errors import ConfigError

MIB = 1 << 20
GIB = 1 << 30

# 10 ms of arithmetic, 20 ms of reading, and a table of which hardly anything is read.
UNITS = (
    Unit("prelude", 2 * GIB, 1e3, 100),
    Unit("arithmetic", MIB, 1e8, 100),
    Unit("reading", 200 * MIB, 6e7, 100),
)
GRAPH = ModelGraph("sha256:00", "layer", UNITS)
HARDWARE = Capabilities(
    weight_bytes=GIB, gflops=10.0, memory_gib_s=200 / 1024 / 0.02, overhead_ms=1.0
)
STATUS = NodeStatus("a", "i1", "online", zone="city", capabilities=HARDWARE)
ESTIMATE = (0.001, 0.011, 0.021)


def telemetry(
    *segments: SegmentLoad, link: LinkSample | None = None, incarnation: str = "i1"
) -> Telemetry:
    return Telemetry("a", incarnation, 1, 0.0, 0, 0, 0, None, link or LinkSample(), tuple(segments))


def served(units: UnitRange, compute_ms: float | None, deployment: str = "d") -> SegmentLoad:
    return SegmentLoad(deployment, "s0", units, 9, 0, 0, compute_ms, 0)


def holding(
    units: UnitRange, *, warm_ms: float | None = None, deployment: str = "d", state: str = "ready"
) -> HoldingReport:
    return HoldingReport(
        deployment,
        Stamp(1, "l", 1),
        "s0",
        units,
        state,  # type: ignore[arg-type]
        weight_bytes=7 * MIB,
        warm_ms=warm_ms,
    )


def test_a_unit_takes_the_longer_of_arithmetic_and_reading() -> None:
    assert [estimate_s(HARDWARE, unit) for unit in UNITS] == pytest.approx(ESTIMATE, abs=1e-5)
    seen = view(STATUS, None, GRAPH, "d")
    assert seen.unit_s == pytest.approx(ESTIMATE, abs=1e-5)
    assert (seen.node, seen.incarnation, seen.zone, seen.spare) == ("a", "i1", "city", False)
    assert seen.weight_bytes == GIB
    assert seen.link == Link(100.0, 100.0, 2.0)


def test_served_segments_correct_all_units_by_one_factor() -> None:
    measured = telemetry(served(UnitRange(1, 3), 64.0))
    assert correction(STATUS, measured, GRAPH, "d") == pytest.approx(2.0, rel=1e-3)
    assert view(STATUS, measured, GRAPH, "d").unit_s == pytest.approx(
        [2 * s for s in ESTIMATE], rel=1e-2
    )


def test_several_segments_count_by_their_time() -> None:
    measured = telemetry(served(UnitRange(1, 2), 22.0), served(UnitRange(2, 3), 21.0))
    assert correction(STATUS, measured, GRAPH, "d") == pytest.approx(43 / 32, rel=1e-3)


def test_the_warm_pass_counts_until_something_has_served() -> None:
    warmed = replace(STATUS, holdings=(holding(UnitRange(1, 2), warm_ms=5.5),))
    assert correction(warmed, None, GRAPH, "d") == pytest.approx(0.5)
    both = telemetry(served(UnitRange(1, 2), 33.0))
    assert correction(warmed, both, GRAPH, "d") == pytest.approx(3.0)


@pytest.mark.parametrize(
    "segment",
    [
        served(UnitRange(1, 2), None),
        served(UnitRange(1, 2), 0.0),
        served(UnitRange(1, 2), -4.0),
        served(UnitRange(1, 2), math.inf),
        served(UnitRange(1, 2), math.nan),
        served(UnitRange(1, 9), 22.0),
        served(UnitRange(1, 2), 22.0, deployment="another"),
    ],
)
def test_nonsense_measurements_are_set_aside(segment: SegmentLoad) -> None:
    assert correction(STATUS, telemetry(segment), GRAPH, "d") is None
    assert view(STATUS, telemetry(segment), GRAPH, "d") == view(STATUS, None, GRAPH, "d")


def test_telemetry_of_an_earlier_incarnation_does_not_count() -> None:
    old = telemetry(served(UnitRange(1, 2), 22.0), link=LinkSample(9.0, 1.0, 1.0), incarnation="i0")
    assert view(STATUS, old, GRAPH, "d") == view(STATUS, None, GRAPH, "d")


@pytest.mark.parametrize(("ms", "factor"), [(1e9, CORRECTION_MAX), (1e-9, 1 / CORRECTION_MAX)])
def test_corrections_are_bounded(ms: float, factor: float) -> None:
    assert correction(STATUS, telemetry(served(UnitRange(1, 2), ms)), GRAPH, "d") == factor


def test_untried_nodes_are_corrected_like_the_others() -> None:
    tried = [
        (replace(STATUS, node=name), telemetry(served(UnitRange(1, 2), ms)))
        for name, ms in (("a", 22.0), ("b", 33.0), ("c", 330.0))
    ]
    untried = (replace(STATUS, node="new"), None)
    seen = views([*tried, untried], GRAPH, "d")
    assert seen[3].unit_s == seen[1].unit_s


def test_nodes_that_cannot_be_planned_with_are_left_out() -> None:
    others = (
        replace(STATUS, node="draining", state="draining"),
        replace(STATUS, node="gone", state="offline"),
        replace(STATUS, node="silent", capabilities=None),
        replace(STATUS, node="odd", capabilities=replace(HARDWARE, gflops=math.nan)),
        replace(STATUS, node="idle", capabilities=replace(HARDWARE, memory_gib_s=0.0)),
    )
    seen = views([(status, None) for status in (*others, STATUS)], GRAPH, "d")
    assert [node.node for node in seen] == ["a"]
    for status in others[2:]:
        with pytest.raises(ConfigError, match=f"node {status.node}: .* capabilities"):
            view(status, None, GRAPH, "d")
        assert (complaint(status, None, GRAPH, "d") or "").startswith(f"node {status.node}: ")
    assert complaint(STATUS, None, GRAPH, "d") is None


@pytest.mark.parametrize("gflops", [1e-300, 1e-9])
def test_a_node_that_no_plan_could_bear_is_left_out_and_named(gflops: float) -> None:
    odd = replace(STATUS, node="odd", capabilities=replace(HARDWARE, gflops=gflops))
    seen = views([(odd, None), (STATUS, None)], GRAPH, "d")
    assert [node.node for node in seen] == ["a"]
    assert (complaint(odd, None, GRAPH, "d") or "").startswith("node odd: ")


def test_other_deployments_take_memory() -> None:
    graph = ModelGraph(
        "sha256:01",
        "layer",
        tuple(Unit(f"u{i}", 10 * MIB, 0.0, 1) for i in range(4)),
        (Tie((0, 3), 4 * MIB),),
    )
    status = replace(
        STATUS,
        models=(ModelReport("known", graph),),
        holdings=(
            holding(UnitRange(0, 2), deployment="known"),
            holding(UnitRange(1, 4), deployment="known", state="loading"),
            holding(UnitRange(0, 1), deployment="unknown"),
            holding(UnitRange(0, 1), deployment="broken", state="failed"),
            holding(UnitRange(0, 3), deployment="d"),
        ),
    )
    assert view(status, None, GRAPH, "d").weight_bytes == GIB - 36 * MIB - 7 * MIB
    small = replace(status, capabilities=replace(HARDWARE, weight_bytes=MIB))
    assert view(small, None, GRAPH, "d").weight_bytes == 0


def test_caches_of_this_deployment_and_of_others_take_memory() -> None:
    graph = ModelGraph("sha256:01", "layer", (Unit("u0", 10 * MIB, 1.0, 1),))
    status = replace(
        STATUS,
        models=(
            ModelReport("other", graph, cache_bytes=5 * MIB),
            ModelReport("idle", graph, cache_bytes=7),
        ),
        holdings=(holding(UnitRange(0, 1), deployment="other"),),
    )
    (seen,) = views([(status, None)], graph, "d", caches=3 * MIB)
    assert (seen.weight_bytes, seen.cache_bytes) == (GIB - 18 * MIB, 3 * MIB)
    (seen,) = views([(status, None)], graph, "d", caches=2 * GIB)
    assert (seen.weight_bytes, seen.overdrawn_bytes) == (0, GIB + 15 * MIB)


@pytest.mark.parametrize(
    ("sample", "link"),
    [
        (LinkSample(8.0, 50.0, None), Link(50.0, 100.0, 8.0)),
        (LinkSample(math.nan, math.nan, -1.0), Link(100.0, 100.0, 2.0)),
        (LinkSample(math.inf, math.inf, 0.0), Link(100.0, 0.0, 2.0)),
        (LinkSample(-0.1, -5.0, math.nan), Link(100.0, 100.0, 2.0)),
    ],
)
def test_link_samples(sample: LinkSample, link: Link) -> None:
    assert view(STATUS, telemetry(link=sample), GRAPH, "d").link == link


@pytest.mark.parametrize("value", [math.nan, -1.0])
def test_links_and_nodes_refuse_what_is_no_number(value: float) -> None:
    with pytest.raises(ConfigError, match=r"link\.up_mbit_s"):
        Link(up_mbit_s=value)
    with pytest.raises(ConfigError, match=r"link\.rtt_ms"):
        Link(rtt_ms=value)
    with pytest.raises(ConfigError, match=r"node a: unit_s\[1\]"):
        NodeView("a", "i1", "", 0, (0.0, value))
    with pytest.raises(ConfigError, match="node a: weight_bytes"):
        NodeView("a", "i1", "", -1, ())


@given(st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5), min_size=2))
def test_shared_weights_count_once(units: set[int], tied: set[int]) -> None:
    alone = tuple(Unit(f"u{i}", 10 + i, 0.0, 1) for i in range(6))
    graph = ModelGraph("sha256:00", "layer", alone, (Tie(tuple(tied), 5),))
    own = sum(alone[unit].weight_bytes - 5 * (unit in tied) for unit in units)
    assert graph.held_bytes(units) == own + 5 * bool(units & tied)


@given(st.integers(0, 5), st.integers(1, 6))
def test_a_segment_weighs_what_its_units_own_and_each_tie_among_them(start: int, size: int) -> None:
    alone = tuple(Unit(f"u{i}", 10 + i, 0.0, 1) for i in range(6))
    ties = (Tie((0, 2, 5), 5), Tie((1, 2), 3))
    graph = ModelGraph("sha256:00", "layer", alone, ties)
    units = UnitRange(start, min(6, start + size))
    own = sum(10 + i - 5 * (i in (0, 2, 5)) - 3 * (i in (1, 2)) for i in range(*units))
    shared = sum(tie.weight_bytes for tie in ties if any(unit in units for unit in tie.units))
    assert graph.weight_bytes(units) == own + shared


def test_the_first_requests_of_a_busy_start_do_not_count_yet() -> None:
    warmed = replace(STATUS, holdings=(holding(UnitRange(1, 2), warm_ms=5.5),))
    few = telemetry(replace(served(UnitRange(1, 2), 33.0), requests=SERVED_MIN - 1))
    assert correction(warmed, few, GRAPH, "d") == pytest.approx(0.5)


def test_nodes_within_measurement_noise_count_as_equally_fast() -> None:
    def node(name: str, gflops: float) -> NodeStatus:
        capabilities = replace(HARDWARE, gflops=gflops, memory_gib_s=1e6)
        return replace(STATUS, node=name, capabilities=capabilities)

    reports = [(node(n, g), None) for n, g in (("a", 9.0), ("b", 10.0), ("c", 11.0), ("d", 40.0))]
    seen = {view.node: sum(view.unit_s) for view in views(reports, GRAPH, "d")}
    assert seen["a"] == pytest.approx(seen["b"]) == pytest.approx(seen["c"])
    assert seen["d"] < seen["a"] / LIKENESS


# --- each kind of work apart ------------------------------------------------------------------


def prefilled(units: UnitRange, token_ms: float | None, tokens: int = 640) -> SegmentLoad:
    return SegmentLoad(
        "d", "s0", units, 20, 0, 0, None, 0, prefills=10, prefill_tokens=tokens,
        prefill_token_ms=token_ms,
    )  # fmt: skip


def test_prompts_and_rows_are_corrected_apart() -> None:
    expected_ms = 1000 * sum(estimate_prefill_s(HARDWARE, unit, 64) for unit in UNITS[1:]) / 64
    both = telemetry(served(UnitRange(1, 3), 2 * 32.0), prefilled(UnitRange(1, 3), 5 * expected_ms))
    found = learned(STATUS, both, GRAPH, "d")
    assert found.row == pytest.approx(2.0, rel=1e-3)
    assert found.prefill == pytest.approx(5.0)
    seen = view(STATUS, both, GRAPH, "d", prompt=100)
    assert seen.prefill_s == pytest.approx(
        [5 * estimate_prefill_s(HARDWARE, unit, 100) for unit in UNITS]
    )
    assert view(STATUS, both, GRAPH, "d").prefill_s == ()


def test_prompts_are_corrected_like_rows_until_some_were_fed() -> None:
    few = replace(prefilled(UnitRange(1, 3), 1.0), prefills=PREFILLS_MIN - 1)
    both = telemetry(served(UnitRange(1, 3), 64.0), few)
    assert learned(STATUS, both, GRAPH, "d").prefill is None
    seen = view(STATUS, both, GRAPH, "d", prompt=64)
    assert seen.prefill_s[1] == pytest.approx(2 * estimate_prefill_s(HARDWARE, UNITS[1], 64), 1e-2)


def test_a_prompt_pays_for_arithmetic_by_token_and_for_reading_by_slice() -> None:
    arithmetic, reading = UNITS[1], UNITS[2]
    assert estimate_prefill_s(HARDWARE, arithmetic, 10) == pytest.approx(0.101, rel=1e-3)
    assert estimate_prefill_s(HARDWARE, reading, 2) == pytest.approx(0.021, rel=1e-2)
    assert estimate_prefill_s(HARDWARE, arithmetic, 1) == estimate_s(HARDWARE, arithmetic)


def test_a_unit_that_was_measured_alone_has_its_own_factor() -> None:
    measured = telemetry(served(UnitRange(1, 2), 33.0), served(UnitRange(2, 3), 42.0))
    seen = view(STATUS, measured, GRAPH, "d")
    node = 75 / 32
    assert seen.unit_s == pytest.approx([node * 0.001, 0.033, 0.042], rel=1e-2)


def test_a_segment_far_from_the_others_is_set_aside() -> None:
    units = tuple(Unit(f"u{i}", MIB, 1e8, 100) for i in range(6))
    graph = ModelGraph("sha256:00", "layer", units)
    honest = [served(UnitRange(i, i + 2), 44.0) for i in (0, 2)]
    odd = served(UnitRange(4, 6), 800.0)
    assert correction(STATUS, telemetry(*honest, odd), graph, "d") == pytest.approx(2.0)


@given(
    st.lists(
        st.tuples(
            st.integers(-3, 5),
            st.integers(-3, 5),
            st.floats(allow_nan=True, allow_infinity=True),
            st.floats(allow_nan=True, allow_infinity=True),
            st.integers(-5, 50),
        ),
        max_size=5,
    ),
    st.tuples(*[st.floats(allow_nan=True, allow_infinity=True)] * 3),
)
def test_no_telemetry_makes_a_node_that_cannot_be_planned_with(
    loads: list[tuple[int, int, float, float, int]], link: tuple[float, float, float]
) -> None:
    segments = [
        SegmentLoad(
            "d", "s", UnitRange(start, stop), count, 0, 0, ms, 0, count, count, token_ms
        )
        for start, stop, ms, token_ms, count in loads
    ]  # fmt: skip
    (seen,) = views([(STATUS, telemetry(*segments, link=LinkSample(*link)))], GRAPH, "d", prompt=64)
    plain = view(STATUS, None, GRAPH, "d", prompt=64)
    for told, estimated in ((seen.unit_s, plain.unit_s), (seen.prefill_s, plain.prefill_s)):
        for seconds, estimate in zip(told, estimated, strict=True):
            assert estimate / CORRECTION_MAX * 0.99 <= seconds <= estimate * CORRECTION_MAX * 1.01
    assert math.isfinite(seen.link.up_mbit_s + seen.link.down_mbit_s + seen.link.rtt_ms)
