"""Messages to oneself through the data connection: is it alive, how far and how wide is it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from dsi_mqtt.core.node import LinkSample
from dsi_mqtt.core.sizes import KIB
from dsi_mqtt.transport.base import DataConnection, Message

EVERY_S: Final = 1.0
LARGE_EVERY: Final = 20
LARGE_FIRST: Final = 2  # after the first small one
LARGE_BYTES: Final = 64 * KIB
KEEP: Final = 0.7


class Echo:
    """A small echo every second, a larger one every 20 s: under 4 KB/s of probes.

    A large echo goes up and comes down; its extra time over a small one is split evenly, as one
    end alone cannot tell the directions apart.
    """

    def __init__(self, topic: str, clock: Callable[[], float]) -> None:
        self.topic = topic
        self._clock = clock
        self._number = 0
        self._sent: dict[int, float] = {}
        self._last_back: float | None = None
        self._rtt_s: float | None = None
        self._mbit_s: float | None = None

    async def send(self, connection: DataConnection) -> None:
        """Runs while `connection` lives."""
        while True:
            self._number += 1
            size = LARGE_BYTES if self._number % LARGE_EVERY == LARGE_FIRST else 0
            payload = b"echo:%d:" % self._number + bytes(size)
            self._sent = {n: t for n, t in self._sent.items() if n > self._number - 10}
            self._sent[self._number] = self._clock()
            await connection.publish(Message(self.topic, payload))
            await asyncio.sleep(EVERY_S)

    def returned(self, message: Message) -> None:
        kind, _, rest = bytes(message.payload[:32]).partition(b":")
        number = rest.partition(b":")[0]
        if kind != b"echo" or not number.isdigit():
            return
        sent = self._sent.pop(int(number), None)
        if sent is None:
            return
        now = self._clock()
        self._last_back = now
        took = now - sent
        if len(message.payload) < LARGE_BYTES:
            self._rtt_s = took if self._rtt_s is None else KEEP * self._rtt_s + (1 - KEEP) * took
        elif self._rtt_s is not None and took > self._rtt_s:
            one_way = (took - self._rtt_s) / 2
            rate = len(message.payload) * 8 / one_way / 1e6
            before = self._mbit_s
            self._mbit_s = rate if before is None else KEEP * before + (1 - KEEP) * rate

    def age_s(self) -> float | None:
        """Seconds since an echo came back; None before the first."""
        return None if self._last_back is None else self._clock() - self._last_back

    def link(self) -> LinkSample:
        rtt_ms = None if self._rtt_s is None else self._rtt_s * 1000
        return LinkSample(rtt_ms, self._mbit_s, self._mbit_s)
