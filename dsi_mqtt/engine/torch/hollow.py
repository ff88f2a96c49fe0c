"""Modules of one's own without their weights: built, cast and searched for what is shared."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch
from torch import nn

from dsi_mqtt.engine.torch.build import set_tensor, stored_buffers


@contextlib.contextmanager
def hollow_parameters() -> Iterator[None]:
    """On this thread, parameters go to meta as modules register them; buffers stay real.

    Taking a module's own initialisation to meta as well, it allocates no weights.
    """
    ours = threading.get_ident()
    register = nn.Module.register_parameter

    def hollow(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if param is not None and not param.is_meta and threading.get_ident() == ours:
            self._parameters[name] = nn.Parameter(param.to("meta"), requires_grad=False)

    nn.Module.register_parameter = hollow  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def cast_hollow(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """As `module.to(dtype)`, and stored buffers on meta."""
    module = module.to(dtype)
    for name, buffer in stored_buffers(module).items():
        set_tensor(module, name, buffer.to("meta"))
    return module


def cast(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return value.to(dtype) if value.is_floating_point() else value


def tied_names(module: nn.Module) -> dict[str, str]:
    """Parameters that the module has under several names, by the name of the first."""
    first: dict[int, str] = {}
    ties = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            ties[name] = first[id(parameter)]
        first.setdefault(id(parameter), name)
    return ties
