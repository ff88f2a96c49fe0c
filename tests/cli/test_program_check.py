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


def test_check_shows_the_units(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "echo.yaml"
    file.write_text(DEPLOYMENT)
    ended = run("deploy", file, "--check")
    assert (ended.code, ended.err) == (0, "")
    assert re.search(r"^0 +prelude +1\.00 MiB +64 B", ended.out, re.MULTILINE)
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
    config = {"model_type": "bert", "architectures": ["BertModel"], "vocab_size": 9,
              "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1,
              "intermediate_size": 4, "max_position_embeddings": 64}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
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
