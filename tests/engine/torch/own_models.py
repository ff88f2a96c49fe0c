"""Factories as a user writes them."""

from __future__ import annotations

import itertools
import json

import torch
from torch import nn

from dsi_mqtt.engine.torch import OwnModel

CALLS = itertools.count()


def mlp(width: int = 8, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    first, second = nn.Linear(width, width), nn.Linear(width, width)
    second.weight = first.weight
    norm = nn.BatchNorm1d(width)
    norm.register_buffer("running_mean", torch.rand(width))
    return nn.Sequential(first, nn.ReLU(), norm, second, nn.Linear(width, 3))


class Positions(nn.Module):
    """Computes a buffer that no state dict holds."""

    steps: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.arange(36.0), persistent=False)
        self.scale = nn.Parameter(torch.ones(36))

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(value, self.scale, self.steps)


def digits() -> OwnModel:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), Positions(), nn.Linear(36, 10))

    def read(content_type: str, body: bytes) -> torch.Tensor:
        told = json.loads(body)["pixels"]
        return torch.tensor(told, dtype=torch.float32).reshape(1, 8, 8)

    def write(row: torch.Tensor) -> object:
        return {"digit": int(row.argmax())}

    return OwnModel(module, torch.zeros(1, 1, 8, 8), read, write)


def whole_numbers() -> OwnModel:
    torch.manual_seed(2)
    module = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2))
    return OwnModel(module, torch.zeros(1, 5).long(), fixed_shape=False)


class Noisy(nn.Module):
    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return value + torch.rand_like(value)


def noisy() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), Noisy())


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return value * self.weight, value


class Join(nn.Module):
    def forward(self, pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return pair[0] + pair[1]


def two_tensors() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), Pair(), Join())


def same_twice() -> nn.Sequential:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


def no_sample() -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), nn.Linear(4, 4))


def wrong_sample() -> OwnModel:
    return OwnModel(nn.Sequential(nn.Linear(4, 4)), torch.zeros(4))


def no_model() -> int:
    return 3


def empty() -> nn.Sequential:
    return nn.Sequential()


def broken() -> nn.Sequential:
    raise RuntimeError("no weights today")


def changing() -> nn.Sequential:
    torch.manual_seed(next(CALLS))
    return nn.Sequential(nn.Linear(4, 4))


not_a_function = 3
