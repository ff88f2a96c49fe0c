"""`dsi-mqtt plan`: what it shows and writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dsi_mqtt.cli.plan import SCHEMA
from tests.cli.running import Run

FAKE = "model: {tier: fake, options: {units: 4}}\n"
NODES = """
---
schema: dsi.nodes/1
nodes:
  - {id: near, zone: plant, compute: {gflops: 2, memory_gib_s: 2}, link: {rtt_ms: 1}}
  - {id: far, zone: cloud, price: cloud, compute: {gflops: 50, memory_gib_s: 20},
     link: {rtt_ms: 30}}
"""


def written(tmp_path: Path, rules: str = "", nodes: str = NODES) -> Path:
    file = tmp_path / "echo.yaml"
    file.write_text(f"schema: dsi.deployment/1\nname: echo\n{FAKE}{rules}{nodes}")
    return file


def test_it_shows_the_offers_and_the_way_of_the_chosen_one(run: Run, tmp_path: Path) -> None:
    ended = run("plan", written(tmp_path))
    assert (ended.code, ended.err) == (0, "")
    assert "chosen" in ended.out
    assert "device ──► door on near" in ended.out
    assert "one node alone is best: the model is not split" in ended.out


def test_it_writes_one_object(run: Run, tmp_path: Path) -> None:
    rules = "prices: {node_hour: {default: 0.1, cloud: 1.0}}\nobjective: {latency: 0, cost: 1}\n"
    ended = run("plan", written(tmp_path, rules), "--json")
    assert ended.code == 0
    told = json.loads(ended.out)
    assert told["schema"] == SCHEMA
    chosen = told["offers"][0]
    assert "chosen" in chosen["names"]
    assert chosen["cost_per_hour"] == min(offer["cost_per_hour"] for offer in told["offers"])
    assert chosen["segments"] == [{"units": [0, 4], "node": "near", "replicas": []}]


def test_a_target_that_nothing_meets_is_told_with_what_could_be_had(
    run: Run, tmp_path: Path
) -> None:
    ended = run("plan", written(tmp_path, "sla: {latency_ms: 0.5}\n"))
    assert ended.code == 5
    assert "raise sla.latency_ms to" in ended.err
    assert "misses the target of 0.5 ms" in ended.out


@pytest.mark.parametrize(
    ("rules", "nodes", "sentence"),
    [
        ("", "", "names no nodes"),
        ("prices: {node_hour: {cloud: 1.0}}\n", NODES, "no price for 'default'"),
        ("", NODES.replace("gflops: 2,", "gflops: 0,"), "compute.gflops"),
        ("", NODES.replace("compute: {gflops: 2, memory_gib_s: 2}, ", ""), "compute"),
    ],
)
def test_it_refuses(run: Run, tmp_path: Path, rules: str, nodes: str, sentence: str) -> None:
    ended = run("plan", written(tmp_path, rules, nodes))
    assert ended.code == 3
    assert sentence in ended.sentence()


TWO = """
schema: dsi.deployment/1
name: free
model: {tier: fake, options: {units: 4, unit_ms: 2}}
sla: {rate_per_s: 0.1}
---
schema: dsi.deployment/1
name: bound
model: {tier: fake, options: {units: 4, unit_ms: 2, seed: 1}}
sla: {rate_per_s: 0.1}
privacy: {units: {"0:4": [plant]}}
---
schema: dsi.nodes/1
nodes:
  - {id: near, zone: plant, memory_mib: 4, compute: {gflops: 20, memory_gib_s: 2}}
  - {id: next, zone: hall, memory_mib: 4, compute: {gflops: 10, memory_gib_s: 2}}
"""


def test_several_deployments_are_planned_together(run: Run, tmp_path: Path) -> None:
    """Each would take the quicker node, which has room for one; the other may be nowhere else."""
    file = tmp_path / "two.yaml"
    file.write_text(TWO)
    ended = run("plan", file, "--json")
    assert (ended.code, ended.err) == (0, "")
    told = json.loads(ended.out)
    placed = {
        one["deployment"]: [part["node"] for part in one["offers"][0]["segments"]]
        for one in told["deployments"]
    }
    assert placed == {"free": ["next"], "bound": ["near"]}
    assert 0 < told["bound"] < 1
    shown = run("plan", file)
    assert "each beside the others; together they could save" in shown.out
    assert "door on next" in shown.out
