"""Floating-point operations of matrix products, counted as they are dispatched."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from dsi_mqtt.engine.torch.trees import Operation, Tree

_aten = torch.ops.aten
_ATTENTION: Final = (
    _aten.scaled_dot_product_attention,
    _aten._scaled_dot_product_flash_attention_for_cpu,  # noqa: SLF001 - its only name
)


class FlopCount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Multiplications and additions apart, so a product of (m, k) and (k, n) counts 2mkn."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._count = 0.0

    def take(self) -> float:
        """What was counted since the last call."""
        count, self._count = self._count, 0.0
        return count

    def add(self, count: float) -> None:
        self._count += count

    def __torch_dispatch__(
        self,
        func: Operation,
        types: Iterable[type],
        args: tuple[Tree, ...] = (),
        kwargs: dict[str, Tree] | None = None,
    ) -> Tree:
        del types
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            # Tensors without values are asked for their device in passing; the tensor answers.
            return NotImplemented
        packet = func.overloadpacket
        if packet not in flop_registry and packet not in _ATTENTION:
            with self:
                # What is made of products is counted by them.
                made = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if made is NotImplemented else made
        out = func(*args, **kwargs)
        if packet in _ATTENTION:
            query, key, value = (tensor.shape for tensor in args[:3])
            self._count += sdpa_flop_count(query, key, value)  # type: ignore[no-untyped-call]
        else:
            self._count += flop_registry[packet](*args, **kwargs, out_val=out)
        return out
