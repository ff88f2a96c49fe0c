"""Traffic through one node: what is refused, queued, computed, handed on, and said to probes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsi_mqtt.core import jobs, relay
from dsi_mqtt.core.activation import Row, Tensor, pack_body
from dsi_mqtt.core.edges import PROBE_S, UNANSWERED_MAX
from dsi_mqtt.core.effects import Compute, Effects, Transmit
from dsi_mqtt.core.encoding import encoded
from dsi_mqtt.core.events import Computed
from dsi_mqtt.core.holdings import Holdings
from dsi_mqtt.core.jobs import Totals
from dsi_mqtt.core.message import Activation, Credit, EdgeMark, Failure, Header, MessageKind
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.relay import Relay
from dsi_mqtt.core.table import DOOR, Table
from tests.core.build import (
    NAME,
    A,
    B,
    C,
    document,
    make_graph,
    make_spec,
    make_table,
    make_tensors,
    make_work,
)

FIRST = make_table((B, (0, 2)), (C, (2, 6)), credit=(1000, 2))
MIDDLE = make_table((A, (0, 2)), (B, (2, 4)), (C, (4, 6)), credit=(1000, 2))
LAST = make_table((A, (0, 2)), (B, (2, 6)))


class Bench:
    """The relay of node b, holding its part of a table."""

    def __init__(self, table: Table) -> None:
        self.holdings = Holdings("b", "b1", 10_000)
        self.holdings.spec_arrived(make_spec())
        self.holdings.model_opened(NAME, make_graph())
        self.relay = Relay("b1", self.holdings)
        self.table = table
        self.take_up(table)

    def take_up(self, table: Table) -> None:
        self.holdings.document_arrived(NAME, document(table))
        for segment in table.segments:
            self.holdings.units_loaded(NAME, segment.units, 1.0)

    def leave(self, table: Table) -> None:
        """`table`, which gives this node no part, serves, and nobody uses another."""
        self.take_up(table)
        self.holdings.oldest_in_use(NAME, table.stamp)


def work(
    table: Table, number: int, *, hop: tuple[str, str] = (DOOR, "s0"), sent: int = 0
) -> Activation:
    """Request `number`; over an edge, it is the `sent`th of ten bytes from a."""
    activation = make_work(table, hop[1], number, source=hop[0], door="d")
    mark = EdgeMark("a1", "b1", sent * 10, sent) if sent else None
    return replace(activation, header=replace(activation.header, edge=mark))


def probe(activation: Activation, *, receiver: str = "b1") -> Header:
    """A door's probe for this attempt."""
    credit = Credit("a1", receiver, 0, 0, probe=True)
    return replace(activation.header, kind="credit", credit=credit, edge=None)


def cancel(activation: Activation) -> Header:
    return replace(activation.header, kind="cancel", source=DOOR, edge=None)


def jobs_of(effects: Effects) -> list[Compute]:
    return [e for e in effects if isinstance(e, Compute)]


def told(effects: Effects) -> list[tuple[str, MessageKind]]:
    """Who was sent what."""
    return [(e.receiver, e.activation.header.kind) for e in effects if isinstance(e, Transmit)]


def headers(effects: Effects) -> list[Header]:
    return [e.activation.header for e in effects if isinstance(e, Transmit)]


# --- refusals ---------------------------------------------------------------------------------


def test_work_for_a_table_or_a_segment_not_held_is_stale() -> None:
    bench = Bench(FIRST)
    other_epoch = work(make_table((B, (0, 2)), (C, (2, 6)), epoch=9), 1)
    other_segment = work(FIRST, 1, hop=("s0", "s1"))
    for activation in (other_epoch, other_segment):
        assert told(bench.relay.work_arrived(activation, 0.0)) == [("d", "stale")]


def test_work_for_an_earlier_life_of_this_node_is_stale() -> None:
    bench = Bench(LAST)
    activation = work(LAST, 1, hop=("s0", "s1"), sent=1)
    mark = EdgeMark("a1", "b0", 10, 1)
    activation = replace(activation, header=replace(activation.header, edge=mark))
    assert told(bench.relay.work_arrived(activation, 0.0)) == [("d", "stale")]
    assert told(bench.relay.credit_arrived(probe(activation, receiver="b0"), 0.0)) == [
        ("d", "stale")
    ]


