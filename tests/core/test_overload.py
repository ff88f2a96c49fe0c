"""A door that gets more than it can serve: who waits, who is refused, and when."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.core.deployment import Deployment, InputLimits
from dsi_mqtt.core.message import RETRY_AFTER_MAX_S, Failure, Header, Priority
from dsi_mqtt.core.overload import (
    TIMES_MIN,
    WAITING_BYTES_MAX,
    Pace,
    priority_of,
)
from dsi_mqtt.core.request import Input
from dsi_mqtt.core.two_models import TwoModels
from tests.core.build import make_input, make_spec, make_table
from tests.core.desk import ON_B, ON_C, Desk, numbers
from tests.core.desk_generation import END, Desk2, asking
from tests.thoroughness import examples

ONE = make_table(window=1)


def limited(
    queue_max: int, *, deadline_ms: float = 10_000.0, high: tuple[str, ...] = ()
) -> Deployment:
    limits = InputLimits(max_bytes=10**9, queue_max=queue_max, high=high)
    return replace(make_spec(deadline_ms=deadline_ms), input=limits)


def wanting(number: int, device: str, priority: Priority) -> Input:
    asked = make_input(number, device=device)
    return replace(asked, parsed=replace(asked.parsed, priority=priority))


class Queue:
    """A door with a chain that takes a second for each input, one after the other."""

    def __init__(self, spec: Deployment) -> None:
        self.desk = Desk(ONE, spec)
        self.devices: dict[int, str] = {}
        self.served: list[str] = []
        self._running: list[Header] = []
        self._numbers = 0

    def ask(self, device: str, priority: Priority = "normal") -> None:
        self._numbers += 1
        self.devices[self._numbers] = device
        self.desk.give(wanting(self._numbers, device, priority))

    def serve(self, seconds: float = 1.0) -> None:
        self._running += self.desk.sent()
        self.desk.now += seconds
        if self._running:
            first = self._running.pop(0)
            self.served.append(self.devices[numbers([first])[0]])
            self.desk.done(first)

    def measured(self) -> Queue:
        """So that the door knows its pace."""
        for _ in range(TIMES_MIN + 2):
            self.ask("early")
        for _ in range(TIMES_MIN + 2):
            self.serve()
        self.served.clear()
        self.desk.take().look()
        return self

    def refused(self) -> list[Failure]:
        failures = [reply.failure for reply in self.desk.replies()]
        return [f for f in failures if f is not None and f.code == "overloaded"]


# --- shares -----------------------------------------------------------------------------------


def test_an_input_of_another_device_comes_next_however_many_one_has_waiting() -> None:
    queue = Queue(limited(500))
    for _ in range(200):
        queue.ask("flood")
    queue.ask("cam")
    for _ in range(3):
        queue.serve()
    assert queue.served == ["flood", "flood", "cam"]


@given(st.integers(1, 6), st.integers(50, 200))
@settings(max_examples=examples(20))
def test_beside_a_flood_each_device_has_its_share(others: int, flood: int) -> None:
    queue = Queue(limited(100))
    names = [f"cam-{i}" for i in range(others)]
    for _ in range(flood):
        queue.ask("flood")
    for name in names:
        queue.ask(name)
    for _ in range(12 * (others + 1)):
        before = len(queue.served)
        queue.serve()
        for name in [*queue.served[before:], "flood"]:
            queue.ask(name)
    counts = Counter(queue.served)
    assert min(counts[name] for name in names) >= 10
    for name in names:
        places = [i for i, served in enumerate(queue.served) if served == name]
        apart = max(after - before for before, after in pairwise(places))
        assert apart <= others + 2
    assert {r.device for r in queue.desk.replies() if r.failure is not None} <= {"flood"}


def test_what_was_in_the_chain_before_goes_before_what_only_waits() -> None:
    desk = Desk(ONE, limited(10)).give(make_input(1, device="flood"))
    (first,) = desk.sent()
    desk.give(*(make_input(n, device="cam") for n in (2, 3)))
    desk.say("lost", first)
    assert numbers(desk.sent()) == [1]


def test_a_high_input_of_a_device_that_may_goes_before_others_and_low_ones_after() -> None:
    queue = Queue(limited(100, high=("ambulance-*",)))
    for device in "abcd":
        queue.ask(device)
    queue.ask("l", "low")
    queue.ask("e")
    queue.ask("ambulance-1", "high")
    queue.ask("x", "high")
    for _ in range(8):
        queue.serve()
    assert "".join(name[0] for name in queue.served) == "aabcdexl"
    assert queue.served[1] == "ambulance-1"


def test_high_is_for_devices_that_are_named() -> None:
    limits = InputLimits(high=("amb-*", "siren"))
    names = ("amb-1", "siren", "cam", "amb")
    told = [priority_of(wanting(1, name, "high"), limits) for name in names]
    assert told == ["high", "high", "normal", "normal"]
    assert priority_of(wanting(1, "cam", "low"), limits) == "low"


# --- bounds -----------------------------------------------------------------------------------


def test_where_too_many_wait_the_newest_of_the_device_with_most_is_refused() -> None:
    queue = Queue(limited(4))
    for device in ("flood", "flood", "flood", "flood", "cam"):
        queue.ask(device)  # the first of them runs
    assert queue.refused() == []
    queue.ask("cam")
    (reply,) = queue.desk.replies()
    assert (reply.device, reply.correlation) == ("flood", (4).to_bytes(16, "big"))
    assert [failure.retry_after_s for failure in queue.refused()] == [None]
    queue.ask("flood")
    assert queue.desk.replies()[-1].correlation == (7).to_bytes(16, "big")
    assert queue.desk.door.load().refused == 2
    assert queue.desk.take().acknowledged() == [4, 7]


def test_of_a_device_low_inputs_are_refused_before_others() -> None:
    queue = Queue(limited(3))
    queue.ask("cam")
    for priority in ("normal", "low", "normal", "normal"):
        queue.ask("cam", priority)
    assert [r.correlation for r in queue.desk.replies()] == [(3).to_bytes(16, "big")]


def test_where_too_many_bytes_wait_the_device_with_most_of_them_is_refused() -> None:
    desk = Desk(ONE, limited(100))
    large = WAITING_BYTES_MAX // 2
    sizes = ((1, "cam", 10), (2, "flood", large), (3, "cam", 10), (4, "cam", 10))
    desk.give(*(replace(make_input(n, device=name), nbytes=size) for n, name, size in sizes))
    assert desk.replies() == []
    desk.give(replace(make_input(5, device="flood"), nbytes=large))
    assert [reply.correlation for reply in desk.replies()] == [(5).to_bytes(16, "big")]


def test_an_input_that_is_too_large_for_the_bound_waits_alone() -> None:
    desk = Desk(ONE, limited(100)).give(make_input(1))
    desk.give(replace(make_input(2), nbytes=2 * WAITING_BYTES_MAX))
    assert desk.replies() == []


def test_suspects_and_what_was_in_the_chain_are_not_refused() -> None:
    desk = Desk(make_table(window=2), limited(1))
    desk.give(make_input(1), make_input(2))
    first, _ = desk.sent()
    desk.give(make_input(3, duplicate=True), make_input(4, duplicate=True))
    desk.say("lost", first)
    assert desk.replies() == []
    desk.give(make_input(5), make_input(6))
    assert [reply.correlation for reply in desk.replies()] == [(6).to_bytes(16, "big")]


def test_surplus_is_from_the_device_that_asks_where_several_have_as_much() -> None:
    queue = Queue(limited(2))
    for device in ("a", "a", "b", "b"):
        queue.ask(device)
    assert [reply.device for reply in queue.desk.replies()] == ["b"]


# --- time -------------------------------------------------------------------------------------


def test_without_a_measured_pace_nobody_is_refused_for_time() -> None:
    queue = Queue(limited(500, deadline_ms=2000.0))
    for _ in range(400):
        queue.ask("cam")
    assert queue.refused() == []


def test_what_would_wait_clearly_too_long_is_refused_when_it_comes() -> None:
    queue = Queue(limited(500)).measured()
    for _ in range(20):
        queue.ask("flood")
    assert queue.desk.door.load().refused == len(queue.refused()) == 6
    failure = queue.refused()[0]
    assert queue.desk.take().door.load().held == 14  # one runs; 13 s are over 10 s, and clearly
    assert failure.retry_after_s == 3
    assert "13 s" in failure.message
    queue.ask("cam")
    assert len(queue.refused()) == 6


def test_an_input_that_has_less_time_is_refused_sooner() -> None:
    queue = Queue(limited(500)).measured()
    for _ in range(5):
        queue.ask("flood")
    desk = queue.desk.give(replace(make_input(900, device="flood"), expiry_s=2))
    assert [failure.retry_after_s for failure in queue.refused()] == [2]
    desk.give(replace(make_input(901, device="cam"), expiry_s=2))
    assert len(queue.refused()) == 1


def test_a_pace_is_of_one_table() -> None:
    queue = Queue(limited(500)).measured()
    queue.desk.serve(make_table(epoch=2, window=1))
    for _ in range(40):
        queue.ask("flood")
    assert queue.refused() == []


def test_time_in_which_nobody_waited_or_the_chain_was_broken_says_nothing() -> None:
    pace = Pace()
    now = 0.0
    for number in range(TIMES_MIN + 1):
        assert pace.each_s is None
        now += 1.0
        pace.through(now, others_wait=True)
        if number == 5:
            pace.interrupted()
            now += 1000.0
            pace.through(now, others_wait=False)
            now += 1000.0
            pace.through(now, others_wait=True)
    assert pace.each_s == 1.0
    refusal = pace.refuses(lambda: 100_000, 100_000, 1.0)
    assert refusal is not None
    assert refusal.retry_after_s == RETRY_AFTER_MAX_S


# --- generations ------------------------------------------------------------------------------


def test_generations_of_other_devices_get_their_places_beside_a_flood() -> None:
    desk = Desk2(sessions_max=1, queue_max=20, idle_s=0)
    desk.give(*(asking(n, device="flood") for n in range(1, 9)))
    desk.give(asking(9, device="cam"))
    order = []
    for _ in range(3):
        step = desk.step()
        order.append(int.from_bytes(step.tensors[0].data, "little") - 50)
        desk.drawn(step, END).write().take()
        desk.wait(1.0)
    assert order == [1, 2, 9]


def test_of_too_many_generations_the_device_with_most_loses_its_newest() -> None:
    desk = Desk2(sessions_max=1, queue_max=2)
    desk.give(*(asking(n, device="flood") for n in (1, 2, 3)))
    assert desk.codes() == []
    desk.give(asking(4, device="cam"))
    assert [(r.device, r.correlation) for r in desk.replies()] == [
        ("flood", (3).to_bytes(16, "big"))
    ]
    assert desk.codes() == ["overloaded"]
    desk.give(asking(5, device="flood"), asking(6, device="cam", duplicate=True))
    assert desk.door.load().refused == 3


class Texts:
    """A door with one place for a text, which each of them leaves after a quarter of a second."""

    def __init__(self, many: int) -> None:
        self.desk = Desk2(sessions_max=1, queue_max=200, idle_s=0)
        for n in range(1, many + 1):
            self.desk.give(asking(n, device=f"d{n}", prompt=[50 + n, 9], stop=[" 7"]))
        self._left = 0

    def leave(self, how: str) -> Texts:
        self._left += 1
        self.desk.wait(0.25)
        steps = {s.header.kind: s for s in self.desk.steps()}
        if "decode" in steps:  # of the last one, whose text was over before that was known
            self.desk.drawn(steps["decode"], 9)
        step = steps["prefill"]
        if how == "cancelled":
            key = asking(self._left, device=f"d{self._left}").key
            self.desk.do(self.desk.door.cancelled(key, self.desk.now))
        else:
            self.desk.drawn(step, {"token": END, "stop": 7}[how]).write()
        self.desk.take().wait(0.0)  # nodes are told what has ended, and then there is room
        return self

    @property
    def each_s(self) -> float | None:
        runs = self.desk.door._runs
        assert isinstance(runs, TwoModels)
        return runs.own._entrance.pace.each_s


@pytest.mark.parametrize(
    "ways",
    [("token",), ("token", "stop"), ("stop",), ("cancelled", "token", "stop")],
)
def test_the_pace_of_generations_is_that_of_their_places_however_they_end(
    ways: tuple[str, ...],
) -> None:
    texts = Texts(TIMES_MIN + 3)
    for place in range(TIMES_MIN + 1):
        assert texts.each_s is None
        texts.leave(ways[place % len(ways)])
    assert texts.each_s == 0.25


def test_what_a_broken_chain_takes_is_no_pace_of_generations() -> None:
    texts = Texts(TIMES_MIN + 4).leave("token")
    texts.desk.lost(texts.desk.step()).now += 1.0
    for _ in range(TIMES_MIN + 1):
        texts.leave("token")
    assert texts.each_s == 0.25


def test_a_generation_that_would_wait_too_long_for_a_place_is_refused() -> None:
    texts = Texts(TIMES_MIN + 3)
    for _ in range(TIMES_MIN + 2):
        texts.leave("stop")
    desk = texts.desk
    desk.look()
    for n in range(100, 160):
        desk.give(asking(n, device="flood", max_tokens=2))
    # 51 before it take 12.75 s; it has 10, which a quarter more is clearly over.
    assert desk.codes() == ["overloaded"] * 9
    assert desk.replies()[0].correlation == (151).to_bytes(16, "big")


# --- nothing is lost --------------------------------------------------------------------------

DEVICES = st.sampled_from(["flood", "flood", "flood", "a", "b"])
PRIORITIES = st.sampled_from(["low", "normal", "high"])
STEPS = st.one_of(
    st.tuples(st.just("ask"), DEVICES, PRIORITIES),
    st.tuples(st.just("done"), st.integers(0, 3), st.floats(0.0, 2.0)),
    st.sampled_from([("lost",), ("take",), ("wait",), ("move",)]),
)


class Traffic:
    """A door with two places, and everything that it has told."""

    def __init__(self, queue_max: int) -> None:
        self.desk = Desk(make_table(window=2), limited(queue_max, high=("a",)))
        self.asked = 0
        self.running: list[Header] = []
        self.acknowledged: list[int] = []
        self.answered: dict[bytes | None, str] = {}
        self._tables = [ON_B, ON_C]

    def ask(self, device: str, priority: Priority) -> None:
        self.asked += 1
        self.desk.give(wanting(self.asked, device, priority))

    def done(self, place: int, seconds: float) -> None:
        if self.running:
            self.desk.now += seconds
            self.desk.done(self.running.pop(place % len(self.running)))

    def lost(self) -> None:
        if self.running:
            self.desk.say("lost", self.running.pop(0))

    def wait(self) -> None:
        self.desk.wait(0.1)

    def move(self) -> None:
        if self._tables:
            self.desk.serve(replace(self._tables.pop(0), epoch=5 - len(self._tables)))

    def take(self) -> None:
        self.desk.take()
        for reply, code in zip(self.desk.replies(), self.desk.codes(), strict=True):
            assert self.answered.setdefault(reply.correlation, code) == code, "told another"
        self.acknowledged += self.desk.acknowledged()
        self.look()
        self.desk.look()

    def look(self) -> None:
        self.running += self.desk.sent()


@pytest.mark.parametrize("queue_max", [1, 3])
@given(st.lists(STEPS, max_size=120))
@settings(max_examples=examples(40))
def test_every_input_is_answered_and_acknowledged_once(
    queue_max: int, steps: list[tuple[Any, ...]]
) -> None:
    traffic = Traffic(queue_max)
    for name, *given_with in steps:
        getattr(traffic, name)(*given_with)
        traffic.look()
    for _ in range(100):
        traffic.take()
        traffic.done(0, 0.0)
        traffic.desk.wait(0.5)
    assert traffic.desk.door.idle
    assert sorted(traffic.acknowledged) == list(range(1, traffic.asked + 1))
    assert traffic.answered.keys() == {n.to_bytes(16, "big") for n in range(1, traffic.asked + 1)}
    assert set(traffic.answered.values()) <= {"ok", "overloaded", "unavailable", "deadline"}
