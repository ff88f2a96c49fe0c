from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from dsi_mqtt.engine.digest import cache_folder, file_digest, recall_json, remember_json
from dsi_mqtt.errors import CheckpointError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "weights"
    made.write_bytes(b"one")
    return made


def remembered(cache: Path) -> dict[str, str]:
    known: dict[str, str] = json.loads((cache / "digests.json").read_text())
    return known


def test_a_digest_is_remembered_until_the_file_changes(file: Path, own_cache: Path) -> None:
    assert file_digest(file) == hashlib.sha256(b"one").hexdigest()
    (key,) = remembered(own_cache)
    remember_json("digests.json", {key: "as remembered"})
    assert file_digest(file) == "as remembered"
    file.write_bytes(b"two")
    assert file_digest(file) == hashlib.sha256(b"two").hexdigest()


def test_a_change_that_keeps_size_and_time_is_seen(file: Path) -> None:
    about = file.stat()
    before = file_digest(file)
    file.write_bytes(b"two")
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert file_digest(file) != before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_memory_is_no_error(file: Path, own_cache: Path, content: bytes) -> None:
    own_cache.mkdir(parents=True)
    (own_cache / "digests.json").write_bytes(content)
    assert file_digest(file) == hashlib.sha256(b"one").hexdigest()
    assert len(remembered(own_cache)) == 1


def test_a_cache_that_cannot_be_written_is_no_error(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "occupied").write_text("a file where the folder would be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "occupied"))
    assert file_digest(file) == hashlib.sha256(b"one").hexdigest()
    assert recall_json("digests.json") == {}


def test_nothing_is_left_behind_by_a_failed_write(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember_json("x.json", {"kept": 1})

    def full(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", full)
    remember_json("x.json", {"lost": 1})
    assert [found.name for found in own_cache.iterdir()] == ["x.json"]
    assert recall_json("x.json") == {"kept": 1}


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "dsi-mqtt"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gone cannot be read"):
        file_digest(tmp_path / "gone")