def test_a_repetition_is_computed_once() -> None:
    bench = Bench(FIRST)
    activation = work(FIRST, 1)
    (job,) = jobs_of(bench.relay.work_arrived(activation, 0.0))
    assert bench.relay.work_arrived(activation, 0.1) == []
    bench.relay.computed(Computed(job.job, make_tensors(), 0.1), 0.2)
    assert bench.relay.work_arrived(activation, 0.3) == []


def test_another_attempt_of_the_same_request_is_another_job() -> None:
    bench = Bench(FIRST)
    bench.relay.work_arrived(work(FIRST, 1), 0.0)
    again = make_work(FIRST, "s0", 1, 2, door="d")
    assert bench.relay.work_arrived(again, 0.0) == []
    assert bench.relay.loads()[0].queued == 1


def test_a_full_queue_says_overloaded() -> None:
    bench = Bench(FIRST)
    for number in range(1, relay.QUEUE_MAX + 2):
        bench.relay.work_arrived(work(FIRST, number), 0.0)
    (header,) = headers(bench.relay.work_arrived(work(FIRST, 5000), 0.0))
    assert header.failure is not None
    assert header.failure.code == "overloaded"


# --- computing --------------------------------------------------------------------------------


def test_one_job_is_computed_at_a_time_in_order() -> None:
    bench = Bench(FIRST)
    first = jobs_of(bench.relay.work_arrived(work(FIRST, 1), 0.0))
    assert [job.units for job in first] == [UnitRange(0, 2)]
    assert not jobs_of(bench.relay.work_arrived(work(FIRST, 2), 0.0))
    assert not jobs_of(bench.relay.work_arrived(work(FIRST, 3), 0.0))
    (second,) = jobs_of(bench.relay.computed(Computed(first[0].job, make_tensors(), 0.1), 0.1))
    (third,) = jobs_of(bench.relay.compute_failed(second.job, Failure("model_failed", "x"), 0.2))
    assert third.job not in (first[0].job, second.job)


def test_the_activation_goes_on_with_what_is_left_of_its_time() -> None:
    bench = Bench(FIRST)
    (job,) = jobs_of(bench.relay.work_arrived(work(FIRST, 1), 0.0))
    effects = bench.relay.computed(Computed(job.job, make_tensors(), 1.5), 2.0)
    assert told(effects) == [("c", "request")]
    (header,) = headers(effects)
    assert (header.source, header.target, header.door) == ("s0", "s1", "d")
    assert header.budget_ms == 3000
    assert header.edge == EdgeMark("b1", "c1", 10, 1)
    assert header.stamps[0].segment == "s0"
    assert header.stamps[0].compute_us == 1_500_000


def test_a_hop_has_the_codec_that_its_table_says_for_the_phase() -> None:
    (hop,) = FIRST.hops
    bench = Bench(replace(FIRST, hops=(replace(hop, codec={"request": "int8g64"}),)))
    (job,) = jobs_of(bench.relay.work_arrived(work(FIRST, 1), 0.0))
    assert job.codec == "int8g64"
    bench = Bench(replace(FIRST, hops=(replace(hop, codec={"prefill": "int8g64"}),)))
    (job,) = jobs_of(bench.relay.work_arrived(work(FIRST, 1), 0.0))
    assert job.codec == "raw"


def test_what_goes_to_the_door_is_raw() -> None:
    (hop,) = LAST.hops
    bench = Bench(replace(LAST, hops=(replace(hop, codec={"request": "fp16"}),)))
    activation = work(LAST, 1, hop=("s0", "s1"), sent=1)
    (job,) = jobs_of(bench.relay.work_arrived(activation, 0.0))
    assert job.codec == "raw"


def test_encoded_bytes_are_what_credit_and_traffic_count() -> None:
    bench = Bench(FIRST)
    (job,) = jobs_of(bench.relay.work_arrived(work(FIRST, 1), 0.0))
    values = Tensor("hidden_states", "float32", (64,), bytes(256))
    written = encoded(values, "int8g64")
    (header,) = headers(bench.relay.computed(Computed(job.job, (written,), 0.1, 0.002), 0.5))
    assert header.edge == EdgeMark("b1", "c1", 66, 1)
    assert header.stamps[0].codec_us == 2000
    assert bench.relay.loads()[0].bytes_out == 66


def test_the_last_segment_answers_the_door() -> None:
    bench = Bench(LAST)
    (job,) = jobs_of(bench.relay.work_arrived(work(LAST, 1, hop=("s0", "s1"), sent=1), 0.0))
    effects = bench.relay.computed(Computed(job.job, pack_body("text/plain", b"x"), 0.1), 0.1)
    assert told(effects) == [("d", "done")]
    assert headers(effects)[0].target == DOOR


