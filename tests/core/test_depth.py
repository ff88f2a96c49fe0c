"""How many steps are in a chain at once: the best number is found, wherever the nodes stand."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsi_mqtt.core.depth import Depth
from tests.thoroughness import examples

Cost = Callable[[int], float]


class Chain:
    """Steps that pass segment by segment; a processor computes one of its segments at a time."""

    def __init__(self, segments: list[Cost], processors: list[int], sessions: int) -> None:
        self.segments, self.processors = segments, processors
        self.free = dict.fromkeys(processors, 0.0)
        self.due = sessions
        self.sessions = sessions
        self.in_chain = 0
        self.now = 0.0
        self.tokens = 0
        self._waiting: list[tuple[float, int, int, int]] = []
        self._numbers = 0

    def run(self, depth: Depth, steps: int) -> None:
        for _ in range(steps):
            self._fill(depth.now)
            batch = self._until_one_is_through()
            self.tokens += batch
            depth.passed(batch, self.sessions, self.now)

    def _fill(self, depth: int) -> None:
        while self.due and self.in_chain < depth:
            batch = min(self.due, -(-self.sessions // depth))
            self.due -= batch
            self.in_chain += 1
            self._numbers += 1
            heapq.heappush(self._waiting, (self.now, self._numbers, 0, batch))

    def _until_one_is_through(self) -> int:
        while True:
            at, number, segment, batch = heapq.heappop(self._waiting)
            if segment == len(self.segments):
                self.now = at
                self.due += batch
                self.in_chain -= 1
                return batch
            processor = self.processors[segment]
            ends = max(at, self.free[processor]) + self.segments[segment](batch)
            self.free[processor] = ends
            heapq.heappush(self._waiting, (ends, number, segment + 1, batch))


def rate_at(depth: int, segments: list[Cost], processors: list[int], sessions: int) -> float:
    """Tokens a second when it is always `depth`."""
    chain = Chain(segments, processors, sessions)
    for _ in range(400):
        chain._fill(depth)
        chain.tokens += chain._until_one_is_through()
    return chain.tokens / chain.now


def costing(first: float, each: float) -> Cost:
    return lambda batch: first + each * batch


@pytest.mark.parametrize(
    ("segments", "processors", "best"),
    [
        ([costing(1.0, 0.1)] * 3, [0, 1, 2], 3),  # alike, each on a machine of its own
        ([costing(1.0, 0.1)] * 3, [0, 0, 0], 1),  # on one processor
        ([costing(0.7, 0.02), costing(1.5, 0.02), costing(0.8, 0.02)], [0, 1, 2], 2),  # one is slow
    ],
)
def test_the_best_depth_is_found(segments: list[Cost], processors: list[int], best: int) -> None:
    depth, chain = Depth(3), Chain(segments, processors, 12)
    chain.run(depth, 1200)
    assert depth._kept == best


@settings(max_examples=examples(40))
@given(
    costs=st.lists(st.tuples(st.floats(0.05, 2.0), st.floats(0.0, 0.2)), min_size=1, max_size=5),
    shared=st.lists(st.integers(0, 4), min_size=5, max_size=5),
    sessions=st.integers(1, 30),
)
# Two steps in this chain keep whatever distance they begin with: they give 1.33 or 0.89 tokens a
# second, by what was tried before them; one gives 1.33.
@example(
    costs=[(1.0, 0.0), (2.0, 0.0), (1.0, 0.0), (1.0, 0.125)], shared=[0, 1, 1, 0, 0], sessions=8
)
def test_trials_cost_little_and_end_where_no_neighbour_is_better(
    costs: list[tuple[float, float]], shared: list[int], sessions: int
) -> None:
    segments = [costing(*cost) for cost in costs]
    processors = shared[: len(segments)]
    rates = [rate_at(d, segments, processors, sessions) for d in range(1, len(segments) + 1)]
    depth, chain = Depth(len(segments)), Chain(segments, processors, sessions)
    chain.run(depth, 4000)
    began, tokens = chain.now, chain.tokens
    chain.run(depth, 4000)
    reached = (chain.tokens - tokens) / (chain.now - began)
    # Never worse than to begin with, but for the trials.
    assert reached >= 0.95 * rates[-1]
    if sessions > 1:
        assert max(rates[max(0, depth._kept - 2) : depth._kept + 1]) <= 1.12 * reached


def test_one_session_or_one_node_is_never_tried_with() -> None:
    alone, single = Depth(3), Depth(1)
    for step in range(500):
        alone.passed(1, 1, float(step))
        single.passed(4, 4, float(step))
    assert (alone.now, single.now) == (3, 1)


def test_another_number_of_sessions_ends_a_trial() -> None:
    depth = Depth(3)
    now = 0.0
    while depth.now == 3:
        now += 1.0
        depth.passed(4, 12, now)
    depth.passed(4, 12, now + 1)
    for step in range(20):
        depth.passed(4, 13 + step, now + 2 + step)
    assert depth.now == 3


def test_another_table_begins_with_all_nodes() -> None:
    depth, chain = Depth(3), Chain([costing(1.0, 0.1)] * 3, [0, 0, 0], 12)
    chain.run(depth, 1200)
    assert depth._kept == 1
    depth.reset(4)
    assert depth.now == 4
