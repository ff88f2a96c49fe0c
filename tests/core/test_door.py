"""The door: whom it admits, what it repeats, and how it leaves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsi_mqtt.core.activation import unpack_body
from dsi_mqtt.core.effects import (
    ClearRetained,
    Transmit,
)
from dsi_mqtt.core.message import Failure
from dsi_mqtt.core.request import Input, ParsedInput
from dsi_mqtt.core.table import Stamp
from tests.core.build import (
    C,
    make_input,
    make_spec,
    make_table,
)
from tests.core.desk import ON_B, ON_C, Desk, numbers

# --- admission --------------------------------------------------------------------------------


def test_an_input_is_acknowledged_when_the_broker_has_its_answer_and_not_before() -> None:
    desk = Desk().give(make_input(7))
    (started,) = desk.sent()
    assert (started.source, started.target, started.attempt) == ("door", "s0", 1)
    assert started.budget_ms == 10_000
    desk.done(started, b"cat")
    assert desk.codes() == ["ok"]
    assert desk.replies()[0].body == b"cat"
    assert desk.acknowledged() == []
    assert desk.take().acknowledged() == [7]
    assert desk.door.idle


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (replace(make_input(1), nbytes=1001), "input.max_bytes"),
        (replace(make_input(1), foreign_topic=True), "Response Topic"),
        (replace(make_input(1), parsed=ParsedInput(None, "x", b"", "no such type")), "no such"),
        (replace(make_input(1), retained=True), "retain"),
        (replace(make_input(1), device="x" * 129), "device's name"),
        (replace(make_input(1), correlation=bytes(1025)), "Correlation Data"),
    ],
)
def test_what_cannot_be_served_is_answered_at_once_with_a_sentence(given: Input, word: str) -> None:
    desk = Desk().give(given)
    assert desk.sent() == []
    failure = desk.replies()[0].failure
    assert failure is not None
    assert failure.code == "invalid_input"
    assert word in failure.message
    assert len(failure.message) <= 200
    assert (desk.replies()[0].device, desk.replies()[0].correlation) == (
        given.device,
        given.correlation,
    )
    assert desk.take().acknowledged() == [1]
    assert desk.door.idle
    assert desk.door._kept.nbytes == 0


def test_a_retained_input_is_cleared_and_does_not_disturb_one_in_progress() -> None:
    desk = Desk().give(make_input(1))
    (started,) = desk.sent()
    desk.give(replace(make_input(1, receipt=2), retained=True))
    assert ClearRetained(desk.door.deployment, "cam") in desk.effects
    assert desk.codes() == ["invalid_input"]
    desk.take().look()
    assert desk.done(started).codes() == ["ok"]


def test_an_answer_goes_to_the_topic_that_was_asked_for() -> None:
    desk = Desk().give(replace(make_input(1), response_topic="out/cam/mine"))
    desk.done(desk.sent()[0])
    assert desk.replies()[0].topic == "out/cam/mine"


def test_an_input_that_expires_sooner_has_that_long() -> None:
    desk = Desk().give(replace(make_input(1), expiry_s=2))
    assert desk.sent()[0].budget_ms == 2000
    assert desk.wait(2.0).codes() == ["deadline"]


# --- repetitions ------------------------------------------------------------------------------


def test_a_repetition_of_one_in_progress_is_attached_to_it() -> None:
    desk = Desk().give(make_input(1), make_input(1, receipt=2), make_input(1, receipt=3))
    (started,) = desk.sent()
    desk.done(started)
    assert desk.codes() == ["ok"]
    assert desk.take().acknowledged() == [1, 2, 3]
    assert desk.door.load().duplicates == 2


def test_a_repetition_of_an_answered_one_gets_the_kept_answer_where_it_asks_for_it() -> None:
    desk = Desk().give(make_input(1))
    desk.done(desk.sent()[0], b"cat").take().look()
    again = replace(make_input(1, receipt=2), response_topic="out/cam/other")
    desk.give(again)
    assert desk.sent() == []
    assert [(r.body, r.topic) for r in desk.replies()] == [(b"cat", "out/cam/other")]
    assert desk.take().acknowledged() == [2]


def test_a_kept_answer_is_forgotten_after_its_time() -> None:
    desk = Desk(spec=make_spec(dedupe_s=5.0)).give(make_input(1))
    desk.done(desk.sent()[0]).take().wait(5.0).look()
    assert len(desk.give(make_input(1, receipt=2)).sent()) == 1


def test_an_error_is_not_kept_for_the_next_try() -> None:
    desk = Desk().give(make_input(1))
    desk.failed(desk.sent()[0], Failure("overloaded", "later")).take().look()
    assert len(desk.give(make_input(1, receipt=2)).sent()) == 1


def test_repetitions_without_end_do_not_wear_out_what_is_kept() -> None:
    desk = Desk().give(make_input(1))
    desk.done(desk.sent()[0], bytes(1000)).take().look()
    kept = desk.door._kept.nbytes
    for receipt in range(2, 200):
        desk.give(make_input(1, receipt=receipt)).take().look()
    assert desk.door._kept.nbytes == kept >= 1000


def test_equal_inputs_without_an_id_are_two_requests_unless_the_broker_repeats_one() -> None:
    first = make_input(1, text="same", with_id=False)
    second = make_input(2, text="same", with_id=False)
    desk = Desk().give(first, second)
    started = desk.sent()
    assert numbers(started) == [1, 2]
    desk.give(replace(second, receipt=3, request=bytes(16), duplicate=True))
    assert desk.sent() == []
    desk.done(started[0]).done(started[1])
    assert sorted(desk.take().acknowledged()) == [1, 2, 3]


def test_an_input_without_id_that_was_answered_before_its_connection_was_lost() -> None:
    given = make_input(1, with_id=False)
    desk = Desk().give(given)
    desk.do(desk.door.ingress_lost(desk.now))
    desk.done(desk.sent()[0], b"cat")
    assert desk.take().acknowledged() == []
    desk.look()
    desk.give(replace(given, receipt=2, request=bytes(16), duplicate=True))
    assert desk.sent() == [], "computed twice"
    assert [r.body for r in desk.replies()] == [b"cat"]
    assert desk.take().acknowledged() == [2]


# --- leaving ----------------------------------------------------------------------------------


def test_a_door_that_is_replaced_finishes_and_admits_nothing() -> None:
    desk = Desk().give(make_input(1))
    (header,) = desk.sent()
    desk.do(desk.door.replaced(replace(ON_C, door=None), desk.now))
    desk.give(make_input(2))
    assert desk.sent() == []
    desk.done(header)
    assert desk.take().acknowledged() == [1]
    assert desk.door.idle


def test_it_finishes_on_the_table_that_serves_by_then() -> None:
    desk = Desk().give(make_input(1))
    (header,) = desk.sent()
    elsewhere = make_table((C, (0, 6)), epoch=2, door=C)
    desk.do(desk.door.replaced(elsewhere, desk.now))
    assert desk.door.oldest() == ON_B.stamp
    desk.say("stale", header)
    assert desk.sent()[0].stamp == elsewhere.stamp


def test_named_again_it_admits_what_it_had_left() -> None:
    desk = Desk()
    desk.do(desk.door.replaced(None, desk.now)).give(make_input(1))
    assert desk.sent() == []
    desk.serve(make_table(epoch=3))
    desk.done(desk.sent()[0]).take()
    assert desk.acknowledged() == [1]


def test_what_was_left_goes_with_the_connection() -> None:
    desk = Desk()
    desk.do(desk.door.replaced(None, desk.now)).give(make_input(1))
    desk.do(desk.door.ingress_lost(desk.now))
    assert desk.serve(make_table(epoch=3)).sent() == []


def test_without_table_and_ingress_it_starts_nothing_more() -> None:
    desk = Desk(make_table(window=1)).give(make_input(1), make_input(2))
    (running,) = desk.sent()
    desk.do(desk.door.replaced(make_table(epoch=2, door=C, window=1), desk.now))
    desk.do(desk.door.ingress_lost(desk.now))
    desk.done(running).take()
    assert desk.sent() == []
    assert desk.acknowledged() == []
    assert desk.door.idle


def test_without_them_an_attempt_that_breaks_is_left_to_the_next_door() -> None:
    desk = Desk().give(make_input(1))
    (running,) = desk.sent()
    desk.do(desk.door.replaced(make_table(epoch=2, door=C), desk.now))
    desk.do(desk.door.ingress_lost(desk.now))
    desk.say("lost", running)
    assert desk.sent() == []
    desk.do(desk.door.let_go(desk.now))
    assert desk.door.idle
    assert desk.replies() == []


def test_undeployed_everything_held_and_everything_to_come_is_answered() -> None:
    desk = Desk(make_table(window=1)).give(make_input(1), make_input(2))
    desk.do(desk.door.refuse_all(Failure("unavailable", "removed"), desk.now))
    desk.give(make_input(3))
    assert desk.codes() == ["unavailable"] * 3
    assert len(desk.sent("cancel")) == 2
    assert sorted(desk.take().acknowledged()) == [1, 2, 3]
    assert desk.door.idle


def test_what_the_broker_repeats_after_a_lost_connection_is_the_same_request() -> None:
    desk = Desk().give(make_input(1))
    (header,) = desk.sent()
    desk.do(desk.door.ingress_lost(desk.now))
    desk.give(make_input(1, receipt=2, duplicate=True))
    assert desk.records() == [], "this door has not died"
    desk.done(header)
    assert desk.take().acknowledged() == [2]


# --- what travels -----------------------------------------------------------------------------


def test_the_input_travels_as_a_body() -> None:
    door = Desk().door
    (effect,) = door.input_arrived(make_input(1, text="hello"), 0.0)
    assert isinstance(effect, Transmit)
    assert effect.receiver == "a"
    assert unpack_body(effect.activation.tensors) == ("text/plain", b"hello")
    assert effect.activation.header.stamp == Stamp(1, "leader", 1)
