"""Poison: who is a suspect, which deaths are counted, and what is retained of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from dsi_mqtt.core.attempts import (
    BROKEN_MAX,
    STALE_MAX_S,
)
from dsi_mqtt.core.effects import (
    WriteRecord,
)
from dsi_mqtt.core.line import AGAIN_FIRST_S, Line, Request
from dsi_mqtt.core.message import MessageKind
from dsi_mqtt.core.node import NodeState
from dsi_mqtt.core.request import Redelivery
from dsi_mqtt.core.table import Gone, Table
from tests.core.build import (
    A,
    C,
    Member,
    make_input,
    make_spec,
    make_status,
    make_table,
)
from tests.core.desk import ON_B, Desk, numbers


def test_that_a_redelivered_input_runs_is_retained_before_it_does() -> None:
    desk = Desk().give(make_input(1, duplicate=True))
    assert desk.sent() == []
    assert desk.records() == ["0+"]
    desk.retain()
    (header,) = desk.sent()
    desk.done(header).take()
    assert desk.records() == ["0+", "0"], "the record is not cleared"


def test_the_third_time_it_is_poison_and_the_verdict_is_kept() -> None:
    desk = Desk(table=None)
    given = make_input(1, duplicate=True)
    desk.door.record_found(Redelivery(given.key, 3), 0.0)
    desk.serve(ON_B).give(given)
    assert desk.sent() == []
    assert desk.codes() == ["poison"]
    assert desk.take().records() == [], "what is retained tells the next door"
    desk.look()
    desk.give(make_input(1, receipt=9))
    assert desk.sent() == []
    assert desk.codes() == ["poison"]


@pytest.mark.parametrize("state", ["online", "draining", "offline"])
def test_what_a_living_door_has_let_go_of_is_no_suspect(state: NodeState) -> None:
    desk = Desk(table=None).hear(C, state)
    desk.do(desk.door.named(ON_B, 0.0, before=C)).give(make_input(1, duplicate=True))
    assert (numbers(desk.sent()), desk.records()) == (
        ([], ["0+"]) if state == "offline" else ([1], [])
    )


@pytest.mark.parametrize("said", ["nothing", "orphaned", "gone", "offline"])
def test_what_is_taken_from_a_living_door_that_was_too_slow_is_no_suspect(said: str) -> None:
    """It still has the ingress open, by its own word; a table or a will may know better."""
    desk, table = Desk(table=None), ON_B
    oldest = table.stamp
    state: NodeState = "offline" if said == "offline" else "online"
    desk.peers.heard(make_status(C, "online", oldest=oldest, ingress_open=True))
    desk.peers.heard(make_status(C, state, oldest=oldest, ingress_open=True))
    assert table.door is not None
    if said == "orphaned":
        table = replace(table, door=replace(table.door, orphaned=True))
    elif said == "gone":
        table = replace(table, gone=(Gone(*C),))
    desk.do(desk.door.named(table, 0.0, before=C)).give(make_input(1, duplicate=True))
    assert (numbers(desk.sent()), desk.records()) == (
        ([1], []) if said == "nothing" else ([], ["0+"])
    )


def test_what_was_retained_of_an_input_counts_whoever_hands_it_over() -> None:
    desk = Desk(table=None).hear(C)
    given = make_input(1, duplicate=True)
    desk.door.record_found(Redelivery(given.key, 1), 0.0)
    desk.do(desk.door.named(ON_B, 0.0, before=C)).give(given)
    assert desk.sent() == []
    assert desk.records() == ["1+"]


def test_nor_do_others_who_are_younger_keep_many_suspects_waiting() -> None:
    """As many come as the chain can serve: somebody else is always due."""
    window, many = 16, 20
    line = Line()
    for number in range(500):
        given = make_input(number)
        line.join(Request(given.request, given, 30.0, suspect=number < many))
    begun: list[bool] = []
    while request := line.next_up([], window, 0.0):
        if request.suspect and not request.recorded:
            request.recorded = True
            line.join(request, first=True)
        else:
            begun.append(request.suspect)
    places = [place for place, suspect in enumerate(begun) if suspect]
    assert places == [place * (1 + window // 4) for place in range(many)]


def test_many_suspects_do_not_keep_the_others_waiting() -> None:
    desk = Desk().give(*(make_input(n, duplicate=True) for n in (1, 2, 3)))
    desk.give(*(make_input(n) for n in range(4, 10)))
    order = []
    while started := (desk.retain().sent() or desk.retain().sent()):
        order.append(numbers(started))
        for header in started:
            desk.done(header)
    assert order[0] == [1]
    assert sorted(n for numbers_ in order for n in numbers_) == list(range(1, 10))
    assert order.index([2]) > 1, "a suspect went right behind another, before those that wait"
    assert all(len(numbers_) == 1 for numbers_ in order if numbers_[0] < 4)


def test_a_suspect_runs_alone() -> None:
    desk = Desk().give(make_input(1))
    (normal,) = desk.sent()
    desk.give(make_input(2, duplicate=True), make_input(3))
    assert desk.sent() == []
    assert desk.records() == [], "counted before its turn"
    desk.done(normal)
    assert desk.records() == ["0+"]
    desk.give(make_input(4))
    assert desk.sent() == [], "something ran beside a suspect that is being recorded"
    desk.retain()
    (suspect,) = desk.sent()
    assert numbers([suspect]) == [2]
    desk.give(make_input(5))
    assert desk.sent() == [], "something ran beside a suspect"
    desk.done(suspect)
    assert numbers(desk.sent()) == [3, 4, 5]


def test_what_only_waited_behind_a_poisonous_input_is_not_counted() -> None:
    desk = Desk()
    for number in (1, 2, 3):
        desk.give(make_input(number, duplicate=True))
    assert desk.records() == ["0+"]
    desk.wait(AGAIN_FIRST_S)
    keys = {e.record.key for e in desk.effects if isinstance(e, WriteRecord)}
    assert keys == {make_input(1).key}
    assert desk.records() == ["0+", "0+"], "an unconfirmed record is not written again"


def test_a_record_without_its_redelivery_flag_counts_all_the_same() -> None:
    """The project's client repeats by itself: then the broker sets no flag."""
    desk = Desk(table=None)
    given = make_input(1)
    desk.door.record_found(Redelivery(given.key, 1), 0.0)
    desk.serve(ON_B).give(given)
    assert desk.records() == ["1+"]


