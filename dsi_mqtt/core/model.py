"""What the planner knows of a model: its units, what they weigh, cost and send on.

Unit 0 is the prelude (decoding of the input, embeddings), 1..N the blocks, N+1 the head with
its post-processing. A segment owns the units `[start, stop)`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

Tier = Literal["layer", "sequential", "graph", "fake"]

# Of a model: the planner looks at every pair of cuts on every node.
UNITS_MAX: Final = 256
# Of a reference request, where a model does not say.
INPUT_BYTES: Final = 256
RESULT_BYTES: Final = 1024


class UnitRange(NamedTuple):
    """Contiguous units `[start, stop)`."""

    start: int
    stop: int

    def __contains__(self, unit: object) -> bool:
        return isinstance(unit, int) and self.start <= unit < self.stop

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"


def runs(units: Iterable[int]) -> list[UnitRange]:
    """Maximal contiguous ranges of `units`, in order."""
    found: list[UnitRange] = []
    for unit in sorted(units):
        if found and found[-1].stop == unit:
            found[-1] = UnitRange(found[-1].start, unit + 1)
        else:
            found.append(UnitRange(unit, unit + 1))
    return found


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
    state_bytes: what a session keeps of it for one position.
    """

    name: str
    weight_bytes: int
    flops: float
    output_bytes: int
    state_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Tie:
    """Weights that several units use; a segment that holds more than one loads them once."""

    units: tuple[int, ...]
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a door must know of a model that generates.

    context: positions a session may have at most. size: token ids are below it. ends: token ids
    that end a text.
    """

    context: int
    size: int
    ends: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelGraph:
    """A model as the planner sees it. `digest` names its exact weights and configuration.

    input_bytes, result_bytes: one reference request into the prelude and out of the head.
    vocabulary: of a model opened for generation, whose reference row is one step of decoding.
    """

    digest: str
    tier: Tier
    units: tuple[Unit, ...]
    ties: tuple[Tie, ...] = ()
    input_bytes: int = INPUT_BYTES
    result_bytes: int = RESULT_BYTES
    vocabulary: Vocabulary | None = None

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

    def state_bytes(self, units: UnitRange) -> int:
        """Bytes that a session keeps of `units` for one position."""
        return sum(self.units[unit].state_bytes for unit in range(*units))

    def boundary_bytes(self, cut: int) -> int:
        """Bytes of one reference row that cross the split point before unit `cut`."""
        return self.units[cut - 1].output_bytes
