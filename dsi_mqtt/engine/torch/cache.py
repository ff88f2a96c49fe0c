"""What a model's forward takes for its cache during one step of some sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import Cache

from dsi_mqtt.core.activation import Row
from dsi_mqtt.engine.torch.phantom import Phantom
from dsi_mqtt.engine.torch.ragged import Ragged
from dsi_mqtt.engine.torch.sessions import Slot, Store
from dsi_mqtt.errors import SplitError


class StepCache(Cache):  # type: ignore[misc]  # transformers is untyped
    """All layers of the model say the position of the step, whoever holds them.

    A segment's forward asks layers that it does not hold how long they are, for masks and
    positions; a cache of the held layers alone would answer zero, and nothing would fail.
    """

    def __init__(
        self, rows: tuple[Row, ...], stores: Mapping[int, list[Store]], *, ragged: bool
    ) -> None:
        """stores: of the held layers, one for each row. ragged: see `engine.torch.ragged`."""
        super().__init__(layers=[])
        self._firsts = [row.position for row in rows]
        self._longest = max(self._firsts)
        self._stores = stores
        self._ragged = ragged

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,  # noqa: ANN401 - as the library's
        **kwargs: Any,  # noqa: ANN401
    ) -> tuple[Any, Any]:
        """Keeps the new states, (rows, heads, tokens, width); returns those of all positions."""
        del args, kwargs
        stores = self._stores[layer_idx]
        keys, values = [], []
        fresh = zip(stores, self._firsts, key_states.split(1), value_states.split(1), strict=True)
        for store, first, new_keys, new_values in fresh:
            count = new_keys.shape[2]
            store.keys.narrow(2, first, count).copy_(new_keys)
            store.values.narrow(2, first, count).copy_(new_values)
            keys.append(store.keys.narrow(2, 0, first + count))
            values.append(store.values.narrow(2, 0, first + count))
        return (Ragged(keys), Ragged(values)) if self._ragged else (keys[0], values[0])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        del layer_idx
        return self._longest

    def get_query_offset(self, layer_idx: int = 0) -> int | torch.Tensor:
        """Of several rows the position of each, which only `ragged_mask` understands."""
        del layer_idx
        if not self._ragged or len(self._firsts) == 1:
            return self._longest
        return torch.tensor(self._firsts)[:, None, None, None]

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Keys of the longest row, and the position of the first of them."""
        del layer_idx
        return self._longest + query_length, 0


class LayoutCache(StepCache):
    """Learns from phantoms what each layer keeps. blocks: paths of the units 1…N."""

    def __init__(self, rows: tuple[Row, ...], blocks: tuple[str, ...], *, ragged: bool) -> None:
        super().__init__(rows, {}, ragged=ragged)
        self._blocks = blocks
        self._tokens = rows[0].tokens
        self.layout: dict[int, Slot] = {}

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,  # noqa: ANN401 - as the library's
        **kwargs: Any,  # noqa: ANN401
    ) -> tuple[Any, Any]:
        del args, kwargs
        states = (key_states, value_states)
        rows = len(self._firsts)
        fits = all(s.dim() == 4 and s.shape[::2] == (rows, self._tokens) for s in states)  # noqa: PLR2004 - rows, heads, tokens, width
        if layer_idx in self.layout or not fits or not isinstance(key_states, Phantom):
            raise SplitError(
                f"layer {layer_idx} keeps {tuple(key_states.shape)} in its cache; sessions hold "
                "keys and values of (rows, heads, tokens, width) once a layer"
            )
        self.layout[layer_idx] = Slot(
            self._unit(key_states.sources),
            (key_states.shape[1], key_states.shape[3]),
            (value_states.shape[1], value_states.shape[3]),
            key_states.dtype,
        )
        keys, values = self._grown(key_states), self._grown(value_states)
        return (Ragged(keys), Ragged(values)) if self._ragged else (keys[0], values[0])

    def _grown(self, states: torch.Tensor) -> list[torch.Tensor]:
        """As long as after a real update."""
        return [
            new.new_zeros((1, new.shape[1], first + self._tokens, new.shape[3])) + new[:, :, :1]
            for first, new in zip(self._firsts, states.split(1), strict=True)
        ]

    def _unit(self, sources: set[str]) -> int:
        """The last unit whose weights went into it, for the flow is a chain."""
        units = [
            unit
            for unit, path in enumerate(self._blocks, start=1)
            if any(name.startswith(f"{path}.") for name in sources)
        ]
        if not units:
            raise SplitError("keys of a layer come from no block")
        return units[-1]
