"""Which faults are tried, on whom and for how long."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.chaos.faults import STRIKES
from dsi_mqtt.chaos.trials import (
    ABSENT_S,
    ABSENT_SHORT_S,
    FULL_S,
    INJECTIONS,
    INPUTS,
    PLACES,
    TRIALS,
    Trial,
    absent_s,
    budgets,
    chosen,
    is_whole,
    mixture,
    victims,
)
from dsi_mqtt.errors import ConfigError


def test_every_trial_has_its_strike_and_every_strike_its_trial() -> None:
    assert {trial.fault for trial in TRIALS} == STRIKES.keys()


def test_a_fault_is_chosen_by_name_with_all_its_targets() -> None:
    assert [trial.target for trial in chosen("worker_kill")] == ["door", "middle", "last", "any"]
    assert [trial.site for trial in chosen("door_kill")] == ["spares", "warm"]
    assert [trial.client for trial in chosen("control_broker_kill")] == ["dsi", "plain"]
    assert chosen(None) == TRIALS


def test_a_fault_that_there_is_not_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'kill'.*mixed.*worker_kill"):
        chosen("kill")


@given(st.lists(st.sampled_from(TRIALS), min_size=1), st.floats(1, 1e5))
def test_budgets_are_all_of_the_time_by_what_injections_cost(
    trials: list[Trial], seconds: float
) -> None:
    found = budgets(trials, seconds)
    assert sum(found) == pytest.approx(seconds)
    costs = [trial.cost_s for trial in trials]
    assert [b * costs[0] for b in found] == pytest.approx([found[0] * c for c in costs])


@given(st.integers(0, 2**31))
def test_the_same_seed_hits_the_same_places(seed: int) -> None:
    anywhere = next(trial for trial in TRIALS if trial.target == "any")
    first, again = (list(islice(victims(anywhere, seed), 20)) for _ in range(2))
    assert first == again
    assert set(first) <= set(PLACES)
    assert list(islice(mixture(seed), 40)) == list(islice(mixture(seed), 40))


@given(st.integers(0, 2**31))
def test_in_a_mixture_every_fault_comes_before_any_comes_again(seed: int) -> None:
    dsi = [trial for trial in TRIALS if trial.client == "dsi" and trial.site == "spares"]
    drawn = [trial for trial, _ in islice(mixture(seed), 2 * len(dsi))]
    for part in (drawn[: len(dsi)], drawn[len(dsi) :]):
        assert sorted(map(str, part)) == sorted(map(str, dsi))


def test_a_row_is_whole_with_enough_injections_and_inputs() -> None:
    assert is_whole(INJECTIONS, INPUTS, "one-pass")
    assert not is_whole(INJECTIONS - 1, INPUTS, "one-pass")
    assert not is_whole(INJECTIONS, INPUTS - 1, "one-pass")
    assert is_whole(INJECTIONS, 50, "generation")


def test_in_a_whole_run_no_orchestrator_is_there_for_ten_minutes() -> None:
    (trial,) = chosen("orchestrator_absent")
    share_s = dict(zip(TRIALS, budgets(TRIALS, FULL_S), strict=True))[trial]
    assert absent_s(share_s, 45) == ABSENT_S
    assert absent_s(660, 45) == ABSENT_S
    assert absent_s(30, 45) == ABSENT_SHORT_S
    assert is_whole(1, INPUTS, "one-pass", trial.enough)
