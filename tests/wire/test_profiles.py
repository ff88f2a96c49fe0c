"""Profiles as files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from dsi_mqtt.core.profiled import ModelProfile, UnitTimes
from dsi_mqtt.core.site import SiteFile, SiteNode
from dsi_mqtt.errors import MESSAGE_MAX, ConfigError
from dsi_mqtt.wire.profiles import read_profile, site_profiles

PROFILE = ModelProfile("sha256:00", "one-pass", (UnitTimes("u", 1, 1, 0, {"1": 2.5, "4": 5.0}),))


def written(folder: Path, **changed: Any) -> Path:
    path = folder / "city.json"
    path.write_text(json.dumps({**asdict(PROFILE), "host": {"cores": 2}, **changed}))
    return path


def test_what_was_written_is_read_and_what_is_unknown_ignored(tmp_path: Path) -> None:
    assert read_profile(written(tmp_path)) == PROFILE


def unit(**changed: Any) -> list[dict[str, Any]]:
    return [{**asdict(PROFILE.units[0]), **changed}]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"schema": "dsi.nodes/1"}, "city.json: schema: 'dsi.nodes/1' is not supported"),
        ({"units": unit(batch_ms={"1": 0})}, "city.json: units[0].batch_ms.1: 0.0 must be greater"),
        ({"units": unit(batch_ms={"1": float("inf")})}, "city.json: units[0].batch_ms.1: inf must"),
        ({"units": unit(batch_ms={"1": float("nan")})}, "city.json: units[0].batch_ms.1: nan must"),
        ({"units": unit(batch_ms={"1": -1})}, "city.json: units[0].batch_ms.1: -1.0 must"),
        ({"units": unit(batch_ms={})}, "city.json: units[0].batch_ms: holds no time"),
        ({"units": unit(weight_bytes="many")}, "city.json: units[0].weight_bytes: "),
        ({"units": []}, "city.json: units: holds none"),
        ({"kind": "video"}, "city.json: kind: "),
    ],
)
def test_a_profile_that_cannot_be_used_is_refused_in_a_sentence(
    tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        read_profile(written(tmp_path, **changed))
    assert str(raised.value).startswith(told)
    assert len(str(raised.value)) <= MESSAGE_MAX


def test_what_is_no_file_or_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_profile(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_profile(tmp_path)
    (tmp_path / "x.json").write_bytes(b"\xff{")
    with pytest.raises(ConfigError, match=r"x\.json"):
        read_profile(tmp_path / "x.json")


def test_a_nodes_file_names_profiles_beside_it(tmp_path: Path) -> None:
    written(tmp_path)
    nodes = (
        SiteNode("a", compute={"profile": "city.json"}),
        SiteNode("b", compute={"profile": "city.json"}),
        SiteNode("c", compute={"gflops": 3}),
        SiteNode("d"),
    )
    assert site_profiles(SiteFile(nodes), tmp_path / "nodes.yaml") == {"city.json": PROFILE}
