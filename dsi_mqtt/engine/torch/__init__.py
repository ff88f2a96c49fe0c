"""Engines over torch: checkpoint folders of transformers, and models of one's own."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.engine.torch.checkpoint import open_checkpoint
from dsi_mqtt.engine.torch.engine import TorchEngine
from dsi_mqtt.engine.torch.graph import open_graph
from dsi_mqtt.engine.torch.graph_engine import GraphEngine
from dsi_mqtt.engine.torch.own import OwnModel
from dsi_mqtt.engine.torch.sequential import open_sequential
from dsi_mqtt.errors import ConfigError

__all__ = ["GraphEngine", "GraphFactory", "OwnModel", "TorchEngine", "TorchFactory"]


@dataclass(frozen=True, slots=True)
class TorchFactory:
    """Opens torch engines. threads: of one matrix product, for the whole process."""

    threads: int = 1

    def open(self, model: ModelSpec) -> TorchEngine:
        """Raises ConfigError, CheckpointError, and SplitError for a model that is no chain."""
        torch.set_num_threads(self.threads)
        if model.tier == "layer":
            return open_checkpoint(model)
        if model.tier == "sequential":
            return open_sequential(model)
        raise ConfigError(f"model.tier is {model.tier!r}; torch opens 'layer' and 'sequential'")


@dataclass(frozen=True, slots=True)
class GraphFactory:
    """Opens graph engines. threads: of one matrix product, for the whole process."""

    threads: int = 1

    def open(self, model: ModelSpec) -> GraphEngine:
        """Raises ConfigError, CheckpointError, and SplitError for a model that cannot be cut."""
        torch.set_num_threads(self.threads)
        return open_graph(model)
