"""What goes to other nodes with a new table, and whether it is copied or computed again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.node import LinkSample
from dsi_mqtt.core.table import Replica, Table, Transfer, TransferEnd
from dsi_mqtt.core.transfers import COPYING_MAX_S, Haul, Transit, faster, hauls, transfers, transits
from tests.core.build import A, B, C, make_table
from tests.core.desk_generation import GRAPH, ON_B, ON_C, STATE_BYTES


def ways(old: Table, new: Table, lane: int = 0) -> list[tuple[UnitRange, str, str, int]]:
    return [
        (p.units, p.source[1].node, p.target[1].node, p.position_bytes)
        for p in hauls(old, new, GRAPH, lane)
    ]


def test_only_units_that_change_their_node_go() -> None:
    recut = make_table((A, (0, 2)), (B, (2, 5)), (C, (5, 6)), epoch=2)
    assert ways(ON_B, ON_C) == [((3, 6), "b", "c", 3 * STATE_BYTES)]
    assert ways(ON_B, recut) == [
        ((2, 3), "a", "b", STATE_BYTES),
        ((5, 6), "b", "c", STATE_BYTES),
    ]
    assert ways(ON_B, make_table((A, (0, 1)), (A, (1, 3)), (B, (3, 6)), epoch=2)) == []


def test_a_node_that_has_begun_anew_is_another() -> None:
    assert ways(ON_B, make_table((A, (0, 3)), (("b", "b2"), (3, 6)))) == [
        ((3, 6), "b", "b", 3 * STATE_BYTES)
    ]


def test_what_keeps_nothing_does_not_go() -> None:
    units = tuple(
        replace(u, state_bytes=0 if n in (3, 5) else 7) for n, u in enumerate(GRAPH.units)
    )
    (haul,) = hauls(ON_B, ON_C, replace(GRAPH, units=units), 0)
    assert (haul.units, haul.position_bytes) == (UnitRange(4, 5), 7)
    none = tuple(replace(unit, state_bytes=0) for unit in GRAPH.units)
    assert hauls(ON_B, ON_C, replace(GRAPH, units=none), 0) == ()


def test_each_lane_goes_from_its_replica_to_its_replica() -> None:
    first, last = ON_B.segments
    both = replace(last, replicas=(Replica(*B), Replica(*C)))
    shared = replace(ON_C, segments=(first, both))
    moved = {lane: ways(ON_B, shared, lane) for lane in range(8)}
    assert {len(found) for found in moved.values()} == {0, 1}
    for lane, found in moved.items():
        assert bool(found) == (both.replica(lane).node == "c")


def test_a_table_names_what_others_compute() -> None:
    assert transfers(ON_B, ON_C, "copy") == (
        Transfer(UnitRange(3, 6), TransferEnd(1, "s1"), TransferEnd(2, "s1"), "copy"),
    )
    recut = make_table((A, (0, 2)), (B, (2, 6)), epoch=2)
    assert transfers(ON_B, recut, "recompute") == (
        Transfer(UnitRange(2, 3), TransferEnd(1, "s0"), TransferEnd(2, "s1"), "recompute"),
    )
    other = replace(ON_C, model=replace(ON_C.model, digest="m2")) if ON_C.model else ON_C
    assert transfers(None, ON_C, "copy") == transfers(ON_B, other, "copy") == ()


MIB = 1024 * 1024
ONE = Haul(UnitRange(3, 6), ("s1", Replica(*B)), ("s1", Replica(*C)), MIB)
ALL = (Transit(1.0, (ONE,)),)


@pytest.mark.parametrize(
    ("up", "down", "rtt_ms", "recompute_s", "mode"),
    [
        (1000.0, 1000.0, 1.0, 1.0, "copy"),
        (None, None, None, 0.001, "copy"),  # unknown links are taken to be fast
        (1000.0, 1000.0, 1.0, 0.05, "recompute"),  # 16 positions take 0.13 s
        (1000.0, 1000.0, 400.0, 0.5, "recompute"),
        (10.0, 1000.0, 1.0, 20.0, "recompute"),  # a bulk of 84 s
        (1000.0, 10.0, 1.0, 20.0, "recompute"),
        (10.0, 1000.0, 1.0, 90.0, "copy"),  # longer still to compute
    ],
)
def test_what_is_faster_follows_from_links_and_computing(
    up: float | None, down: float | None, rtt_ms: float | None, recompute_s: float, mode: str
) -> None:
    links = {
        "b": LinkSample(rtt_ms=rtt_ms, up_mbit_s=up),
        "c": LinkSample(rtt_ms=rtt_ms, down_mbit_s=down),
    }
    assert faster(ALL, links, positions=100, sessions=1, recompute_s=recompute_s) == mode


def test_more_sessions_make_a_bulk_too_long() -> None:
    links = {"b": LinkSample(up_mbit_s=1000.0)}
    position_s = MIB * 8 / 1e9
    few = int(COPYING_MAX_S / position_s / 100)
    asked = {
        n: faster(ALL, links, positions=100, sessions=n, recompute_s=0.4) for n in (few, 2 * few)
    }
    assert asked == {few: "copy", 2 * few: "recompute"}


def test_hauls_that_share_a_link_are_counted_together() -> None:
    links = {"b": LinkSample(up_mbit_s=100.0)}
    again_s = 16 * MIB * 8 / 1e8 * 1.5
    other = replace(ONE, target=("s2", Replica("d", "d1")))
    assert faster(ALL, links, positions=20, sessions=1, recompute_s=again_s) == "copy"
    assert (
        faster((Transit(1.0, (ONE, other)),), links, positions=20, sessions=1, recompute_s=again_s)
        == "recompute"
    )


def test_each_way_that_sessions_go_is_looked_at() -> None:
    first, last = ON_B.segments
    both = replace(last, replicas=(Replica(*B, 3.0), Replica(*C, 1.0)))
    (stays, goes) = sorted(
        transits(ON_B, replace(ON_C, segments=(first, both)), GRAPH), key=lambda t: len(t.hauls)
    )
    assert stays.share == pytest.approx(0.75, abs=0.05)
    assert not stays.hauls
    assert goes.share == pytest.approx(0.25, abs=0.05)
    assert [(haul.source[1].node, haul.target[1].node) for haul in goes.hauls] == [("b", "c")]
    (all_,) = transits(ON_B, ON_C, GRAPH)
    assert all_.share == 1.0


def test_who_stays_hides_nobody_who_goes_over_a_slow_link() -> None:
    links = {"b": LinkSample(up_mbit_s=10.0)}
    shared = (Transit(0.5, ()), Transit(0.5, (ONE,)))
    for sessions in (1, 4):
        told = faster(shared, links, positions=100, sessions=sessions, recompute_s=1.0)
        assert told == "recompute"
    assert faster(shared[:1], links, positions=100, sessions=4, recompute_s=1.0) == "copy"


def test_those_that_go_different_ways_share_a_link_and_compute_beside_each_other() -> None:
    """Both leave b: copied, each waits for both; computed again, for its own alone."""
    links = {"b": LinkSample(up_mbit_s=100.0)}
    other = replace(ONE, target=("s1", Replica("d", "d1")))
    each_s = 16 * MIB * 8 / 1e8
    split = (Transit(0.5, (ONE,)), Transit(0.5, (other,)))
    asked = {"positions": 16, "sessions": 2}
    assert faster(ALL, links, **asked, recompute_s=1.1 * each_s) == "copy"
    assert faster(split, links, **asked, recompute_s=1.1 * each_s) == "recompute"
    assert faster(split, links, **asked, recompute_s=2.1 * each_s) == "copy"
