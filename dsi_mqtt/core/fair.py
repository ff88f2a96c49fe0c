"""Whose turn it is: a queue for each device, and fair shares between them.

Self-clocked fair queueing (Golestani, "A self-clocked fair queueing scheme for broadband
applications", INFOCOM 1994). Whoever is first in a queue bears a number: the clock when it got
there, and what it costs. The least is taken, and the clock is set to it. So a device that floods
waits for itself; one that asks seldom comes behind what stands first in each other queue at most;
and who waits is overtaken a bounded number of times, whatever comes.

A *priority* is what a turn costs: a high one a quarter of a normal one, a low one four times as
much. Nothing starves: the clock comes to every number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Final, Generic, TypeVar

from dsi_mqtt.core.request import Priority

COSTS: Final[dict[Priority, int]] = {"high": 1, "normal": 4, "low": 16}

T = TypeVar("T")
_Share = tuple[str, Priority]


@dataclass(slots=True, eq=False)
class _Queue(Generic[T]):
    """Of one device and priority. start: the clock when the first of `costs` came to be that.

    order: tells equals apart: a queue that has begun goes before one that goes on, or a device that
    asks again when it has its answer would have half of its share; then who is first for longer.
    """

    start: int
    order: tuple[bool, int]
    costs: dict[T, int]

    @property
    def number(self) -> int:
        return self.start + self.costs[self.first]

    @property
    def first(self) -> T:
        return next(iter(self.costs))


class FairQueue(Generic[T]):
    """Things that wait, told apart by identity. Invariants: no queue in it is empty, and the first
    of each has a number above the clock.
    """

    def __init__(self) -> None:
        self._queues: dict[_Share, _Queue[T]] = {}
        self._shares: dict[T, _Share] = {}
        self._clock = 0
        self._orders = count()

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
            queue = self._queues[share] = _Queue(self._clock, (False, next(self._orders)), {})
        queue.costs[item] = max(1, cost) * COSTS[priority]

    def leave(self, item: T) -> None:
        """It waits no more; nothing where it did not."""
        share = self._shares.pop(item, None)
        if share is not None:
            del self._queues[share].costs[item]
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
        queue.start, queue.order = self._clock, (True, next(self._orders))
        del queue.costs[item], self._shares[item]
        self._close(share)
        return item

    def ahead(self, device: str, priority: Priority, cost: int = 1) -> int:
        """How many would be taken before one that joins now if nothing else joined, at least: of
        the other queues some that stand even with it may come before it as well.
        """
        own = self._queues.get((device, priority))
        number = max(1, cost) * COSTS[priority]
        number += self._clock if own is None else own.start + sum(own.costs.values())
        found = 0 if own is None else len(own.costs)
        for queue in self._queues.values():
            if queue is own:
                continue
            reached = queue.start
            for each in queue.costs.values():
                reached += each
                if reached >= number:
                    break
                found += 1
        return found

    def _next(self) -> _Share | None:
        return min(
            self._queues,
            key=lambda share: (self._queues[share].number, self._queues[share].order),
            default=None,
        )

    def _close(self, share: _Share) -> None:
        if not self._queues[share].costs:
            del self._queues[share]
