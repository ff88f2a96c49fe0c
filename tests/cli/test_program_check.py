"""`dsi-mqtt deploy --check`: what it shows, and what it refuses."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.running import DEPLOYMENT, Run

TINY_BERT = {
    "model_type": "bert", "architectures": ["BertModel"], "vocab_size": 9,
    "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1,
    "intermediate_size": 4, "max_position_embeddings": 64,
}  # fmt: skip


def test_check_shows_the_units(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "echo.yaml"
    file.write_text(DEPLOYMENT)
    ended = run("deploy", file, "--check")
    assert (ended.code, ended.err) == (0, "")
    assert re.search(r"^0 +prelude +1\.0 MiB +64 B", ended.out, re.MULTILINE)
    assert ended.out.endswith("echo can be deployed\n")


@pytest.mark.parametrize(
    ("rule", "code", "sentence"),
    [
        ('privacy: {units: {"0:9": [city]}}', 3, "0:9"),
        ('policy: {pin: {"7:8": city}}', 3, "7:8"),
        ("model: {tier: fake, options: {refuse: a second tensor crosses}}", 4, "a second tensor"),
        ("model: {tier: fake, options: {untis: 3}}", 3, "model.options has unknown untis"),
        ("model: {tier: layer, path: ./nothing}", 4, "nothing"),
    ],
)
def test_check_refuses(run: Run, tmp_path: Path, rule: str, code: int, sentence: str) -> None:
    file = tmp_path / "echo.yaml"
    model = "" if rule.startswith("model") else "model: {tier: fake}\n"
    file.write_text(f"schema: dsi.deployment/1\nname: echo\n{model}{rule}\n")
    ended = run("deploy", file, "--check")
    assert ended.code == code
    assert sentence in ended.sentence()


def test_check_names_a_tensor_that_is_missing(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY_BERT))
    weights = {"embeddings.word_embeddings.weight": np.zeros((9, 4), np.float32)}
    save_file(weights, folder / "model.safetensors")
    file = tmp_path / "echo.yaml"
    file.write_text(DEPLOYMENT.replace("tier: fake", "path: ./model, tier: layer"))
    ended = run("deploy", file, "--check")
    assert ended.code == 4
    assert re.search(r"misses|missing|lacks", ended.sentence())
    assert "embeddings." in ended.sentence()


FACTORY = """
import torch
from torch import nn

def build(seed=None):
    if seed is not None:
        torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
"""


def test_check_refuses_weights_of_chance(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "own_by_chance.py").write_text(FACTORY)
    file = tmp_path / "echo.yaml"
    own = "tier: sequential, factory: 'own_by_chance:build'"
    file.write_text(DEPLOYMENT.replace("tier: fake", own))
    ended = run("deploy", file, "--check")
    assert ended.code == 4
    assert ended.sentence().startswith(
        "model.factory own_by_chance:build makes other weights at each call"
    )
    assert "torch.manual_seed" in ended.sentence()
    assert "model.path" in ended.sentence()
    file.write_text(DEPLOYMENT.replace("tier: fake", f"{own}, options: {{seed: 7}}"))
    seeded = run("deploy", file, "--check")
    assert (seeded.code, seeded.err) == (0, "")
    assert seeded.out.endswith("echo can be deployed\n")


NODES = """---
schema: dsi.nodes/1
nodes:
  - {id: city, zone: city, memory_mib: 4}
  - {id: gw, zone: roadside, memory_mib: 4}
