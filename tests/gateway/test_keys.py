"""A file of keys: what it may hold, and whom it admits."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from dsi_mqtt.errors import ConfigError
from dsi_mqtt.gateway.keys import Keys

KEY = "sk-0123456789abcdef"


def keys(folder: Path, text: str) -> Keys:
    file = folder / "keys.txt"
    file.write_text(text)
    return Keys.read(file)


def test_keys_and_hashes_admit_and_comments_do_not(tmp_path: Path) -> None:
    hashed = hashlib.sha256(b"another-secret-key").hexdigest()
    known = keys(tmp_path, f"# of the depot\n\n  {KEY}\nsha256:{hashed.upper()}\n")
    one, other = known.owner(f"Bearer {KEY}"), known.owner("bearer  another-secret-key ")
    assert one != other
    assert known.owner(f"bearer {KEY}") == one is not None
    assert hashed not in (one, other)
    for wrong in (None, "", "Bearer", "Bearer ", KEY, f"Basic {KEY}", "Bearer # of the depot"):
        assert known.owner(wrong) is None
    assert known.owner(f"Bearer sha256:{hashed}") is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no key"),
        ("# nothing\n", "holds no key"),
        ("short\n", "line 1: no key; write at least 16 characters"),
        (f"{KEY}\nsha256:12\n", "line 2: no key"),
        ("sixteen letters and more\n", "line 1: no key"),
        ("schlüssel-schlüssel\n", "line 1: no key"),
    ],
)
def test_what_is_no_key_is_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        keys(tmp_path, text)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        Keys.read(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="no UTF-8"):
        Keys.read(tmp_path / "binary")
