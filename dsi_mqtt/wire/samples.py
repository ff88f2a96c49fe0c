"""Samples of what devices send, from a file, for what is measured with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from dsi_mqtt.errors import ConfigError, one_sentence

# Of a file: samples are held in memory, and more would take hours to measure with.
SAMPLES_BYTES_MAX: Final = 64 << 20
_LINES: Final = (".jsonl", ".ndjson")


def read_samples(file: Path) -> tuple[Any, ...]:
    """Of `.jsonl` one a line: an input as JSON, or an object with it as "input" or "text". Any
    other file is one text.

    Raises ConfigError naming the file.
    """
    try:
        with file.open("rb") as opened:  # a device may be one without an end
            read = opened.read(SAMPLES_BYTES_MAX + 1)
        if len(read) > SAMPLES_BYTES_MAX:
            raise ConfigError(one_sentence(f"{file} is over {SAMPLES_BYTES_MAX >> 20} MiB"))
        text = read.decode("utf-8").replace("\r\n", "\n")
    except OSError as error:
        raise ConfigError(one_sentence(f"{file} cannot be read: {error.strerror}")) from None
    except UnicodeDecodeError:
        raise ConfigError(one_sentence(f"{file} is no text in UTF-8")) from None
    if file.suffix not in _LINES:
        return (text,) if text.strip() else ()
    lines = enumerate(text.splitlines(), 1)
    return tuple(_sample(file, number, line) for number, line in lines if line.strip())


def _sample(file: Path, number: int, line: str) -> Any:  # noqa: ANN401 - any JSON
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise ConfigError(one_sentence(f"{file.name}: line {number} is not JSON")) from None
    for key in ("input", "text"):
        if isinstance(value, dict) and key in value:
            return value[key]
    return value