"""


def test_check_plans_on_the_nodes_of_the_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "echo.yaml"
    file.write_text(DEPLOYMENT + 'privacy: {units: {"0:1": [city]}}\n' + NODES)
    ended = run("deploy", file, "--check")
    assert (ended.code, ended.err) == (0, "")
    assert re.search(r"^s0 +0:[1-4] +city *$", ended.out, re.MULTILINE)
    assert re.search(r"^s1 +[1-4]:6 +gw *$", ended.out, re.MULTILINE)
    assert ended.out.endswith("echo can be deployed\n")


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ('split: [{units: "0:6", nodes: [citi]}]', "none of citi is there; start node citi"),
        ('policy: {pin: {"0:2": citi}}', "units 0:2 are pinned to citi: not there"),
        ('privacy: {units: {"0:2": [citty]}}', "must be computed in zone citty, and no node is"),
        ("policy: {max_segments: 1}", "set policy.max_segments to 2"),
        ("model: {tier: fake, options: {weight_mib: 9}}", "can hold more than 4.0 MiB"),
    ],
)
def test_check_says_what_the_nodes_cannot_satisfy(
    run: Run, tmp_path: Path, rule: str, sentence: str
) -> None:
    model = "" if rule.startswith("model") else "model: {tier: fake}\n"
    file = tmp_path / "echo.yaml"
    file.write_text(f"schema: dsi.deployment/1\nname: echo\n{model}{rule}\n{NODES}")
    ended = run("deploy", file, "--check")
    assert ended.code == 5
    assert ended.sentence().startswith("echo cannot be served on the nodes in echo.yaml: ")
    assert sentence in ended.sentence()


def test_check_takes_nodes_from_a_file_of_their_own(run: Run, tmp_path: Path) -> None:
    file, nodes = tmp_path / "echo.yaml", tmp_path / "nodes.yaml"
    file.write_text(DEPLOYMENT + NODES)
    nodes.write_text("schema: dsi.nodes/1\nnodes: [{id: small, memory_mib: 1}]\n")
    ended = run("deploy", file, "--check", "--nodes", nodes)
    assert ended.code == 5
    assert "on the nodes in nodes.yaml" in ended.sentence()
    alone = run("deploy", file, "--nodes", nodes)
    assert (alone.code, alone.sentence()[:8]) == (3, "--nodes:")


def test_check_names_what_looks_like_a_slip_where_it_does_no_harm(run: Run, tmp_path: Path) -> None:
    rules = (
        'split: [{units: "0:3", nodes: [city, gww]}, {units: "3:6", nodes: [gw]}]\n'
        'privacy: {units: {"0:1": [city, citty]}}\n'
    )
    file = tmp_path / "echo.yaml"
    file.write_text(DEPLOYMENT + rules + NODES)
    ended = run("deploy", file, "--check")
    assert ended.code == 0
    assert ended.err.splitlines() == [
        "note: echo: split[0] names node gww, and no node of echo.yaml is that",
        'note: echo: privacy.units["0:1"] names zone citty, and no node of echo.yaml is in it',
    ]


def test_check_opens_the_model_as_its_kind(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY_BERT))
    save_file({"nothing": np.zeros(1, np.float32)}, folder / "model.safetensors")
    file = tmp_path / "echo.yaml"
    layers = DEPLOYMENT.replace("tier: fake", "path: ./model, tier: layer")
    file.write_text(f"{layers}kind: generation\n")
    ended = run("deploy", file, "--check")
    assert "deploy it with kind: one-pass" in ended.sentence()


def fallback(options: str, rules: str = "") -> str:
    return f"{DEPLOYMENT}fallback: {{model: ./tiny, options: {options}}}\n{rules}{NODES}"


@pytest.mark.parametrize("kind", ["one-pass", "generation"])
def test_check_tries_the_fallback_as_well(run: Run, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "echo.yaml"
    limits = "generation: {kv_mib_max: 1}\n" if kind == "generation" else ""
    file.write_text(fallback("{units: 3}", f"kind: {kind}\n{limits}"))
    ended = run("deploy", file, "--check")
    assert (ended.code, ended.err) == (0, "")
    own, other = ended.out.split("its fallback, where that cannot serve:")
    assert (own.count("block."), other.count("block.")) == (4, 1)
    assert re.search(r"^s0 +0:3 +\w+ *$", other, re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "rules", "code", "sentence"),
    [
        ("{refuse: a second tensor crosses}", "", 4, "fallback: "),
        ("{untis: 3}", "", 3, "fallback.options has unknown untis"),
        ("{units: 2, weight_mib: 9}", "", 5, "the fallback of echo cannot be served on the nodes"),
        (
            "{units: 2}",
            'privacy: {units: {"0:1": [city], "2:3": [roadside]}}\n',
            3,
            "no zone is allowed for all units, which those of the fallback would need",
        ),
    ],
)
def test_check_refuses_a_fallback_by_its_own_fields(
    run: Run, tmp_path: Path, *, options: str, rules: str, code: int, sentence: str
) -> None:
    file = tmp_path / "echo.yaml"
    file.write_text(fallback(options, rules))
    ended = run("deploy", file, "--check")
    assert ended.code == code
    assert sentence in ended.sentence()
