"""Random planning problems that are small enough to be solved in other ways as well."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from dsi_mqtt.core.aim import Aim, Trip
from dsi_mqtt.core.codecs import Codec
from dsi_mqtt.core.deployment import Deployment, Policy, Prices, Privacy
from dsi_mqtt.core.formulation import Question
from dsi_mqtt.core.model import ModelGraph, ModelSpec, Unit
from dsi_mqtt.core.profile import Link, NodeView

MIB: Final = 1 << 20
# What nodes may hold, as shares of the model.
TIGHT: Final = (0.15, 0.3, 0.5, 0.8, 1.2)
ROOMY: Final = (0.5, 0.8, 1.2, 2.0)
OBJECTIVES: Final = ("latency", "p95_under_load", "throughput", "cost")
# How many of the instances are generations, have private ends, and have a target.
_GENERATES: Final = 0.3
_PRIVATE: Final = 0.4
_TARGETS: Final = 0.5
ZONES: Final = ("plant", "site", "cloud")
CODECS: Final = (
    Codec("raw", 32),
    Codec("fp16", 16, 0.4, 0.3, 1e-5),
    Codec("int8g32", 8.5, 1.2, 0.8, 4e-4),
    Codec("int8g64", 8.25, 1.1, 0.7, 6e-4),
)


@dataclass(frozen=True)
class Instance:
    objective: str
    deployment: Deployment
    graph: ModelGraph
    nodes: tuple[NodeView, ...]
    question: Question


def instance(
    seed: int, units: int, nodes: int, codecs: int, objective: str, *, roomy: bool = False
) -> Instance:
    """One problem. Memory, zones, targets, budgets and prices bind in many of them.

    roomy: nodes hold half of the model or more, as where a site was planned for it.
    """
    rng = random.Random(seed)  # noqa: S311 - instances, no secrets
    graph = _graph(rng, units)
    generates = rng.random() < _GENERATES
    views = tuple(
        _node(rng, f"n{i:04}", graph, generates=generates, roomy=roomy) for i in range(nodes)
    )
    inside: dict[str, tuple[str, ...]] = {"0:1": ("plant",), f"{units - 1}:{units}": ("plant",)}
    private = rng.random() < _PRIVATE
    deployment = Deployment(
        "bench",
        ModelSpec(tier="fake"),
        privacy=Privacy(inside if private else {}),
        policy=Policy(max_segments=rng.choice([None, None, None, 2, 4])),
    )
    trips = (Trip("prefill", 1, 16), Trip("decode", 8)) if generates else (Trip("request"),)
    aim, prices = _aim(rng, objective, views, trips)
    used = CODECS[:codecs]
    return Instance(
        objective,
        deployment,
        graph,
        views,
        Question(
            aim=aim,
            trips=trips,
            codecs=used,
            error_max=rng.choice([1.1e-5, 5e-4, 2e-3]) if codecs > 1 else None,
            exposure_max=rng.choice([None, 0.5]) if private else None,
            prices=prices,
        ),
    )


def _graph(rng: random.Random, units: int) -> ModelGraph:
    weights = [rng.choice([2, 6, 8, 8, 8, 20]) for _ in range(units)]
    sizes = [rng.choice([4_096, 50_000, 600_000]) for _ in range(units - 1)]
    return ModelGraph(
        "sha256:00",
        "fake",
        tuple(
            Unit(f"u{i}", weight * MIB, 0.0, size)
            for i, (weight, size) in enumerate(zip(weights, [*sizes, 0], strict=True))
        ),
        input_bytes=rng.choice([1_000, 100_000]),
        result_bytes=1_000,
    )


def _node(
    rng: random.Random, name: str, graph: ModelGraph, *, generates: bool, roomy: bool
) -> NodeView:
    pace = rng.uniform(0.3, 4.0)
    total = graph.weight_bytes(graph.whole)
    seconds = tuple(
        pace * unit.weight_bytes / MIB * 0.4e-3 * rng.uniform(0.9, 1.1) for unit in graph.units
    )
    zone = rng.choice(ZONES)
    return NodeView(
        node=name,
        incarnation="1",
        zone=zone,
        weight_bytes=int(total * rng.choice(ROOMY if roomy else TIGHT)),
        unit_s=seconds,
        prefill_s=tuple(6 * s for s in seconds) if generates else (),
        link=Link(rng.uniform(10, 1000), rng.uniform(10, 1000), rng.choice([0.4, 2, 8, 20])),
        price="cloud" if zone == "cloud" else "default",
        watts=(rng.uniform(1, 20), rng.uniform(20, 100)),
        taken=(rng.choice([0.0, 0.0, 0.3]), 0.0, rng.choice([0.0, 0.0, 0.2])),
        codec_pace=pace,
    )


def _aim(
    rng: random.Random,
    objective: str,
    nodes: tuple[NodeView, ...],
    trips: tuple[Trip, ...],
) -> tuple[Aim, Prices]:
    """Load and target are set against what one node of middling speed would take."""
    totals = sorted(
        sum(trip.count * sum(node.seconds(trip.phase, trip.rows)) for trip in trips)
        for node in nodes
    )
    middle = totals[len(totals) // 2]
    trips_made = sum(trip.count for trip in trips)
    allowed = middle * rng.choice([0.8, 1.5, 4.0]) + 0.02 * trips_made
    target = allowed if rng.random() < _TARGETS else None
    rate = rng.choice([0.3, 0.8, 1.5]) / (middle + 0.005 * trips_made)
    prices = Prices(
        node_hour={"default": 0.02, "cloud": rng.choice([0.1, 0.6])},
        gib={"default": 0.0, "cloud": 0.09},
        kwh=0.3,
    )
    if objective == "latency":
        return Aim(latency_max_s=target), Prices()
    if objective == "p95_under_load":
        return Aim(rate_per_s=rate, latency_max_s=target), Prices()
    if objective == "throughput":
        return Aim(latency=0.0, busiest=1.0), Prices()
    return Aim(latency=0.0, cost=1.0, rate_per_s=rate, latency_max_s=target), prices
