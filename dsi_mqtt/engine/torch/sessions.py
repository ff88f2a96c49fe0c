"""Keys and values of sessions: one growing store for each session and layer.

A store keeps all positions, also of layers with a sliding window: these mask. So a session is cut
back to any position by forgetting its length, and moves as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.room import allotted
from dsi_mqtt.errors import SessionStaleError


@dataclass(frozen=True, slots=True)
class Slot:
    """What a layer keeps. unit: that computes it. keys, values: heads and width of each."""

    unit: int
    keys: tuple[int, int]
    values: tuple[int, int]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Of one position."""
        elements = self.keys[0] * self.keys[1] + self.values[0] * self.values[1]
        return elements * self.dtype.itemsize


# By the model's own number of the layer.
Layout = Mapping[int, Slot]


class Store:
    """One layer of one session: (1, heads, capacity, width), of which some positions are held."""

    __slots__ = ("_context", "keys", "values")

    def __init__(self, slot: Slot, context: int) -> None:
        self._context = context
        self.keys = torch.empty((1, slot.keys[0], 0, slot.keys[1]), dtype=slot.dtype)
        self.values = torch.empty((1, slot.values[0], 0, slot.values[1]), dtype=slot.dtype)

    @property
    def capacity(self) -> int:
        return self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def reserve(self, length: int, held: int) -> None:
        """Room for `length` positions; the first `held` stay."""
        capacity = allotted(length, self._context)
        if capacity > self.capacity:
            self.keys = _grown(self.keys, capacity, held)
            self.values = _grown(self.values, capacity, held)


def _grown(before: torch.Tensor, capacity: int, held: int) -> torch.Tensor:
    after = before.new_empty((1, before.shape[1], capacity, before.shape[3]))
    after[:, :, :held] = before[:, :, :held]
    return after


@dataclass(slots=True)
class _Session:
    """lengths: by unit, positions held; of units that keep something."""

    stores: dict[int, Store] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)


class Sessions:
    """All sessions of an engine. Not for two threads at once."""

    def __init__(self, layout: Layout, context: int) -> None:
        self.layout = layout
        self._context = context
        self._sessions: dict[str, _Session] = {}
        self._layers: dict[int, list[int]] = {}
        for layer, slot in sorted(layout.items()):
            self._layers.setdefault(slot.unit, []).append(layer)

    def close(self, session: str) -> None:
        self._sessions.pop(session, None)

    def drop(self, units: UnitRange) -> None:
        """Frees what `units` keep, of all sessions."""
        for name, session in list(self._sessions.items()):
            for unit in self.keeping(units):
                session.lengths.pop(unit, None)
                for layer in self._layers[unit]:
                    session.stores.pop(layer, None)
            if not session.lengths:
                del self._sessions[name]

    def nbytes(self, session: str) -> int:
        """Bytes allocated for it, which is more than its positions fill."""
        known = self._sessions.get(session)
        return 0 if known is None else sum(store.nbytes for store in known.stores.values())

    def keeping(self, units: UnitRange) -> list[int]:
        """Those of `units` that keep something."""
        return [unit for unit in range(*units) if unit in self._layers]

    def layers(self, unit: int) -> list[int]:
        return self._layers[unit]

    def length(self, session: str, unit: int) -> int:
        known = self._sessions.get(session)
        return 0 if known is None else known.lengths.get(unit, 0)

    def check(self, rows: tuple[Row, ...], units: UnitRange) -> None:
        """Raises SessionStaleError when positions before a row are missing in one of `units`."""
        keeping = self.keeping(units)
        if not keeping:
            return
        have = {row.session: self._least(row.session, keeping) for row in rows}
        short = {row.session for row in rows if have[row.session] < row.position}
        if short:
            raise SessionStaleError({session: have[session] for session in short})

    def open(self, rows: Iterable[Row], units: UnitRange) -> dict[int, list[Store]]:
        """The stores of the layers of `units`, one for each row, cut back and with room for it.

        A session is cut before anything is computed: what a computation that fails leaves behind
        the cut is not held.
        """
        opened: dict[int, list[Store]] = {}
        keeping = self.keeping(units)
        for row in rows:
            session = self._sessions.get(row.session)
            if session is None:
                if not keeping:
                    continue
                session = self._sessions[row.session] = _Session()
            for unit in keeping:
                for layer in self._layers[unit]:
                    store = session.stores.get(layer)
                    if store is None:
                        store = Store(self.layout[layer], self._context)
                        session.stores[layer] = store
                    store.reserve(row.position + row.tokens, row.position)
                    opened.setdefault(layer, []).append(store)
                session.lengths[unit] = row.position
        return opened

    def keep(self, rows: Iterable[Row], units: UnitRange) -> None:
        """What was computed since `open` is held."""
        keeping = self.keeping(units)
        for row in rows:
            for unit in keeping:
                self._sessions[row.session].lengths[unit] = row.position + row.tokens

    def fit(self, first: int, last: int, parts: Mapping[int, Part]) -> None:
        """Raises ValueError where parts from elsewhere are not what their layers keep of positions
        `[first, last)`.
        """
        if not 0 <= first <= last <= self._context:
            raise ValueError(f"it does not fit into the {self._context} positions of the context")
        for layer, part in parts.items():
            slot = self.layout[layer]
            for states, (heads, width) in zip(part, (slot.keys, slot.values), strict=True):
                if states.dtype != slot.dtype or states.shape != (1, heads, last - first, width):
                    raise ValueError(f"layer {layer} has {states.dtype} {tuple(states.shape)}")

    def put(self, session: str, unit: int, first: int, parts: Mapping[int, Part]) -> None:
        """Keys and values of the positions from `first` of all layers of `unit`, from elsewhere."""
        count = next(iter(parts.values()))[0].shape[2]
        opened = self.open((Row(session, first, count),), UnitRange(unit, unit + 1))
        for layer, (keys, values) in parts.items():
            (store,) = opened[layer]
            store.keys[:, :, first : first + count] = keys
            store.values[:, :, first : first + count] = values
        self._sessions[session].lengths[unit] = first + count

    def get(self, session: str, layer: int, first: int, last: int) -> Part:
        store = self._sessions[session].stores[layer]
        return store.keys[:, :, first:last], store.values[:, :, first:last]

    def _least(self, session: str, units: list[int]) -> int:
        known = self._sessions.get(session)
        return 0 if known is None else min(known.lengths.get(unit, 0) for unit in units)


# Keys and values of some positions of a layer.
Part = tuple[torch.Tensor, torch.Tensor]
