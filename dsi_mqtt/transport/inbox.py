"""What a connection has received and its reader has not finished with, bounded.

Shared by all connections: order and bound mean the same on each.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from itertools import count
from sys import getsizeof
from typing import Final

from dsi_mqtt.errors import ConnectionLostError
from dsi_mqtt.transport.base import Message

# What a message is charged beside its texts and bytes, so that empty ones are bounded too; and
# one user property, which a few bytes on the wire can make.
RECORD_BYTES: Final = 512
PROPERTY_BYTES: Final = 192

# Receipts are unique in the process: one kept from an earlier connection acknowledges nothing on
# the next, where the broker gives the same packet id to another message.
_receipts = count(1)


class Inbox(AsyncIterator[Message]):
    """Received messages in order; `async for` takes them, without a task switch while any wait.

    What was received before the connection ended is still handed over; then the iteration raises
    ConnectionLostError. Invariant: `_charged` is the cost of the messages in `_held` (not yet
    released) and of those in `_waiting` without a receipt (not yet taken). `on_room` is called
    when the inbox, having been full, is so no longer.
    """

    def __init__(
        self,
        *,
        count_max: int | None = None,
        bytes_max: int | None = None,
    ) -> None:
        """Both bounds are None where the connection has none."""
        self._count_max = count_max
        self._bytes_max = bytes_max
        self.on_room: Callable[[], None] = lambda: None
        self._waiting: deque[Message] = deque()
        self._held: dict[int, tuple[int, int]] = {}
        self._charged = 0
        self._full = False
        self._reader: asyncio.Future[None] | None = None
        self._end: str | None = None

    @property
    def full(self) -> bool:
        """Whether nothing more should be put in. An empty inbox admits a message of any size."""
        return self._full

    def hold(self, packet_id: int) -> int:
        """The receipt for a message that is put in next and will await `release`."""
        receipt = next(_receipts)
        self._held[receipt] = packet_id, 0
        return receipt

    def put(self, message: Message) -> None:
        cost = _cost(message)
        if message.receipt is not None:
            self._held[message.receipt] = self._held[message.receipt][0], cost
        self._charge(cost)
        self._waiting.append(message)
        self._wake()

    def release(self, receipt: int | None) -> int | None:
        """The packet id to acknowledge; None for what is not, or no longer, held here."""
        if receipt is None or receipt not in self._held:
            return None
        packet_id, cost = self._held.pop(receipt)
        self._charge(-cost)
        return packet_id

    def end(self, reason: str) -> None:
        """No more will come; `reason` is the sentence that the reader is told."""
        self._end = reason
        self._wake()

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> Message:
        while not self._waiting:
            if self._end is not None:
                raise ConnectionLostError(self._end)
            await self._arrival()
        message = self._waiting.popleft()
        if message.receipt is None:
            self._charge(-_cost(message))
        return message

    async def _arrival(self) -> None:
        if self._reader is not None:
            raise RuntimeError("messages() has a reader already")
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _charge(self, cost: int) -> None:
        """Counts, then tells whether that filled the inbox or made room in it."""
        self._charged += cost
        was_full = self._full
        self._full = (self._count_max is not None and len(self._held) >= self._count_max) or (
            self._bytes_max is not None and self._charged >= self._bytes_max
        )
        if was_full and not self._full:
            self.on_room()


def _cost(message: Message) -> int:
    """What a message takes while it is kept: its sender chooses more of it than the payload."""
    cost = RECORD_BYTES + len(message.payload) + getsizeof(message.topic)
    for part in (message.content_type, message.response_topic, message.correlation_data):
        if part is not None:
            cost += getsizeof(part)
    for name, value in message.user_properties:
        cost += PROPERTY_BYTES + getsizeof(name) + getsizeof(value)
    return cost
