"""`dsi-mqtt profile`: what it prints, writes, and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.site import SiteFile, SiteNode, node_views
from dsi_mqtt.engine.select import TierFactory
from dsi_mqtt.wire.files import read_site
from dsi_mqtt.wire.profiles import site_profiles
from tests.cli.running import Run

MODEL = "model: {tier: fake, options: {units: 3, unit_ms: 0.1}}\n"


def deployment(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.yaml"
    path.write_text(f"schema: dsi.deployment/1\nname: d\nkind: {kind}\n{MODEL}")
    return path


def graph_of(path: Path) -> ModelGraph:
    ((given,), _) = read_site(path)
    limits = given.limits if given.kind == "generation" else None
    return TierFactory().open(given.model, limits).graph


@pytest.mark.parametrize("kind", ["one-pass", "generation"])
def test_what_is_written_can_be_planned_with(run: Run, tmp_path: Path, kind: str) -> None:
    file, out = deployment(tmp_path, kind), tmp_path / "city.json"
    ended = run("profile", str(file), "--out", str(out), "--batch", "1,2", "--tokens", "4,8")
    assert ended.code == 0
    assert [line.split()[0] for line in ended.out.splitlines()][1:4] == ["0", "1", "2"]
    told = json.loads(out.read_text())
    assert (told["schema"], told["command"], told["threads"]) == ("dsi.profile/1", "profile", 1)
    site = SiteFile((SiteNode("city", compute={"profile": "city.json"}),))
    ((given,), _) = read_site(file)
    profiles = site_profiles(site, out)
    (view,) = node_views(site, graph_of(file), given, profiles)
    assert len(view.unit_s) == 3
    assert len(view.prefill_s) == (3 if kind == "generation" else 0)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--batch", "0"), "--batch: '0' must be whole numbers"),
        (("--tokens", "a,b"), "--tokens: 'a,b' must be whole numbers"),
        (("--input", "{}"), "--input: the model does not read it"),
        (("--out", "/nonexistent/x.json"), "--out: /nonexistent/x.json cannot be written"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    run: Run, tmp_path: Path, arguments: tuple[str, str], told: str
) -> None:
    ended = run("profile", str(deployment(tmp_path, "one-pass")), "--batch", "1", *arguments)
    assert ended.code == 3
    assert f"dsi-mqtt: {told}" in ended.err


def test_prompts_longer_than_the_context_are_refused(run: Run, tmp_path: Path) -> None:
    ended = run("profile", str(deployment(tmp_path, "generation")), "--tokens", "2048")
    assert ended.code == 3
    assert "--tokens: 2048 leave no room in a context of 2048" in ended.err
