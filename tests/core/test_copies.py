"""A door whose sessions go to other nodes: what it has copied, and what follows when it is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.copies import FAILED_MAX, ORDERS_MAX, PATIENCE_S, PAUSE_MAX_S
from dsi_mqtt.core.deployment import Sla
from dsi_mqtt.core.effects import Transmit
from dsi_mqtt.core.message import Activation, Header
from dsi_mqtt.core.table import DOOR, Gone, Table
from dsi_mqtt.core.transfers import COPYING_MAX_S, transfers
from tests.core.build import A, B, make_table
from tests.core.desk_generation import ON_B, ON_C, Desk2, asking, places, records_of, spec, started

COPIED = replace(ON_C, transfers=transfers(ON_B, ON_C, "copy"))
D = ("d", "d1")
ON_D = make_table((A, (0, 3)), (D, (3, 6)), epoch=3)


def orders(desk: Desk2) -> list[Header]:
    """What is to be copied, each once."""
    found = [
        effect.activation.header
        for effect in desk.effects
        if isinstance(effect, Transmit) and effect.activation.header.copy is not None
    ]
    desk.effects = [
        e for e in desk.effects if not (isinstance(e, Transmit) and e.activation.header in found)
    ]
    return found


def portions(found: list[Header]) -> list[tuple[int, int]]:
    return [(h.rows[0].position, h.rows[0].position + h.rows[0].tokens) for h in found]


def copied(desk: Desk2, order: Header) -> None:
    (row,) = order.rows
    has = Row(row.session, row.position + row.tokens, 0, row.take)
    told = replace(order, kind="done", source="s1", target=DOOR, rows=(has,))
    desk.do(desk.door.done(Activation(told), desk.now))


def refused(desk: Desk2, order: Header, *have: int) -> None:
    rows = tuple(Row(order.rows[0].session, n) for n in have)
    desk.do(desk.door.broke(replace(order, kind="stale", rows=rows), desk.now))


def between_steps(prompt: int = 2) -> Desk2:
    """One session, whose step on `ON_B` has come back when `COPIED` serves."""
    desk = Desk2()
    desk.do(desk.door.spec_changed(replace(spec(), sla=Sla(deadline_ms=60_000.0)), desk.now))
    desk.give(asking(1, prompt=[9] * prompt, max_tokens=500))
    step = desk.step()
    while step.header.kind == "prefill":
        desk.drawn(step, 40 if any(step.header.sampling) else -1)
        step = desk.step()
    desk.serve(COPIED)
    assert not orders(desk), "it is in the chain"
    desk.drawn(step, 41)
    return desk


def test_a_short_session_waits_for_its_copy_and_goes_on_where_it_was() -> None:
    desk = between_steps()
    (order,) = orders(desk)
    assert portions([order]) == [(0, 3)]
    assert (order.stamp, order.target, order.edge and order.edge.receiver) == (
        ON_B.stamp, "s1", "b1",
    )  # fmt: skip
    assert order.copy is not None
    assert (order.copy.units, order.copy.stamp, order.copy.segment) == ((3, 6), ON_C.stamp, "s1")
    assert not desk.steps()
    copied(desk, order)
    step = desk.step()
    assert (step.header.stamp, places(step)) == (ON_C.stamp, [(3, 1)])


def test_the_bulk_is_copied_while_tokens_come_and_the_rest_at_a_boundary() -> None:
    desk = between_steps(prompt=200)
    fed = 201
    taken = 0
    while True:
        (order,) = orders(desk)
        ((first, last),) = portions([order])
        assert first == taken
        if last == fed:
            break
        step = desk.step()
        assert (step.header.stamp, places(step)) == (ON_B.stamp, [(fed, 1)])
        copied(desk, order)
        taken = last
        desk.drawn(step, 50)
        fed += 1
    assert taken > 100
    assert not desk.steps(), "it does not wait for its tail"
    copied(desk, order)
    assert places(desk.step()) == [(fed, 1)]


def test_a_table_that_says_so_has_them_computed_again_at_once() -> None:
    desk = Desk2()
    (step,) = started(desk, 1)
    desk.serve(replace(ON_C, transfers=transfers(ON_B, ON_C, "recompute")))
    desk.drawn(step, 41)
    assert not orders(desk)
    again = desk.step()
    assert (again.header.stamp, places(again)) == (ON_C.stamp, [(0, 4)])


def test_the_old_table_is_in_use_until_all_is_copied() -> None:
    desk = between_steps()
    (order,) = orders(desk)
    assert desk.door.oldest() == ON_B.stamp
    copied(desk, order)
    desk.drawn(desk.step(), 42)
    assert desk.door.oldest() == ON_C.stamp


def test_what_is_refused_is_asked_for_again_a_few_times_and_then_computed() -> None:
    desk = between_steps()
    asked = 0
    while not (steps := desk.steps()):
        for order in orders(desk):
            asked += 1
            refused(desk, order)
        desk.wait(0.05)
    assert asked == FAILED_MAX
    (step,) = steps
    assert (step.header.stamp, places(step)) == (ON_C.stamp, [(0, 4)])


def test_what_the_target_lacks_is_copied_again_from_there() -> None:
    desk = between_steps(prompt=200)
    (order,) = orders(desk)
    copied(desk, order)
    (order,) = orders(desk)
    assert portions([order])[0][0] > 0
    refused(desk, order, 0)
    desk.wait(0.1)
    assert portions(orders(desk))[0][0] == 0


def test_who_waits_too_long_for_a_copy_is_computed_again() -> None:
    desk = between_steps()
    (order,) = orders(desk)
    desk.wait(PAUSE_MAX_S)
    assert places(desk.step()) == [(0, 4)]
    copied(desk, order)
    assert not desk.steps(), "a copy that was given up has an effect"


def test_an_old_chain_is_not_kept_for_ever() -> None:
    desk = between_steps(prompt=200)
    step = desk.step()
    waited = 0.0
    while step.header.stamp == ON_B.stamp:
        waited += 1.0
        desk.wait(1.0)
        desk.drawn(step, 50)
        step = desk.step()
    assert PATIENCE_S < waited <= COPYING_MAX_S + 1.0
    assert places(step)[0][0] == 0


def test_where_the_source_is_gone_it_is_computed_again() -> None:
    desk = between_steps()
    assert orders(desk)
    desk.hear(("b", "another"))
    assert places(desk.step()) == [(0, 4)]


def test_from_a_node_that_is_gone_nothing_is_copied() -> None:
    """Whether a session has a step in the chain then, or is about to be copied from there."""
    desk = Desk2()
    started(desk, 2)
    desk.look()
    desk.serve(replace(COPIED, gone=(Gone(*B),)))
    assert not orders(desk)
    steps = desk.steps()
    assert {step.header.stamp for step in steps} == {ON_C.stamp}
    assert [place for step in steps for place, _ in places(step)] == [0, 0]
    desk = between_steps()
    assert orders(desk)
    desk.serve(replace(ON_D, gone=(Gone(*B),)))
    assert not orders(desk)
    assert places(desk.step()) == [(0, 4)]


def test_where_the_target_is_gone_it_is_copied_to_the_next() -> None:
    desk = between_steps()
    assert orders(desk)
    desk.hear(("c", "another"))
    desk.serve(ON_D)
    (order,) = orders(desk)
    copied(desk, order)
    assert places(desk.step()) == [(3, 1)]


def test_a_suspect_is_not_kept_on_an_old_chain() -> None:
    desk = Desk2()
    chain = started(desk, 2)
    desk.hear(("b", "b2"))
    desk.serve(COPIED)
    desk.retain()
    assert chain
    assert not orders(desk)
    assert places(desk.step())[0][0] == 0


def test_few_copies_are_under_way_at_once() -> None:
    desk = Desk2()
    chain = started(desk, 8)
    desk.serve(COPIED)
    for step in chain:
        desk.drawn(step, *([41] * len(step.header.rows)))
    under_way = orders(desk)
    moved = 0
    while under_way:
        assert len(under_way) <= ORDERS_MAX
        moved += 1
        copied(desk, under_way.pop(0))
        under_way += orders(desk)
    assert moved == 8
    stepped = desk.steps()
    assert {step.header.stamp for step in stepped} == {ON_C.stamp}
    assert all(position > 0 for step in stepped for position, _ in places(step))


def test_who_is_copied_when_a_third_table_comes_is_copied_there() -> None:
    desk = between_steps()
    (order,) = orders(desk)
    on_d: Table = replace(ON_D, transfers=transfers(ON_C, ON_D, "copy"))
    desk.serve(on_d)
    (other,) = orders(desk)
    assert other.copy is not None
    assert (other.stamp, other.copy.stamp) == (ON_B.stamp, ON_D.stamp)
    copied(desk, order)
    assert not desk.steps()
    copied(desk, other)
    step = desk.step()
    assert (step.header.stamp, places(step)) == (ON_D.stamp, [(3, 1)])


def test_of_what_has_ended_nothing_more_is_copied() -> None:
    desk = between_steps(prompt=200)
    (order,) = orders(desk)
    desk.do(desk.door.cancelled(asking(1).key, desk.now))
    copied(desk, order)
    desk.wait(0.5)
    assert not orders(desk)
    assert desk.door.oldest() == ON_C.stamp


def test_where_all_layers_stay_nothing_is_copied_or_computed_again() -> None:
    desk = Desk2()
    (step,) = started(desk, 1)
    desk.serve(make_table((A, (0, 1)), (A, (1, 3)), (B, (3, 6)), epoch=2))
    desk.drawn(step, 41)
    assert not orders(desk)
    assert places(desk.step()) == [(3, 1)]


@pytest.mark.parametrize("table", [COPIED, replace(ON_D, transfers=transfers(ON_B, ON_D, "copy"))])
def test_who_is_due_when_its_node_has_gone_is_no_suspect(table: Table) -> None:
    """Three deaths would end a text that has killed nobody."""
    desk = Desk2()
    (step,) = started(desk, 1)
    desk.hear(B, "offline")
    desk.drawn(step, 41)
    assert not desk.steps(), "nothing begins on a chain that lacks a node"
    desk.serve(table)
    assert not orders(desk)
    step = desk.step()
    assert (step.header.stamp, places(step)) == (table.stamp, [(0, 4)])
    assert not records_of(desk)
