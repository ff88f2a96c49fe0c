"""Where a model can be cut, read off the flow of one phantom input through it.

Blocks are the children of the model's largest lists of like modules; where such a child is itself
mostly a list (the stages of ResNet or Swin), the finest level at which the flow is a chain. The
input of every block is replaced by a fresh phantom, so that the sources of the next block's input
say what the unit between the two used: which weights, which inputs of the model and, where a
shortcut bypasses the cut, which earlier block. A cut that a second tensor would cross is refused.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import nn

from dsi_mqtt.engine.torch.flops import FlopCount
from dsi_mqtt.engine.torch.phantom import NeedsValueError, Phantom, phantom_like, sources_of
from dsi_mqtt.engine.torch.taps import Forward, Taps, stream_of, with_stream
from dsi_mqtt.engine.torch.trees import Tree
from dsi_mqtt.errors import SplitError

_INPUT: Final = "input:"
_STREAM: Final = "stream:"


@dataclass(frozen=True, slots=True)
class Structure:
    """How a model falls into units. Tuples are by unit, except blocks (units 1…N) and carried.

    needs: names of the tensors a unit computes with.
    carried: inputs of the model whose values later units need, so that they cross every cut.
    streams: the tensor that leaves the unit for the reference input, on meta; None after the head.
    flops: floating-point operations for the reference input.
    """

    blocks: tuple[str, ...]
    needs: tuple[frozenset[str], ...]
    carried: tuple[str, ...]
    streams: tuple[torch.Tensor | None, ...]
    flops: tuple[float, ...]

    def entering(self, unit: int) -> torch.Tensor:
        """The tensor that enters a unit behind the prelude, for the reference input, on meta."""
        hollow = self.streams[unit - 1]
        assert hollow is not None  # noqa: S101 - only the head, the last unit, has none
        return hollow


@dataclass(frozen=True, slots=True)
class Reference:
    """One reference row. known: inputs that always cross with their values (masks)."""

    inputs: Mapping[str, torch.Tensor]
    known: frozenset[str] = frozenset()


def find_structure(
    model: nn.Module, reference: Reference, levels: list[tuple[str, ...]]
) -> Structure:
    """The finest structure whose flow is a chain. Raises SplitError when there is none.

    model: all weights phantom, each with its own name as source.
    levels: candidates for the blocks, coarsest first.
    """
    if not levels:
        raise SplitError(f"{type(model).__name__} has no list of like blocks to cut between")
    refusals = []
    for blocks in reversed(levels):
        try:
            return _trace(model, blocks, reference)
        except SplitError as refusal:
            refusals.append(refusal)
    raise refusals[-1]


def block_levels(model: nn.Module) -> list[tuple[str, ...]]:
    """Candidates for the blocks, coarsest first."""
    levels = []
    level = _largest_lists(model, "")
    while level:
        levels.append(tuple(level))
        finer = [_largest_lists(model.get_submodule(path), f"{path}.") for path in level]
        level = [path for paths in finer for path in paths] if all(finer) else []
    return levels


def _largest_lists(module: nn.Module, prefix: str) -> list[str]:
    """Children of the outermost lists of like modules; of several kinds the heaviest."""
    by_kind: defaultdict[type, list[str]] = defaultdict(list)
    sizes: defaultdict[type, int] = defaultdict(int)
    lists: list[str] = []
    for path, part in module.named_modules():
        if not isinstance(part, nn.ModuleList | nn.Sequential) or not len(part):
            continue
        kinds = {type(child) for child in part}
        size = sum(parameter.numel() for parameter in part.parameters())
        inside = any(path.startswith(f"{outer}.") for outer in lists)
        if len(kinds) != 1 or not size or inside or kinds <= {nn.ModuleList, nn.Sequential}:
            continue
        lists.append(path)
        kind = kinds.pop()
        dot = f"{path}." if path else ""
        by_kind[kind] += [f"{prefix}{dot}{name}" for name, _ in part.named_children()]
        sizes[kind] += size
    return by_kind[max(sizes, key=lambda kind: sizes[kind])] if sizes else []


def _trace(model: nn.Module, blocks: tuple[str, ...], reference: Reference) -> Structure:
    carried = set(reference.known)
    while True:
        trace = _Trace(model, blocks, reference, frozenset(carried))
        taps = Taps(model, blocks)
        try:
            with torch.inference_mode(), taps.running(trace), trace.count:
                trace.finish(model(**trace.inputs))
        except NeedsValueError as error:
            _carry_or_refuse(error.sources, carried, str(error))
            continue
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            raise SplitError(f"the model cannot be followed to its units: {error}") from error
        finally:
            taps.remove()
        if trace.carried <= carried:
            return trace.structure()
        carried |= trace.carried


def _carry_or_refuse(sources: frozenset[str], carried: set[str], reason: str) -> None:
    inputs = {name.removeprefix(_INPUT) for name in sources if name.startswith(_INPUT)}
    if inputs <= carried or len(inputs) != len(sources):
        raise SplitError(f"the model's flow depends on computed values: {reason}")
    carried |= inputs


@dataclass(slots=True)
class _Trace:
    """One pass that opens unit after unit and closes each with what it used."""

    model: nn.Module
    blocks: tuple[str, ...]
    reference: Reference
    real: frozenset[str]
    count: FlopCount = field(default_factory=FlopCount)
    needs: list[frozenset[str]] = field(default_factory=list)
    streams: list[torch.Tensor | None] = field(default_factory=list)
    flops: list[float] = field(default_factory=list)
    carried: set[str] = field(default_factory=set)

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        return {
            name: value if name in self.real else phantom_like(value, {_INPUT + name})
            for name, value in self.reference.inputs.items()
        }

    def block(
        self, unit: int, forward: Forward, args: tuple[Tree, ...], kwargs: dict[str, Tree]
    ) -> Tree:
        if unit != len(self.needs) + 1:
            raise SplitError(
                f"{self.blocks[unit - 1]} is not called once and in order, so it cannot be a unit"
            )
        args, kwargs = self._next_unit((args, kwargs))
        fresh = stream_of((args, kwargs))
        assert isinstance(fresh, Phantom)  # noqa: S101 - `_next_unit` put it there
        try:
            result = forward(*args, **kwargs)
        except NeedsValueError:
            result = self._unseen(unit, fresh, (args, kwargs))
        return self._next_unit(result) if unit == len(self.blocks) else result

    def outside(
        self, path: str, forward: Forward, args: tuple[Tree, ...], kwargs: dict[str, Tree]
    ) -> Tree:
        del path
        return forward(*args, **kwargs)

    def finish(self, output: Tree) -> None:
        if len(self.needs) != len(self.blocks) + 1:
            raise SplitError("the model returned before its last block was called")
        self._close(sources_of(output), None)

    def structure(self) -> Structure:
        return Structure(
            self.blocks,
            tuple(self.needs),
            tuple(sorted(self.real)),
            tuple(self.streams),
            tuple(self.flops),
        )

    def _next_unit(self, value: Tree) -> Tree:
        """Closes the unit that made `value` and opens the next with a fresh stream in its place."""
        stream = stream_of(value)
        if not isinstance(stream, Phantom):
            raise SplitError(f"no tensor enters {self._name(len(self.needs) + 1)}")
        self._close(stream.sources, stream.inner)
        return with_stream(value, phantom_like(stream, {f"{_STREAM}{len(self.needs)}"}))

    def _close(self, sources: set[str], stream: torch.Tensor | None) -> None:
        unit = len(self.needs)
        self._check(unit, sources)
        inputs = {name.removeprefix(_INPUT) for name in sources if name.startswith(_INPUT)}
        weights = frozenset(name for name in sources if not name.startswith((_INPUT, _STREAM)))
        if unit and inputs:
            if weights & self.needs[0]:
                raise SplitError(
                    f"{self._name(unit)} also uses what the prelude makes of "
                    f"{', '.join(sorted(inputs))}: a second tensor would cross the cut"
                )
            self.carried |= inputs
        self.needs.append(weights)
        self.streams.append(stream)
        self.flops.append(self.count.take())

    def _check(self, unit: int, sources: set[str]) -> None:
        own = f"{_STREAM}{unit}"
        for name in sorted(sources):
            if name.startswith(_STREAM) and name != own:
                other = int(name.removeprefix(_STREAM))
                raise SplitError(
                    f"{self._name(unit)} also uses what entered {self._name(other)}: "
                    "a second tensor would cross the cut"
                )
            owner = self._owner(name)
            if owner and owner != unit:
                raise SplitError(
                    f"{self._name(unit)} also uses what {self._name(owner)} makes of {name}: "
                    "a second tensor would cross the cut"
                )
        if unit and own not in sources:
            raise SplitError(f"{self._name(unit)} does not use what the unit before it hands on")

    def _owner(self, name: str) -> int:
        """The unit whose block holds the weight `name`; 0 when no block does."""
        for unit, path in enumerate(self.blocks, start=1):
            if name.startswith(f"{path}."):
                return unit
        return 0

    def _name(self, unit: int) -> str:
        if unit == 0:
            return "the prelude"
        return self.blocks[unit - 1] if unit <= len(self.blocks) else "the head"

    def _unseen(self, unit: int, fresh: Phantom, arguments: Tree) -> Phantom:
        """What a block returns whose inside depends on values, such as the routing to experts.

        It is taken to use all its weights and to keep the shape, which verification tests.
        """
        path = self.blocks[unit - 1]
        weights = _held(self.model, path)
        positions = math.prod(fresh.shape[:-1])
        self.count.take()
        self.count.add(2.0 * positions * sum(weight.numel() for weight in weights.values()))
        return phantom_like(fresh, sources_of(arguments) | weights.keys())


def _held(model: nn.Module, path: str) -> dict[str, torch.Tensor]:
    """What a checkpoint holds of the module at `path`, by full name."""
    module = model.get_submodule(path)
    return {
        name: value
        for name, value in module.state_dict(prefix=f"{path}.", keep_vars=True).items()
        if isinstance(value, torch.Tensor)
    }
