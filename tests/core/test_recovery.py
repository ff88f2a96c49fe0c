"""What follows for generations from evidence, deaths, and another model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.effects import (
    WriteRecord,
)
from dsi_mqtt.core.message import Activation, Failure
from dsi_mqtt.core.model import Vocabulary
from dsi_mqtt.core.places import TAKES
from dsi_mqtt.core.request import Redelivery
from dsi_mqtt.core.session import SLICE_TOKENS
from dsi_mqtt.core.table import EPOCH_MAX
from dsi_mqtt.wire.ranges import NUMBER_MAX
from tests.core.build import A, B, make_table
from tests.core.desk_generation import (
    END,
    GRAPH,
    ON_B,
    ON_C,
    Desk2,
    asking,
    fed,
    pass_on,
    places,
    records_of,
    started,
)

# --- evidence ---------------------------------------------------------------------------------


def test_a_segment_that_lacks_positions_is_fed_them_and_the_text_goes_on() -> None:
    desk = Desk2().give(asking(1, prompt=[5, 6, 7]))
    assert isinstance(desk, Desk2)
    desk.drawn(desk.step(), 40)
    step = desk.step()
    desk.stale(step, Row(step.header.rows[0].session, 1, 0))
    again = desk.step()
    assert (places(again), fed(again)) == ([(1, 3)], [6, 7, 40])
    assert again.header.request != step.header.request
    desk.drawn(step, 99)  # the old step's answer, too late
    desk.drawn(again, 41)
    assert fed(desk.step()) == [41]


def test_only_those_who_lack_positions_go_back() -> None:
    desk = Desk2()
    first, _ = started(desk, 4)
    short, *others = [row.session for row in first.header.rows]
    desk.stale(first, Row(short, 0, 0))
    later = {row.session: row for step in desk.steps() for row in step.header.rows}
    assert later[short].position == 0
    assert all(later[name].position > 0 for name in others if name in later)


def test_a_lost_step_runs_again_and_not_for_ever() -> None:
    desk = Desk2().give(asking(1))
    assert isinstance(desk, Desk2)
    tries = 0
    while steps := desk.steps():
        tries += 1
        desk.lost(steps[0])
    assert tries == 5
    assert desk.codes() == ["unavailable"]


def test_a_node_that_left_the_table_is_asked_later_and_later() -> None:
    desk = Desk2().give(asking(1))
    assert isinstance(desk, Desk2)
    for wait in (0.2, 0.4, 0.8):
        desk.stale(desk.step())
        assert desk.wait(wait - 0.01).sent("prefill") == []
        desk.wait(0.02)
    assert desk.codes() == []


def test_of_several_in_a_failed_step_only_the_one_at_fault_ends() -> None:
    desk = Desk2()
    first, second = started(desk, 4)
    rows = first.header.rows
    assert len(rows) == 2
    failure = Failure("model_failed", "it raised")
    desk.do(desk.door.done(Activation(replace(first.header, kind="done", failure=failure)), 0))
    alone = [step for step in desk.steps() if len(step.header.rows) == 1]
    assert alone[0].header.rows[0].session in {row.session for row in rows}
    desk.do(desk.door.done(Activation(replace(alone[0].header, kind="done", failure=failure)), 0))
    assert desk.codes() == ["model_failed"]
    desk.drawn(second, 41, 41)
    assert desk.codes() == ["model_failed"]


def test_after_a_death_each_runs_alone_until_it_has_passed() -> None:
    desk = Desk2()
    first, second = started(desk, 4)
    desk.hear(("b", "b2"))
    assert desk.steps() == []
    desk.serve(ON_C).retain()
    for _ in range(4):
        step = desk.step()
        assert len(step.header.rows) == 1, "a suspect had company"
        desk.drawn(step, 41).retain()
    steps = desk.steps()
    assert sum(len(step.header.rows) for step in steps) == 4
    assert {first.header.stamp, second.header.stamp} == {ON_B.stamp}
    assert all(step.header.stamp == ON_C.stamp for step in steps)
    # That each ran alone is retained no more: they were not at fault.
    assert desk.records() == ["0+", "0"] * 4


def test_a_session_that_ends_three_nodes_is_poison() -> None:
    desk = Desk2().give(asking(1))
    assert isinstance(desk, Desk2)
    for life, table in enumerate((ON_C, ON_B, ON_C), start=2):
        desk.step()
        member = "b" if table is ON_C else "c"
        desk.hear((member, f"{member}{life}"))
        fresh = ("c", f"c{life}") if table is ON_C else ("b", f"b{life}")
        desk.hear(fresh)
        desk.serve(make_table((A, (0, 3)), (fresh, (3, 6)), epoch=life)).retain()
    assert desk.codes() == ["poison"]


def test_a_prompt_whose_second_slice_ends_nodes_is_poison_however_often_its_first_passes() -> None:
    desk = Desk2().give(asking(1, prompt=[5] * 600))
    assert isinstance(desk, Desk2)
    deaths = 0
    for life in range(2, 12):
        for step in desk.steps():
            desk.drawn(step)  # the first slice passes
        if desk.codes():
            break
        assert places(desk.step()) == [(SLICE_TOKENS, SLICE_TOKENS)]
        deaths += 1
        fresh = ("b", f"b{life}")
        desk.hear(fresh).serve(make_table((A, (0, 3)), (fresh, (3, 6)), epoch=life)).retain()
        for step in desk.steps():
            desk.stale(step, Row(step.header.rows[0].session, 0, 0)).retain()
    assert (deaths, desk.codes()) == (3, ["poison"])


@pytest.mark.parametrize("passes", [1, 2, 5, 20])
def test_an_input_that_ends_its_door_after_some_steps_is_found(passes: int) -> None:
    """Each door knows of the one before only what that has retained."""
    given = asking(1, prompt=[5] * 300, max_tokens=600, duplicate=True)
    record: Redelivery | None = None
    for life in range(1, 10):
        desk = Desk2(door=("a", f"a{life}"))
        if record is not None:
            desk.do(desk.door.record_found(record, 0.0))
        desk.give(given).retain()
        if desk.codes():
            break
        for _ in range(passes):
            pass_on(desk)
        record = records_of(desk)[-1]
    assert desk.codes() == ["poison"]
    assert life <= 6


def test_of_several_that_were_redelivered_one_is_retained_as_in_the_chain() -> None:
    desk = Desk2().give(*(asking(n, prompt=[5] * 300, duplicate=True) for n in (1, 2, 3)))
    assert isinstance(desk, Desk2)
    for done in (0, 1, 2):
        for _ in range(2):
            newest = {record.key: record for record in records_of(desk)}
            in_chain = [key for key, record in newest.items() if record.door]
            assert in_chain == [asking(done + 1).key], (
                "a death would be counted of what did not run"
            )
            desk.retain()
            pass_on(desk, END)
        desk.write().take()
    assert desk.codes() == ["ok"] * 3


def test_a_redelivered_input_is_recorded_before_it_runs_as_a_higher_take() -> None:
    desk = Desk2().give(asking(1, duplicate=True))
    assert isinstance(desk, Desk2)
    assert desk.steps() == []
    assert [e.record.door for e in desk.effects if isinstance(e, WriteRecord)] == ["a1"]
    take = desk.retain().step().header.rows[0].take  # type: ignore[attr-defined]
    later = Desk2(ON_C).give(asking(1, duplicate=True)).retain()
    assert later.step().header.rows[0].take > take  # type: ignore[attr-defined]


# --- another model ---------------------------------------------------------------------------

OTHER = replace(GRAPH, digest="m2", vocabulary=Vocabulary(1000, 100, (9,)))


def test_with_another_model_what_was_told_ends_and_the_rest_is_read_anew() -> None:
    desk = Desk2().give(asking(1, stream=True), asking(2), asking(3))
    assert isinstance(desk, Desk2)
    for step in desk.steps():
        desk.drawn(step, *([40] * len(step.header.rows)))
    desk.write().effects.clear()
    desk.do(desk.door.model_is(None, desk.now))
    assert desk.codes() == ["unavailable"]
    desk.do(desk.door.model_is(OTHER, desk.now))
    assert desk.steps() == [], "fed to a chain of the model before"
    desk.serve(make_table((A, (0, 3)), (B, (3, 6)), epoch=2, digest="m2"))
    again = desk.steps()
    assert sorted(token for step in again for token in fed(step)) == [52, 53]
    assert {place for step in again for place in places(step)} == {(0, 1)}
    for step in again:
        desk.drawn(step, 9)  # the end of a text, by now
    assert [c.tokens for c in desk.write().completions()] == [(), ()]


def test_a_model_that_is_described_again_changes_nothing() -> None:
    desk = Desk2().give(asking(1))
    assert isinstance(desk, Desk2)
    step = desk.step()
    desk.do(desk.door.model_is(replace(GRAPH), desk.now))
    assert fed(desk.drawn(step, 40).step()) == [40]


def test_takes_stay_below_what_a_header_carries_whatever_the_epoch() -> None:
    newest = 2 * EPOCH_MAX - 1  # the most that a table may say
    desk = Desk2(make_table((A, (0, 3)), (B, (3, 6)), epoch=newest)).give(asking(1))
    assert isinstance(desk, Desk2)
    (row,) = desk.step().header.rows
    assert newest * TAKES < row.take < NUMBER_MAX
    assert (newest + 1) * TAKES <= NUMBER_MAX
