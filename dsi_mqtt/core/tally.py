"""What waits and may be refused, by device: how many, how many bytes, and who is refused first.

In a flood this is asked for every input, so it is counted as requests come and go, and nothing is
looked through but the devices.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from dsi_mqtt.core.fair import COSTS
from dsi_mqtt.core.line import Request
from dsi_mqtt.core.message import Priority

LOWEST_FIRST: Final = tuple(sorted(COSTS, key=COSTS.__getitem__, reverse=True))


@dataclass(slots=True)
class _Own:
    """Of one device; by priority in the order in which they came."""

    count: int = 0
    nbytes: int = 0
    requests: dict[Priority, OrderedDict[bytes, Request]] = field(
        default_factory=lambda: {priority: OrderedDict() for priority in LOWEST_FIRST}
    )


class Tally:
    """Of requests that have not begun. nbytes: of all of them."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._devices: dict[str, _Own] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, request: Request) -> None:
        """It is there already, or the newest."""
        own = self._devices.setdefault(request.given.device, _Own())
        of_priority = own.requests[request.priority]
        if request.id not in of_priority:
            of_priority[request.id] = request
            self._counts(own, 1, request.given.nbytes)

    def discard(self, request: Request) -> None:
        """It has begun, or is over; nothing where it was not there."""
        own = self._devices.get(request.given.device)
        if own is None or own.requests[request.priority].pop(request.id, None) is None:
            return
        self._counts(own, -1, -request.given.nbytes)
        if not own.count:
            del self._devices[request.given.device]

    def surplus(self, came: Request, *, by_bytes: bool = False) -> tuple[Request, int] | None:
        """Who is refused, and how many of its device wait; None: nobody is there.

        It is the newest, of the lowest priority, of the device with most, or with most bytes; where
        several have as much, of the one that `came` is from.
        """
        if not self._devices:
            return None

        def much(device: str) -> tuple[int, bool]:
            own = self._devices[device]
            return own.nbytes if by_bytes else own.count, device == came.given.device

        own = self._devices[max(self._devices, key=much)]
        lowest = next(of for of in own.requests.values() if of)
        return next(reversed(lowest.values())), own.count

    def _counts(self, own: _Own, more: int, nbytes: int) -> None:
        own.count += more
        own.nbytes += nbytes
        self._count += more
        self.nbytes += nbytes
