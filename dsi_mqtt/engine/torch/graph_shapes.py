"""Which sizes of its inputs a graph was exported for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import sympy
import torch
from torch.export import ExportedProgram
from torch.utils._sympy.numbers import int_oo

from dsi_mqtt.errors import InvalidInputError, SplitError

# What the tracer never tells apart: it takes a dimension that it keeps open for two or more.
_LEAST: Final = 2
_NAMES: Final = {"min": min, "max": max, "abs": abs, "int": int, "float": float, "math": math}
_SIZE: Final = re.compile(r"L\['(\w+)'\]\.size\(\)\[(\d+)\]")


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
    """Dimensions of each input, and conditions on them as Python expressions."""

    inputs: Mapping[str, tuple[int | Size, ...]]
    guards: tuple[str, ...]

    @property
    def rows(self) -> set[str]:
        """What the number of rows is called; inputs that are never compared have names apart."""
        firsts = (dimensions[0] for dimensions in self.inputs.values())
        return {first.name for first in firsts if isinstance(first, Size)}

    def check(self, sizes: Mapping[str, tuple[int, ...]]) -> None:
        """Raises InvalidInputError for inputs that the graph was not exported for."""
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
                _check_size(f"dimension {place} of {name}", size, dimension, known)
        self._check_guards(sizes)

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
    if not isinstance(symbol, sympy.Symbol):
        raise SplitError(f"a dimension of the inputs is derived of others: {symbol}")
    among = program.range_constraints[symbol]
    most = None if among.upper is int_oo else int(among.upper)
    return Size(str(symbol), int(among.lower), most)


def _check_size(what: str, size: int, dimension: int | Size, known: dict[str, int]) -> None:
    if isinstance(dimension, int):
        if size != dimension:
            raise InvalidInputError(f"{what} is {size}; the model takes {dimension}")
        return
    if known.setdefault(dimension.name, size) != size:
        raise InvalidInputError(
            f"{what} is {size}, and {known[dimension.name]} where it must be the same"
        )
    least = 1 if what.startswith("dimension 0") else dimension.least
    if size < least or (dimension.most is not None and size > dimension.most):
        most = "" if dimension.most is None else f" to {dimension.most}"
        raise InvalidInputError(f"{what} is {size}; the model takes {least}{most or ' or more'}")
