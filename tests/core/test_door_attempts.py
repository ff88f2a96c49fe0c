"""The door's attempts: the window, what ends one, and when to give up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsi_mqtt.core.answers import BUDGET_LEAST
from dsi_mqtt.core.attempts import (
    BROKEN_MAX,
    PROBE_AFTER_S,
    PROBES_UNANSWERED_MAX,
    STALE_FIRST_S,
    STALE_MAX_S,
    Attempts,
)
from dsi_mqtt.core.effects import (
    ReportStatus,
)
from dsi_mqtt.core.line import AGAIN_FIRST_S
from dsi_mqtt.core.message import Activation, Failure, Header
from dsi_mqtt.core.table import Gone, Replica
from dsi_mqtt.core.unserved import HOPE_S
from tests.core.build import (
    A,
    B,
    C,
    make_done,
    make_input,
    make_spec,
    make_table,
    no_route,
)
from tests.core.desk import ON_B, ON_C, Desk, numbers

# --- the window -------------------------------------------------------------------------------


def test_no_more_attempts_than_the_window() -> None:
    desk = Desk(make_table(window=2)).give(*(make_input(n) for n in range(5)))
    started = desk.sent()
    assert numbers(started) == [0, 1]
    desk.done(started[1])
    assert numbers(desk.sent()) == [2]


def test_without_a_chain_inputs_wait_and_then_learn_why() -> None:
    desk = Desk(no_route(1, "no node fits unit 3", A)).give(make_input(1))
    assert desk.sent() == []
    assert desk.wait(HOPE_S - 1).replies() == []
    failure = desk.wait(1.0).replies()[0].failure
    assert failure == Failure("unavailable", "no node fits unit 3")
    desk.give(make_input(2))
    assert desk.wait(0.5).codes() == ["unavailable"] * 2, "who comes later is told at once"


def test_and_those_that_wait_are_served_where_a_chain_comes_soon() -> None:
    desk = Desk(no_route(1, "no node fits unit 3", A)).give(make_input(1))
    desk.wait(0.5).serve(make_table(epoch=2))
    assert numbers(desk.sent()) == [1]
    desk.wait(0.5).serve(no_route(3, "it broke", A)).wait(HOPE_S + 0.5)
    assert desk.replies() == [], "it had begun, and has the time that its deadline gives"


def test_while_a_table_is_prepared_inputs_go_on_waiting() -> None:
    desk, room = Desk(None), no_route(1, "makes room for the next table", A)
    desk.do(desk.door.named(room, desk.now, coming=True)).give(make_input(1))
    assert desk.wait(HOPE_S + 1).replies() == []
    desk.serve(make_table(epoch=2))
    assert numbers(desk.sent()) == [1]


def test_a_chain_with_a_node_said_to_be_offline_gets_nothing_new() -> None:
    desk = Desk().hear(B, "offline").give(make_input(1))
    assert desk.sent() == []
    assert len(desk.hear(B).sent()) == 1


# --- evidence ---------------------------------------------------------------------------------


def test_lost_is_sent_again_at_once_and_the_old_attempt_is_cancelled() -> None:
    desk = Desk().give(make_input(1))
    (first,) = desk.sent()
    desk.say("lost", first)
    assert [h.target for h in desk.sent("cancel")] == ["s0", "s1"]
    (second,) = desk.sent()
    assert (second.request, second.attempt) == (first.request, 2)
    assert desk.door.load().in_flight == 1


def test_what_is_said_about_an_earlier_attempt_ends_nothing() -> None:
    desk = Desk().give(make_input(1))
    (first,) = desk.sent()
    desk.say("lost", first)
    desk.look()
    desk.say("lost", first).say("stale", first).failed(first, Failure("deadline", "late"))
    assert desk.look() == []


def test_where_others_have_spent_the_budget_a_death_ends_no_request() -> None:
    """Faults that came one upon the other left nothing for those who were beside a dying node."""
    count = int(BUDGET_LEAST) // 2
    desk = Desk(make_table((A, (0, 3)), (B, (3, 6)), epoch=1, window=count))
    desk.give(*(make_input(n) for n in range(count)))
    for _ in range(2):
        for sent in desk.sent():
            desk.say("lost", sent)
    desk.sent()
    desk.hear(B, "offline").serve(make_table((A, (0, 3)), (C, (3, 6)), epoch=2, window=count))
    assert desk.codes() == []
    for _ in range(count):
        desk.retain()
        (alone,) = desk.sent()
        desk.done(alone)
    assert [r.failure for r in desk.replies()] == [None] * count


def test_a_result_counts_from_whichever_attempt_it_comes() -> None:
    desk = Desk().give(make_input(1))
    (first,) = desk.sent()
    desk.say("lost", first).look()
    desk.done(first, b"cat")
    assert [r.body for r in desk.replies()] == [b"cat"]
    assert {h.attempt for h in desk.sent("cancel")} == {2}
    assert desk.door.load().in_flight == 0


def test_stale_on_the_table_that_serves_waits_longer_each_time() -> None:
    desk = Desk().give(make_input(1))
    (header,) = desk.sent()
    waits = []
    for _ in range(7):
        desk.say("stale", header)
        started: list[Header] = desk.sent()
        before = desk.now
        while not started:
            started = desk.wait(0.1).sent()
        waits.append(round(desk.now - before, 1))
        (header,) = started
    assert waits[0] == STALE_FIRST_S
    assert waits == sorted(waits)
    assert len(set(waits)) > 3
    assert STALE_MAX_S <= waits[-1] <= STALE_MAX_S + 0.1


def test_stale_on_an_old_table_goes_to_the_new_one_at_once() -> None:
    desk = Desk().give(make_input(1))
    (first,) = desk.sent()
    desk.serve(ON_C).say("stale", first)
    assert desk.sent()[0].stamp == ON_C.stamp


def test_what_is_under_way_on_a_node_that_was_left_is_asked_for_at_once_and_but_once() -> None:
    desk = Desk().give(make_input(1))
    (first,) = desk.sent()
    desk.serve(ON_C)
    assert [h.attempt for h in desk.sent("credit")] == [1]
    desk.wait(PROBE_AFTER_S)
    (second,) = desk.sent()
    assert (second.request, second.stamp) == (first.request, ON_C.stamp)


def test_what_is_under_way_on_a_node_that_is_gone_runs_again_at_once_and_is_no_suspect() -> None:
    """It was silent: nobody would answer a probe, and nothing says that the input ended it."""
    desk = Desk().give(make_input(1), make_input(2))
    before = desk.sent()
    desk.look()
    desk.serve(replace(ON_C, gone=(Gone(*B),)))
    assert desk.sent("credit") == []
    assert {h.request for h in desk.sent("cancel")} == {h.request for h in before}
    again = desk.sent()
    assert [(h.request, h.stamp, h.attempt) for h in again] == [
        (h.request, ON_C.stamp, 2) for h in before
    ]
    desk.done(before[0], b"late all the same").done(again[0], b"twice").done(again[1])
    assert [r.body for r in desk.replies()] == [b"late all the same", b"result"]


def test_who_is_gone_and_said_to_be_offline_has_died_of_something() -> None:
    desk = Desk().give(make_input(1))
    desk.sent()
    desk.hear(B, "offline").serve(replace(ON_C, gone=(Gone(*B),)))
    assert desk.sent() == [], "a suspect, of which that is retained first"
    desk.retain()
    assert [h.stamp for h in desk.sent()] == [ON_C.stamp]


def test_a_silence_spends_none_of_the_budget() -> None:
    count = int(BUDGET_LEAST) // 2
    desk = Desk(make_table((A, (0, 3)), (B, (3, 6)), epoch=1, window=count))
    desk.give(*(make_input(n) for n in range(count)))
    for _ in range(2):
        for sent in desk.sent():
            desk.say("lost", sent)
    desk.sent()
    after = make_table((A, (0, 3)), (C, (3, 6)), epoch=2, window=count)
    desk.serve(replace(after, gone=(Gone(*B),)))
    assert desk.codes() == []
    assert len(desk.sent()) == count


def test_who_is_gone_matters_to_those_alone_whose_way_led_there() -> None:
    both = (Replica(*B), Replica(*C))
    segments = make_table((A, (0, 3)), (B, (3, 6)), epoch=1).segments
    spread = replace(ON_B, segments=(segments[0], replace(segments[1], replicas=both)))
    desk = Desk(spread).give(*(make_input(n) for n in range(8)))
    sent = {h.request: spread.segments[1].replica(h.lane).node for h in desk.sent()}
    assert set(sent.values()) == {"b", "c"}
    desk.look()
    desk.serve(replace(ON_C, gone=(Gone(*B),)))
    assert {sent[h.request] for h in desk.sent("cancel")} == {"b"}


def test_another_table_behind_it_is_no_answer_that_did_not_come() -> None:
    desk = Desk().give(make_input(1))
    desk.sent()
    desk.serve(ON_C).serve(ON_C).serve(replace(ON_C, epoch=3))
    assert len(desk.sent("credit")) == 1
    assert desk.sent() == []
    desk.wait(PROBE_AFTER_S)
    assert len(desk.sent()) == 1


def test_where_it_is_alive_it_goes_on_where_it_is() -> None:
    desk = Desk().give(make_input(1))
    (first,) = desk.sent()
    desk.serve(ON_C)
    desk.door.alive(first, desk.now)
    assert desk.wait(2 * PROBE_AFTER_S).sent() == []
    desk.done(first, b"cat")
    assert [r.body for r in desk.replies()] == [b"cat"]


def test_what_is_under_way_is_left_alone_where_all_its_nodes_stay() -> None:
    desk = Desk().give(make_input(1))
    desk.look()
    desk.serve(make_table((B, (0, 3)), (A, (3, 6)), epoch=2))
    assert desk.sent("credit") == []


def test_a_hint_alone_retries_nothing_and_together_with_a_newer_table_it_does() -> None:
    desk = Desk().give(make_input(1))
    desk.sent()
    desk.hear(B, "offline")
    assert desk.look() == []
    desk.serve(ON_C).retain()
    assert [h.stamp for h in desk.sent()] == [ON_C.stamp]


def test_a_newer_table_alone_leaves_attempts_on_the_old_one() -> None:
    desk = Desk().give(make_input(1))
    (first,) = desk.sent()
    desk.serve(ON_C)
    assert desk.sent() == []
    assert desk.door.oldest() == ON_B.stamp
    desk.done(first)
    assert desk.codes() == ["ok"]
    assert desk.door.oldest() == ON_C.stamp
    assert ReportStatus() in desk.wait(0.1).effects


def test_a_new_incarnation_is_proof_and_the_retry_waits_for_a_table_without_the_dead() -> None:
    desk = Desk().give(make_input(1))
    desk.sent()
    desk.hear(("b", "b2"))
    assert len(desk.sent("cancel")) == 2
    assert desk.wait(1.0).sent() == [], "sent to a table whose node is dead"
    assert desk.give(make_input(2)).sent() == []
    assert numbers(desk.serve(ON_C).retain().sent()) == [1]


def test_a_status_from_before_that_is_set_right_holds_nothing_up() -> None:
    """Retained state may fall back; the node says again who it is."""
    desk = Desk().hear(B).hear(("b", "b0")).give(make_input(1))
    assert desk.sent() == []
    assert len(desk.hear(B).sent()) == 1


def test_the_will_of_an_earlier_life_changes_nothing() -> None:
    desk = Desk().hear(B).hear(("b", "b0"), "offline").give(make_input(1))
    assert len(desk.sent()) == 1


def test_the_will_of_another_life_proves_nothing_about_this_one() -> None:
    desk = Desk().hear(("b", "b0"), "offline").give(make_input(1))
    assert len(desk.sent()) == 1
    desk.hear(("b", "b2"), "offline")
    assert desk.look() == []


def test_probes_go_out_and_silence_is_evidence() -> None:
    desk = Desk().give(make_input(1))
    desk.sent()
    desk.wait(PROBE_AFTER_S - 0.01)
    assert desk.sent("credit") == []
    for _ in range(PROBES_UNANSWERED_MAX):
        desk.wait(PROBE_AFTER_S)
        (probe,) = desk.sent("credit")
        assert probe.credit is not None
        assert probe.credit.probe
        assert probe.door == "a"
        assert desk.sent() == []
    assert len(desk.wait(PROBE_AFTER_S).sent()) == 1


def test_an_attempt_that_is_alive_is_left_alone() -> None:
    desk = Desk(spec=make_spec(deadline_ms=60_000)).give(make_input(1))
    (started,) = desk.sent()
    for _ in range(4 * PROBES_UNANSWERED_MAX):
        desk.wait(PROBE_AFTER_S)
        desk.door.alive(started, desk.now)
    assert desk.sent() == []


def test_an_attempt_is_probed_after_twice_its_forecast() -> None:
    desk = Desk(make_table(p50_ms=2000.0)).give(make_input(1))
    assert desk.wait(3.9).sent("credit") == []
    assert len(desk.wait(0.1).sent("credit")) == 1


def test_all_attempts_are_probed_when_the_data_connection_is_back() -> None:
    desk = Desk().give(make_input(1), make_input(2))
    desk.look()
    desk.do(desk.door.data_reconnected(desk.now))
    assert numbers(desk.sent("credit")) == [1, 2]


# --- giving up --------------------------------------------------------------------------------


def test_a_chain_that_keeps_breaking_is_given_up() -> None:
    desk = Desk().give(make_input(1))
    for _ in range(BROKEN_MAX):
        (header,) = desk.sent()
        desk.say("lost", header)
    assert desk.sent() == []
    assert desk.codes() == ["unavailable"]


def test_retries_are_a_share_of_the_answers() -> None:
    desk = Desk(make_table(window=1), make_spec(deadline_ms=1e9))
    tries = 0
    for number in range(200):
        desk.give(make_input(number))
        (header,) = desk.sent()
        for _ in range(2):
            desk.say("lost", header)
            started = desk.sent()
            if not started:
                break
            (header,) = started
            tries += 1
        desk.done(header).take().look()
    assert tries <= 20 + 0.2 * 200
    assert tries >= 20


def test_a_new_table_does_not_fill_the_budget_again() -> None:
    desk = Desk(make_table(window=1, epoch=1))
    assert isinstance(desk.door._runs, Attempts)
    desk.door._runs._budget._left = 0.0
    desk.serve(make_table(window=1, epoch=2)).give(make_input(1))
    (header,) = desk.sent()
    assert desk.say("lost", header).codes() == ["unavailable"]


def test_no_other_attempt_where_the_time_left_does_not_cover_the_forecast() -> None:
    desk = Desk(make_table(p50_ms=3000.0)).give(make_input(1))
    (header,) = desk.sent()
    desk.now = 8.0
    assert desk.say("lost", header).sent() == []
    assert desk.codes() == ["deadline"]


def test_but_one_where_others_have_taken_less_on_this_table() -> None:
    """Of a link that was just away all sorts of things are forecast."""
    desk = Desk(make_table(p50_ms=30_000.0)).give(make_input(1), make_input(2))
    first, second = desk.sent()
    desk.now = 0.2
    desk.done(first)
    assert numbers(desk.say("lost", second).sent()) == [2]


def test_at_its_deadline_a_request_is_cancelled_and_answered() -> None:
    desk = Desk().give(make_input(1))
    desk.look()
    desk.wait(10.0)
    assert [h.target for h in desk.sent("cancel")] == ["s0", "s1"]
    assert desk.codes() == ["deadline"]
    assert desk.door.load().in_flight == 0


def test_what_the_model_raised_is_the_answer_and_no_retry() -> None:
    desk = Desk().give(make_input(1))
    (header,) = desk.sent()
    desk.failed(header, Failure("model_failed", "it raised"))
    assert desk.sent() == []
    assert desk.sent("cancel") == []
    assert desk.codes() == ["model_failed"]


def test_a_result_that_is_no_body_is_an_error_and_raises_nothing() -> None:
    desk = Desk().give(make_input(1))
    (header,) = desk.sent()
    desk.do(desk.door.done(Activation(make_done(header).header), desk.now))
    assert desk.codes() == ["model_failed"]


def test_an_answer_that_nobody_confirms_goes_out_again_less_and_less_often() -> None:
    desk = Desk().give(make_input(1))
    desk.done(desk.sent()[0]).look()
    times = []
    for _ in range(600):
        if desk.wait(0.1).replies():
            times.append(desk.now)
        desk.look()
    assert times[0] == pytest.approx(AGAIN_FIRST_S, abs=0.11)
    assert 4 <= len(times) <= 6
    assert desk.do(desk.door.reply_published(make_input(1).request, desk.now)).acknowledged() == [1]
