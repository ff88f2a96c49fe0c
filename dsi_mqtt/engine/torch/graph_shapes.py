"""Which sizes of its inputs a graph was exported for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final

import torch
from torch.export import ExportedProgram
from torch.utils._sympy.numbers import int_oo

from dsi_mqtt.errors import InvalidInputError, SplitError

# What the tracer never tells apart: it takes a dimension that it keeps open for two or more.
_LEAST: Final = 2
_NAMES: Final = {"min": min, "max": max, "abs": abs, "int": int, "float": float, "math": math}
_SIZE: Final = re.compile(r"L\['(\w+)'\]\.size\(\)\[(\d+)\]")


Sizes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Size:
    """A dimension that is open. name: the same for dimensions that are always equal."""

    name: str
    least: int
    most: int | None


class _Sizes(tuple[int, ...]):
    """Dimensions as guards ask tensors for them."""

    __slots__ = ()

    def size(self) -> tuple[int, ...]:
        return self


@dataclass(frozen=True, slots=True)
class Shapes:
    """Dimensions of each input, and conditions on them as Python expressions.

    ones: sets of dimensions, by name, that may be one together though exported for two or more:
        trials showed that the graph is the module's there, too.
    """

    inputs: Mapping[str, tuple[int | Size, ...]]
    guards: tuple[str, ...]
    ones: frozenset[frozenset[str]] = frozenset()

    @property
    def rows(self) -> set[str]:
        """What the number of rows is called; inputs that are never compared have names apart."""
        firsts = (dimensions[0] for dimensions in self.inputs.values())
        return {first.name for first in firsts if isinstance(first, Size)}

    def may_be_one(self) -> list[frozenset[str]]:
        """What `ones` may hold: each open dimension, and all of them."""
        open_ones = {
            dimension.name
            for dimensions in self.inputs.values()
            for dimension in dimensions
            if isinstance(dimension, Size) and dimension.least == _LEAST
        } - self.rows
        singles = [frozenset({name}) for name in sorted(open_ones)]
        return [*singles, frozenset(open_ones)] if len(singles) > 1 else singles

    def sizes(self, like: Mapping[str, tuple[int, ...]], rows: int, ones: frozenset[str]) -> Sizes:
        """As `like` (shapes of one row), but for the rows and for dimensions that are one."""
        return {
            name: tuple(
                1 if isinstance(dimension, Size) and dimension.name in ones else size
                for size, dimension in zip((rows, *row), self.inputs[name], strict=True)
            )
            for name, row in like.items()
        }

    def check(self, sizes: Mapping[str, tuple[int, ...]]) -> None:
        """Raises InvalidInputError for inputs that the graph was not exported for."""
        ones = self._ones_in(sizes)
        allowed = self.rows | (ones if ones in self.ones else set())
        rows = next(iter(sizes.values()))[:1]
        known = dict.fromkeys(self.rows, *rows)
        for name, dimensions in self.inputs.items():
            given = sizes[name]
            if len(given) != len(dimensions):
                row = ", ".join("…" if isinstance(item, Size) else str(item) for item in dimensions)
                raise InvalidInputError(
                    f"{name} has shape {given}; the model takes ({row}), rows first"
                )
            for place, (size, dimension) in enumerate(zip(given, dimensions, strict=True)):
                _check_size(f"dimension {place} of {name}", size, dimension, known, allowed)
        self._check_guards(sizes)

    def _ones_in(self, sizes: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
        pairs = (zip(sizes[name], items, strict=False) for name, items in self.inputs.items())
        found = {
            dimension.name
            for size, dimension in chain.from_iterable(pairs)
            if isinstance(dimension, Size) and size == 1
        }
        return frozenset(found - self.rows)

    def _check_guards(self, sizes: Mapping[str, tuple[int, ...]]) -> None:
        # One row behaves like two, or verification would have refused the model.
        counted = {
            name: _Sizes((max(given[0], _LEAST), *given[1:])) for name, given in sizes.items()
        }
        for guard in self.guards:
            if not eval(guard, dict(_NAMES), {"L": counted}):  # noqa: S307 - the tracer's own
                raise InvalidInputError(
                    f"the model does not take these sizes: it needs {readable(guard)}"
                )


def readable(guard: str) -> str:
    return _SIZE.sub(r"\1.shape[\2]", guard)


def read_shapes(program: ExportedProgram, inputs: Mapping[str, str]) -> Shapes:
    """The dimensions of the placeholders `inputs`. Raises SplitError when rows are not open."""
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    dimensions = {
        name: tuple(_dimension(size, program) for size in placeholders[place].meta["val"].shape)
        for name, place in inputs.items()
    }
    shapes = Shapes(dimensions, tuple(program._guards_code))  # noqa: SLF001 - their only place
    for name, items in dimensions.items():
        if not isinstance(items[0], Size) or items[0].least > _LEAST:
            raise SplitError(f"the model does not take any number of rows of {name}")
    return shapes


def _dimension(size: int | torch.SymInt, program: ExportedProgram) -> int | Size:
    if isinstance(size, int):
        return size
    symbol = size.node.expr
    if symbol.is_number:
        return int(symbol)
    if not symbol.is_Symbol:
        raise SplitError(f"a dimension of the inputs is derived of others: {symbol}")
    among = program.range_constraints[symbol]
    most = None if among.upper is int_oo else int(among.upper)
    return Size(str(symbol), int(among.lower), most)


def _check_size(
    what: str, size: int, dimension: int | Size, known: dict[str, int], ones: set[str]
) -> None:
    """known: sizes by name, added to. ones: dimensions that may be one."""
    if isinstance(dimension, int):
        if size != dimension:
            raise InvalidInputError(f"{what} is {size}; the model takes {dimension}")
        return
    if known.setdefault(dimension.name, size) != size:
        raise InvalidInputError(
            f"{what} is {size}, and {known[dimension.name]} where it must be the same"
        )
    least = 1 if dimension.name in ones else dimension.least
    if size < least:
        raise InvalidInputError(f"{what} is {size}; the model takes {least} or more")
    if dimension.most is not None and size > dimension.most:
        raise InvalidInputError(f"{what} is {size}; the model takes {dimension.most} at most")
