"""Any segment of a model, computed by the model's own forward.

In a pass for the units `[start, stop)` the blocks below `start` only hand a phantom on, block
`start` gets the received stream instead, and what enters unit `stop` ends the pass. Masks,
positions and windows are thereby the model's own work, with the layers' true indexes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import nn
from torch.utils import _pytree as pytree

from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.engine.torch.holding import Holding
from dsi_mqtt.engine.torch.phantom import (
    NeedsValueError,
    Phantom,
    phantom_like,
    phantoms_in,
    sources_of,
)
from dsi_mqtt.engine.torch.structure import Reference, Structure, find_structure
from dsi_mqtt.engine.torch.taps import Forward, Taps, stream_of, with_stream
from dsi_mqtt.engine.torch.trees import Tree
from dsi_mqtt.errors import SplitError, WireError

# Shapes that a segment meets in turn, lengths of texts for the most part.
_KNOWN_MAX: Final = 4096


class SplitModel:
    """A model of which any units may be held and run. Not for two threads at once."""

    def __init__(
        self,
        module: nn.Module,
        holding: Holding,
        reference: Reference,
        levels: list[tuple[str, ...]],
    ) -> None:
        """module: hollow, filled by `holding`. levels: see `find_structure`. Raises SplitError."""
        self.module = module
        self.holding = holding
        self.structure: Structure = find_structure(module, reference, levels)
        self._taps = Taps(module, self.structure.blocks)
        self._known = _Known()

    def load(self, units: UnitRange) -> None:
        self._known.outside.clear()
        self.holding.load(units, self.structure.needs)

    def drop(self, units: UnitRange) -> None:
        self._known.outside.clear()
        self.holding.drop(units)

    def run(
        self, units: UnitRange, inputs: Mapping[str, Tree], stream: torch.Tensor | None
    ) -> Tree:
        """The stream that leaves `units`, or the model's output when they end with the head.

        inputs: the model's keyword arguments; phantoms where only the shape came.
        stream: what entered unit `units.start`; None when that is the prelude.
        """
        segment = _SegmentPass(units, len(self.structure.blocks), stream, self._known)
        try:
            with torch.inference_mode(), self._taps.running(segment):
                result = self.module(**inputs)
        except _StreamEnds as end:
            result = end.stream
        except NeedsValueError as error:
            raise SplitError(f"units {units} lack {_some(error.sources)}: {error}") from error
        if phantoms_in(result):
            raise SplitError(f"units {units} lack {_some(sources_of(result))}")
        return result

    def follow(self, inputs: Mapping[str, Tree]) -> None:
        """Runs the whole on phantoms, so that what is in `inputs` sees all of it.

        While no weights are held. Raises what the model raises.
        """
        beyond = len(self.structure.needs)
        segment = _SegmentPass(UnitRange(beyond, beyond), beyond - 2, None, self._known)
        with torch.inference_mode(), self._taps.running(segment):
            self.module(**inputs)


class _StreamEnds(Exception):  # noqa: N818 - it ends a forward early and is no error
    def __init__(self, stream: torch.Tensor) -> None:
        super().__init__()
        self.stream = stream


@dataclass(slots=True)
class _Known:
    """What parts of the model that a segment does not hold were seen to return.

    kept: blocks that keep the shape of their stream; such a one always does. Its result with
        the stream left out, or None where the result is the stream alone.
    outside: results of modules beside the blocks, by module and shapes of the arguments. Only
        while the weights held are the same.
    """

    kept: dict[int, Tree] = field(default_factory=dict)
    outside: dict[Tree, Tree] = field(default_factory=dict)


@dataclass(slots=True)
class _SegmentPass:
    """last: the unit of the last block. entered: whether what came is in the model's flow."""

    units: UnitRange
    last: int
    stream: torch.Tensor | None
    known: _Known
    entered: bool = False

    def outside(
        self, path: str, forward: Forward, args: tuple[Tree, ...], kwargs: dict[str, Tree]
    ) -> Tree:
        """Ahead of the segment a module is not run again for shapes it was seen with."""
        key = None if self.units.start == 0 or self.entered else _key(path, args, kwargs)
        if key is None:
            return forward(*args, **kwargs)
        if key not in self.known.outside:
            result = forward(*args, **kwargs)
            if type(result) is not Phantom:
                return result
            if len(self.known.outside) >= _KNOWN_MAX:
                self.known.outside.clear()
            self.known.outside[key] = result
        return phantom_like(self.known.outside[key], self.known.outside[key].sources)

    def block(
        self, unit: int, forward: Forward, args: tuple[Tree, ...], kwargs: dict[str, Tree]
    ) -> Tree:
        start, stop = self.units
        if unit == stop:
            _end((args, kwargs))
        if unit < start:
            result = self._skip(unit, forward, args, kwargs)
            return self._received(result) if start == self.last + 1 == unit + 1 else result
        if unit == start:
            args, kwargs = self._received((args, kwargs))
        result = forward(*args, **kwargs)
        if unit == self.last and stop == self.last + 1:
            _end(result)
        return result

    def _received(self, value: Tree) -> Tree:
        """`value` with the stream that came from the segment before."""
        expected = stream_of(value)
        if self.stream is None or expected is None:
            raise WireError(f"units {self.units} need the stream of the units before")
        if self.stream.shape != expected.shape or self.stream.dtype != expected.dtype:
            raise WireError(
                f"hidden_states is {self.stream.dtype} {tuple(self.stream.shape)}, units "
                f"{self.units} expect {expected.dtype} {tuple(expected.shape)}"
            )
        self.entered = True
        return with_stream(value, self.stream)

    def _skip(
        self, unit: int, forward: Forward, args: tuple[Tree, ...], kwargs: dict[str, Tree]
    ) -> Tree:
        """What a block below the segment returns, as a phantom.

        Blocks that change the shape, at the ends of stages, run on phantoms each time, which
        costs their operations but no arithmetic.
        """
        kept = self.known.kept
        if unit in kept and kept[unit] is None and args and type(args[0]) is Phantom:
            return args[0]
        stream = stream_of((args, kwargs))
        assert stream is not None  # noqa: S101 - the trace saw the block with one
        if type(stream) is not Phantom:
            stream = phantom_like(stream)
            args, kwargs = with_stream((args, kwargs), stream)
        if unit in kept:
            return stream if kept[unit] is None else with_stream(kept[unit], stream)
        try:
            result = forward(*args, **kwargs)
        except NeedsValueError:
            result = stream
        left = stream_of(result)
        if left is not None and left.shape == stream.shape and _is_hollow(result):
            kept[unit] = None if left is result else with_stream(result, phantom_like(stream))
        return result


