"""Peak memory of a process that serves a third of a graph, weights from a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

# What a process may take beyond its segment's weights, exporting and verifying included. The
# whole model has 101 million bytes of them.
BEYOND_WEIGHTS = 450_000_000
LAYERS = 24
WIDTH = 1024
LAYER = (WIDTH * WIDTH + WIDTH) * 4

# Imports once, and has a process for each of the first two thirds, with a cache of its own.
SERVE = """
import json, os, sys
from pathlib import Path
import dsi_mqtt.engine.torch
from dsi_mqtt.core.model import ModelSpec, UnitRange
from dsi_mqtt.engine.select import TierFactory

sys.path.insert(0, sys.argv[1])
model = ModelSpec(tier="graph", factory="graph_models:heavy", path=sys.argv[2])
for number in (0, 1):
    if os.fork():
        assert os.wait()[1] == 0
        continue
    os.environ["XDG_CACHE_HOME"] += f"/{number}"
    engine = TierFactory(threads=1).open(model)
    engine.verify()
    third = len(engine.graph.units) // 3
    units = UnitRange(number * third, (number + 1) * third)
    engine.load(units)
    engine.warm_up(units)
    peak = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    whole = engine.graph.weight_bytes(engine.graph.whole)
    print(json.dumps({"weights": engine.loaded_bytes(), "peak": peak, "whole": whole}))
    break
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heavy")
    random = torch.Generator().manual_seed(0)
    state = {}
    for layer in range(LAYERS):
        state[f"layers.{layer}.weight"] = torch.randn(WIDTH, WIDTH, generator=random) / 32
        state[f"layers.{layer}.bias"] = torch.zeros(WIDTH)
    safetensors.torch.save_file(state, folder / "model.safetensors")
    return folder


def test_a_segment_takes_little_more_than_its_weights(weights: Path, tmp_path: Path) -> None:
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SERVE, str(folder), str(weights)],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
        cwd=folder.parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(measured) == 2
    for one in measured:
        assert one["whole"] == LAYERS * LAYER
        assert LAYERS * LAYER / 4 < one["weights"] < LAYERS * LAYER / 2
        assert one["peak"] - one["weights"] <= BEYOND_WEIGHTS, one
