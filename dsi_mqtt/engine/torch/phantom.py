"""Tensors without values: what a segment computes of the parts of the model it does not hold.

A segment keeps the model's own `forward`. Units it does not own have *phantom* weights: they have
shape and dtype, say that they lie on the CPU, and hold nothing. Whatever is computed from a
phantom is a phantom, so shapes come out right, while masks and positions, which depend on no
foreign weight, stay real. A phantom remembers its sources (names of weights and inputs), so that
what a unit needs can be read off its output.

Nothing turns a phantom into a number: an operation that needs its value raises NeedsValueError.
That makes splitting fail closed: a result that lacks something cannot look like a result.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Self

import torch
from torch.utils import _pytree as pytree

from dsi_mqtt.engine.torch.trees import Operation, Tree

_META: Final = torch.device("meta")
_CPU: Final = torch.device("cpu")
_aten = torch.ops.aten
# What these fill in depends on no value of their first argument: their results are real. The full
# ones carry their filling as the argument at that index.
_FILLS: Final = {
    _aten.zeros_like.default: 0,
    _aten.ones_like.default: 1,
    _aten.new_zeros.default: 0,
    _aten.new_ones.default: 1,
}
_FULLS: Final = {_aten.full_like.default: 1, _aten.new_full.default: 2}
_SIZED: Final = frozenset({_aten.new_zeros.default, _aten.new_ones.default, _aten.new_full.default})
# Arguments that tell two calls apart by being equal or not.
_PLAIN: Final = (
    bool,
    int,
    float,
    str,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
)
# The results of operations on arguments of the same shapes.
_seen: dict[Tree, tuple[torch.Size, tuple[int, ...], torch.dtype]] = {}
_SEEN_MAX: Final = 4096


class NeedsValueError(RuntimeError):
    """An operation needs the values of a phantom; `sources` says whose."""

    def __init__(self, operation: str, sources: frozenset[str]) -> None:
        super().__init__(f"{operation} needs values that are not held here")
        self.sources = sources


class Phantom(torch.Tensor):
    """See the module. Views share one set of sources, for writing to one writes to all."""

    # Nothing is overridden above dispatch, and asking for it costs microseconds an attribute.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # noqa: SLF001 - as torch documents it

    inner: torch.Tensor  # type: ignore[assignment]  # the product of that name is not used
    sources: set[str]

    def __new__(cls, inner: torch.Tensor, sources: set[str]) -> Self:
        if not torch.is_inference_mode_enabled():
            # An inference tensor, for the passes they flow through run in inference mode.
            with torch.inference_mode():
                return cls(inner, sources)
        phantom: Self = torch.Tensor._make_wrapper_subclass(  # noqa: SLF001 - documented so
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=_CPU
        )
        phantom.inner = inner
        phantom.sources = sources
        return phantom

    def __repr__(self) -> str:  # type: ignore[override]  # there are no contents to show
        return f"Phantom({tuple(self.shape)}, {self.dtype}, of {sorted(self.sources)})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # a class method, as torch documents it
        cls,
        func: Operation,
        types: Iterable[type],
        args: tuple[Tree, ...] = (),
        kwargs: dict[str, Tree] | None = None,
    ) -> Tree:
        del types
        if func in _FILLS or func in _FULLS:
            return _filled(func, args, kwargs or {})
        sources: set[str] = set()
        hollow_args = [_hollow(value, sources) for value in args]
        hollow_kwargs = {name: _hollow(value, sources) for name, value in (kwargs or {}).items()}
        written = args[0] if func._schema.is_mutable else None  # noqa: SLF001 - no public way
        if written is not None and type(written) is not Phantom:
            raise NeedsValueError(str(func), frozenset(sources))
        try:
            out = _computed(func, hollow_args, hollow_kwargs)
        except (NotImplementedError, RuntimeError) as error:
            # Some operations check values, or have no form that works without.
            raise NeedsValueError(str(func), frozenset(sources)) from error
        if written is not None:
            written.sources |= sources
            return written
        if func.is_view and type(args[0]) is Phantom:
            sources = args[0].sources
        return _wrap(out, func, sources)


def phantom_like(tensor: torch.Tensor, sources: Iterable[str] = ()) -> Phantom:
    """A phantom with the shape, strides and dtype of `tensor`."""
    return Phantom(_hollow(tensor, set()), set(sources))


def phantom(shape: Iterable[int], dtype: torch.dtype, sources: Iterable[str] = ()) -> Phantom:
    return Phantom(torch.empty(tuple(shape), dtype=dtype, device=_META), set(sources))


def phantoms_in(value: object) -> list[Phantom]:
    if isinstance(value, torch.Tensor):
        return [value] if isinstance(value, Phantom) else []
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Phantom)]


def sources_of(value: object) -> set[str]:
    """The sources of all phantoms within `value`."""
    return set().union(*(phantom.sources for phantom in phantoms_in(value)))


def _computed(func: Operation, args: list[Tree], kwargs: dict[str, Tree]) -> Tree:
    """What `func` makes of hollow arguments, remembered by their shapes where it is a new tensor.

    A segment meets the same shapes step after step, and Torch's rules for them are slow.
    """
    old = func.is_view or func._schema.is_mutable  # noqa: SLF001 - as above
    key = None if old else _key((args, kwargs))
    if (func, key) in _seen:
        shape, strides, dtype = _seen[func, key]
        return torch.empty_strided(shape, strides, dtype=dtype, device=_META)
    out = func(*args, **kwargs)
    if key is not None and type(out) is torch.Tensor:
        if len(_seen) >= _SEEN_MAX:
            _seen.clear()
        _seen[func, key] = (out.shape, out.stride(), out.dtype)
    return out


def _key(value: Tree) -> Tree:
    """What of an argument decides the shape of a result; None where that is not known."""
    if isinstance(value, torch.Tensor):
        return (value.shape, value.stride(), value.dtype)
    if isinstance(value, dict):
        value = [part for item in value.items() for part in item]
    if isinstance(value, list | tuple):
        parts = [_key(part) for part in value]
        return None if any(part is None for part in parts) else tuple(parts)
    if value is None or isinstance(value, _PLAIN):
        return (type(value), value)
    return None


def _hollow(value: Tree, sources: set[str]) -> Tree:
    """`value` with its tensors on meta; what phantoms in it come from is added to `sources`."""
    kind = type(value)
    if kind is Phantom:
        sources |= value.sources
        return value.inner
    if isinstance(value, torch.Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=_META)
    if kind is list or kind is tuple:
        return kind(_hollow(item, sources) for item in value)
    return _META if kind is torch.device else value


def _wrap(out: Tree, func: Operation, sources: set[str]) -> Tree:
    if isinstance(out, torch.Tensor):
        return Phantom(out, sources)
    if isinstance(out, tuple | list):
        return type(out)(_wrap(item, func, sources) for item in out)
    if isinstance(out, bool | int | float):
        raise NeedsValueError(str(func), frozenset(sources))
    return out


def _filled(func: Operation, args: tuple[Tree, ...], kwargs: dict[str, Tree]) -> torch.Tensor:
    """The result of an operation in `_FILLS` or `_FULLS`, with values."""
    template = args[0]
    shape = args[1] if func in _SIZED else template.shape
    value = args[_FULLS[func]] if func in _FULLS else _FILLS[func]
    return torch.full(tuple(shape), value, dtype=kwargs.get("dtype") or template.dtype)