def test_what_the_model_raised_is_told_to_the_door() -> None:
    bench = Bench(FIRST)
    (job,) = jobs_of(bench.relay.work_arrived(work(FIRST, 1), 0.0))
    failure = Failure("model_failed", "it raised")
    (header,) = headers(bench.relay.compute_failed(job.job, failure, 0.1))
    assert (header.kind, header.failure) == ("done", failure)


def test_what_waits_past_its_time_is_told_to_the_door() -> None:
    bench = Bench(FIRST)
    bench.relay.work_arrived(work(FIRST, 1), 0.0)
    bench.relay.work_arrived(work(FIRST, 2), 0.0)
    assert bench.relay.tick(4.9) == []
    (header,) = headers(bench.relay.tick(5.0))
    assert header.request == work(FIRST, 2).header.request
    assert header.failure is not None
    assert header.failure.code == "deadline"


def test_what_was_released_while_it_waited_is_stale_and_then_unknown() -> None:
    bench = Bench(FIRST)
    (job,) = jobs_of(bench.relay.work_arrived(work(FIRST, 1), 0.0))
    bench.relay.work_arrived(work(FIRST, 2), 0.0)
    bench.leave(make_table((A, (0, 6)), epoch=2))
    effects = bench.relay.computed(Computed(job.job, make_tensors(), 0.1), 0.1)
    assert told(effects) == [("d", "stale"), ("d", "stale")]
    for number in (1, 2):
        answer = bench.relay.credit_arrived(probe(work(FIRST, number)), 0.2)
        assert told(answer) == [("d", "lost")]


def test_a_closed_model_leaves_no_job_behind() -> None:
    bench = Bench(FIRST)
    (job,) = jobs_of(bench.relay.work_arrived(work(FIRST, 1), 0.0))
    bench.relay.work_arrived(work(FIRST, 2), 0.0)
    assert told(bench.relay.model_closed(NAME, 0.1)) == [("d", "stale"), ("d", "stale")]
    assert bench.relay.computed(Computed(job.job, make_tensors(), 0.1), 0.2) == []
    assert jobs_of(bench.relay.work_arrived(work(FIRST, 3), 0.3)), "computing never ends"


def test_compute_time_belongs_to_the_units_that_were_computed() -> None:
    bench = Bench(FIRST)
    (job,) = jobs_of(bench.relay.work_arrived(work(FIRST, 1), 0.0))
    bench.relay.computed(Computed(job.job, make_tensors(), 0.1), 0.1)
    wider = make_table((B, (0, 5)), (C, (5, 6)), epoch=2)
    bench.leave(wider)
    (load,) = bench.relay.loads()
    assert (load.units, load.compute_ms, load.requests) == (UnitRange(0, 5), None, 0)


def test_prompts_steps_and_steps_for_several_are_measured_apart() -> None:
    totals, header = Totals(), make_work(FIRST, "s1").header
    alone, other = Row("a", 9), Row("b", 9)
    totals.computed(replace(header, kind="decode", rows=(alone,)), 0.02)
    totals.computed(replace(header, kind="decode", rows=(alone, other)), 9.0)
    totals.computed(replace(header, kind="prefill", rows=(Row("a", 0, 40),)), 0.08)
    totals.computed(replace(header, kind="prefill", rows=(Row("b", 0, 60),)), 0.12)
    assert totals.row_ms.value == pytest.approx(20.0)
    assert totals.token_ms.value == pytest.approx(2.0)
    assert (totals.prefills, totals.prefill_tokens) == (2, 100)


def test_one_slow_request_does_not_move_what_a_segment_takes_and_a_lasting_change_does() -> None:
    totals, header = Totals(), make_work(FIRST, "s1").header
    for _ in range(9):
        totals.computed(header, 0.01)
    totals.computed(header, 5.0)
    assert totals.row_ms.value == pytest.approx(10.0, rel=0.05)
    for _ in range(3):
        totals.computed(header, 0.05)
    assert totals.row_ms.value == pytest.approx(50.0, rel=0.05)


def test_a_segment_of_two_tables_is_one_load() -> None:
    bench = Bench(FIRST)
    bench.take_up(replace(FIRST, epoch=2))
    bench.relay.work_arrived(work(FIRST, 1), 0.0)
    (load,) = bench.relay.loads()
    assert load.requests == 1


