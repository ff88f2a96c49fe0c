"""What became of every input, and from when on a fault counts as recovered from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.chaos.ledger import Injection, Ledger, Outcome
from dsi_mqtt.chaos.outcome import Row, document, holds, row_document, share
from dsi_mqtt.chaos.trials import KINDS, TRIALS, Kind, Proof
from dsi_mqtt.core.table import Stamp

KILL = next(trial for trial in TRIALS if trial.fault == "worker_kill")
MOVE = next(trial for trial in TRIALS if trial.fault == "planned_move")
PLAIN = next(trial for trial in TRIALS if trial.client == "plain")
OUTCOMES: tuple[Outcome, ...] = ("right", "wrong", "error", "excused", "lost")
BEFORE = Stamp(1, "a", 1)


def struck(kind: Kind = "one-pass", proof: Proof = "table", at: float = 10.0) -> Ledger:
    ledger = Ledger(kind, stamp=BEFORE)
    ledger.injected(Injection("worker_kill", "middle", "north", proof, at, BEFORE))
    return ledger


def recovered(ledger: Ledger) -> float | None:
    assert ledger.newest is not None
    return ledger.newest.recovered_at


def told(ledger: Ledger, number: int, sent: float, at: float) -> None:
    ledger.sent(number, sent)
    ledger.answered(number, "right", at)


def test_a_kill_is_recovered_from_by_the_first_result_on_a_table_without_the_victim() -> None:
    ledger = struck()
    told(ledger, 1, 9.0, 10.1)
    ledger.table(Stamp(1, "a", 2), 10.2, frozenset({"city", "north"}), frozenset({"city", "north"}))
    told(ledger, 2, 9.9, 10.3)
    assert recovered(ledger) is None, "the victim has a part in that table"
    ledger.table(Stamp(1, "a", 3), 10.4, frozenset({"city", "spare"}), frozenset({"city", "spare"}))
    told(ledger, 3, 9.9, 10.5)
    told(ledger, 4, 10.0, 10.6)
    assert recovered(ledger) == 10.5
    assert ledger.newest is not None
    assert (ledger.newest.detected_at, ledger.newest.table_at) == (10.2, 10.4)


def test_a_link_that_is_worse_is_left_where_nothing_is_computed_behind_it() -> None:
    """What a door alone sends and receives is little, so it may stay."""
    ledger = struck(proof="chain")
    ledger.table(Stamp(1, "a", 2), 10.2, frozenset({"north"}), frozenset({"north"}))
    ledger.table(Stamp(1, "a", 3), 10.4, frozenset({"north", "spare"}), frozenset({"spare"}))
    told(ledger, 1, 9.9, 10.5)
    assert recovered(ledger) == 10.5
    assert ledger.newest is not None
    assert ledger.newest.table_at == 10.4


def test_a_broker_s_end_is_recovered_from_by_an_input_sent_since() -> None:
    ledger = struck(proof="end")
    told(ledger, 1, 10.2, 10.3)
    ledger.ended(10.5)
    told(ledger, 2, 9.9, 10.6)
    assert recovered(ledger) is None
    told(ledger, 3, 10.1, 10.7)
    assert recovered(ledger) == 10.7


def test_of_a_generation_the_first_token_counts() -> None:
    ledger = struck("generation", proof="end")
    ledger.sent(1, 9.0)
    ledger.progressed(1, 10.2)
    ledger.ended(10.5)
    ledger.progressed(1, 11.0)
    assert recovered(ledger) == 11.0
    assert ledger.gaps == pytest.approx([0.8])


@pytest.mark.parametrize("outcome", ["wrong", "error", "lost"])
def test_what_is_no_right_result_recovers_nothing_and_fails_the_row(outcome: Outcome) -> None:
    ledger = struck()
    ledger.table(Stamp(1, "a", 3), 10.4, frozenset({"spare"}), frozenset({"spare"}))
    ledger.sent(1, 10.0)
    ledger.answered(1, outcome, 10.5, "why")
    assert recovered(ledger) is None
    assert not Row(KILL, ledger, 0.05).passed


def test_epochs_that_fall_back_are_counted_and_not_followed() -> None:
    ledger = struck()
    ledger.table(Stamp(1, "a", 5), 11.0, frozenset({"spare"}), frozenset({"spare"}))
    ledger.table(Stamp(1, "a", 4), 11.1, frozenset({"north"}), frozenset({"north"}))
    ledger.table(Stamp(1, "a", 5), 11.2, frozenset({"spare"}), frozenset({"spare"}))
    assert ledger.regressions == 1
    assert ledger.stamp == Stamp(1, "a", 5)


def test_an_answer_may_be_told_again_but_no_other_result() -> None:
    ledger = Ledger("one-pass")
    for said in ("4", "4", None):
        ledger.read_along(b"1", said)
    told(ledger, 1, 0.0, 1.0)
    assert (ledger.contradictions, ledger.late_errors) == (0, 1)
    assert Row(KILL, ledger, 0.0).passed
    ledger.read_along(b"1", "5")
    assert Row(KILL, ledger, 0.0).failures() == {"contradictions": 1}
    ledger.read_along(b"2", "x", known=False)
    assert ledger.foreign == 1
    assert ledger.tellings == {b"1": 4, b"2": 1}


def test_a_second_answer_to_a_caller_is_a_duplicate() -> None:
    ledger = Ledger("one-pass")
    told(ledger, 1, 0.0, 1.0)
    ledger.answered(1, "right", 2.0)
    assert (ledger.duplicates, ledger.outcomes["right"]) == (1, 1)


def test_a_pause_belongs_to_the_newest_fault() -> None:
    ledger = Ledger("one-pass")
    told(ledger, 1, 0.0, 1.0)
    told(ledger, 2, 0.0, 1.5)
    ledger.injected(Injection("planned_move", "middle", "north", "table", 2.0, BEFORE))
    told(ledger, 3, 0.0, 2.25)
    (aim,) = Row(MOVE, ledger, 0.5).aims()
    assert aim.value == pytest.approx(250.0)
    assert aim.met is False


def test_a_fault_that_nothing_came_after_misses_the_aim() -> None:
    ledger = Ledger("one-pass")
    told(ledger, 1, 0.0, 1.0)
    ledger.injected(Injection("worker_kill", "door", "city", "table", 2.0, BEFORE))
    (aim,) = Row(KILL, ledger, 0.0).aims()
    assert aim.met is False
    (written,) = row_document(Row(KILL, ledger, 0.0))["aims"]
    assert (written["value"], written["met"]) == (None, False)


def test_what_a_plain_client_loses_with_the_broker_is_told_and_no_failure() -> None:
    ledger = Ledger("one-pass", acknowledged_lost=1)
    ledger.sent(1, 0.0)
    ledger.answered(1, "lost", 60.0)
    assert Row(PLAIN, ledger, 0.0).passed
    assert not Row(KILL, ledger, 0.0).passed
    assert row_document(Row(PLAIN, ledger, 0.0))["acknowledged_lost"] == 1


@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.sampled_from(OUTCOMES), st.floats(0, 100), st.booleans())),
)
def test_every_input_is_counted_once_and_only_right_ones_pass(
    kind: Kind, asked: list[tuple[Outcome, float, bool]]
) -> None:
    ledger = struck(kind)
    for number, (outcome, at, answered) in enumerate(asked):
        ledger.sent(number, at)
        if answered:
            ledger.answered(number, outcome, at + 1)
    document_ = row_document(Row(KILL, ledger, 0.0))
    counted = sum(document_[name] for name in ("results", "errors", "excused", "lost"))
    assert counted + ledger.open == document_["inputs"] == len(asked)
    fine = ("right", "excused")
    all_right = bool(asked) and all(answered and o in fine for o, _, answered in asked)
    assert document_["passed"] == all_right
    assert document_["duplicates"] == 0


@given(st.lists(st.floats(0, 1e3), min_size=1), st.floats(0, 1))
def test_a_share_is_one_of_the_values_that_so_many_stay_within(
    values: list[float], part: float
) -> None:
    found = share(values, part)
    assert found in values
    assert sum(value <= found for value in values) >= part * len(values)


def test_a_run_holds_when_its_rows_pass_and_nothing_else_broke() -> None:
    good, bad = Ledger("one-pass"), Ledger("one-pass")
    told(good, 1, 0.0, 1.0)
    bad.sent(1, 0.0)
    assert holds([Row(KILL, good, 0.0)], [])
    assert not holds([Row(KILL, good, 0.0)], ["north ended with 1"])
    assert not holds([Row(KILL, good, 0.0), Row(KILL, bad, 0.0)], [])
    assert not holds([], [])
    told_ = document([Row(KILL, good, 0.0)], 9.0, "chaos-7.jsonl", {"seed": 7}, [])
    assert (told_["schema"], told_["passed"], told_["log"]) == (
        "dsi.chaos/1", True, "chaos-7.jsonl"
    )  # fmt: skip
