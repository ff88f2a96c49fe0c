"""Peak memory of a process that serves one segment of MiniLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# What a process may take beyond its segment's weights: Python, torch, transformers, one request.
BEYOND_WEIGHTS = 450_000_000
# The rest of a worker (MQTT, validation) is not in this process; it is given this much.
REST_OF_A_WORKER = 40_000_000

# Imports once, and has a process for each segment, with a cache of its own.
SERVE = """
import json, os, sys
from pathlib import Path
import dsi_mqtt.engine.torch
from dsi_mqtt.core.activation import JSON, Row, pack_body
from dsi_mqtt.core.model import ModelSpec, UnitRange
from dsi_mqtt.engine.select import TierFactory

for start, stop in json.loads(sys.argv[2]):
    if os.fork():
        assert os.wait()[1] == 0
        continue
    os.environ["XDG_CACHE_HOME"] += f"/{start}"
    engine = TierFactory(threads=1).open(ModelSpec(path=sys.argv[1]))
    units = UnitRange(start, stop)
    engine.verify()
    engine.load(units)
    engine.warm_up(units)
    if units.start == 0:
        engine.forward(units, (Row(),), pack_body(JSON, json.dumps("Roads " * 100).encode()))
    peak = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    print(json.dumps({"weights": engine.loaded_bytes(), "peak": peak}))
    break
"""
SEGMENTS = {(0, 3): 59.0, (3, 5): 13.5, (5, 8): 14.1}


def test_a_segment_takes_little_more_than_its_weights(minilm: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SERVE, str(minilm), json.dumps(list(SEGMENTS))],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["weights"] / 2**20 for one in measured] == pytest.approx(
        list(SEGMENTS.values()), abs=0.05
    )
    for one in measured:
        assert one["peak"] - one["weights"] <= BEYOND_WEIGHTS - REST_OF_A_WORKER, one
