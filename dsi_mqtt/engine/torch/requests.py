"""What the prelude makes of one body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Request:
    """inputs: the model's keyword arguments, the first dimension counts rows.

    batched: whether a list came, so that a list is answered.
    """

    inputs: Mapping[str, torch.Tensor]
    batched: bool

    @property
    def size(self) -> int:
        """Rows."""
        return len(next(iter(self.inputs.values())))
