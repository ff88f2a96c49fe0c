"""A placement is thought over when what it was chosen by has changed, and moved when that pays."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.aim import Texts
from dsi_mqtt.core.deployment import Codecs, Policy, Sla
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.node import DoorLoad, LinkSample, NodeStatus, SegmentLoad, Telemetry
from dsi_mqtt.core.offered import ARRIVALS, SAMPLE_S, TEXTS, Coming, Offered
from dsi_mqtt.core.orchestrator import Orchestrator
from dsi_mqtt.core.sensing import FACTOR, LOOK_NODE_S, LOOK_S, Sensing
from tests.core.orchestra import NAME, SPEC, Node, moving, placed, serving

FAST = LinkSample(2.0, 100.0, 100.0)


def telemetry(
    node: str = "a",
    link: LinkSample = FAST,
    compute_ms: float | None = None,
    requests: int = 100,
) -> Telemetry:
    loads: tuple[SegmentLoad, ...] = ()
    if compute_ms is not None:
        loads = (SegmentLoad(NAME, "s0", UnitRange(0, 3), requests, 0, 0, compute_ms, 0),)
    return Telemetry(node, f"{node}1", 1, 0.0, 1, 1, 1, None, link=link, segments=loads)


def chosen(*told: Telemetry, rate_per_s: float = 1.0) -> Sensing:
    sensing = Sensing(NAME)
    reports = [(NodeStatus(said.node, said.incarnation, "online"), said) for said in told]
    sensing.chosen(reports, Coming(rate_per_s), 10.0)
    return sensing


RATES = st.floats(0.01, 10_000.0)


@given(rate=RATES, factor=st.floats(1 / FACTOR + 0.01, FACTOR - 0.01))
def test_what_differs_by_less_than_a_quarter_calls_for_nothing(rate: float, factor: float) -> None:
    sensing = chosen(telemetry(link=LinkSample(20.0, rate, rate), compute_ms=40.0))
    now = telemetry(link=LinkSample(20.0 * factor, rate * factor, rate), compute_ms=40.0 * factor)
    assert sensing.heard(now, serves=True) is None
    assert sensing.offered(Coming(factor)) is None


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (telemetry(link=LinkSample(2.0, 10.0, 100.0)), "its uplink is 10 Mbit/s, 100 before"),
        (telemetry(link=LinkSample(2.0, 100.0, 10.0)), "its downlink is 10 Mbit/s, 100 before"),
        (telemetry(link=LinkSample(20.0, 100.0, 100.0)), "its round trip is 20 ms, 2 before"),
        (telemetry(compute_ms=90.0), "computing 0:3 is 90 ms, 30 before"),
    ],
)
def test_what_became_worse_matters_where_it_serves(now: Telemetry, says: str) -> None:
    sensing = chosen(telemetry(compute_ms=30.0))
    assert sensing.heard(now, serves=True) == f"node a: {says}"
    assert sensing.heard(now, serves=False) is None


def test_what_became_better_matters_anywhere() -> None:
    sensing = chosen(telemetry(link=LinkSample(2.0, 10.0, 10.0)))
    assert sensing.heard(telemetry(), serves=False) == (
        "node a: its uplink is 100 Mbit/s, 10 before"
    )


def test_a_first_word_is_held_against_what_is_assumed_of_a_node_that_said_nothing() -> None:
    assert chosen().heard(telemetry(link=LinkSample()), serves=True) is None
    assert chosen().heard(telemetry(link=LinkSample(2.0, 5.0, 100.0)), serves=True) is not None


def test_a_segment_that_has_hardly_computed_says_nothing() -> None:
    sensing = chosen(telemetry())
    assert sensing.heard(telemetry(compute_ms=900.0, requests=1), serves=True) is None
    assert sensing.heard(telemetry(compute_ms=900.0), serves=True) is not None


def test_looks_keep_their_distance_the_more_nodes_the_longer() -> None:
    one, many = chosen(telemetry()), chosen(*(telemetry(f"n{i}") for i in range(1000)))
    assert one.look_at() == pytest.approx(10.0 + LOOK_S + LOOK_NODE_S)
    assert many.look_at() == pytest.approx(10.0 + LOOK_S + 1000 * LOOK_NODE_S)


# --- how many requests come -------------------------------------------------------------------


def door(total: int, held: int = 0) -> DoorLoad:
    return DoorLoad(NAME, held, min(held, 2), total - held, 0, 0, 0)


def counted(*samples: tuple[float, int]) -> Offered:
    offered = Offered()
    for at, total in samples:
        offered.counted(("a", "a1"), door(total), at)
    return offered


def test_a_rate_is_known_after_a_sample_of_arrivals() -> None:
    assert counted((0.0, 0), (1.0, ARRIVALS - 1)).rate_per_s == 0.0
    assert counted((0.0, 0), (4.0, ARRIVALS)).rate_per_s == pytest.approx(ARRIVALS / 4)


def test_texts_are_as_long_as_the_newest_were() -> None:
    offered = Offered()
    unknown = offered.texts
    assert unknown is None
    for texts in range(0, 5 * TEXTS, TEXTS):
        told = replace(door(texts), texts=texts, prompt_tokens=300 * texts, new_tokens=40 * texts)
        offered.counted(("a", "a1"), told, float(texts))
    assert offered.texts == Texts(300, 40)
    nonsense = replace(door(99), texts=99, prompt_tokens=-5, new_tokens=10**12)
    offered.counted(("a", "a1"), nonsense, 99.0)
    assert offered.texts == Texts(300, 40)


def test_other_texts_call_for_another_look() -> None:
    sensing = Sensing(NAME)
    sensing.chosen([], Coming(1.0, Texts(100, 100)), 0.0)
    assert sensing.offered(Coming(1.0, Texts(110, 90))) is None
    assert sensing.offered(Coming(1.0, Texts(100, 300))) == "300 tokens in a text come, 100 before"
    assert sensing.offered(Coming(1.0, Texts(40, 100))) == "40 tokens in a prompt come, 100 before"


def test_a_silence_is_a_sample_too() -> None:
    assert counted((0.0, 0), (SAMPLE_S, 0)).rate_per_s == pytest.approx(0.5 / SAMPLE_S)


def test_what_is_held_has_come_as_well() -> None:
    offered = Offered()
    offered.counted(("a", "a1"), door(0), 0.0)
    offered.counted(("a", "a1"), door(40, held=40), 2.0)
    assert offered.rate_per_s == pytest.approx(20.0)


def test_words_that_were_held_up_and_come_at_once_are_one_sample() -> None:
    offered = counted((0.0, 0), (5.0, 100))
    for total in (110, 120, 130, 220):
        offered.counted(("a", "a1"), door(total), 11.0)
    assert offered.rate_per_s == pytest.approx(20.0, rel=0.3)


def test_another_door_begins_at_nothing_and_the_rate_stays() -> None:
    offered = counted((0.0, 0), (4.0, 40))
    offered.counted(("b", "b1"), door(3), 5.0)
    offered.counted(("b", "b1"), door(7), 5.5)
    assert offered.rate_per_s == pytest.approx(10.0)
    offered.counted(("b", "b1"), door(3 + ARRIVALS), 5.0 + ARRIVALS / 10)
    assert offered.rate_per_s == pytest.approx(10.0)


# --- the orchestrator -------------------------------------------------------------------------


def test_a_link_that_falls_to_a_tenth_moves_the_chain_within_seconds() -> None:
    a, b = Node("a", "a1", link=FAST), Node("b", "b1", link=LinkSample(2.5, 90.0, 90.0))
    site = serving(a, b, spec=moving())
    assert site.serves("a")
    began = site.now
    a.link = LinkSample(400.0, 10.0, 10.0)
    site.until(lambda: site.serves("b"), within=5.0)
    assert site.now - began <= 5.0
    assert "node a: its uplink is 10 Mbit/s, 100 before" in [d.reason for d in site.decided]


@pytest.mark.parametrize(("took_s", "least", "most"), [(0.0, 20, 40), (2.0, 3, 6)])
def test_figures_do_not_keep_the_orchestrator_from_listening(
    took_s: float, least: int, most: int
) -> None:
    """On a slow machine a look takes seconds, in which nobody is heard; what calls for it is noise.
    A node that goes is another matter.
    """
    a, b = Node("a", "a1", link=FAST), Node("b", "b1", link=LinkSample(2.5, 90.0, 90.0))
    site = serving(a, b, spec=moving(min_gain=0.99))
    watch = iter(range(10**9))
    site.orchestrator = Orchestrator("m", lambda: "secret", stopwatch=lambda: next(watch) * took_s)
    site.reconnect()
    site.run(20.0)
    served = site.orchestrator._served[NAME]
    before = served.looks
    for second in range(40):
        a.link = LinkSample(4.0, 100.0, 100.0) if second % 2 else LinkSample(9.0, 40.0, 40.0)
        site.run(1.0)
    assert least <= served.looks - before <= most
    site.kill("a")
    site.until(lambda: site.serves("b"), within=2.0)


def test_a_better_placement_that_gains_little_is_left() -> None:
    a, b = Node("a", "a1", link=FAST), Node("b", "b1", link=FAST)
    site = serving(a, b, spec=moving())
    epoch = site.serve.epoch
    a.link = LinkSample(4.0, 100.0, 100.0)
    site.run(60.0)
    assert site.serves("a")
    assert site.serve.epoch == epoch


def test_no_move_whose_way_costs_more_than_the_horizon_brings() -> None:
    spec = replace(SPEC, policy=Policy(cooldown_s=0.0, horizon_s=0.1))
    a, b = Node("a", "a1", link=FAST), Node("b", "b1", link=FAST)
    site = serving(a, b, spec=spec)
    a.link = LinkSample(400.0, 10.0, 10.0)
    assert site.run(60.0).serves("a")


def test_what_the_cooldown_holds_back_comes_after_it() -> None:
    a, b = Node("a", "a1", link=FAST), Node("b", "b1", link=FAST)
    site = serving(a, b, spec=moving(cooldown_s=30.0))
    a.link = LinkSample(40.0, 100.0, 100.0)  # of about 100 ms, 40 more than before
    assert site.run(15.0).serves("a")
    site.until(lambda: site.serves("b"), within=20.0)


FALLEN = LinkSample(400.0, 10.0, 10.0)


def test_a_chain_that_has_fallen_is_left_without_waiting_for_the_cooldown() -> None:
    a, b = Node("a", "a1", link=FAST), Node("b", "b1", link=FAST)
    site = serving(a, b, spec=moving(cooldown_s=1000.0))
    a.link = FALLEN
    site.until(lambda: site.serves("b"), within=3.0)


def test_one_chain_that_has_fallen_is_left_so_within_a_cooldown_and_no_second() -> None:
    a, b = Node("a", "a1", link=FAST), Node("b", "b1", link=FAST)
    site = serving(a, b, spec=moving(cooldown_s=30.0))
    a.link = FALLEN
    site.until(lambda: site.serves("b"), within=3.0)
    a.link, b.link = FAST, FALLEN
    assert site.run(20.0).serves("b")
    site.until(lambda: site.serves("a"), within=15.0)


def test_where_the_one_link_that_is_known_has_fallen_others_are_not_taken_to_be_as_slow() -> None:
    a, b = Node("a", "a1", link=FAST), Node("b", "b1", link=LinkSample(2.0))
    site = serving(a, b, spec=moving(cooldown_s=30.0))
    a.link = replace(FALLEN, up_usual_mbit_s=FAST.up_mbit_s, down_usual_mbit_s=FAST.down_mbit_s)
    site.until(lambda: site.serves("b"), within=3.0)


def test_what_was_assumed_of_a_link_is_no_promise_that_it_has_fallen_from() -> None:
    """Nobody had measured anything when the chain was chosen."""
    unknown = LinkSample(2.0)
    a, b = Node("a", "a1", link=unknown), Node("b", "b1", link=unknown)
    site = serving(a, b, spec=moving(cooldown_s=30.0))
    a.link, b.link = FALLEN, FAST
    assert site.run(15.0).serves("a")


def test_what_mends_the_target_waits_for_no_cooldown() -> None:
    a, b = Node("a", "a1", link=FAST), Node("b", "b1", link=FAST)
    sla = Sla(rate_per_s=0.01, latency_ms=200.0)
    site = serving(a, b, spec=replace(moving(cooldown_s=1000.0), sla=sla))
    a.link = LinkSample(400.0, 10.0, 10.0)
    site.until(lambda: site.serves("b"), within=5.0)


def test_a_link_is_held_against_what_was_assumed_of_it() -> None:
    """Like the others, as long as it was not measured."""
    sensing = chosen(telemetry("b", link=LinkSample(2.0, 1000.0, 1000.0)))
    assert sensing.heard(telemetry("a", link=LinkSample()), serves=True) is None
    assert sensing.heard(telemetry("a"), serves=True) is not None


def test_a_gain_within_noise_moves_where_it_brings_requests_back_to_their_target() -> None:
    """Of about 63 ms, 7 are a tenth: less than `min_gain`, and what the target asks for."""
    near, far = LinkSample(2.0, 100.0, 100.0), LinkSample(9.0, 100.0, 100.0)
    for target_ms, moves in ((None, False), (66.0, True), (10.0, False)):
        a, b = Node("a", "a1", link=near), Node("b", "b1", link=near)
        sla = Sla(rate_per_s=0.01, latency_ms=target_ms)
        site = serving(a, b, spec=replace(moving(), sla=sla))
        a.link = far
        assert site.run(20.0).serves("b" if moves else "a")


def test_more_requests_than_were_announced_are_planned_for() -> None:
    """One node is quicker at rest, two share what is too much for one."""
    a, b = Node("a", "a1", link=FAST), Node("b", "b1", link=FAST)
    site = serving(a, b, spec=moving())
    assert site.serves("a")
    for second in range(30):
        a.doors = (door(second * 15),)
        site.run(1.0)
    assert site.serves("a", "b")


def test_a_slow_link_changes_how_hops_are_written() -> None:
    """Nodes and cuts stay: 4 KiB of activation pass a wide link sooner than they are encoded."""
    spec = replace(moving(), codecs=Codecs(("raw", "int8g64")))
    wide = LinkSample(2.0, 10_000.0, 10_000.0)
    a, b = Node("a", "a1", room=3, link=wide), Node("b", "b1", room=3, link=wide)
    site = serving(a, b, spec=spec)
    assert [hop.codec for hop in site.serve.hops] == [{"request": "raw"}]
    before = placed(site.serve)
    a.link = b.link = LinkSample(2.0, 0.5, 0.5)
    site.until(lambda: site.serve.hops[0].codec == {"request": "int8g64"}, within=10.0)
    assert placed(site.serve) == before
    assert site.kinds()[-1] == "remap"
