"""Who lives: wills are hints, silence is relative, and the own connection may be the one away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsi_mqtt.core.membership import (
    CALM_S,
    FORMER_MAX,
    GRACE_S,
    PAUSES,
    READ_RATE,
    SILENT_LEAST_S,
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


def listens(known: Membership, since: float, until: float) -> None:
    """Somebody else is heard four times a second."""
    for quarter in range(1, round(4 * (until - since)) + 1):
        known.heard(min(since + quarter / 4, until))


def speaks(known: Membership, since: float, *pauses: float) -> float:
    """A does, after each of these pauses, while others are heard; the time of its last word."""
    for pause in pauses:
        listens(known, since, since + pause)
        since += pause
        known.beat_arrived("a", "a1", since)
    return since


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
    late = START + SILENT_S
    assert known.tick(SETTLED + 100) == []  # nobody is heard: the silence is one's own
    listens(known, START, late)
    known.telemetry_arrived(telemetry(B), late)
    assert known.tick(SETTLED) == []
    known.telemetry_arrived(telemetry(B), late + 0.1)
    assert known.tick(SETTLED) == [A]
    assert known.alive("b", "b1")


def test_what_was_said_while_nobody_was_heard_has_yet_to_be_read() -> None:
    """The broker stood still, or whoever listens did: words come one behind the other then."""
    known = members(A, B)
    now = speaks(known, START, *[0.25] * 2 * PAUSES)
    back = now + 60.0
    known.telemetry_arrived(telemetry(B), back)
    assert known.tick(back) == []
    known.beat_arrived("a", "a1", back + 0.01)
    listens(known, back, back + SILENT_LEAST_S - 0.1)
    assert known.tick(back + SILENT_LEAST_S - 0.1) == []


def test_a_time_in_which_oneself_was_busy_is_no_pause_of_anybody_s() -> None:
    """By which patience would grow."""
    known = members(A)
    now = START
    for _ in range(2 * PAUSES):
        known.was_busy(0.6)
        now = speaks(known, now + 0.5, 0.3)
    listens(known, now, now + SILENT_LEAST_S)
    assert known.tick(now + SILENT_LEAST_S) == []
    known.heard(now + SILENT_LEAST_S + 0.1)
    assert known.tick(now + SILENT_LEAST_S + 0.1) == [A]


@pytest.mark.parametrize("times", [1, 9])
def test_what_came_while_oneself_was_busy_has_yet_to_be_read(times: int) -> None:
    """One time behind the other, nothing of it may have been."""
    known = members(A)
    now = speaks(known, START, *[0.25] * 2 * PAUSES)
    listens(known, now, now + 1.0)
    now += 1.0
    for _ in range(times):
        known.was_busy(0.8)
        now += 0.8
        known.heard(now)
        assert known.tick(now) == []
    known.heard(now + 0.05)
    assert known.tick(now + 0.05) == []
    read_s = 0.8 * times / READ_RATE
    listens(known, now + 0.05, now + read_s)
    assert known.tick(now + read_s) == [A], "it was silent while oneself was busy, too"


def test_moments_in_which_oneself_is_busy_all_the_time_make_nobody_more_patient() -> None:
    known = members(A)
    now = speaks(known, START, *[0.25] * 2 * PAUSES)
    for _ in range(1000):
        known.was_busy(0.001)
        now = speaks(known, now, 0.05)
    for _ in range(round(SILENT_LEAST_S / 0.05) + 1):
        known.was_busy(0.001)
        now += 0.05
        known.heard(now)
    assert known.tick(now) == [A]


def test_whoever_speaks_when_its_time_is_over_was_not_missed_too_soon() -> None:
    """Be it that oneself was busy meanwhile."""
    known = members(A, B)
    now = speaks(known, START, *[0.25] * 2 * PAUSES)
    listens(known, now, now + SILENT_LEAST_S + 0.25)
    now += SILENT_LEAST_S + 0.25
    assert known.tick(now) == [A, B]
    known.was_busy(0.8)
    listens(known, now + 0.8, now + 1.3)
    now += 1.3
    assert known.status_arrived(A, now)
    now = speaks(known, now, *[0.25] * 2 * PAUSES)
    listens(known, now, now + SILENT_LEAST_S + 0.25)
    assert known.tick(now + SILENT_LEAST_S + 0.25) == [A]


def test_who_speaks_often_is_missed_soon() -> None:
    known = members(A)
    now = speaks(known, START, *[0.3, 0.2] * PAUSES)
    listens(known, now, now + SILENT_LEAST_S)
    assert known.tick(now + SILENT_LEAST_S) == []
    known.heard(now + SILENT_LEAST_S + 0.01)
    assert known.tick(now + SILENT_LEAST_S + 0.01) == [A]


@pytest.mark.parametrize(("pause", "patience"), [(0.4, 2.0), (0.5, SILENT_S), (1.4, SILENT_S)])
def test_who_paused_longer_lately_is_waited_for_longer(pause: float, patience: float) -> None:
    """On a machine that is starved words come as they may."""
    known = members(A)
    now = speaks(known, START, *[0.25] * PAUSES, pause, *[0.25] * (PAUSES - 1))
    listens(known, now, now + patience)
    assert known.tick(now + patience) == []
    known.heard(now + patience + 0.01)
    assert known.tick(now + patience + 0.01) == [A]


def test_nobody_is_known_by_a_few_words() -> None:
    known = members(A)
    now = speaks(known, SETTLED, *[0.25] * (PAUSES - 2))
    listens(known, now, now + SILENT_S)
    assert known.tick(now + SILENT_S) == []


def test_where_somebody_was_missed_too_soon_nobody_is_for_a_while() -> None:
    known = members(A, B)
    now = speaks(known, START, *[0.25] * 2 * PAUSES)
    later = now + SILENT_LEAST_S + 0.25
    listens(known, now, later)
    assert known.tick(later) == [A, B]
    assert known.status_arrived(A, later + 0.25)
    now = speaks(known, later + 0.25, *[0.25] * 2 * PAUSES)
    listens(known, now, now + SILENT_S)
    assert known.tick(now + SILENT_S) == []
    known.heard(now + SILENT_S + 0.25)
    assert known.tick(now + SILENT_S + 0.25) == [A]
    assert known.status_arrived(A, now + 60.0)
    now = speaks(known, now + 60.0, *[0.25] * round(4 * CALM_S))
    listens(known, now, now + SILENT_LEAST_S + 0.25)
    assert known.tick(now + SILENT_LEAST_S + 0.25) == [A]


def test_a_link_that_was_dead_for_longer_makes_nobody_more_patient() -> None:
    known = members(A)
    now = speaks(known, START, *[0.25] * 2 * PAUSES)
    listens(known, now, now + 6.0)
    assert known.tick(now + 6.0) == [A]
    known.status_arrived(A, now + 6.1)
    now = speaks(known, now + 6.1, 0.25)
    listens(known, now, now + SILENT_LEAST_S + 0.25)
    assert known.tick(now + SILENT_LEAST_S + 0.25) == [A]


def test_a_beat_of_another_life_keeps_nobody_alive() -> None:
    known = members(A)
    for quarter in range(round(4 * SILENT_S) + 2):
        known.beat_arrived("a", "a0", START + quarter / 4)
        known.beat_arrived("stranger", "x", START + quarter / 4)
    assert known.tick(SETTLED) == [A]


def test_ones_own_message_coming_back_shows_that_the_others_are_silent() -> None:
    known = members(A)
    known.telemetry_arrived(telemetry(A), SETTLED)
    listens(known, SETTLED, SETTLED + SILENT_S)
    assert known.tick(SETTLED + SILENT_S) == []
    known.heard(SETTLED + SILENT_S + 0.1)
    assert known.tick(SETTLED + SILENT_S + 0.1) == [A]


def test_telemetry_of_another_life_keeps_nobody_alive() -> None:
    known = members(A, B)
    for half in range(2 * round(SETTLED + SILENT_S - START)):
        known.telemetry_arrived(replace(telemetry(A), incarnation="a0"), START + half / 2)
        known.telemetry_arrived(telemetry(B), START + half / 2)
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
    listens(known, back, back + GRACE_S - 0.2)
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
    listens(known, SETTLED, SETTLED + SILENT_S + 0.1)
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
    listens(known, SETTLED + 1, SETTLED + SILENT_S + 0.1)
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
