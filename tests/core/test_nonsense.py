"""Figures that cannot be true are named and counted."""

from __future__ import annotations

import math

import pytest

from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.node import DoorLoad, LinkSample, SegmentLoad, Telemetry
from dsi_mqtt.core.nonsense import NonsenseCount, nonsense


def telemetry(
    link: LinkSample | None = None, *segments: SegmentLoad, node: str = "a", door: float = 5.0
) -> Telemetry:
    doors = (DoorLoad("d", 0, 0, 9, 0, 0, 0, door, None, 9),)
    return Telemetry(node, "i", 1, 0.0, 0, 0, 0, None, link or LinkSample(), segments, doors)


def load(compute_ms: float | None, token_ms: float | None = None, requests: int = 9) -> SegmentLoad:
    return SegmentLoad("d", "s0", UnitRange(0, 1), requests, 0, 0, compute_ms, 0, 3, 9, token_ms)


def test_figures_that_may_be_true_are_none() -> None:
    assert nonsense(telemetry(LinkSample(0.0, 0.0, 1e6), load(1e-3, 5.0), load(None))) == ()
    assert nonsense(telemetry()) == ()


@pytest.mark.parametrize(
    ("told", "field"),
    [
        (telemetry(LinkSample(2.0, -1.0, 5.0)), "link.up_mbit_s"),
        (telemetry(LinkSample(2.0, 5.0, math.inf)), "link.down_mbit_s"),
        (telemetry(LinkSample(math.nan, 5.0, 5.0)), "link.rtt_ms"),
        (telemetry(None, load(1.0), load(0.0)), "segments[1].compute_ms"),
        (telemetry(None, load(math.inf)), "segments[0].compute_ms"),
        (telemetry(None, load(1.0, math.nan)), "segments[0].prefill_token_ms"),
        (telemetry(None, load(1.0, requests=-1)), "segments[0].requests"),
        (telemetry(door=0.0), "doors[0].p50_ms"),
    ],
)
def test_figures_that_cannot_be_true_are_named(told: Telemetry, field: str) -> None:
    assert nonsense(told) == (field,)


def test_each_node_s_are_counted_and_said_at_each_doubling() -> None:
    count = NonsenseCount()
    odd = telemetry(LinkSample(2.0, -1.0, 5.0))
    said = [line for _ in range(9) if (line := count.saw(odd)) is not None]
    assert [line.split(" ")[1] for line in said] == ["1", "2", "4", "8"]
    assert said[0].endswith("1 figure is set aside that cannot be true, the last of link.up_mbit_s")
    assert count.saw(telemetry(node="b")) is None
    assert (count.of("a"), count.of("b")) == (9, 0)


def test_names_that_a_stranger_invents_take_no_memory_for_ever() -> None:
    count = NonsenseCount()
    for number in range(5000):
        count.saw(telemetry(LinkSample(-1.0), node=f"n{number}"))
    assert len(count._counts) <= 1024
