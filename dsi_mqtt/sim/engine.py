"""What computes on a simulated node: nothing, for as long as the cost model says.

One segment at a time, in the order of asking; the fixed cost of a segment is the planner's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from random import Random

from dsi_mqtt.core.activation import OCTETS, TOKENS, Row, Tensor, Tensors, pack_body
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.estimate import estimate_s
from dsi_mqtt.core.generation import Sampling
from dsi_mqtt.core.model import ModelGraph, UnitRange
from dsi_mqtt.core.node import Capabilities
from dsi_mqtt.core.problem import SEGMENT_S
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.engine.base import NOT_SAMPLED
from dsi_mqtt.engine.fake import describe
from dsi_mqtt.engine.fake_options import read_options
from dsi_mqtt.sim.scenario import Group
from dsi_mqtt.sim.texts import drawn


def graph_of(deployment: Deployment) -> ModelGraph:
    """The model as nodes describe it. Raises ConfigError where it is not a fake one."""
    limits = deployment.limits if deployment.kind == "generation" else None
    return describe(read_options(deployment.model.options), limits)


def graphs_of(deployments: Iterable[Deployment]) -> dict[str, ModelGraph]:
    """Of each, and of what it falls back to, by the names by which nodes know them."""
    models = (m for spec in deployments for m in (spec, spec.falls_back_to) if m is not None)
    return {model.name: graph_of(model) for model in models}


@cache
def zeros(nbytes: int) -> bytes:
    return bytes(nbytes)


@cache
def leaving(graph: ModelGraph, stop: int) -> Tensors:
    """What leaves a segment that ends before unit `stop`: nothing but its size is true of it."""
    if stop == len(graph.units):
        return pack_body(OCTETS, zeros(graph.result_bytes))
    nbytes = graph.boundary_bytes(stop)
    return (Tensor("hidden_states", "uint8", (nbytes,), zeros(nbytes)),)


@cache
def step_leaving(graph: ModelGraph, stop: int, rows: int, tokens: int) -> Tensors:
    """The same of a step of generations, inside the model."""
    nbytes = rows * tokens * graph.boundary_bytes(stop)
    shape = rows, tokens, nbytes // (rows * tokens)
    return (Tensor("hidden_states", "uint8", shape, zeros(nbytes)),)


def tokens_drawn(
    size: int, rows: tuple[Row, ...], sampling: tuple[Sampling | None, ...]
) -> Tensors:
    """What a step's head returns: one of `size` tokens for each row that is sampled."""
    tokens = [
        NOT_SAMPLED if how is None else drawn(how.seed, row.position + row.tokens, size)
        for row, how in zip(rows, sampling, strict=True)
    ]
    data = b"".join(token.to_bytes(8, "little", signed=True) for token in tokens)
    return (Tensor(TOKENS, "int64", (len(rows),), data),)


@dataclass(slots=True)
class Processor:
    """A node's. free_at: when it has computed all that it was asked for. busy_s: so far."""

    group: Group
    capabilities: Capabilities
    random: Random
    free_at: float = 0.0
    busy_s: float = 0.0
    computed: int = 0
    _costs: dict[tuple[str, UnitRange, int], float] = field(default_factory=dict)

    def cost_s(self, graph: ModelGraph, units: UnitRange, rows: int = 1) -> float:
        """The mean of what `units` take here for so many rows, or positions of a step."""
        known = self._costs.get((graph.digest, units, rows))
        if known is None:
            known = self.group.slowdown * sum(
                estimate_s(self.capabilities, unit, rows)
                for unit in graph.units[units.start : units.stop]
            )
            self._costs[graph.digest, units, rows] = known
        return known

    def load_s(self, graph: ModelGraph, units: UnitRange) -> float:
        return graph.weight_bytes(units) / MIB / self.group.load_mib_s

    def computes(
        self, graph: ModelGraph, units: UnitRange, now: float, rows: int = 1
    ) -> tuple[float, float, float]:
        """Takes its turn: when it begins, when it is over, and the seconds that units took."""
        spent = self.cost_s(graph, units, rows) * self._wavers()
        start = max(now, self.free_at)
        self.free_at = start + spent + SEGMENT_S
        self.busy_s += spent + SEGMENT_S
        self.computed += 1
        return start, self.free_at, spent

    def _wavers(self) -> float:
        """Drawn from a lognormal distribution of mean 1."""
        spread = self.group.spread
        if not spread:
            return 1.0
        variance = math.log1p(spread * spread)
        return self.random.lognormvariate(-variance / 2, math.sqrt(variance))
