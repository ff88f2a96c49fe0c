"""What a node remembers of attempts: bounded, whatever their headers bear."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import pytest

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.jobs import ANSWER_BYTES_KEPT, ANSWERS_KEPT, REMEMBERED, Job, Jobs
from dsi_mqtt.core.message import Activation, Header, HopStamp
from tests.core.build import make_table, make_work

# As much as one header of 64 KiB can hold.
LONG = 5000


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def long_header(number: int) -> Header:
    header = make_work(make_table(), "s0", number).header
    rows = tuple(Row(position=1000 + n) for n in range(LONG))
    stamps = tuple(HopStamp(f"s{n}", 1000 + n, 1000 + n, 0) for n in range(LONG // 4))
    return replace(header, rows=rows, stamps=stamps, trace="x" * LONG)


@pytest.mark.usefixtures("traced")
def test_what_is_remembered_of_an_attempt_is_not_what_its_header_bore() -> None:
    jobs = Jobs()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(200):
        jobs.end(Job(0, Activation(long_header(number)), 0.0), "cancelled")
    after, _ = tracemalloc.get_traced_memory()
    assert (after - before) / 200 * REMEMBERED < 8 * 1024 * 1024
    ended = jobs.get(long_header(7))
    assert ended is not None
    assert (ended.phase, ended.header.request) == ("cancelled", long_header(7).request)


@pytest.mark.usefixtures("traced")
def test_answers_are_counted_with_their_headers() -> None:
    jobs = Jobs()
    before, _ = tracemalloc.get_traced_memory()
    kept = []
    for number in range(ANSWERS_KEPT):
        header = long_header(number)
        job = Job(0, Activation(header), 0.0)
        jobs.end(job, "answered")
        jobs.keep_answer(job, Activation(header))
        kept.append(job)
    after, _ = tracemalloc.get_traced_memory()
    assert after - before <= ANSWER_BYTES_KEPT
    assert sum(job.answer is not None for job in kept) > 1
    assert kept[-1].answer is not None