# --- cancelling -------------------------------------------------------------------------------


def test_a_cancelled_attempt_is_not_computed_or_not_handed_on() -> None:
    bench = Bench(FIRST)
    first, second = work(FIRST, 1), work(FIRST, 2)
    (job,) = jobs_of(bench.relay.work_arrived(first, 0.0))
    bench.relay.work_arrived(second, 0.0)
    bench.relay.cancelled(cancel(first), 0.1)
    bench.relay.cancelled(cancel(second), 0.1)
    assert bench.relay.computed(Computed(job.job, make_tensors(), 0.1), 0.2) == []


def test_a_cancel_that_overtakes_its_activation_counts() -> None:
    bench = Bench(MIDDLE)
    late = work(MIDDLE, 1, hop=("s0", "s1"), sent=1)
    bench.relay.cancelled(cancel(late), 0.0)
    assert not jobs_of(bench.relay.work_arrived(late, 0.1))
    asked = Credit("a1", "b1", 10, 1, probe=True)
    grant = headers(
        bench.relay.credit_arrived(replace(late.header, kind="credit", credit=asked, door=""), 0.2)
    )[0]
    assert grant.credit == Credit("a1", "b1", 1010, 3), "it holds its room for ever"


def test_a_cancelled_attempt_that_waits_for_credit_makes_way() -> None:
    bench = Bench(FIRST)
    for number in range(1, 5):
        bench.relay.work_arrived(work(FIRST, number), 0.0)
    out = [h for _ in range(4) for h in finish_one(bench)]
    assert len(out) == 2
    bench.relay.cancelled(cancel(work(FIRST, 3)), 0.2)
    grant = Header("credit", NAME, FIRST.stamp, "s1", "s0", credit=Credit("b1", "c1", 9999, 3))
    (header,) = headers(bench.relay.credit_arrived(grant, 0.3))
    assert header.request == work(FIRST, 4).header.request


def finish_one(bench: Bench, now: float = 0.1) -> list[Header]:
    """Ends the job that is being computed."""
    (number,) = bench.relay._by_number
    return headers(bench.relay.computed(Computed(number, make_tensors(), 0.1), now))


# --- credits ----------------------------------------------------------------------------------


def test_room_is_free_again_when_an_activation_has_been_computed() -> None:
    bench = Bench(MIDDLE)
    bench.relay.work_arrived(work(MIDDLE, 1, hop=("s0", "s1"), sent=1), 0.0)
    out = finish_one(bench)
    assert [(h.kind, h.credit) for h in out if h.credit] == [
        ("credit", Credit("a1", "b1", 1010, 3))
    ]


def test_an_unknown_sender_gets_no_credit() -> None:
    bench = Bench(MIDDLE)
    stranger = replace(
        work(MIDDLE, 1, hop=("s0", "s1"), sent=1).header,
        kind="credit",
        door="",
        credit=Credit("x9", "b1", 10, 1, probe=True),
    )
    assert bench.relay.credit_arrived(stranger, 0.0) == []


def test_edges_of_a_table_that_is_gone_are_forgotten_with_what_waited_there() -> None:
    bench = Bench(FIRST)
    for number in range(1, 4):
        bench.relay.work_arrived(work(FIRST, number), 0.0)
        finish_one(bench)
    bench.leave(make_table((A, (0, 6)), epoch=2))
    assert told(bench.relay.tick(0.2)) == [("d", "stale")]
    assert len(bench.relay._edges) == 0
    # The probe no longer finds it waiting: it goes on, and the next node tells the truth.
    assert told(bench.relay.credit_arrived(probe(work(FIRST, 3)), 0.3)) == [("c", "credit")]


# --- probes -----------------------------------------------------------------------------------


def test_a_probe_is_told_where_the_attempt_is() -> None:
    bench = Bench(FIRST)
    activation = work(FIRST, 1)
    asked = probe(activation)
    assert told(bench.relay.credit_arrived(asked, 0.0)) == [("d", "lost")]
    bench.relay.work_arrived(activation, 0.0)
    assert told(bench.relay.credit_arrived(asked, 0.1)) == [("d", "credit")]
    finish_one(bench)
    effects = bench.relay.credit_arrived(asked, 0.2)
    assert told(effects) == [("c", "credit")]
    (onward,) = headers(effects)
    assert (onward.source, onward.target, onward.door) == ("s0", "s1", "d")
    assert onward.credit == Credit("b1", "c1", 10, 1, probe=True)


