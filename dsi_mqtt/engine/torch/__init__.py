"""Engines over torch: checkpoint folders of transformers, and sequential models of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

import torch

from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.engine.torch.checkpoint import open_checkpoint
from dsi_mqtt.engine.torch.engine import TorchEngine
from dsi_mqtt.engine.torch.generation import GenerationEngine
from dsi_mqtt.engine.torch.generative import open_generative
from dsi_mqtt.engine.torch.own import OwnModel
from dsi_mqtt.engine.torch.sequential import open_sequential
from dsi_mqtt.errors import ConfigError

__all__ = ["GenerationEngine", "OwnModel", "TorchEngine", "TorchFactory"]


@dataclass(frozen=True, slots=True)
class TorchFactory:
    """Opens torch engines. threads: of one matrix product, for the whole process."""

    threads: int = 1

    @overload
    def open(self, model: ModelSpec, generation: None = None) -> TorchEngine: ...

    @overload
    def open(self, model: ModelSpec, generation: Generation) -> GenerationEngine: ...

    def open(
        self, model: ModelSpec, generation: Generation | None = None
    ) -> TorchEngine | GenerationEngine:
        """Raises ConfigError, CheckpointError, and SplitError for a model that is no chain."""
        torch.set_num_threads(self.threads)
        if generation is not None:
            if model.tier != "layer":
                raise ConfigError(
                    f"model.tier {model.tier!r} answers in one pass; deploy with kind: one-pass"
                )
            return open_generative(model, generation)
        if model.tier == "layer":
            return open_checkpoint(model)
        if model.tier == "sequential":
            return open_sequential(model)
        raise ConfigError(f"model.tier is {model.tier!r}; torch opens 'layer' and 'sequential'")