def lives(*numbers: int) -> Iterator[tuple[Member, Table]]:
    """Node b, again and again, with the table that serves on it."""
    for life in numbers:
        member = ("b", f"b{life}")
        yield member, make_table((A, (0, 3)), (member, (3, 6)), epoch=life + 1)


def test_three_deaths_alone_in_the_chain_make_poison() -> None:
    desk = Desk()
    for member, table in lives(1, 2, 3):
        desk.hear(member).serve(table)
        if table.epoch == 2:
            desk.give(make_input(1))
        assert numbers(desk.retain().sent()) == [1]
        assert desk.codes() == []
        desk.look()
    assert desk.hear(("b", "b4")).codes() == ["poison"]


def test_the_verdict_outlives_its_door() -> None:
    desk = Desk(spec=make_spec(dedupe_s=5.0)).give(make_input(1))
    for member, table in lives(2, 3, 4):
        desk.sent()
        desk.hear(member).serve(table).retain()
    assert desk.take().codes() == ["poison"]
    assert desk.records()[-1] == "3", "no later door would know"
    heir = Desk(spec=make_spec(dedupe_s=5.0), door=("c", "c1"))
    heir.door.record_found(Redelivery(make_input(1).key, 3), 0.0)
    running = heir.give(make_input(2)).sent()
    assert heir.give(make_input(1)).take().codes() == ["poison"], "it waited for its turn"
    assert (heir.sent(), heir.records(), len(running)) == ([], [], 1)
    assert heir.wait(4.9).records() == []
    assert heir.wait(0.1).records() == ["0"], "it is told for ever"


def test_a_door_that_died_of_it_makes_a_verdict_that_is_retained() -> None:
    desk = Desk(table=None)
    given = make_input(1, duplicate=True)
    desk.door.record_found(Redelivery(given.key, 2, "d1"), 0.0)
    assert desk.serve(ON_B).give(given).take().codes() == ["poison"]
    assert desk.records() == ["3"]


def test_deaths_do_not_spend_the_tries_of_a_chain_that_breaks() -> None:
    desk = Desk().give(make_input(1))
    for _ in range(BROKEN_MAX - 1):
        (header,) = desk.sent()
        desk.say("lost", header)
    for member, table in lives(2, 3, 4):
        assert desk.codes() == []
        desk.sent()
        desk.hear(member).serve(table).retain()
    assert desk.codes() == ["poison"]


def test_a_death_beside_others_is_nobodys_and_each_runs_alone_from_then_on() -> None:
    desk = Desk()
    for member, table in lives(1, 2, 3, 4):
        desk.hear(member).serve(table)
        if table.epoch == 2:
            desk.give(make_input(1), make_input(2))
        started = desk.retain().sent()
        assert numbers(started) == ([1, 2] if table.epoch == 2 else [1]), "two suspects at once"
        assert desk.codes() == []
        desk.look()
    desk.hear(("b", "b5"))
    assert desk.codes() == ["poison"]
    desk.look()
    (_, table), *_ = lives(5)
    (innocent,) = desk.serve(table).retain().sent()
    assert numbers([innocent]) == [2]
    assert desk.done(innocent).codes() == ["ok"]


