"""Any module of one's own: a smoother that looks at a signal in several resolutions at once.

`11_any_module.yaml` names the function `smoother`. Its module is no chain: what each resolution
has of the signal goes past all coarser ones to where it is added again. Nothing in it is made for
being split; the graph tier finds the cuts, and what crosses them. Weights are formulas, so every
node has the same.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from dsi_mqtt.engine.torch import OwnModel


class Pyramid(nn.Module):
    """Signals → signals, (rows, samples). Details up to `least` go, at every resolution.

    Known as a Laplacian pyramid (Burt and Adelson, 1983); a U-Net has the same shape.
    """

    def __init__(self, levels: int, least: float) -> None:
        super().__init__()
        self.blurs = nn.ModuleList(_blur() for _ in range(levels))
        self.least = least

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        coarse = signal[:, None]
        details = []
        for blur in self.blurs:
            fine, coarse = coarse, blur(coarse)
            details.append(fine - _stretched(coarse))
        for detail in reversed(details):
            coarse = _stretched(coarse) + functional.hardshrink(detail, self.least)
        return coarse[:, 0]


def smoother(samples: int = 16, levels: int = 3, least: float = 1.5) -> OwnModel:
    """The arguments are `model.options` of the deployment file.

    An input is a list of as many numbers as `samples`, a multiple of 2 ** `levels`. The answer has
    as many, without what is likely to be noise: steps stay as they are.
    """
    return OwnModel(
        Pyramid(levels, least),
        sample=torch.zeros(1, samples),
        postprocess=lambda smooth: [round(value, 2) for value in smooth.tolist()],
        fixed_shape=True,
    )


def _blur() -> nn.Conv1d:
    """Half as many samples, each the mean of those around it."""
    layer = nn.Conv1d(
        1, 1, kernel_size=5, stride=2, padding=2, padding_mode="replicate", bias=False
    )
    layer.weight = nn.Parameter(torch.tensor([[[1.0, 4.0, 6.0, 4.0, 1.0]]]) / 16)
    return layer


def _stretched(coarse: torch.Tensor) -> torch.Tensor:
    """Twice as many samples."""
    return functional.interpolate(coarse, scale_factor=2.0, mode="linear", align_corners=False)
