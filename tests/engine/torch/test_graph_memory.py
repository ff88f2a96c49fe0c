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

SERVE = """
import json, sys
from pathlib import Path
from dsi_mqtt.core.model import ModelSpec, UnitRange
from dsi_mqtt.engine.select import TierFactory

sys.path.insert(0, sys.argv[1])
model = ModelSpec(tier="graph", factory="graph_models:heavy", path=sys.argv[2])
engine = TierFactory(threads=1).open(model)
engine.verify()
third = len(engine.graph.units) // 3
units = (UnitRange(0, third), UnitRange(third, 2 * third))[int(sys.argv[3])]
engine.load(units)
engine.warm_up(units)
peak = next(
    int(line.split()[1]) * 1024
    for line in Path("/proc/self/status").read_text().splitlines()
    if line.startswith("VmHWM")
)
whole = engine.graph.weight_bytes(engine.graph.whole)
print(json.dumps({"weights": engine.loaded_bytes(), "peak": peak, "whole": whole}))
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


@pytest.mark.parametrize("third", [0, 1])
def test_a_segment_takes_little_more_than_its_weights(
    weights: Path, tmp_path: Path, third: int
) -> None:
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SERVE, str(folder), str(weights), str(third)],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
        cwd=folder.parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["whole"] == LAYERS * LAYER
    assert LAYERS * LAYER / 4 < measured["weights"] < LAYERS * LAYER / 2
    assert measured["peak"] - measured["weights"] <= BEYOND_WEIGHTS, measured
