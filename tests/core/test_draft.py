"""From a plan to a table."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from dsi_mqtt.core.cadence import Cadence
from dsi_mqtt.core.deployment import Deployment, InputLimits
from dsi_mqtt.core.draft import (
    CREDIT_BYTES,
    CREDIT_BYTES_MAX,
    WINDOW,
    Draft,
    draft_table,
    places,
    planned_places,
)
from dsi_mqtt.core.model import ModelGraph, Unit, UnitRange, Vocabulary
from dsi_mqtt.core.plan import Plan, PlannedHop, PlannedSegment
from dsi_mqtt.core.queueing import waiting_s
from dsi_mqtt.core.table import DOOR, Forecast, Stamp, Table
from tests.core.orchestra import GRAPH, SPEC, Node

PLAN = Plan(
    segments=(
        PlannedSegment(UnitRange(0, 2), "a", 0.010),
        PlannedSegment(UnitRange(2, 3), "b", 0.040),
        PlannedSegment(UnitRange(3, 6), "a", 0.020),
    ),
    door="c",
    latency_s=0.090,
    access_s=0.004,
    hops=(
        PlannedHop(DOOR, "a", 100, 0.001),
        PlannedHop("a", "b", 100, 0.001),
        PlannedHop("b", "a", 100, 0.001),
        PlannedHop("a", DOOR, 100, 0.001),
    ),
    busiest_s=0.040,
    optimal=True,
    bound=0.0,
    considered=1,
    single_node_latency_s=None,
    meets_sla=True,
)


def drafted(spec: Deployment = SPEC, graph: ModelGraph = GRAPH, plan: Plan = PLAN) -> Table:
    nodes = {name: Node(name, f"{name}1").status(0.0) for name in "abcd"}
    draft = Draft(spec, graph, plan, "d-1", "deployed")
    return draft_table(draft, Stamp(3, "n", 7), nodes, "hazards-secret")


def test_a_table_says_what_was_planned() -> None:
    table = drafted()
    assert table.stamp == Stamp(3, "n", 7)
    assert (table.state, table.reason, table.decision) == ("preparing", "deployed", "d-1")
    assert [segment.id for segment in table.segments] == ["s0", "s1", "s2"]
    assert places(table) == planned_places(PLAN)
    assert table.members() == {("a", "a1"), ("b", "b1"), ("c", "c1")}
    assert table.brokers.keys() == {"a", "b", "c"}
    assert table.door is not None
    assert (table.door.node, table.door.session, table.door.window) == (
        "c",
        "hazards-secret",
        WINDOW,
    )
    assert (table.transfers, [segment.standbys for segment in table.segments]) == ((), [()] * 3)


@pytest.mark.parametrize(
    ("rate", "p95_ms"),
    [
        (1.0, 90.0),  # so few wait at all
        (15.0, 90.0 + 1000 * waiting_s(15.0, 0.040, 0.95)),
        (25.0, 300.0),  # more than can be served: the deadline
    ],
)
def test_a_forecast_is_of_the_plan_and_of_waits_at_its_busiest_station(
    rate: float, p95_ms: float
) -> None:
    spec = replace(SPEC, sla=replace(SPEC.sla, rate_per_s=rate, deadline_ms=300.0))
    forecast = drafted(spec).forecast
    assert forecast is not None
    assert (forecast.p50_ms, forecast.rate_per_s) == (90.0, 25.0)
    assert forecast.p95_ms == pytest.approx(p95_ms)


def test_of_generations_first_tokens_and_tokens_are_forecast() -> None:
    cadence = Cadence(0.5, 1.5, 0.05, 0.08, 2.0, 3.0, 0.7, 0.4)
    spec = replace(SPEC, kind="generation", sla=replace(SPEC.sla, deadline_ms=5000.0))
    told = drafted(spec, plan=replace(PLAN, cadence=cadence)).forecast
    assert told == Forecast(500.0, 1500.0, 0.7, 50.0, 80.0)
    overrun = replace(cadence, first_within_s=math.inf)
    told = drafted(spec, plan=replace(PLAN, cadence=overrun)).forecast
    assert told is not None
    assert told.p95_ms == 5000.0


def test_hops_have_the_codecs_that_were_planned_but_none_within_a_node() -> None:
    assert [hop.codec for hop in drafted().hops] == [{"request": "raw"}] * 2
    first = replace(PLAN.hops[1], codecs=(("request", "int8g64"), ("decode", "fp16")))
    planned = replace(PLAN, hops=(PLAN.hops[0], first, *PLAN.hops[2:]))
    assert [hop.codec for hop in drafted(plan=planned).hops] == [
        {"request": "int8g64"},
        {"request": "raw"},
    ]
    chat = replace(GRAPH, vocabulary=Vocabulary(64, 100))
    assert [hop.codec for hop in drafted(graph=chat, plan=planned).hops] == [
        {"prefill": "raw", "decode": "fp16"},
        {"prefill": "raw", "decode": "raw"},
    ]
    neighbours = replace(planned, segments=(*[replace(s, node="a") for s in PLAN.segments],))
    assert [hop.codec for hop in drafted(plan=neighbours).hops] == [{"request": "raw"}] * 2


@pytest.mark.parametrize(
    ("output_bytes", "credit"),
    [(4096, CREDIT_BYTES), (1 << 20, 2 * 8 << 20), (1 << 30, CREDIT_BYTES_MAX)],
)
def test_credit_has_room_for_two_full_batches_within_what_a_broker_queues(
    output_bytes: int, credit: int
) -> None:
    units = tuple(Unit(f"u{i}", 1, 1.0, output_bytes) for i in range(6))
    table = drafted(replace(SPEC, input=InputLimits(batch_max=8)), replace(GRAPH, units=units))
    assert [hop.credit_bytes for hop in table.hops] == [credit, credit]
    assert [(hop.source, hop.target) for hop in table.hops] == [("s0", "s1"), ("s1", "s2")]
    assert 2 * sum(hop.credit_bytes for hop in table.hops) <= 256 << 20
