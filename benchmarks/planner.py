"""How much time of one core the planner takes, and how often it proves its plan optimal.

    python benchmarks/planner.py [--instances 30] [--seed 1]

Models have a heavy prelude, equal blocks and a small head, as transformers do ("blocks"), or units
that all weigh something else ("mixed"). Nodes differ in speed (0.3 to 4 times), zone (3), link
(5 to 1000 Mbit/s, 0.2 to 20 ms) and memory: a share of the model's weights, between `least` and
`most`. In half of the instances the first quarter of the units is confined to one zone.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from dataclasses import dataclass

from dsi_mqtt.core.deployment import Deployment, Privacy
from dsi_mqtt.core.model import ModelGraph, ModelSpec, Unit
from dsi_mqtt.core.plan import Plan, plan
from dsi_mqtt.core.profile import Link, NodeView

MIB = 1 << 20


@dataclass(frozen=True)
class Row:
    units: int
    nodes: int
    model: str
    least: float
    most: float


ROWS = tuple(
    Row(units, nodes, model, least, most)
    for units, nodes in ((8, 8), (26, 32))
    for model in ("blocks", "mixed")
    for least, most in ((0.6, 2.0), (0.2, 0.6), (0.1, 0.3))
)


def model_graph(rng: random.Random, row: Row) -> ModelGraph:
    blocks = row.units - 2
    if row.model == "blocks":
        weights = [blocks * 2.0, *[7.0] * blocks, 1.0]
    else:
        weights = [rng.uniform(2, 12) for _ in range(row.units)]
    sizes = [rng.choice([4_096, 16_384, 600_000])] * (row.units - 1)
    return ModelGraph(
        "sha256:00",
        "fake",
        tuple(
            Unit(f"u{i}", int(weight * MIB), 0.0, size)
            for i, (weight, size) in enumerate(zip(weights, [*sizes, 0], strict=True))
        ),
        input_bytes=1_000,
    )


def node_view(rng: random.Random, name: str, graph: ModelGraph, row: Row) -> NodeView:
    pace = rng.uniform(0.3, 4.0)
    total = graph.weight_bytes(graph.whole)
    return NodeView(
        node=name,
        incarnation="1",
        zone=rng.choice("abc"),
        weight_bytes=int(total * rng.uniform(row.least, row.most)),
        unit_s=tuple(pace * unit.weight_bytes / MIB * 0.4e-3 for unit in graph.units),
        link=Link(rng.uniform(5, 1000), rng.uniform(5, 1000), rng.uniform(0.2, 20)),
    )


def measure(row: Row, instances: int, seed: int) -> str:
    rng = random.Random(seed)  # noqa: S311 - instances, no secrets
    plans, plan_ms, refusal_ms = [], [], [0.0]
    for number in range(instances):
        graph = model_graph(rng, row)
        nodes = [node_view(rng, f"n{i:02}", graph, row) for i in range(row.nodes)]
        zones: dict[str, tuple[str, ...]] = {f"0:{row.units // 4}": ("a",)} if number % 2 else {}
        deployment = Deployment("bench", ModelSpec(tier="fake"), privacy=Privacy(zones))
        begun = time.process_time()
        answer = plan(deployment, graph, nodes)
        spent = (time.process_time() - begun) * 1e3
        if isinstance(answer, Plan):
            plans.append(answer)
            plan_ms.append(spent)
        else:
            refusal_ms.append(spent)
    plan_ms.sort()
    return (
        f"{row.units:5} {row.nodes:5}  {row.model:6} {row.least:4.1f}-{row.most:<4.1f}"
        f"{len(plans):6} {sum(p.optimal for p in plans):8} {max(p.bound for p in plans):8.3f}"
        f"{statistics.mean(len(p.segments) for p in plans):9.1f}"
        f"{statistics.median(plan_ms):8.1f} {plan_ms[round(0.95 * (len(plans) - 1))]:8.1f}"
        f"{plan_ms[-1]:8.1f} {max(refusal_ms):11.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--instances", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(
        "units nodes  model  memory   plans  optimal  max_gap segments  p50_ms   p95_ms  max_ms"
        "  refusal_max_ms"
    )
    for row in ROWS:
        print(measure(row, options.instances, options.seed), flush=True)


if __name__ == "__main__":
    main()
