"""What a door keeps: bounded in number, bytes and time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.answers import BUDGET_LEAST, RETRY_SHARE, Deaths, KeptAnswers, RetryBudget
from dsi_mqtt.core.request import Reply
from tests.core.build import make_input


def reply(nbytes: int) -> Reply:
    return Reply.result(make_input(1), "text/plain", bytes(nbytes))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 60), st.integers(0, 9)), max_size=60))
def test_kept_answers_stay_within_both_bounds_and_the_newest_is_found(
    steps: list[tuple[int, int, int]],
) -> None:
    kept, now = KeptAnswers(count_max=4, bytes_max=100), 0.0
    bodies: dict[str, int] = {}
    for key, nbytes, wait in steps:
        now += wait
        kept.expire(now)
        kept.keep(str(key), reply(nbytes), now + 20)
        bodies[str(key)] = nbytes
        found = {k: r for k in bodies if (r := kept.get(k, now)) is not None}
        assert len(kept) <= 4
        assert kept.nbytes <= 100
        assert str(key) in found
        assert kept.nbytes >= sum(len(r.body) for r in found.values())
        assert all(len(r.body) == bodies[k] for k, r in found.items())
    kept.expire(now + 20)
    assert (len(kept), kept.nbytes) == (0, 0)


def test_an_answer_larger_than_all_room_is_not_kept() -> None:
    kept = KeptAnswers(bytes_max=100)
    kept.keep("k", reply(101), 10.0)
    assert (kept.get("k", 0.0), kept.nbytes) == (None, 0)


def test_a_count_of_deaths_never_falls_before_it_is_cleared() -> None:
    deaths = Deaths()
    deaths.found("k", 2, 0.0)
    deaths.found("k", 1, 1.0)
    assert deaths.of("k") == 2
    deaths.cleared("k")
    assert deaths.of("k") == 0


def test_the_budget_is_earned_by_answers_and_grows_with_the_window() -> None:
    budget = RetryBudget()
    spent = sum(budget.spend() for _ in range(1000))
    assert spent == BUDGET_LEAST
    for _ in range(round(3 / RETRY_SHARE)):
        budget.earn()
    assert sum(budget.spend() for _ in range(1000)) in (2, 3)
    budget.window_is(16)
    assert sum(budget.spend() for _ in range(1000)) in (32 - BUDGET_LEAST, 33 - BUDGET_LEAST)
    budget.window_is(16)
    assert not budget.spend()
