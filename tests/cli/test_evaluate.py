"""`dsi-mqtt evaluate`, run within the test's process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dsi_mqtt.evaluate import scenarios
from dsi_mqtt.evaluate.policies import NAMES
from tests.cli.running import Run

ROWS = "time_s,rate_mbit_s,rtt_ms\n0,20,40\n1,10,50\n1,30,70\n4,25,40\n"


@pytest.fixture
def links(tmp_path: Path) -> Path:
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "drive.csv").write_text(ROWS, "utf-8")
    return folder


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenarios, "CONSTANT_S", 30.0)


def test_it_prints_one_object_and_writes_a_page(run: Run, links: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    asked = ("--seeds", 1, "--scenario", "smart-city-constant", "--json", "--out", out)
    ended = run("evaluate", "--traces", links, *asked)
    assert ended.code == 0
    assert "1/1  smart-city-constant, seed 1" in ended.err
    told = json.loads(ended.out)
    assert told["schema"] == "dsi.evaluate/1"
    (file,) = told["traces"]
    assert (file["file"], file["rows"], file["gaps_filled"]) == ("drive.csv", 4, 2)
    assert len(file["sha256"]) == 64
    (found,) = told["scenarios"]
    assert (found["scenario"], found["seeds"]) == ("smart-city-constant", 1)
    assert tuple(row["policy"] for row in found["policies"]) == NAMES
    adaptive = found["policies"][NAMES.index("adaptive")]
    assert adaptive["answered"] + adaptive["failed"] == found["requests"] > 30
    assert {"moves_after", "p95_over_static", "regret", "p95_over_causal"} <= found.keys()

    page = (out / "report.html").read_text("utf-8")
    assert "drive.csv" in page
    assert page.count("data:image/svg+xml;base64,") == 2
    assert "http" not in page
    assert {path.name for path in (out / "plots").iterdir()} == {
        "smart-city-constant-time.svg",
        "smart-city-constant-policies.svg",
    }
    assert "1 seed of 30 s" in page
    figures = json.loads((out / "evaluation.json").read_text("utf-8"))
    assert figures == told


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("0,fast,40", "drive.csv line 2: rate_mbit_s is 'fast'; give a number"),
        ("0,20,", "drive.csv line 2: rtt_ms is ''; give a number"),
        ("0,20", "drive.csv line 2: rtt_ms is None; give a number"),
        ("0,nan,40", "drive.csv line 2: rate_mbit_s is 'nan'; give a number of 0 or more"),
        ("", "drive.csv: holds no row below its header"),
    ],
)
def test_links_that_cannot_be_read_are_named(run: Run, links: Path, rows: str, told: str) -> None:
    (links / "drive.csv").write_text(f"time_s,rate_mbit_s,rtt_ms\n{rows}\n", "utf-8")
    ended = run("evaluate", "--traces", links, "--seeds", 1, "--json")
    assert ended.code == 3
    assert told in ended.err


def test_a_folder_without_links_and_an_unknown_scenario_are_named(
    run: Run, links: Path, tmp_path: Path
) -> None:
    ended = run("evaluate", "--traces", tmp_path / "none", "--json")
    assert ended.code == 3
    assert "none: holds no trace, which is a file NAME.csv" in ended.err
    ended = run("evaluate", "--traces", links, "--scenario", "moon", "--json")
    assert ended.code == 3
    assert "--scenario: there is none 'moon'" in ended.err


def test_without_matplotlib_the_extra_is_named_before_anything_is_played(
    run: Run, links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ended = run("evaluate", "--traces", links)
    assert ended.code == 6
    assert "drawn with matplotlib; pip install '.[evaluate]'" in ended.err
    assert "runs of all policies" not in ended.err
