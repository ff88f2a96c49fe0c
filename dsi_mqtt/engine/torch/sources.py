"""Weight sources in memory: a model's tensors, or those of a model that is built when read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import torch

from dsi_mqtt.engine.torch.dtypes import NAMES
from dsi_mqtt.engine.weights import Weight
from dsi_mqtt.errors import CheckpointError

State = Mapping[str, torch.Tensor]


class BuiltSource:
    """Tensors that `build` makes, anew after each `release`, so that none are held meanwhile."""

    def __init__(self, build: Callable[[], State], origin: str) -> None:
        self._build = build
        self._origin = origin
        self._state: State | None = build()
        self._weights = {
            name: Weight(name, NAMES[value.dtype], tuple(value.shape), value.nbytes)
            for name, value in self._state.items()
        }

    @property
    def weights(self) -> Mapping[str, Weight]:
        return self._weights

    def read_into(self, name: str, buffer: memoryview) -> None:
        if self._state is None:
            self._state = self._build()
        value = self._state.get(name)
        if value is None or value.nbytes != len(buffer):
            raise CheckpointError(f"{self._origin}: the tensor {name} is not as it was listed")
        buffer[:] = _bytes(value)

    def digest(self) -> str:
        state = self._state if self._state is not None else self._build()
        told = hashlib.sha256()
        for name in sorted(state):
            told.update(f"{name}|{state[name].dtype}|{tuple(state[name].shape)}|".encode())
            told.update(_bytes(state[name]))
        return told.hexdigest()

    def release(self) -> None:
        self._state = None


def _bytes(value: torch.Tensor) -> memoryview:
    flat = value.detach().contiguous().reshape(-1).view(torch.uint8)
    return memoryview(flat.numpy().data)
