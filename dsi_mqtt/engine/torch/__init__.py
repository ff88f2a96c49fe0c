"""Engines over torch: checkpoint folders of transformers, and models of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, overload

import torch

from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.engine.base import EngineFactory
from dsi_mqtt.engine.torch.checkpoint import open_checkpoint
from dsi_mqtt.engine.torch.engine import TorchEngine
from dsi_mqtt.engine.torch.generation import GenerationEngine
from dsi_mqtt.engine.torch.generative import open_generative
from dsi_mqtt.engine.torch.graph import open_graph
from dsi_mqtt.engine.torch.graph_engine import GraphEngine
from dsi_mqtt.engine.torch.own import OwnModel
from dsi_mqtt.engine.torch.sequential import open_sequential
from dsi_mqtt.errors import ConfigError

__all__ = [
    "GenerationEngine",
    "GraphEngine",
    "GraphFactory",
    "OwnModel",
    "TorchEngine",
    "TorchFactory",
    "factory_of",
]

_NO_SESSIONS: Final = "model.tier {tier} answers in one pass; deploy it with kind: one-pass"


@dataclass(frozen=True, slots=True)
class TorchFactory:
    """Opens torch engines. threads: of one matrix product, for the whole process."""

    threads: int = 1

    @overload
    def open(self, model: ModelSpec, generation: None = None) -> TorchEngine: ...

    @overload
    def open(self, model: ModelSpec, generation: Generation) -> GenerationEngine: ...

    @overload
    def open(
        self, model: ModelSpec, generation: Generation | None = None
    ) -> TorchEngine | GenerationEngine: ...

    def open(
        self, model: ModelSpec, generation: Generation | None = None
    ) -> TorchEngine | GenerationEngine:
        """Raises ConfigError, CheckpointError, and SplitError for a model that is no chain."""
        torch.set_num_threads(self.threads)
        if generation is not None:
            if model.tier != "layer":
                raise ConfigError(_NO_SESSIONS.format(tier=model.tier))
            return open_generative(model, generation)
        if model.tier == "layer":
            return open_checkpoint(model)
        if model.tier == "sequential":
            return open_sequential(model)
        raise ConfigError(f"model.tier is {model.tier!r}; torch opens 'layer' and 'sequential'")


@dataclass(frozen=True, slots=True)
class GraphFactory:
    """Opens graph engines. threads: of one matrix product, for the whole process."""

    threads: int = 1

    def open(self, model: ModelSpec, generation: Generation | None = None) -> GraphEngine:
        """Raises ConfigError, CheckpointError, and SplitError for a model that cannot be cut."""
        if generation is not None:
            raise ConfigError(_NO_SESSIONS.format(tier=model.tier))
        torch.set_num_threads(self.threads)
        return open_graph(model)


def factory_of(tier: str, threads: int) -> EngineFactory:
    """Of the tiers that torch computes. Its type is what the checker holds the engines to."""
    return GraphFactory(threads) if tier == "graph" else TorchFactory(threads)
