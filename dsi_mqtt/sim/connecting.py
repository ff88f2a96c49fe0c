"""Connecting again: production's waits (`transport.lasting`), drawn from a seed."""

from __future__ import annotations

from random import Random
from typing import Final

from dsi_mqtt.transport.lasting import Backoff

# As workers, orchestrators and the project's client have it.
RECONNECT: Final = Backoff(last_s=3.0)


class Tries:
    """Of one client and one broker: how long it waits before the next."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._failures = 0
        self._since: float | None = None

    def connected(self, now: float) -> None:
        self._since = now

    def wait_s(self, now: float) -> float:
        """After a connection that was lost, or could not be opened."""
        settled = self._since is not None and now - self._since >= RECONNECT.settled_s
        self._failures = 1 if settled else self._failures + 1
        self._since = None
        return RECONNECT.wait_s(self._failures, self._random)