def _is_hollow(result: Tree) -> bool:
    """Whether nothing in a block's result but the shapes of phantoms depends on its input.

    What comes besides the stream (attentions, for the most part) is kept with the shape it had.
    That is a phantom's, of which no result can be made.
    """
    leaves = pytree.tree_leaves(result)
    return all(leaf is None or isinstance(leaf, Phantom) for leaf in leaves)


def _key(path: str, args: tuple[Tree, ...], kwargs: dict[str, Tree]) -> Tree:
    """What tells calls with other shapes apart; None for arguments of which that is not known."""
    parts: list[Tree] = [path]
    for name, value in (*enumerate(args), *kwargs.items()):
        if isinstance(value, torch.Tensor):
            parts.append((name, type(value), value.shape, value.stride(), value.dtype))
        elif value is None or isinstance(value, bool | int | float | str):
            parts.append((name, value))
        else:
            return None
    return tuple(parts)


def _end(value: Tree) -> None:
    stream = stream_of(value)
    assert stream is not None  # noqa: S101 - the trace saw the block with one
    raise _StreamEnds(stream)


def _some(sources: set[str] | frozenset[str]) -> str:
    shown = sorted(sources)[:3]
    return ", ".join(shown) + (" …" if len(sources) > len(shown) else "") if shown else "values"
