"""What a door keeps: bounded in number, bytes and time."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.answers import (
    BUDGET_LEAST,
    DEATHS_BYTES_MAX,
    KEPT_BYTES_MAX,
    KEPT_ENTRY_BYTES,
    KEPT_MAX,
    RETRY_SHARE,
    Deaths,
    KeptAnswers,
    RetryBudget,
)
from dsi_mqtt.core.request import CORRELATION_MAX, Redelivery, Reply
from tests.core.build import make_input

# Four entries with the largest body of the test below.
ROOM = 4 * (KEPT_ENTRY_BYTES + 100)


def reply(nbytes: int) -> Reply:
    return Reply.result(make_input(1), "text/plain", bytes(nbytes))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 900), st.integers(0, 9)), max_size=60))
def test_kept_answers_stay_within_both_bounds_and_the_newest_is_found(
    steps: list[tuple[int, int, int]],
) -> None:
    kept, now = KeptAnswers(count_max=4, bytes_max=ROOM), 0.0
    bodies: dict[str, int] = {}
    for key, nbytes, wait in steps:
        now += wait
        kept.expire(now)
        kept.keep(str(key), reply(nbytes), now + 20)
        bodies[str(key)] = nbytes
        found = {k: r for k in bodies if (r := kept.get(k, now)) is not None}
        assert len(kept) <= 4
        assert kept.nbytes <= ROOM
        assert str(key) in found
        assert kept.nbytes >= sum(len(r.body) for r in found.values())
        assert all(len(r.body) == bodies[k] for k, r in found.items())
    kept.expire(now + 20)
    assert (len(kept), kept.nbytes) == (0, 0)


def test_an_answer_larger_than_all_room_is_not_kept() -> None:
    kept = KeptAnswers(bytes_max=KEPT_ENTRY_BYTES + 100)
    kept.keep("k", reply(101), 10.0)
    assert (kept.get("k", 0.0), kept.nbytes) == (None, 0)


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def _text(number: int, size: int, first: str = "a") -> str:
    return f"{first}{number}".ljust(size, "x")


@pytest.mark.parametrize(
    "reply_to",
    [
        pytest.param(lambda n: replace(reply(10), correlation=bytes(60_000 + n)), id="correlation"),
        pytest.param(lambda n: replace(reply(10), topic=_text(n, 60_000)), id="Response Topic"),
        pytest.param(lambda n: replace(reply(10), topic=_text(n, 15_000, "🚋")), id="tram"),
        pytest.param(lambda n: replace(reply(10), device=_text(n, 30_000)), id="device"),
        pytest.param(lambda n: replace(reply(0), identity=_text(n, 1)), id="small"),
    ],
)
@pytest.mark.usefixtures("traced")
def test_the_memory_that_kept_answers_take_is_bounded_whatever_a_device_chooses(
    reply_to: Callable[[int], Reply],
) -> None:
    kept = KeptAnswers()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(KEPT_MAX + 100):
        given = reply_to(number)
        key = replace(make_input(number), device=given.device, correlation=given.correlation).key
        kept.keep(key, given, 10.0)
    del given, key
    after, _ = tracemalloc.get_traced_memory()
    assert kept.nbytes <= KEPT_BYTES_MAX
    assert after - before <= kept.nbytes, "it takes more than is counted"


@pytest.mark.usefixtures("traced")
def test_the_memory_that_counts_of_deaths_take_is_bounded_and_what_goes_is_told() -> None:
    deaths = Deaths()
    before, _ = tracemalloc.get_traced_memory()
    gone = 0
    for number in range(6000):
        record = Redelivery(_text(number, 2 * CORRELATION_MAX), 1, f"i{number}")
        gone += len(deaths.found(record, 0.0))
    after, _ = tracemalloc.get_traced_memory()
    assert after - before <= DEATHS_BYTES_MAX
    assert len(deaths) + gone == 6000
    assert deaths.of(_text(5999, 2 * CORRELATION_MAX)).count == 1


def test_what_is_found_is_not_newer_than_what_is_known() -> None:
    deaths = Deaths()
    deaths.put(Redelivery("k", 2, "here"), 0.0)
    for older in (Redelivery("k", 1, "there"), Redelivery("k", 2, "there")):
        deaths.found(older, 1.0)
        assert deaths.of("k") == Redelivery("k", 2, "here")
    deaths.found(Redelivery("k", 3, "there"), 2.0)
    assert deaths.of("k").count == 3
    deaths.put(Redelivery("k", 0), 3.0)
    assert (deaths.of("k").void, len(deaths)) == (True, 0)


def test_the_longest_untouched_makes_room() -> None:
    deaths = Deaths(count_max=2)
    gone = [deaths.found(Redelivery(key, 1), 0.0) for key in ("a", "b", "a", "c")]
    assert gone == [[], [], [], ["b"]]
    assert [deaths.of(key).count for key in "abc"] == [1, 0, 1]


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
