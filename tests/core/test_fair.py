"""The queue of fair shares: whatever comes, nobody waits for more than that."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsi_mqtt.core.fair import COSTS, FairQueue
from dsi_mqtt.core.message import Priority


@dataclass(eq=False)
class Item:
    device: str
    priority: Priority = "normal"
    cost: int = 1

    @property
    def share(self) -> tuple[str, Priority]:
        return self.device, self.priority

    @property
    def weighs(self) -> int:
        return self.cost * COSTS[self.priority]


DEVICES = st.sampled_from("aaabbc")
PRIORITIES = st.sampled_from(["normal", "normal", "normal", "low", "high"])
ITEMS = st.builds(Item, DEVICES, PRIORITIES, st.sampled_from([1, 3, 50]))
# An item joins; the first is taken (None), or the one of that place leaves.
STEPS = st.lists(ITEMS | st.none() | st.integers(0, 2), min_size=10, max_size=80)


def join(queue: FairQueue[Item], item: Item) -> None:
    queue.join(item, item.device, item.priority, item.cost)


def names(queue: FairQueue[Item], most: int = 1000) -> str:
    return "".join(queue.take().device for _ in range(min(most, len(queue))))


def test_a_device_that_floods_waits_for_itself() -> None:
    queue: FairQueue[Item] = FairQueue()
    for _ in range(6):
        join(queue, Item("f"))
    join(queue, Item("a"))
    join(queue, Item("b"))
    join(queue, Item("a"))
    assert names(queue) == "fabfaffff"


def test_one_that_asks_again_gets_no_more_than_its_share() -> None:
    queue: FairQueue[Item] = FairQueue()
    for device in "ffffabc":
        join(queue, Item(device))
    order = ""
    for _ in range(20):
        order += queue.take().device
        join(queue, Item(order[-1]))
    assert {order.count(device) for device in "fabc"} == {5}
    assert "ff" not in order


@pytest.mark.parametrize(
    ("priority", "share"),
    [("high", 16), ("normal", 10), ("low", 4)],
)
def test_a_priority_is_a_share_and_starves_nobody(priority: Priority, share: int) -> None:
    queue: FairQueue[Item] = FairQueue()
    for _ in range(20):
        join(queue, Item("f"))
        join(queue, Item("a", priority))
    assert names(queue, 20).count("a") == share


def test_within_a_device_high_goes_before_low() -> None:
    queue: FairQueue[Item] = FairQueue()
    late, soon = Item("a", "low"), Item("a", "high")
    join(queue, late)
    join(queue, soon)
    assert queue.take() is soon
    assert queue.take() is late


def test_who_stands_behind_one_that_leaves_goes_next_and_turns_no_clock_back() -> None:
    queue: FairQueue[Item] = FairQueue()
    large, small, waits = Item("a", cost=1000), Item("a"), Item("c", "low", 60)
    for item in (large, small, waits):
        join(queue, item)
    for _ in range(200):
        join(queue, Item("b"))
        assert queue.take().device == "b"
    queue.leave(large)
    assert queue.take() is small
    for newcomer in range(39):
        join(queue, Item(f"n{newcomer}"))
        assert queue.take().device == f"n{newcomer}"
    join(queue, Item("late"))
    assert queue.take() is waits


class Watched:
    """A queue, and who has been taken past each that stands first, since it does."""

    def __init__(self) -> None:
        self.queue: FairQueue[Item] = FairQueue()
        self.waiting: list[Item] = []
        self.overtaken: dict[Item, list[Item]] = {}

    def join(self, item: Item) -> None:
        join(self.queue, item)
        self.waiting.append(item)

    def leave(self, place: int) -> None:
        if place < len(self.waiting):
            item = self.waiting.pop(place)
            self.queue.leave(item)
            self.overtaken.pop(item, None)

    def take(self) -> None:
        if not self.waiting:
            return
        clock = self.queue._clock
        assert self.queue.first() in self.waiting
        item = self.queue.take()
        assert self.queue._clock >= clock
        assert item in self.firsts()
        self.waiting.remove(item)
        self.overtaken.pop(item, None)
        for each in self.firsts():
            if each.share != item.share:
                self.overtaken[each].append(item)

    def firsts(self) -> list[Item]:
        return list({item.share: item for item in reversed(self.waiting)}.values())

    def look(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert set(self.queue) == set(self.waiting)
        for each in self.firsts():
            by = self.overtaken.setdefault(each, [])
            for share in {other.share for other in by}:
                passed = [other.weighs for other in by if other.share == share]
                assert sum(passed[1:]) <= each.weighs


@given(STEPS)
@example([Item("a", cost=50), Item("a"), Item("b", cost=20), None, 0])
def test_what_joins_is_taken_once_in_its_order_and_no_share_overtakes_without_bound(
    steps: list[Item | int | None],
) -> None:
    """Nor does anybody's leaving: it makes nobody who stands first wait for longer."""
    watched = Watched()
    for step in [*steps, *[None] * len(steps)]:
        if isinstance(step, Item):
            watched.join(step)
        elif isinstance(step, int):
            watched.leave(step)
        else:
            watched.take()
        watched.look()
    assert not watched.queue


@given(st.lists(ITEMS, max_size=40), st.sets(st.integers(0, 39)), st.integers(0, 20), ITEMS)
def test_how_many_come_before_one_is_told_with_at_most_one_of_each_other_queue_left_out(
    items: list[Item], left: set[int], gone: int, last: Item
) -> None:
    queue: FairQueue[Item] = FairQueue()
    for item in items:
        join(queue, item)
    for place in left & set(range(len(items))):
        queue.leave(items[place])
    for _ in range(min(gone, len(queue))):
        queue.take()
    shares = len({item.share for item in queue} - {last.share})
    told = queue.ahead(last.device, last.priority, last.cost)
    join(queue, last)
    before = 0
    while queue.take() is not last:
        before += 1
    assert told <= before <= told + shares


def test_nothing_can_be_taken_where_nothing_waits() -> None:
    queue: FairQueue[Item] = FairQueue()
    assert queue.first() is None
    assert not queue
    queue.leave(Item("a"))
    with pytest.raises(IndexError):
        queue.take()
