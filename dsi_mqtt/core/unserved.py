"""Inputs that came while nothing served: how long they may hope, and what they are told.

A table that says `unavailable` may be replaced within seconds, by a node that comes back. So inputs
wait for a while after such a table came, and for as long as another one is being prepared. Once
that has not helped, they are told the table's reason, and so is at once whatever comes later. What
had come while a chain served is no matter of this: some of it may have been computed, and it keeps
the whole time that its deadline gives.
"""

from __future__ import annotations

import math
from typing import Final

from dsi_mqtt.core.message import Failure
from dsi_mqtt.core.table import Table

HOPE_S: Final = 8.0
_NO_CHAIN: Final = "no chain serves this deployment now; try again later"


class Unserved:
    """State machine, of one door. Requests are known by their ids."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._requests: dict[bytes, None] = {}

    def table_is(self, table: Table, now: float, *, coming: bool) -> None:
        """What serves, or says that nothing does. coming: another is being prepared."""
        if table.serves:
            self._requests.clear()
        if table.state != "unavailable" or coming:
            self._since = None
        elif self._since is None:
            self._since = now

    def came(self, request: bytes, table: Table | None) -> None:
        if table is not None and table.state == "unavailable":
            self._requests[request] = None

    def over(self, request: bytes) -> None:
        """Answered, or left to another door."""
        self._requests.pop(request, None)

    def next_tick(self) -> float:
        """When those that wait become hopeless, unless a table comes before."""
        if self._since is None or not self._requests:
            return math.inf
        return self._since + HOPE_S

    def hopeless(self, now: float) -> list[bytes]:
        """Requests that need not wait any longer."""
        if self._since is None or now < self._since + HOPE_S:
            return []
        return list(self._requests)


def why_unserved(table: Table | None) -> Failure:
    """What a request is told that never began."""
    return Failure("unavailable", (table.reason if table else None) or _NO_CHAIN)
