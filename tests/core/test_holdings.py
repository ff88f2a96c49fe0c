"""Convergence of one node to its tables: what it loads, waits for, refuses and releases."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dsi_mqtt.core.deployment import Generation, Sla
from dsi_mqtt.core.effects import (
    CloseModel,
    DropUnits,
    Effects,
    LoadUnits,
    OpenModel,
    ReportStatus,
)
from dsi_mqtt.core.holdings import Holdings
from dsi_mqtt.core.model import ModelSpec, Unit, UnitRange, Vocabulary
from dsi_mqtt.core.table import Stamp, Table
from tests.core.build import (
    NAME,
    A,
    B,
    document,
    make_graph,
    make_spec,
    make_table,
    no_route,
)
from tests.thoroughness import examples

MINE = make_table((A, (0, 3)), (B, (3, 6)), epoch=1)


def loads(effects: Effects) -> list[UnitRange]:
    return [e.units for e in effects if isinstance(e, LoadUnits)]


def drops(effects: Effects) -> list[UnitRange]:
    return [e.units for e in effects if isinstance(e, DropUnits)]


def states(holdings: Holdings) -> dict[tuple[int, str], str]:
    return {(r.stamp.epoch, r.segment): r.state for r in holdings.holding_reports()}


def opened(cap: int = 1000) -> Holdings:
    """Node a with the model open: six units of ten bytes."""
    holdings = Holdings("a", "a1", cap)
    holdings.spec_arrived(make_spec())
    holdings.model_opened(NAME, make_graph())
    return holdings


def serving(cap: int = 1000, table: Table = MINE) -> Holdings:
    """Node a holding its part of `table`, which serves."""
    holdings = opened(cap)
    for units in loads(holdings.document_arrived(NAME, document(table))):
        holdings.units_loaded(NAME, units, 1.0)
    holdings.oldest_in_use(NAME, table.stamp)
    return holdings


def test_only_the_segments_of_this_incarnation_are_loaded() -> None:
    holdings = opened()
    earlier = ("a", "a0")
    table = make_table((A, (0, 2)), (earlier, (2, 4)), (B, (4, 6)))
    assert loads(holdings.document_arrived(NAME, document(table))) == [UnitRange(0, 2)]
    assert states(holdings) == {(1, "s0"): "loading"}
    assert ReportStatus() in holdings.units_loaded(NAME, UnitRange(0, 2), 2.5)
    assert states(holdings) == {(1, "s0"): "ready"}
    assert holdings.holding_reports()[0].warm_ms == 2.5


@pytest.mark.parametrize("order", ["spec model table", "table spec model", "spec table model"])
def test_spec_model_and_table_may_come_in_any_order(order: str) -> None:
    holdings = Holdings("a", "a1", 1000)
    steps = {
        "spec": lambda: holdings.spec_arrived(make_spec()),
        "model": lambda: holdings.model_opened(NAME, make_graph()),
        "table": lambda: holdings.document_arrived(NAME, document(MINE)),
    }
    effects = [effect for step in order.split() for effect in steps[step]()]
    assert loads(effects) == [UnitRange(0, 3)]
    assert [e for e in effects if isinstance(e, OpenModel)] == [OpenModel(make_spec())]


@pytest.mark.parametrize("changed", ["kind", "context"])
def test_a_model_is_opened_anew_where_it_is_to_be_opened_otherwise(changed: str) -> None:
    holdings = Holdings("a", "a1", 1000)
    before = replace(make_spec(), kind="generation", generation=Generation(context=100))
    after = make_spec() if changed == "kind" else replace(before, generation=Generation(context=9))
    holdings.spec_arrived(before)
    holdings.model_opened(NAME, make_graph())
    same = replace(before, generation=Generation(context=100, max_tokens=3), sla=Sla(latency_ms=1))
    assert not [e for e in holdings.spec_arrived(same) if isinstance(e, OpenModel)]
    effects = holdings.spec_arrived(after)
    assert [e for e in effects if isinstance(e, OpenModel)] == [OpenModel(after)]
    assert CloseModel(NAME) in effects


def test_segments_load_one_at_a_time() -> None:
    holdings = opened()
    table = make_table((A, (0, 2)), (A, (2, 4)), (B, (4, 6)))
    assert loads(holdings.document_arrived(NAME, document(table))) == [UnitRange(0, 2)]
    assert loads(holdings.units_loaded(NAME, UnitRange(0, 2), 1.0)) == [UnitRange(2, 4)]


def test_a_document_that_is_not_newer_changes_nothing() -> None:
    holdings = serving(table=replace(MINE, epoch=5))
    for epoch in (5, 4, 1):
        older = make_table((B, (0, 3)), (A, (3, 6)), epoch=epoch)
        assert holdings.document_arrived(NAME, document(older)) == []
    assert states(holdings) == {(5, "s0"): "ready"}
    assert holdings.seen() == {NAME: Stamp(1, "leader", 5)}


def test_the_old_table_stays_until_the_doors_report_a_newer_one() -> None:
    holdings = serving()
    new = make_table((B, (0, 3)), (A, (3, 6)), epoch=2)
    holdings.document_arrived(NAME, document(MINE, new))
    holdings.units_loaded(NAME, UnitRange(3, 6), 1.0)
    assert not drops(holdings.document_arrived(NAME, document(new)))
    assert holdings.ready(NAME, MINE.stamp, "s0") is not None
    assert not drops(holdings.oldest_in_use(NAME, MINE.stamp))
    assert drops(holdings.oldest_in_use(NAME, new.stamp)) == [UnitRange(0, 3)]
    assert holdings.table(NAME, MINE.stamp) is None
    assert states(holdings) == {(2, "s1"): "ready"}


def test_a_table_that_was_prepared_and_given_up_is_released_at_once() -> None:
    holdings = serving()
    given_up = make_table((B, (0, 3)), (A, (3, 6)), epoch=2)
    holdings.document_arrived(NAME, document(MINE, given_up))
    holdings.units_loaded(NAME, UnitRange(3, 6), 1.0)
    other = make_table((B, (0, 6)), epoch=3)
    again = replace(MINE, epoch=4)
    assert drops(holdings.document_arrived(NAME, document(MINE, other))) == [UnitRange(3, 6)]
    assert not drops(holdings.document_arrived(NAME, document(again)))
    assert states(holdings) == {(1, "s0"): "ready", (4, "s0"): "ready"}


def test_units_that_two_tables_share_are_loaded_once_and_kept() -> None:
    holdings = serving()
    new = make_table((A, (0, 3)), (B, (3, 5)), (A, (5, 6)), epoch=2)
    assert loads(holdings.document_arrived(NAME, document(MINE, new))) == [UnitRange(5, 6)]
    holdings.units_loaded(NAME, UnitRange(5, 6), 1.0)
    holdings.document_arrived(NAME, document(new))
    assert not drops(holdings.oldest_in_use(NAME, new.stamp))


def test_caches_are_kept_free_where_a_part_of_their_model_is_held() -> None:
    unit = Unit("u", 10, 1.0, 4, state_bytes=1)
    graph = replace(make_graph(), units=(unit,) * 6, vocabulary=Vocabulary(64, 9))
    # Two sessions of 64 positions in six units, and one unit growing.
    spec = replace(
        make_spec(), kind="generation", generation=Generation(context=64, sessions_max=1)
    )
    for cap, state in ((30 + 2 * 384 + 64, "loading"), (30 + 2 * 384 + 63, "failed")):
        holdings = Holdings("a", "a1", cap)
        holdings.spec_arrived(spec)
        holdings.model_opened(NAME, graph)
        holdings.document_arrived(NAME, document(MINE))
        assert states(holdings) == {(1, "s0"): state}
        (report,) = holdings.model_reports()
        assert report.cache_bytes == 2 * 384 + 64


def test_what_does_not_fit_beside_what_has_to_stay_fails_with_a_sentence() -> None:
    holdings = serving(cap=50)
    new = make_table((B, (0, 3)), (A, (3, 6)), epoch=2)
    assert not loads(holdings.document_arrived(NAME, document(MINE, new)))
    assert states(holdings)[(2, "s1")] == "failed"
    reason = holdings.holding_reports()[1].reason
    assert reason is not None
    assert "segment s1" in reason
    assert "cap" in reason


def test_what_fits_once_the_old_is_released_waits_for_that() -> None:
    holdings = serving(cap=50)
    room = no_route(2, "makes room", A)
    new = make_table((B, (0, 3)), (A, (3, 6)), epoch=3)
    assert not loads(holdings.document_arrived(NAME, document(room, new)))
    assert states(holdings) == {(1, "s0"): "ready", (3, "s1"): "waiting"}
    effects = holdings.oldest_in_use(NAME, room.stamp)
    assert drops(effects) == [UnitRange(0, 3)]
    assert loads(effects) == [UnitRange(3, 6)]
    assert effects.index(DropUnits(NAME, UnitRange(0, 3))) < effects.index(
        LoadUnits(NAME, UnitRange(3, 6))
    )


def test_one_deployment_may_wait_for_room_that_another_makes() -> None:
    holdings = serving(cap=50)
    other = replace(make_spec(), name="other")
    holdings.spec_arrived(other)
    holdings.model_opened("other", make_graph())
    away = make_table((B, (0, 6)), epoch=2)
    theirs = replace(make_table((A, (0, 4)), (B, (4, 6))), deployment="other")
    holdings.document_arrived(NAME, document(away))
    assert not loads(holdings.document_arrived("other", document(theirs)))
    assert loads(holdings.oldest_in_use(NAME, away.stamp)) == [UnitRange(0, 4)]


def test_what_another_deployment_is_loading_counts() -> None:
    holdings = opened(cap=50)
    other = replace(make_spec(), name="other")
    holdings.spec_arrived(other)
    holdings.model_opened("other", make_graph())
    theirs = replace(MINE, deployment="other")
    assert loads(holdings.document_arrived(NAME, document(MINE)))
    assert not loads(holdings.document_arrived("other", document(theirs)))
    assert holdings.holding_reports()[1].state == "failed"


def test_what_was_begun_and_given_up_does_not_stand_in_the_way() -> None:
    holdings = opened(cap=40)
    first = make_table((B, (0, 1)), (A, (1, 5)), (B, (5, 6)), epoch=1)
    then = make_table((A, (0, 2)), (A, (2, 6)), epoch=2)
    assert loads(holdings.document_arrived(NAME, document(None, first))) == [UnitRange(1, 5)]
    assert not loads(holdings.document_arrived(NAME, document(None, then)))
    effects = holdings.units_loaded(NAME, UnitRange(1, 5), 1.0)
    assert drops(effects) == [UnitRange(2, 5)]
    assert loads(effects) == [UnitRange(0, 2)]
    assert states(holdings) == {(2, "s0"): "loading", (2, "s1"): "failed"}


def test_a_refused_model_fails_what_is_wanted_and_a_new_spec_tries_again() -> None:
    holdings = Holdings("a", "a1", 1000)
    holdings.spec_arrived(make_spec())
    holdings.document_arrived(NAME, document(MINE))
    assert ReportStatus() in holdings.model_refused(NAME, "no weights here", 0.0)
    assert states(holdings) == {(1, "s0"): "failed"}
    assert holdings.model_reports()[0].refused == "no weights here"
    again = make_spec(max_bytes=7)
    assert OpenModel(again) in holdings.spec_arrived(again)
    assert loads(holdings.model_opened(NAME, make_graph())) == [UnitRange(0, 3)]


def test_a_failed_load_fails_that_segment_only() -> None:
    holdings = opened()
    table = make_table((A, (0, 2)), (A, (2, 4)), (B, (4, 6)))
    holdings.document_arrived(NAME, document(table))
    assert loads(holdings.units_failed(NAME, UnitRange(0, 2), "bad file")) == [UnitRange(2, 4)]
    assert states(holdings) == {(1, "s0"): "failed", (1, "s1"): "loading"}


def test_another_model_closes_the_old_one_and_serves_no_table_made_for_it() -> None:
    holdings = serving()
    other = replace(make_spec(), model=ModelSpec(tier="fake", options={"seed": 2}))
    effects = holdings.spec_arrived(other)
    assert effects.index(CloseModel(NAME)) < effects.index(OpenModel(other))
    assert holdings.ready(NAME, MINE.stamp, "s0") is None
    assert not loads(holdings.model_opened(NAME, make_graph(digest="m2")))
    assert states(holdings) == {(1, "s0"): "failed"}
    new = make_table((A, (0, 6)), epoch=2, digest="m2")
    assert loads(holdings.document_arrived(NAME, document(new))) == [UnitRange(0, 6)]


def test_a_deployment_that_comes_back_with_another_model_opens_that() -> None:
    holdings = serving()
    holdings.spec_gone(NAME)
    other = replace(make_spec(), model=ModelSpec(tier="fake", options={"seed": 2}))
    effects = holdings.spec_arrived(other)
    assert CloseModel(NAME) in effects
    assert OpenModel(other) in effects


def test_a_model_that_opens_after_its_deployment_went_is_closed() -> None:
    holdings = Holdings("a", "a1", 1000)
    holdings.spec_arrived(make_spec())
    assert CloseModel(NAME) in holdings.spec_gone(NAME)
    assert holdings.model_opened(NAME, make_graph()) == [CloseModel(NAME)]
    assert holdings.model_reports() == ()


def test_a_model_that_opens_twice_holds_nothing_the_second_time() -> None:
    holdings = serving()
    assert loads(holdings.model_opened(NAME, make_graph())) == [UnitRange(0, 3)]
    assert holdings.ready(NAME, MINE.stamp, "s0") is None


def test_undeployed_everything_goes_once_a_table_without_a_door_says_so() -> None:
    holdings = serving()
    assert holdings.spec_gone(NAME) == []
    effects = holdings.document_arrived(NAME, document(no_route(2, "removed")))
    assert CloseModel(NAME) in effects
    assert holdings.holding_reports() == ()
    assert holdings.seen() == {NAME: Stamp(1, "leader", 2)}, "the watermark went with it"


def test_units_on_their_way_are_not_dropped_before_they_have_come() -> None:
    """The engine does things in order: a drop behind the load would take what is wanted again."""
    holdings = serving(table=make_table((A, (0, 3)), (B, (3, 6))))
    wide = make_table((A, (0, 5)), (B, (5, 6)), epoch=2)
    assert loads(holdings.document_arrived(NAME, document(wide))) == [UnitRange(0, 5)]
    away = make_table((B, (0, 6)), epoch=3)
    holdings.document_arrived(NAME, document(away))
    assert not drops(holdings.oldest_in_use(NAME, away.stamp))
    assert drops(holdings.units_loaded(NAME, UnitRange(0, 5), 1.0)) == [UnitRange(0, 5)]


# --- whatever happens, in any order -----------------------------------------------------------

CAP = 40
cuts = st.lists(st.integers(1, 5), unique=True, max_size=3).map(sorted)


class Convergence(RuleBasedStateMachine):
    """Random documents, loads and reports against an engine that does things in order."""

    def __init__(self) -> None:
        super().__init__()
        self.holdings = Holdings("a", "a1", CAP)
        self.engine: set[int] = set()
        self.thread: list[LoadUnits | DropUnits] = []
        self.epoch = 0
        self.document = document(None)
        self.act(self.holdings.spec_arrived(make_spec()))
        self.act(self.holdings.model_opened(NAME, make_graph()))

    def act(self, effects: Effects) -> None:
        for effect in effects:
            if isinstance(effect, (LoadUnits, DropUnits)):
                self.thread.append(effect)

    def draw(self, bounds: list[int], mine: list[bool]) -> Table:
        self.epoch += 1
        edges = [0, *bounds, 6]
        places = [((A if mine[i] else B), (edges[i], edges[i + 1])) for i in range(len(edges) - 1)]
        return make_table(*places, epoch=self.epoch)

    @rule(bounds=cuts, mine=st.lists(st.booleans(), min_size=4, max_size=4))
    def prepares(self, bounds: list[int], mine: list[bool]) -> None:
        self.document = document(self.document.serve, self.draw(bounds, mine))
        self.act(self.holdings.document_arrived(NAME, self.document))

    @precondition(lambda self: self.document.prepare is not None)
    @rule()
    def serves(self) -> None:
        table = self.document.prepare
        assert table is not None
        self.document = document(replace(table, state="serving"))
        self.act(self.holdings.document_arrived(NAME, self.document))

    @precondition(lambda self: self.document.serve is not None)
    @rule()
    def door_is_done_with_the_old(self) -> None:
        assert self.document.serve is not None
        self.act(self.holdings.oldest_in_use(NAME, self.document.serve.stamp))

    @precondition(lambda self: self.thread)
    @rule()
    def engine_works(self) -> None:
        job = self.thread.pop(0)
        if isinstance(job, DropUnits):
            self.engine -= set(range(*job.units))
            return
        self.engine |= set(range(*job.units))
        self.act(self.holdings.units_loaded(NAME, job.units, 1.0))

    @invariant()
    def ready_means_loaded(self) -> None:
        pending = [job for job in self.thread if isinstance(job, DropUnits)]
        kept = self.engine - {unit for job in pending for unit in range(*job.units)}
        for report in self.holdings.holding_reports():
            assert report.state != "ready" or kept.issuperset(range(*report.units))

    @invariant()
    def never_more_than_the_cap(self) -> None:
        asked = set(self.engine)
        for job in self.thread:
            units = set(range(*job.units))
            asked = asked | units if isinstance(job, LoadUnits) else asked - units
            assert 10 * len(asked) <= CAP

    def teardown(self) -> None:
        if self.document.serve is not None:
            self.door_is_done_with_the_old()
        while self.thread:
            self.engine_works()
        wanted = {
            unit
            for table in self.document.tables()
            for segment in table.segments
            if segment.replicas[0].node == "a"
            for unit in range(*segment.units)
        }
        failed = [r for r in self.holdings.holding_reports() if r.state == "failed"]
        assert not failed or 10 * len(wanted) > CAP, "failed although all that is wanted fits"
        held = [r for r in self.holdings.holding_reports() if r.state != "failed"]
        assert all(r.state == "ready" for r in held), "came to rest before all was ready"
        assert self.engine == {unit for r in held for unit in range(*r.units)}


TestConvergence = Convergence.TestCase
TestConvergence.settings = settings(max_examples=examples(100), stateful_step_count=25)
