"""What `bench decode` measures: a model of one of some shapes, how it is cut, what it is asked."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.site import SiteNode
from dsi_mqtt.core.sizes import GIB, MIB
from dsi_mqtt.errors import ConfigError, MachineError
from dsi_mqtt.wire.files import deployment_of

FLOAT32: Final = 4
SEGMENTS: Final = 3
SESSIONS: Final = 8
SINGLE: Final = "single"
CHAIN: Final = "chain"
# Computed with by `generate`, by the single segment, and by the three together.
COPIES: Final = 3
# Of a process that computes, beside its weights; `generate`, four workers, this command, brokers.
PROCESS_BYTES: Final = 400 * MIB
PROCESSES: Final = 6
DEADLINE_S: Final = 1800.0

_WHOLE: Final = "whole"
_PARTS: Final = tuple(f"part-{number}" for number in range(1, SEGMENTS + 1))


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Llama, in float32, its head not tied to its embedding."""

    name: str
    layers: int
    hidden: int
    inner: int
    heads: int
    vocabulary: int

    @property
    def layer_params(self) -> int:
        return 4 * self.hidden**2 + 3 * self.hidden * self.inner + 2 * self.hidden

    @property
    def params(self) -> int:
        embedding_and_head = 2 * self.vocabulary * self.hidden
        return embedding_and_head + self.layers * self.layer_params + self.hidden

    @property
    def nbytes(self) -> int:
        return self.params * FLOAT32

    def config(self, positions: int) -> dict[str, Any]:
        """As transformers' LlamaConfig takes it. No token ends a text."""
        return {
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": positions,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": None,
        }

    def costs(self) -> tuple[int, ...]:
        """Of each unit for one token: the weights it reads. The prelude looks up one row."""
        head = self.vocabulary * self.hidden
        return (self.hidden, *[self.layer_params] * self.layers, head)

    def cache_bytes(self, positions: int) -> int:
        return 2 * self.layers * self.hidden * positions * FLOAT32


SHAPES: Final = {
    shape.name: shape
    for shape in (
        Shape("llama-336m", layers=24, hidden=1024, inner=2304, heads=16, vocabulary=32_000),
        Shape("llama-20m", layers=12, hidden=320, inner=864, heads=5, vocabulary=8_000),
        Shape("llama-1m", layers=6, hidden=96, inner=256, heads=3, vocabulary=2_000),
    )
}


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """prompts: one for each of the sessions that run at once."""

    shape: Shape
    repeats: int = 5
    prompt_tokens: int = 64
    new_tokens: int = 64
    seed: int = 0

    @property
    def positions(self) -> int:
        return self.prompt_tokens + self.new_tokens

    @property
    def prompts(self) -> tuple[tuple[int, ...], ...]:
        drawn = np.random.default_rng(self.seed).integers(
            self.shape.vocabulary, size=(SESSIONS, self.prompt_tokens)
        )
        return tuple(tuple(row) for row in drawn.tolist())

    @property
    def nodes(self) -> tuple[SiteNode, ...]:
        return tuple(SiteNode(name) for name in (_WHOLE, *_PARTS))

    def deployments(self, model: dict[str, Any]) -> tuple[Deployment, Deployment]:
        """The model in one segment, and in three; each on nodes of its own."""
        costs = self.shape.costs()
        return (
            self._deployment(SINGLE, model, {_WHOLE: UnitRange(0, len(costs))}, _PARTS),
            self._deployment(
                CHAIN, model, dict(zip(_PARTS, cut(costs, SEGMENTS), strict=True)), (_WHOLE,)
            ),
        )

    def _deployment(
        self,
        name: str,
        model: dict[str, Any],
        split: dict[str, UnitRange],
        forbidden: tuple[str, ...],
    ) -> Deployment:
        limits = {"context": self.positions, "max_tokens": self.new_tokens, "temperature": 0.0}
        # Kept caches would spare later repeats their prompts.
        limits |= {"sessions_max": SESSIONS, "queue_max": SESSIONS, "idle_s": 0}
        document = {
            "schema": "dsi.deployment/1",
            "name": name,
            "kind": "generation",
            "model": model,
            "generation": limits,
            "sla": {"deadline_ms": DEADLINE_S * 1000},
            "policy": {"forbid": list(forbidden)},
            "split": [
                {"units": f"{units.start}:{units.stop}", "nodes": [node]}
                for node, units in split.items()
            ],
        }
        return deployment_of(document, Path("bench"))


def shape_named(name: str) -> Shape:
    """Raises ConfigError."""
    shape = SHAPES.get(name)
    if shape is None:
        raise ConfigError(f"--shape: {name!r:.40} is unknown; give {', '.join(SHAPES)}")
    return shape


def cut(costs: tuple[int, ...], parts: int) -> tuple[UnitRange, ...]:
    """Into `parts` ranges of units whose dearest is as cheap as can be."""
    inner = combinations(range(1, len(costs)), parts - 1)
    ways = ((0, *stops, len(costs)) for stops in inner)
    best = min(ways, key=lambda way: max(sum(costs[a:b]) for a, b in pairwise(way)))
    return tuple(UnitRange(a, b) for a, b in pairwise(best))


def check_room(plan: DecodePlan, folder: Path) -> None:
    """Raises MachineError when disk or memory will not do."""
    shape = plan.shape
    caches = COPIES * SESSIONS * shape.cache_bytes(plan.positions)
    needs = (
        ("disk", shape.nbytes, shutil.disk_usage(folder).free, f"in {folder.parent} (TMPDIR)"),
        (
            "memory",
            COPIES * shape.nbytes + caches + PROCESSES * PROCESS_BYTES,
            psutil.virtual_memory().available,
            "here",
        ),
    )
    for what, needed, free, where in needs:
        if free < needed:
            raise MachineError(
                f"--shape {shape.name} needs {needed / GIB:.1f} GiB of {what}, and "
                f"{free / GIB:.1f} are free {where}; make room, or take a smaller shape"
            )
