"""A model of one's own: how fast, and how strongly, a bridge swings.

`07_own_model.yaml` names the function `swing`. It returns an `nn.Sequential`, whose children are
the units that can be placed: here a window, a Fourier transform and its power. Every node calls
the function by itself and must get the same weights. These are formulas; weights of chance need
`torch.manual_seed`, and trained ones a folder of safetensors as `model.path`.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import nn

from dsi_mqtt.engine.torch import OwnModel


class Power(nn.Module):
    """Sines and cosines of each frequency → the square of its amplitude."""

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        cosines, sines = waves.chunk(2, dim=-1)
        return cosines.square() + sines.square()


def swing(samples: int = 16, rate_hz: float = 16.0) -> OwnModel:
    """The arguments are `model.options` of the deployment file.

    An input is a list of `samples` numbers, taken `rate_hz` times a second; the answer names the
    frequency that swings most, and its amplitude in the unit of the input.
    """
    time = torch.arange(samples)
    hann = 0.5 - 0.5 * torch.cos(2 * math.pi * time / samples)
    without_mean = torch.eye(samples) - 1 / samples

    frequencies = torch.arange(samples // 2 + 1)
    angles = 2 * math.pi * frequencies[:, None] * time[None] / samples
    waves = torch.cat([torch.cos(angles), torch.sin(angles)]) * (2 / hann.sum())

    module = nn.Sequential(
        OrderedDict(
            window=_times(hann[:, None] * without_mean), fourier=_times(waves), power=Power()
        )
    )

    def told(power: torch.Tensor) -> dict[str, float]:
        most = int(power.argmax())
        return {
            "hz": most * rate_hz / samples,
            "amplitude": round(float(power[most].sqrt()), 3),
        }

    return OwnModel(module, sample=torch.zeros(1, samples), postprocess=told)


def _times(matrix: torch.Tensor) -> nn.Linear:
    """A layer that multiplies by `matrix`, of shape (outputs, inputs)."""
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
    layer.weight = nn.Parameter(matrix)
    return layer
