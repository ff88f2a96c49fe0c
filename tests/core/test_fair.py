"""The queue of fair shares: whatever comes, nobody waits for more than that."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.fair import COSTS, FairQueue
from dsi_mqtt.core.request import Priority


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


DEVICES = st.sampled_from("abcd")
PRIORITIES = st.sampled_from(["low", "normal", "high"])
ITEMS = st.builds(Item, DEVICES, PRIORITIES, st.integers(1, 50))
# An item joins; the first is taken (None), or the one of that place leaves.
STEPS = st.lists(ITEMS | st.none() | st.integers(0, 9), max_size=80)


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


@given(STEPS)
def test_what_joins_is_taken_once_in_its_order_and_no_share_overtakes_without_bound(
    steps: list[Item | int | None],
) -> None:
    queue: FairQueue[Item] = FairQueue()
    waiting: list[Item] = []
    overtaken: dict[Item, list[Item]] = {}

    def taken(item: Item) -> None:
        same = [each for each in waiting if each.share == item.share]
        assert same[0] is item
        waiting.remove(item)
        overtaken.pop(item, None)
        for each in waiting:
            first = next(other for other in waiting if other.share == each.share)
            if each is first:
                overtaken.setdefault(each, []).append(item)

    for step in [*steps, *[None] * len(steps)]:
        if isinstance(step, Item):
            join(queue, step)
            waiting.append(step)
        elif isinstance(step, int) and step < len(waiting):
            gone = waiting.pop(step)
            queue.leave(gone)
            overtaken.clear()  # who stands first now did not stand there before
        elif step is None and waiting:
            assert queue.first() in waiting
            taken(queue.take())
        assert len(queue) == len(waiting)
        assert set(queue) == set(waiting)
        for each, by in overtaken.items():
            for share in {other.share for other in by} - {each.share}:
                passed = [other.weighs for other in by if other.share == share]
                assert sum(passed[1:]) <= each.weighs


@given(st.lists(ITEMS, max_size=40), st.integers(0, 20), ITEMS)
def test_how_many_come_before_one_is_told_with_at_most_one_of_each_other_queue_left_out(
    items: list[Item], gone: int, last: Item
) -> None:
    queue: FairQueue[Item] = FairQueue()
    for item in items:
        join(queue, item)
    for _ in range(min(gone, len(items))):
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
