"""Any segment of a model, computed by the model's own forward.

In a pass for the units `[start, stop)` the blocks below `start` only hand a phantom on, block
`start` gets the received stream instead, and what enters unit `stop` ends the pass. Masks,
positions and windows are thereby the model's own work, with the layers' true indexes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

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
        self._steady: dict[int, Tree] = {}

    def load(self, units: UnitRange) -> None:
        self.holding.load(units, self.structure.needs)

    def run(
        self, units: UnitRange, inputs: Mapping[str, torch.Tensor], stream: torch.Tensor | None
    ) -> Tree:
        """The stream that leaves `units`, or the model's output when they end with the head.

        inputs: the model's keyword arguments; phantoms where only the shape came.
        stream: what entered unit `units.start`; None when that is the prelude.
        """
        segment = _SegmentPass(units, len(self.structure.blocks), stream, self._steady)
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


class _StreamEnds(Exception):  # noqa: N818 - it ends a forward early and is no error
    def __init__(self, stream: torch.Tensor) -> None:
        super().__init__()
        self.stream = stream


@dataclass(slots=True)
class _SegmentPass:
    """last: the unit of the last block. steady: see `_skip`; kept from pass to pass."""

    units: UnitRange
    last: int
    stream: torch.Tensor | None
    steady: dict[int, Tree]

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
        return with_stream(value, self.stream)

    def _skip(
        self, unit: int, forward: Forward, args: tuple[Tree, ...], kwargs: dict[str, Tree]
    ) -> Tree:
        """What a block below the segment returns, as a phantom.

        A block that once kept the shape of its stream always does, so it need not run again: its
        result is remembered with the stream left out. Others, at the ends of stages, run on
        phantoms, which costs their operations but no arithmetic.
        """
        stream = stream_of((args, kwargs))
        assert stream is not None  # noqa: S101 - the trace saw the block with one
        if not isinstance(stream, Phantom):
            stream = phantom_like(stream)
            args, kwargs = with_stream((args, kwargs), stream)
        if unit in self.steady:
            return with_stream(self.steady[unit], stream)
        try:
            result = forward(*args, **kwargs)
        except NeedsValueError:
            result = stream
        left = stream_of(result)
        if left is not None and left.shape == stream.shape and len(phantoms_in(result)) == 1:
            self.steady[unit] = with_stream(result, phantom_like(stream))
        return result


def _end(value: Tree) -> None:
    stream = stream_of(value)
    assert stream is not None  # noqa: S101 - the trace saw the block with one
    raise _StreamEnds(stream)


def _some(sources: set[str] | frozenset[str]) -> str:
    shown = sorted(sources)[:3]
    return ", ".join(shown) + (" …" if len(sources) > len(shown) else "") if shown else "values"