def test_a_probe_goes_on_behind_a_sent_attempt_even_while_others_wait_for_credit() -> None:
    bench = Bench(FIRST)
    for number in range(1, 4):
        bench.relay.work_arrived(work(FIRST, number), 0.0)
        finish_one(bench)
    assert told(bench.relay.credit_arrived(probe(work(FIRST, 1)), 0.1)) == [("c", "credit")]
    assert told(bench.relay.credit_arrived(probe(work(FIRST, 3)), 0.1)) == [("d", "credit")]


def test_what_waits_for_the_credit_of_one_who_does_not_answer_is_asked_of_that_one() -> None:
    """Else a node that died in silence would be spoken for until the deadline."""
    bench = Bench(FIRST)
    for number in range(1, 4):
        bench.relay.work_arrived(work(FIRST, number), 0.0)
        finish_one(bench)
    asked = probe(work(FIRST, 3))
    for turn in range(UNANSWERED_MAX):
        now = 1.0 + PROBE_S * turn
        assert told(bench.relay.credit_arrived(asked, now)) == [("d", "credit")]
        bench.relay.tick(now)
    assert told(bench.relay.credit_arrived(asked, 3.0)) == [("c", "credit")]
    answered = Credit("b1", "c1", 10, 1)
    grant = replace(asked, source="s1", target="s0", credit=answered)
    bench.relay.credit_arrived(grant, 3.1)
    assert told(bench.relay.credit_arrived(asked, 3.2)) == [("d", "credit")]


def test_a_probe_at_the_last_segment_brings_the_answer_again() -> None:
    bench = Bench(LAST)
    activation = work(LAST, 1, hop=("s0", "s1"), sent=1)
    bench.relay.work_arrived(activation, 0.0)
    (number,) = bench.relay._by_number
    bench.relay.computed(Computed(number, pack_body("text/plain", b"x"), 0.1), 0.1)
    (effect,) = [
        e
        for e in bench.relay.credit_arrived(probe(activation), 0.2)
        if isinstance(e, Transmit) and e.receiver == "d"
    ]
    assert effect.activation.header.kind == "done"
    assert effect.activation.tensors == pack_body("text/plain", b"x")


def test_answers_are_kept_up_to_a_number_of_bytes() -> None:
    bench = Bench(LAST)
    big = pack_body("text/plain", bytes(jobs.ANSWER_BYTES_KEPT // 2))
    for number in (1, 2, 3):
        activation = work(LAST, number, hop=("s0", "s1"), sent=number)
        bench.relay.work_arrived(activation, 0.0)
        (job,) = bench.relay._by_number
        bench.relay.computed(Computed(job, big, 0.1), 0.1)
    kinds = [
        dict(told(bench.relay.credit_arrived(probe(work(LAST, n, hop=("s0", "s1"))), 0.2)))["d"]
        for n in (1, 2, 3)
    ]
    assert kinds[0] == "lost"
    assert kinds[-1] == "done"


def test_a_queue_has_room_for_a_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "QUEUE_BYTES_MAX", 25)
    bench = Bench(FIRST)
    kinds = [told(bench.relay.work_arrived(work(FIRST, n), 0.0)) for n in range(1, 6)]
    # The first computes; two of ten bytes wait.
    assert kinds == [[], [], [], [("d", "done")], [("d", "done")]]


def test_an_activation_larger_than_the_queue_waits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "QUEUE_BYTES_MAX", 5)
    bench = Bench(FIRST)
    kinds = [told(bench.relay.work_arrived(work(FIRST, n), 0.0)) for n in (1, 2, 3)]
    assert kinds == [[], [], [("d", "done")]]


def test_what_is_remembered_is_bounded() -> None:
    bench = Bench(FIRST)
    for number in range(1, jobs.REMEMBERED + 200):
        activation = work(FIRST, number)
        bench.relay.work_arrived(activation, 0.0)
        finish_one(bench)
        bench.relay.cancelled(cancel(activation), 0.0)
    assert len(bench.relay._jobs._ended[NAME]) == jobs.REMEMBERED
    assert not bench.relay._jobs._live


def test_a_damaged_activation_is_lost_and_a_damaged_grant_is_nothing() -> None:
    bench = Bench(FIRST)
    assert told(bench.relay.broke(work(FIRST, 1).header)) == [("d", "lost")]
    assert bench.relay.broke(Header("credit", NAME, FIRST.stamp, "s1", "s0")) == []
