"""What a model's forward takes for its cache during one step of some sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from transformers import Cache

from dsi_mqtt.core.activation import Row
from dsi_mqtt.engine.torch.ragged import Ragged
from dsi_mqtt.engine.torch.sessions import Store
from dsi_mqtt.errors import SplitError


class StepCache(Cache):
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
        stores = self._stores.get(layer_idx)
        if stores is None:
            return self.hollow(key_states), self.hollow(value_states)
        keys, values, rows = [], [], len(stores)
        fresh = zip(
            stores, self._firsts, key_states.chunk(rows), value_states.chunk(rows), strict=True
        )
        for store, first, new_keys, new_values in fresh:
            count = new_keys.shape[2]
            store.keys.narrow(2, first, count).copy_(new_keys)
            store.values.narrow(2, first, count).copy_(new_values)
            keys.append(store.keys.narrow(2, 0, first + count))
            values.append(store.values.narrow(2, 0, first + count))
        return (Ragged(keys), Ragged(values)) if self._ragged else (keys[0], values[0])

    def hollow(self, states: torch.Tensor) -> Any:  # noqa: ANN401 - as `update`
        """Of a layer of another segment, which runs on phantoms: as long, with nothing in it."""
        count = states.shape[2]
        rows = [
            new.new_zeros((1, new.shape[1], first + count, new.shape[3])) + new[:, :, :1]
            for first, new in zip(self._firsts, states.chunk(len(self._firsts)), strict=True)
        ]
        return Ragged(rows) if self._ragged else rows[0]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        del layer_idx
        return self._longest

    def get_query_offset(self, layer_idx: int = 0) -> int | torch.Tensor:  # type: ignore[override]  # see below
        """Of several rows the position of each, which only `ragged_mask` understands."""
        del layer_idx
        if not self._ragged or len(self._firsts) == 1:
            return self._longest
        return torch.tensor(self._firsts)[:, None, None, None]

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Keys of the longest row, and the position of the first of them."""
        del layer_idx
        return self._longest + query_length, 0

    def _other_state(self, *args: Any, **kwargs: Any) -> NoReturn:  # noqa: ANN401 - as the library's
        del args, kwargs
        raise SplitError(
            "the model keeps a state besides keys and values, to which no session can be cut back"
        )

    has_previous_state = _other_state
    get_conv_state = _other_state
    update_conv_state = _other_state
    get_recurrent_state = _other_state
    update_recurrent_state = _other_state
    update_indexer = _other_state
