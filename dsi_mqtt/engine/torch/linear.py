"""Linear layers over a few rows: a step of decoding with some sessions.

Some libraries of matrix products compute two to sixteen rows as slowly as one after the other,
and are twice as fast when the weights are the left factor. Which way is faster is measured once
in each process, for each dtype and number of rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Final

import torch
from torch import nn
from torch.nn import functional

ROWS_MAX: Final = 16
# Of the weights of the trial: more than the caches of a core hold.
_WIDTHS: Final = (2048, 1024)
_PASSES: Final = 5
# The other way must be this much faster, so that noise does not choose it.
_GAIN: Final = 1.15


class FewRowsLinear(nn.Linear):
    """Computes what `nn.Linear` does, in the faster way; the last digits may differ."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - as the library's
        # Phantoms and hollow weights are no plain tensors of the CPU.
        plain = type(input) is torch.Tensor and self.weight.device.type == "cpu"
        rows = input.numel() // self.in_features if plain else 0
        if not 1 < rows <= ROWS_MAX or rows not in _turned(self.weight.dtype):
            return functional.linear(input, self.weight, self.bias)
        return _turned_linear(input, self.weight, self.bias)


def favour_few_rows(module: nn.Module) -> None:
    """Makes each plain `nn.Linear` below `module` a `FewRowsLinear`, in place.

    Which way is faster is found out here, so that no step that serves waits for it.
    """
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = FewRowsLinear
            _turned(part.weight.dtype)


def _turned_linear(
    given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """With the weights as the left factor."""
    flat = given.reshape(-1, given.shape[-1])
    made = (weight @ flat.t()).t().contiguous()
    if bias is not None:
        made += bias
    return made.view(*given.shape[:-1], -1)


@cache
def _turned(dtype: torch.dtype) -> frozenset[int]:
    """The numbers of rows for which the turned way is faster on this machine."""
    weight = torch.zeros(_WIDTHS, dtype=dtype)
    found = set()
    tried = 2
    while tried <= ROWS_MAX:
        rows = torch.zeros((tried, _WIDTHS[1]), dtype=dtype)
        usual = _least_s(lambda rows=rows: functional.linear(rows, weight))  # type: ignore[misc]  # mypy infers no lambda with a default
        turned = _least_s(lambda rows=rows: _turned_linear(rows, weight, None))  # type: ignore[misc]
        if turned * _GAIN < usual:
            found |= set(range(tried, 2 * tried))
        tried *= 2
    return frozenset(found)


def _least_s(compute: Callable[[], torch.Tensor]) -> float:
    seconds = []
    for _ in range(_PASSES):
        began = time.perf_counter()
        compute()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
