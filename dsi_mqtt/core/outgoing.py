"""Copies of caches that wait for a node's way out, which steps take first.

A door waits for a copy `PATIENCE_S` and then asks again, or has the session fed. So what is older
goes nowhere, a copy takes the place of one of the same units of its session, and what is too much
is refused. A slow link carries no copy that nobody waits for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from dsi_mqtt.core.caches import COPY_BYTES_MAX, to_door
from dsi_mqtt.core.copies import PATIENCE_S
from dsi_mqtt.core.effects import Transmit
from dsi_mqtt.core.message import Header
from dsi_mqtt.core.model import UnitRange

# That wait at once, whoever asks, or a single one that has more.
WAITING_BYTES_MAX: Final = COPY_BYTES_MAX

_Key = tuple[str, tuple[str, ...], UnitRange | None]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """until: then its door waits no longer."""

    copy: Transmit
    until: float


class OutgoingCopies:
    """In the order in which they came."""

    def __init__(self) -> None:
        self._waiting: dict[_Key, Outgoing] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, copy: Transmit, now: float) -> list[Transmit]:
        """Has it wait, or tells its door that it is refused."""
        header = copy.activation.header
        self._waiting.pop(_key(header), None)
        self._expire(now)
        waits = sum(other.copy.activation.nbytes for other in self._waiting.values())
        if waits and waits + copy.activation.nbytes > WAITING_BYTES_MAX:
            return [to_door(replace(header, target=header.source), "stale")]
        self._waiting[_key(header)] = Outgoing(copy, now + PATIENCE_S)
        return []

    def take(self, now: float) -> Outgoing | None:
        """The next that goes out."""
        self._expire(now)
        first = next(iter(self._waiting), None)
        return None if first is None else self._waiting.pop(first)

    def clear(self) -> None:
        self._waiting.clear()

    def _expire(self, now: float) -> None:
        while self._waiting:
            first, copy = next(iter(self._waiting.items()))
            if now < copy.until:
                return
            del self._waiting[first]


def _key(header: Header) -> _Key:
    sessions = tuple(row.session for row in header.rows)
    return header.deployment, sessions, header.copy.units if header.copy else None
