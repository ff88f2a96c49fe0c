"""What the planner knows of a model: its units, what they weigh, cost and send on.

Unit 0 is the prelude (decoding of the input, embeddings), 1..N the blocks, N+1 the head with
its post-processing. A segment owns the units `[start, stop)`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Tier = Literal["layer", "sequential", "graph", "fake"]


class UnitRange(NamedTuple):
    """Contiguous units `[start, stop)`."""

    start: int
    stop: int

    def __contains__(self, unit: object) -> bool:
        return isinstance(unit, int) and self.start <= unit < self.stop

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The `model` part of a deployment file. Paths are absolute once deployed.

    A `layer` model is a checkpoint folder (config + safetensors). A `sequential` or
    `graph` one is built by `factory` ("package.module:function"), its weights read from `path`
    where one is given.
    `options` go to the factory or to the fake engine.
    """

    path: str | None = None
    tier: Tier = "layer"
    dtype: str = "float32"
    tokenizer: str | None = None
    factory: str | None = None
    task: str | None = None
    options: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """The smallest piece of a model that can be placed.

    flops: floating-point operations for one reference row.
    output_bytes: the activation that leaves it for one reference row, 0 after the head.
    """

    name: str
    weight_bytes: int
    flops: float
    output_bytes: int


@dataclass(frozen=True, slots=True)
class Tie:
    """Weights that several units use; a segment that holds more than one loads them once."""

    units: tuple[int, ...]
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class ModelGraph:
    """A model as the planner sees it. `digest` names its exact weights and configuration.

    input_bytes, result_bytes: one reference request into the prelude and out of the head.
    """

    digest: str
    tier: Tier
    units: tuple[Unit, ...]
    ties: tuple[Tie, ...] = ()
    input_bytes: int = 256
    result_bytes: int = 1024

    @property
    def whole(self) -> UnitRange:
        return UnitRange(0, len(self.units))

    def weight_bytes(self, units: UnitRange) -> int:
        """Bytes of weights a segment `units` loads, shared ones counted once."""
        return self.held_bytes(range(*units))

    def held_bytes(self, units: Iterable[int]) -> int:
        """Bytes of weights of any units held together, shared ones counted once."""
        held = {unit for unit in units if unit in self.whole}
        total = sum(self.units[unit].weight_bytes for unit in held)
        for tie in self.ties:
            total -= max(0, len(held.intersection(tie.units)) - 1) * tie.weight_bytes
        return total

    def boundary_bytes(self, cut: int) -> int:
        """Bytes of one reference row that cross the split point before unit `cut`."""
        return self.units[cut - 1].output_bytes
