"""The factory for a model's tier. Torch is imported only where a model needs it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.engine.base import Engine, EngineFactory
from dsi_mqtt.engine.fake import FakeFactory
from dsi_mqtt.errors import ConfigError, MachineError

# What `engine/torch/` imports. The extra `node` brings all of it.
_NEEDED: Final = ("torch", "transformers", "safetensors")


def missing_packages() -> list[str]:
    """Packages without which this machine refuses every model but the fake ones."""
    return [name for name in _NEEDED if find_spec(name) is None]


@dataclass(frozen=True, slots=True)
class TierFactory:
    """Opens the engine of whatever tier a model has. threads: of one matrix product."""

    threads: int = 1

    def open(self, model: ModelSpec, generation: Generation | None = None) -> Engine:
        return factory_for(model, threads=self.threads).open(model, generation)


def factory_for(model: ModelSpec, *, threads: int = 1) -> EngineFactory:
    """Raises ConfigError for an unknown tier, MachineError where torch is not installed."""
    if model.tier == "fake":
        return FakeFactory()
    if model.tier not in ("layer", "sequential", "graph"):
        raise ConfigError(f"model.tier is {model.tier!r}; give layer, sequential, graph or fake")
    try:
        from dsi_mqtt.engine.torch import factory_of  # noqa: PLC0415 - see above
    except ModuleNotFoundError as error:
        raise MachineError(
            f"a {model.tier} model needs {error.name}; pip install '.[node]' in the checkout"
        ) from error
    return factory_of(model.tier, threads)
