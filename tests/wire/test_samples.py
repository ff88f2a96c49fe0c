"""Samples from files: what a line may be, and what is refused by the file's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsi_mqtt.errors import MESSAGE_MAX, ConfigError
from dsi_mqtt.wire import samples
from dsi_mqtt.wire.samples import read_samples


def test_lines_are_inputs_or_objects_with_one(tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_text('"ice"\n\n{"text": "flood", "id": 3}\n{"input": [1, 2]}\n[3]\n{"a": 1}\n')
    assert read_samples(file) == ("ice", "flood", [1, 2], [3], {"a": 1})


def test_any_other_file_is_one_text(tmp_path: Path) -> None:
    file = tmp_path / "held-out.txt"
    file.write_text("# One\n\nTwo, in Grün.\n", "utf-8")
    assert read_samples(file) == ("# One\n\nTwo, in Grün.\n",)
    file.write_text(" \n")
    assert read_samples(file) == ()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'"x"\n{"text"\n', "a.jsonl: line 2 is not JSON"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl: line 1 is not JSON"),
        ("a.txt", b"\xff\xfe", "is no text in UTF-8"),
        ("a.txt", b"x" * 20, "is over 0 MiB"),
        ("none", None, "cannot be read: No such file"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes | None,
    said: str,
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    if content == b"x" * 20:
        monkeypatch.setattr(samples, "SAMPLES_BYTES_MAX", 10)
    with pytest.raises(ConfigError) as refused:
        read_samples(tmp_path / name)
    assert said in str(refused.value)
    assert len(str(refused.value)) <= MESSAGE_MAX


def test_a_file_without_an_end_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "SAMPLES_BYTES_MAX", 1 << 20)
    with pytest.raises(ConfigError, match="/dev/zero is over 1 MiB"):
        read_samples(Path("/dev/zero"))