def test_who_begins_alone_and_gets_company_is_not_alone() -> None:
    desk = Desk().give(make_input(1))
    desk.sent()
    desk.give(make_input(2))
    desk.hear(("b", "b2")).serve(make_table((A, (0, 3)), (("b", "b2"), (3, 6)), epoch=2))
    assert desk.records() == ["0+"], "counted as if it had run alone before"


@pytest.mark.parametrize("kind", ["lost", "stale"])
def test_what_is_retained_before_a_run_is_taken_back_when_nothing_died(kind: MessageKind) -> None:
    desk = Desk().give(make_input(1, duplicate=True))
    (header,) = desk.retain().sent()
    desk.look()
    desk.say(kind, header)
    desk.wait(STALE_MAX_S)
    assert desk.records() == ["0", "0+"]
    desk.look()
    assert desk.do(desk.door.let_go(desk.now)).records() == ["0"], "it is not about to run any more"


@pytest.mark.parametrize(
    ("state", "holds", "count"),
    [
        ("online", True, "1+"),
        ("online", False, "0+"),
        ("online", None, "0+"),
        ("offline", True, "1+"),
    ],
    ids=["died in silence", "has lost its ingress", "keeps no door", "is gone"],
)
def test_a_door_that_lives_without_the_ingress_has_not_died_of_the_input(
    state: NodeState, holds: bool | None, count: str
) -> None:
    """It was the door, and had the input in the chain, when this one found the record."""
    desk = Desk(table=None)
    given = make_input(1, duplicate=True)
    oldest = None if holds is None else ON_B.stamp
    desk.peers.heard(make_status(("d", "d1"), oldest=oldest, ingress_open=bool(holds)))
    if state == "offline":
        desk.peers.heard(make_status(("d", "d1"), "offline"))
    desk.door.record_found(Redelivery(given.key, 0, "d1"), 0.0)
    assert desk.serve(ON_B).give(given).records() == [count]


def test_a_door_that_was_never_heard_of_or_lives_again_has_died() -> None:
    for member in (None, ("d", "d2")):
        desk = Desk(table=None)
        given = make_input(1)
        if member is not None:
            desk.peers.heard(make_status(member))
        desk.door.record_found(Redelivery(given.key, 2, "d1"), 0.0)
        assert desk.serve(ON_B).give(given).codes() == ["poison"]


def test_what_waits_here_leaves_what_an_earlier_door_retained() -> None:
    desk = Desk(make_table(window=1)).give(make_input(1))
    given = make_input(2, duplicate=True)
    desk.door.record_found(Redelivery(given.key, 1, "d1"), 0.0)
    desk.give(given)
    assert desk.do(desk.door.let_go(desk.now)).records() == []


def test_what_has_died_stays_retained_when_the_next_run_breaks_off() -> None:
    desk = Desk().give(make_input(1))
    (member, table), *_ = lives(2)
    assert desk.hear(member).records() == ["1"]
    desk.look()
    (header,) = desk.serve(table).retain().sent()
    assert desk.records() == ["1+"]
    desk.look()
    assert desk.say("lost", header).records() == ["1", "1+"]


def test_a_count_that_is_confirmed_late_starts_nothing() -> None:
    desk = Desk(table=None)
    given = make_input(1, duplicate=True)
    desk.door.record_found(Redelivery(given.key, 1), 0.0)
    desk.serve(ON_B).give(given)
    assert desk.records() == ["1+"]
    desk.do(desk.door.record_written(Redelivery(given.key, 1), 0.0))
    assert desk.sent() == []
    desk.do(desk.door.record_written(Redelivery(given.key, 1, "a1"), 0.0))
    assert numbers(desk.sent()) == [1]


def test_an_error_that_passes_leaves_the_input_as_suspect_as_it_was() -> None:
    desk = Desk(spec=make_spec(deadline_ms=5_000)).give(make_input(1))
    (member, table), *_ = lives(2)
    desk.hear(member).serve(table).retain()
    assert desk.wait(5.0).codes() == ["deadline"]
    desk.look()
    desk.do(desk.door.reply_published(make_input(1).request, desk.now))
    assert desk.records() == ["1"], "one death, and nothing has died of the second run"
    desk.look()
    desk.give(make_input(1, receipt=2))
    assert desk.records() == ["1+"]


def test_a_refused_delivery_of_the_same_input_leaves_what_is_retained() -> None:
    desk = Desk().give(make_input(1, duplicate=True)).retain()
    desk.look()
    desk.give(replace(make_input(1, receipt=2), retained=True)).take()
    assert desk.codes() == ["invalid_input"]
    assert desk.records() == []


def test_a_record_that_nobody_comes_back_for_is_cleared() -> None:
    desk = Desk(spec=make_spec(dedupe_s=5.0))
    desk.door.record_found(Redelivery("gone", 1), 0.0)
    assert desk.wait(4.9).records() == []
    assert desk.wait(0.1).records() == ["0"]
    assert desk.wait(10.0).records() == ["0"]
