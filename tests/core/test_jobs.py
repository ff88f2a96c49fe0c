"""What a node remembers of attempts: bounded, whatever their headers bear."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import pytest

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.jobs import (
    ANSWER_BYTES_KEPT,
    ANSWERS_KEPT,
    DEPLOYMENTS_REMEMBERED,
    REMEMBERED,
    Job,
    Jobs,
)
from dsi_mqtt.core.message import Activation, Header, HopStamp
from tests.core.build import make_table, make_work

# As much as one header of 64 KiB can hold.
LONG = 5000
ATTEMPTS = 50


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
    for number in range(ATTEMPTS):
        jobs.end(Job(0, Activation(long_header(number)), 0.0), "cancelled")
    after, _ = tracemalloc.get_traced_memory()
    assert (after - before) / ATTEMPTS * REMEMBERED < 8 * 1024 * 1024
    ended = jobs.get(long_header(7))
    assert ended is not None
    assert (ended.phase, ended.header.request) == ("cancelled", long_header(7).request)


def ended(jobs: Jobs, deployment: str, number: int) -> None:
    header = replace(make_work(make_table(), "s0", number).header, deployment=deployment)
    jobs.end(Job(0, Activation(header), 0.0), "sent")


def test_many_attempts_of_one_deployment_push_out_none_of_another() -> None:
    jobs = Jobs()
    ended(jobs, "slow", 1)
    for number in range(REMEMBERED + 10):
        ended(jobs, "fast", number)
    header = make_work(make_table(), "s0", 1).header
    assert jobs.get(replace(header, deployment="slow")) is not None
    assert jobs.get(replace(header, deployment="fast")) is None


def test_names_that_strangers_give_are_not_all_remembered() -> None:
    jobs = Jobs()
    for number in range(DEPLOYMENTS_REMEMBERED + 10):
        ended(jobs, f"d{number}", 1)
    assert len(jobs._ended) == DEPLOYMENTS_REMEMBERED


@pytest.mark.usefixtures("traced")
def test_answers_are_counted_with_their_headers() -> None:
    jobs = Jobs()
    before, _ = tracemalloc.get_traced_memory()
    kept = []
    for number in range(ATTEMPTS):
        header = long_header(number)
        job = Job(0, Activation(header), 0.0)
        jobs.end(job, "answered")
        jobs.keep_answer(job, Activation(header))
        kept.append(job)
    after, _ = tracemalloc.get_traced_memory()
    assert after - before <= ANSWER_BYTES_KEPT
    assert 1 < sum(job.answer is not None for job in kept) < ATTEMPTS <= ANSWERS_KEPT
    assert kept[-1].answer is not None
