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

SERVE = """
import json, sys
from pathlib import Path
from dsi_mqtt.core.activation import JSON, Row, pack_body
from dsi_mqtt.core.model import ModelSpec, UnitRange
from dsi_mqtt.engine.select import TierFactory

engine = TierFactory(threads=1).open(ModelSpec(path=sys.argv[1]))
units = UnitRange(int(sys.argv[2]), int(sys.argv[3]))
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
"""


@pytest.mark.parametrize(
    ("units", "mebibytes"), [((0, 3), 59.0), ((3, 5), 13.5), ((5, 8), 14.1)], ids=str
)
def test_a_segment_takes_little_more_than_its_weights(
    minilm: Path, tmp_path: Path, units: tuple[int, int], mebibytes: float
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SERVE, str(minilm), *map(str, units)],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["weights"] / 2**20 == pytest.approx(mebibytes, abs=0.05)
    assert measured["peak"] - measured["weights"] <= BEYOND_WEIGHTS - REST_OF_A_WORKER, measured
