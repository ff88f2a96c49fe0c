"""Recurrent layers as single operations, for the tracer and for counting.

The tracer would follow every step of a sequence, which takes long and fixes its length, though what
it writes down is the one operation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import torch

from dsi_mqtt.engine.torch.trees import Operation

_aten = torch.ops.aten
_KEYS: Final = (torch._C.DispatchKey.CompositeImplicitAutograd, torch._C.DispatchKey.Autograd)  # noqa: SLF001 - their only name


def _shaped(
    value: torch.Tensor,
    hidden: Sequence[torch.Tensor],
    bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, ...]:
    """What a layer returns, in shape and strides. value: (steps, rows, features), or rows first."""
    steps_first = value.transpose(0, 1) if batch_first else value
    width = hidden[0].shape[2] * (2 if bidirectional else 1)
    output = value.new_empty((*steps_first.shape[:2], width))
    ends = tuple(state.new_empty(state.shape) for state in hidden)
    return (output.transpose(0, 1) if batch_first else output, *ends)


def _lstm(  # noqa: PLR0917 - as the operation takes them
    value: torch.Tensor,
    hidden: Sequence[torch.Tensor],
    params: Sequence[torch.Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, ...]:
    del params, has_biases, num_layers, dropout, train
    return _shaped(value, hidden, bidirectional, batch_first)


def _one_state(  # noqa: PLR0917 - as the operation takes them
    value: torch.Tensor,
    hidden: torch.Tensor,
    params: Sequence[torch.Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, ...]:
    del params, has_biases, num_layers, dropout, train
    return _shaped(value, (hidden,), bidirectional, batch_first)


_SHAPES: Final = {
    _aten.lstm.input: _lstm,
    _aten.gru.input: _one_state,
    _aten.rnn_tanh.input: _one_state,
    _aten.rnn_relu.input: _one_state,
}


@contextlib.contextmanager
def recurrent_as_one() -> Iterator[None]:
    """Within, tensors without values pass recurrent layers in one step. Real ones are unaffected.

    Changes tables of torch: one thread at a time.
    """
    before = {operation: dict(operation.py_kernels) for operation in _SHAPES}
    for operation, shape in _SHAPES.items():
        _set_kernels(operation, dict.fromkeys(_KEYS, shape))
    try:
        yield
    finally:
        for operation, kernels in before.items():
            _set_kernels(operation, kernels)


def _set_kernels(operation: Operation, kernels: Mapping[Any, Any]) -> None:
    operation.py_kernels.update(kernels)
    operation._dispatch_cache.clear()  # noqa: SLF001 - as torch does where it registers kernels


def recurrent_flops(operation: Operation, arguments: Sequence[Any]) -> float:
    """Operations of the products in a recurrent layer; 0 for any other operation."""
    if operation not in _SHAPES:
        return 0.0
    value, _, params = arguments[:3]
    positions = value.shape[0] * value.shape[1]
    return float(2 * positions * sum(item.numel() for item in params if item.dim() > 1))
