"""`dsi-mqtt bench codecs`: what it prints, what it refuses, a run with a small model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dsi_mqtt.cli import bench_codecs
from dsi_mqtt.cli.bench import app
from dsi_mqtt.cli.bench_codecs import (
    CODECS,
    CodecsPlan,
    CodecsReport,
    Cost,
    Errors,
    document,
    measure,
    ways_of,
)
from dsi_mqtt.cli.bench_codecs_report import codecs_plan, cost_table, error_table
from dsi_mqtt.cli.demo_data import load_reports
from dsi_mqtt.core.encoding import encoded_bytes
from dsi_mqtt.engine.codec_errors import Way, WayError
from dsi_mqtt.errors import ConfigError
from tests.engine.torch import conftest as checkpoints

# Keys of the published schema dsi.bench.codecs/1.
TOP = {
    "schema", "version", "command", "seed", "started_at", "host", "load", "memory_gib_s",
    "repeats", "costs", "errors",
}  # fmt: skip
COST = {"codec", "bytes", "ratio", "encode_s_gib", "decode_s_gib"}


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(bench_codecs, "_BYTES_A_REPEAT", 1)
    monkeypatch.setattr(bench_codecs, "SHAPES", ((1, 2, 64),))


def test_a_run_has_a_row_for_each_codec_and_way(tmp_path: Path) -> None:
    folder, samples = tmp_path / "bert", tmp_path / "samples.jsonl"
    checkpoints.random_model("bert").save_pretrained(folder)
    samples.write_text("[5, 17, 3, 60]\n[8, 9]\n[1, 2, 3]\n")
    options = ["codecs", "--json", "--model", str(folder), "--samples", str(samples)]
    found = CliRunner().invoke(app, [*options, "--inputs", "2", "--repeats", "2"])
    assert found.exit_code == 0, found.output
    told: dict[str, Any] = json.loads(found.stdout)
    assert told.keys() == TOP
    assert told["schema"] == "dsi.bench.codecs/1"
    assert [cost.keys() for cost in told["costs"]] == [COST] * len(CODECS)
    for cost in told["costs"]:
        size = encoded_bytes(cost["codec"], "float32", (1, 2, 64))
        assert (cost["bytes"], cost["ratio"]) == (512, round(size / 512, 4))
        assert min(cost["encode_s_gib"], cost["decode_s_gib"]) > 0
    (errors,) = told["errors"]
    assert (errors["model"], errors["metric"], errors["samples"]) == ("bert", "cosine", 2)
    ways = [(row["codec"], tuple(row["cuts"])) for row in errors["rows"]]
    assert ways == [(way.codec, way.cuts) for way in ways_of(errors["units"])]
    worst = {row["codec"]: row["worst"] for row in errors["rows"]}
    assert worst["fp16"] < worst["int8g64"] < 0.1
    assert all(0 <= row["mean"] <= row["worst"] for row in errors["rows"])


def test_hops_are_tried_alone_as_of_three_segments_and_all_together() -> None:
    cuts = [way.cuts for way in ways_of(6) if way.codec == "fp16"]
    assert cuts == [(1,), (2,), (3,), (4,), (5,), (2, 4), (1, 2, 3, 4, 5)]
    assert {way.cuts for way in ways_of(3)} == {(1,), (2,), (1, 2)}
    assert {way.cuts for way in ways_of(2)} == {(1,)}


def test_the_demo_s_reports_are_what_is_embedded_by_default() -> None:
    plan = codecs_plan(None, None, None, None, inputs=3, repeats=1, seed=0)
    assert plan.encoder is not None
    deployment, samples = plan.encoder
    assert samples == tuple(report.text for report in load_reports()[:3])
    assert deployment.model.path is not None
    assert (plan.decoder, deployment.kind) == (None, "one-pass")


def test_a_decoder_needs_its_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--decoder and --text: give both"):
        codecs_plan(None, None, tmp_path, None, inputs=3, repeats=1, seed=0)
    text = tmp_path / "held-out.txt"
    text.write_text("Some text.")
    plan = codecs_plan(None, None, tmp_path, text, inputs=3, repeats=1, seed=0)
    assert plan.decoder is not None
    assert (plan.decoder[0].kind, plan.decoder[1]) == ("generation", ("Some text.",))


def test_times_are_measured_without_any_model() -> None:
    said: list[str] = []
    report = measure(CodecsPlan(None, None, 1, 0), said.append)
    assert [cost.codec for cost in report.costs] == list(CODECS)
    assert (report.errors, said) == ((), ["times of codecs"])
    assert report.memory_gib_s > 0


def test_tables_and_document_tell_what_was_found() -> None:
    row = WayError(Way("int8g64", (3, 5)), 1.2345e-4, 1e-5)
    errors = Errors("minilm", "cosine", 96, 8, (row,))
    report = CodecsReport((1.0, 2.345), 9.876, (Cost("fp16", 1536, 0.5, 1.23456, 0.5),), (errors,))
    told = document({"version": "0"}, CodecsPlan(None, None, 5, 7), report)
    assert told["load"] == [1.0, 2.35]
    assert told["errors"][0]["rows"] == [
        {"codec": "int8g64", "cuts": [3, 5], "worst": 1.23e-4, "mean": 1e-5}
    ]
    assert cost_table(report).row_count == error_table(errors).row_count == 1
    assert list(error_table(errors).columns[0].cells) == ["3, 5"]
    assert list(cost_table(report).columns[0].cells) == ["1.5 KB"]
