"""What a simulated engine keeps of sessions: of each unit its positions, not what is in them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.model import ModelGraph, UnitRange

_LABEL: Final = struct.Struct("<4I")


@dataclass(frozen=True, slots=True)
class Portion:
    """Positions `[first, last)` of some units, on their way to another engine."""

    units: UnitRange
    first: int
    last: int

    def __len__(self) -> int:
        return (self.units.stop - self.units.start) * (self.last - self.first)

    def written(self, graph: ModelGraph) -> bytes:
        """As long as a cache of them is."""
        kept = graph.state_bytes(self.units) * (self.last - self.first)
        return _LABEL.pack(*self.units, self.first, self.last) + bytes(kept)


class Caches:
    """Of one model, per session and unit: the state of positions `[0, n)`, of which n is kept."""

    def __init__(self) -> None:
        self._held: dict[str, dict[int, int]] = {}

    def has(self, session: str, units: UnitRange) -> int:
        """Positions that are there of all of them."""
        held = self._held.get(session, {})
        return min(held.get(unit, 0) for unit in range(*units))

    def lacking(self, rows: tuple[Row, ...], units: UnitRange) -> dict[str, int]:
        """How many positions those sessions have that lack some before their rows."""
        have = {row.session: self.has(row.session, units) for row in rows}
        return {row.session: have[row.session] for row in rows if have[row.session] < row.position}

    def grow(self, rows: tuple[Row, ...], units: UnitRange) -> None:
        for row in rows:
            held = self._held.setdefault(row.session, {})
            held.update(dict.fromkeys(range(*units), row.position + row.tokens))

    def put(self, session: str, portion: Portion) -> bool:
        """What is held already stays. False, and nothing is put, where some before are missing."""
        if self.has(session, portion.units) < portion.first:
            return False
        held = self._held.setdefault(session, {})
        for unit in range(*portion.units):
            held[unit] = max(held.get(unit, 0), portion.last)
        return True

    def close(self, session: str) -> None:
        self._held.pop(session, None)

    def drop(self, units: UnitRange) -> None:
        for held in self._held.values():
            for unit in range(*units):
                held.pop(unit, None)

    def __len__(self) -> int:
        return len(self._held)
