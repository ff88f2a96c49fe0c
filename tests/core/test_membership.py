"""Who lives: wills are hints, silence is relative, and the own connection may be the one away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsi_mqtt.core.membership import (
    FORMER_MAX,
    GRACE_S,
    SILENT_S,
    WILL_CONFIRMED_S,
    Membership,
)
from dsi_mqtt.core.model import ModelGraph, UnitRange
from dsi_mqtt.core.node import (
    HoldingReport,
    ModelReport,
    NodeStatus,
    Telemetry,
)
from dsi_mqtt.core.table import Stamp

A = NodeStatus("a", "a1", "online", "edge")
B = NodeStatus("b", "b1", "online", "edge")
START = 100.0
SETTLED = START + GRACE_S


def will(status: NodeStatus) -> NodeStatus:
    return NodeStatus(status.node, status.incarnation, "offline", status.zone)


def telemetry(status: NodeStatus) -> Telemetry:
    return Telemetry(status.node, status.incarnation, 1, 0.0, 1, 1, 1, None)


def members(*statuses: NodeStatus) -> Membership:
    found = Membership()
    found.connected(START)
    for status in statuses:
        assert found.status_arrived(status, START)
    return found


def test_a_will_counts_when_the_node_does_not_speak_again() -> None:
    known = members(A, B)
    for status in (A, B):
        known.telemetry_arrived(telemetry(status), SETTLED)
    assert not known.status_arrived(will(A), SETTLED)
    assert known.tick(SETTLED + WILL_CONFIRMED_S / 2) == []
    assert known.alive("a", "a1")
    assert known.tick(SETTLED + WILL_CONFIRMED_S) == [A]
    assert not known.alive("a", "a1")
    assert known.tick(SETTLED + 1) == []


def test_a_node_that_speaks_after_its_will_lives_and_is_news() -> None:
    known = members(A)
    known.status_arrived(will(A), SETTLED)
    assert known.status_arrived(A, SETTLED + 0.1)
    assert known.tick(SETTLED + 1) == []


def test_the_will_of_another_life_says_nothing() -> None:
    known = members(A)
    known.telemetry_arrived(telemetry(A), SETTLED)
    known.status_arrived(replace(will(A), incarnation="a0"), SETTLED)
    known.status_arrived(will(NodeStatus("stranger", "x", "online")), SETTLED)
    assert known.tick(SETTLED + 1) == []


def test_silence_counts_only_while_others_are_heard() -> None:
    known = members(A, B)
    late = SETTLED + SILENT_S
    assert known.tick(late + 100) == []  # nobody is heard: the silence is one's own
    known.telemetry_arrived(telemetry(B), late)
    assert known.tick(late) == [A]
    assert known.alive("b", "b1")


def test_ones_own_message_coming_back_shows_that_the_others_are_silent() -> None:
    known = members(A)
    known.telemetry_arrived(telemetry(A), SETTLED)
    known.heard(SETTLED + SILENT_S)
    assert known.tick(SETTLED + SILENT_S) == []
    known.heard(SETTLED + SILENT_S + 0.1)
    assert known.tick(SETTLED + SILENT_S + 0.1) == [A]


def test_telemetry_of_another_life_keeps_nobody_alive() -> None:
    known = members(A, B)
    known.telemetry_arrived(replace(telemetry(A), incarnation="a0"), SETTLED + SILENT_S)
    known.telemetry_arrived(telemetry(B), SETTLED + SILENT_S)
    assert known.tick(SETTLED + SILENT_S) == [A]


@pytest.mark.parametrize("why", ["silence", "will before", "will after"])
def test_after_the_own_connection_was_away_nobody_dies_for_a_grace_time(why: str) -> None:
    known = members(A, B)
    if why == "will before":  # a broker that stops sends the will of everybody
        known.status_arrived(will(A), SETTLED)
    known.disconnected()
    assert known.tick(SETTLED + 60) == []
    back = SETTLED + 60
    known.connected(back)
    if why == "will after":  # it kept them
        known.status_arrived(will(A), back)
    known.telemetry_arrived(telemetry(B), back + GRACE_S - 0.1)
    assert known.tick(back + GRACE_S - 0.01) == []
    assert not known.settled(back + GRACE_S - 0.01)
    if why == "will after":
        known.status_arrived(A, back + GRACE_S - 0.01)
    else:
        known.telemetry_arrived(telemetry(A), back + GRACE_S - 0.01)
    assert known.tick(back + GRACE_S) == []


def test_whoever_does_not_come_back_in_the_grace_time_is_dead() -> None:
    known = members(A, B)
    known.disconnected()
    known.connected(200.0)
    known.status_arrived(will(A), 200.1)
    known.telemetry_arrived(telemetry(B), 200.0 + GRACE_S)
    assert known.tick(200.0 + GRACE_S) == [A]


def test_a_new_life_replaces_the_old_one_for_good() -> None:
    known = members(A)
    reborn = replace(A, incarnation="a2")
    assert known.status_arrived(reborn, SETTLED)
    assert not known.alive("a", "a1")
    assert not known.status_arrived(A, SETTLED + 1)  # what a broker had retained from before
    assert not known.status_arrived(will(A), SETTLED + 1)
    assert known.tick(SETTLED + 2) == []
    assert known.alive("a", "a2")


def test_a_stray_status_shuts_nobody_out_who_is_heard() -> None:
    """It names another incarnation and never speaks: the node that does is back."""
    known = members(A)
    stray = replace(A, incarnation="x")
    assert known.status_arrived(stray, SETTLED)
    assert not known.status_arrived(replace(A, zone="city"), SETTLED + 1)
    assert known.returned(telemetry(A)) is None  # as long as the other may live
    known.heard(SETTLED + SILENT_S + 0.1)
    assert known.tick(SETTLED + SILENT_S + 0.1) == [stray]
    assert known.returned(telemetry(B)) is None
    assert known.returned(replace(telemetry(A), incarnation="a7")) is None
    back = known.returned(telemetry(A))
    assert back == replace(A, zone="city")
    assert known.status_arrived(back, SETTLED + 3)
    assert known.alive("a", "a1")
    assert known.returned(telemetry(A)) is None


def test_whoever_said_goodbye_does_not_come_back_by_what_it_said_before() -> None:
    known = members(A)
    known.status_arrived(replace(A, incarnation="x"), SETTLED)
    known.status_arrived(A, SETTLED + 1)
    known.status_arrived(will(A), SETTLED + 1)
    known.heard(SETTLED + SILENT_S + 0.1)
    known.tick(SETTLED + SILENT_S + 0.1)
    assert known.returned(telemetry(A)) is None


def test_of_who_was_replaced_no_more_is_kept_than_is_of_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dsi_mqtt.core.membership.NAMES_MAX", 2)
    known = members()
    for name in "abc":
        for number in range(FORMER_MAX + 2):
            life = NodeStatus(name, f"{name}{number}", "online", "edge")
            assert known.status_arrived(life, START)
    assert not known.status_arrived(NodeStatus("c", "c1", "online", "edge"), START)
    assert known.status_arrived(NodeStatus("c", "c0", "online", "edge"), START)
    assert known.status_arrived(NodeStatus("a", "a9", "online", "edge"), START)


def test_whoever_was_taken_for_dead_may_come_back_as_itself() -> None:
    known = members(A)
    known.status_arrived(will(A), SETTLED)
    assert known.tick(SETTLED + 1) == [A]
    assert known.status_arrived(A, SETTLED + 2)
    assert known.alive("a", "a1")


GRAPH = ModelGraph("sha256:1", "fake", ())
HOLDING = HoldingReport("d", Stamp(1, "n", 1), "s0", UnitRange(0, 1), "ready")


@pytest.mark.parametrize(
    ("later", "news"),
    [
        (A, False),
        (replace(A, state="draining"), True),
        (replace(A, zone="cloud"), True),
        (replace(A, spare=True), True),
        (replace(A, models=(ModelReport("d", GRAPH),)), True),
        (replace(A, holdings=(HOLDING,)), False),
        (replace(A, seen={"d": Stamp(1, "n", 1)}), False),
    ],
)
def test_only_what_plans_depend_on_is_news(later: NodeStatus, news: bool) -> None:
    known = members(A)
    assert known.status_arrived(later, SETTLED) is news
    assert known.status("a") == later
    assert known.reports() == [(later, None)]


def test_reports_are_by_name_with_the_newest_telemetry() -> None:
    known = members(B, A)
    newest = replace(telemetry(B), sequence=9)
    known.telemetry_arrived(telemetry(B), SETTLED)
    known.telemetry_arrived(newest, SETTLED)
    assert known.reports() == [(A, None), (B, newest)]


def test_how_long_the_newest_has_been_there() -> None:
    known = Membership()
    assert known.newest_since(START) == float("inf")
    known.connected(START)
    known.status_arrived(A, START)
    known.status_arrived(B, START + 2)
    known.status_arrived(replace(A, spare=True), START + 3)
    assert known.newest_since(START + 5) == 3
