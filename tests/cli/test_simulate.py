"""`dsi-mqtt simulate`, run within the test's process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.running import Run

SITE = """
schema: dsi.scenario/1
duration_s: 30
nodes: [{id: gw, count: 3, memory_mib: 3.5, link: {trace: walk}}]
deployments: [{name: hazards, model: {tier: fake, options: {units: 6, unit_ms: 5}}}]
requests: [{deployment: hazards, rate_per_s: 2, from_s: 10}]
faults: [{at_s: 20, throttle: gw-1, for_s: 3}]
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(SITE, "utf-8")
    return path


def test_it_shows_what_came_of_a_scenario(run: Run, site: Path) -> None:
    ended = run("simulate", site)
    assert ended.code == 0
    assert "hazards: serving;" in ended.out
    assert "0 errors, 0 unanswered, 0 moves" in ended.out
    assert "door on gw-" in ended.out
    assert "deployed" in ended.out


def test_it_prints_one_object_and_writes_every_event(run: Run, site: Path, tmp_path: Path) -> None:
    log = tmp_path / "events"
    ended = run("simulate", site, "--json", "--seed", 5, "--log", log)
    found = json.loads(ended.out)
    assert (found["schema"], found["seed"]) == ("dsi.simulation/1", 5)
    (hazards,) = found["deployments"]
    assert hazards["inputs"] == hazards["results"] > 10
    assert sum(node["computed"] for node in found["nodes"]) == 2 * hazards["inputs"]
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    assert sum(line["event"] == "answered" for line in lines) == hazards["inputs"]
    assert any((line["event"], line.get("node")) == ("throttle", "gw-1") for line in lines)


def test_links_take_recorded_traces(run: Run, site: Path, tmp_path: Path) -> None:
    folder = tmp_path / "traces"
    folder.mkdir()
    (folder / "walk.csv").write_text("time_s,rate_mbit_s,rtt_ms\n0,50,4000\n", "utf-8")
    ended = run("simulate", site, "--traces", folder, "--json")
    (hazards,) = json.loads(ended.out)["deployments"]
    assert hazards["latency"] is None or hazards["latency"]["p50_ms"] > 4000
    (folder / "walk.csv").write_text("time_s,rate_mbit_s,rtt_ms\n0,fast,4\n", "utf-8")
    ended = run("simulate", site, "--traces", folder)
    assert ended.code == 3
    assert "walk.csv line 2: rate_mbit_s is 'fast'; give a number" in ended.err


def test_what_is_wrong_with_a_file_is_one_sentence(run: Run, tmp_path: Path) -> None:
    ended = run("simulate", tmp_path / "none.yaml")
    assert ended.code == 3
    assert "none.yaml: no such file" in ended.err
