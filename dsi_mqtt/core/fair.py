"""Whose turn it is: a queue for each device, and fair shares between them.

Self-clocked fair queueing (Golestani, "A self-clocked fair queueing scheme for broadband
applications", INFOCOM 1994). Whoever is first in a queue bears a number: the clock when it got
there, and what it costs. The least is taken, and the clock is set to it. So a device that floods
waits for itself; one that asks seldom comes behind what stands first in each other queue at most;
and who waits is overtaken a bounded number of times, whatever comes, and whoever leaves.

A *priority* is what a turn costs: a high one a quarter of a normal one, a low one four times as
much. Nothing starves: the clock comes to every number.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, count, takewhile
from typing import Final, Generic, TypeVar

from dsi_mqtt.core.message import Priority

COSTS: Final[dict[Priority, int]] = {"high": 1, "normal": 4, "low": 16}

T = TypeVar("T")
_Share = tuple[str, Priority]


@dataclass(slots=True, eq=False)
class _Queue(Generic[T]):
    """Of one device and priority. start: the clock when the first of `costs` came to be that, or
    less; number: of that first; total: of the costs; alike: all that have joined cost the same.

    order: tells equals apart: a queue that has begun goes before one that goes on, or a device that
    asks again when it has its answer would have half of its share; then who is first for longer.
    """

    start: int
    order: tuple[bool, int]
    costs: OrderedDict[T, int] = field(default_factory=OrderedDict)
    number: int = 0
    total: int = 0
    alike: bool = True

    @property
    def first(self) -> T:
        return next(iter(self.costs))

    def join(self, item: T, cost: int) -> None:
        if self.costs:
            self.alike = self.alike and self.costs[self.first] == cost
        else:
            self.number = self.start + cost
        self.costs[item] = cost
        self.total += cost

    def leave(self, item: T) -> None:
        self.total -= self.costs.pop(item)

    def goes_on(self, start: int, clock: int, order: int) -> None:
        """Another is first: from `start` on, but its number is not below the clock."""
        if self.costs:
            cost = self.costs[self.first]
            self.start = max(start, clock - cost)
            self.number = self.start + cost
            self.order = (True, order)

    def before(self, number: int) -> int:
        """How many of it bear, or will, a lower number."""
        if self.start + self.total < number:
            return len(self.costs)
        if self.alike:
            return max(0, number - self.start - 1) // self.costs[self.first]
        reached = takewhile((number - self.start).__gt__, accumulate(self.costs.values()))
        return sum(1 for _ in reached)


class FairQueue(Generic[T]):
    """Things that wait, told apart by identity. Invariants: no queue in it is empty, the clock
    never falls, and the first of each has a number that is not below it.
    """

    def __init__(self) -> None:
        self._queues: dict[_Share, _Queue[T]] = {}
        self._shares: dict[T, _Share] = {}
        self._clock = 0
        self._orders = count()
        self._turn: _Share | None = None  # whose it is, where that is known

    def __len__(self) -> int:
        return len(self._shares)

    def __contains__(self, item: T) -> bool:
        return item in self._shares

    def __iter__(self) -> Iterator[T]:
        """Those of one device and priority in their order."""
        for queue in self._queues.values():
            yield from queue.costs

    def join(self, item: T, device: str, priority: Priority, cost: int = 1) -> None:
        """Behind what waits of the same device and priority. cost: of its turn, at least 1."""
        share = device, priority
        self._shares[item] = share
        queue = self._queues.get(share)
        if queue is None:
            queue = self._queues[share] = _Queue(self._clock, (False, next(self._orders)))
            self._turn = None
        queue.join(item, max(1, cost) * COSTS[priority])

    def leave(self, item: T) -> None:
        """It waits no more; nothing where it did not.

        Whoever is first then has waited behind it, and does not begin anew: but the clock has come
        as far as it has, and a number below it would turn it back.
        """
        share = self._shares.pop(item, None)
        if share is None:
            return
        queue = self._queues[share]
        was_first = queue.first is item
        queue.leave(item)
        if was_first:
            queue.goes_on(queue.start, self._clock, next(self._orders))
            self._turn = None
        self._close(share)

    def first(self) -> T | None:
        """Whose turn it is."""
        share = self._next()
        return None if share is None else self._queues[share].first

    def take(self) -> T:
        """The first, which then waits no more. Raises IndexError where nothing waits."""
        share = self._next()
        if share is None:
            raise IndexError("nothing waits")
        queue = self._queues[share]
        item, self._clock = queue.first, queue.number
        queue.leave(item)
        queue.goes_on(self._clock, self._clock, next(self._orders))
        del self._shares[item]
        self._turn = None
        self._close(share)
        return item

    def ahead(self, device: str, priority: Priority, cost: int = 1) -> int:
        """How many would be taken before one that joins now if nothing else joined, at least: of
        the other queues some that stand even with it may come before it as well.
        """
        own = self._queues.get((device, priority))
        start, found = (self._clock, 0) if own is None else (own.start + own.total, len(own.costs))
        number = start + max(1, cost) * COSTS[priority]
        return found + sum(q.before(number) for q in self._queues.values() if q is not own)

    def _next(self) -> _Share | None:
        if self._turn is None:
            numbers = ((q.number, q.order, share) for share, q in self._queues.items())
            self._turn = min(numbers, default=(0, (True, 0), None))[2]
        return self._turn

    def _close(self, share: _Share) -> None:
        if not self._queues[share].costs:
            del self._queues[share]
