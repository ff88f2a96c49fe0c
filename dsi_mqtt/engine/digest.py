"""SHA-256 of files, remembered between starts: hashing gigabytes at each start would cost minutes.

A remembered digest counts only while path, size, modification and change time are the same.
The memory is a convenience: where the cache folder cannot be written, files are hashed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Final

from dsi_mqtt.errors import CheckpointError

_DIGESTS: Final = "digests.json"
# More entries than any node has files; beyond, the oldest go.
_ENTRIES_MAX: Final = 1000


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/dsi-mqtt`, by default `~/.cache/dsi-mqtt`. It may not exist."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "dsi-mqtt"


def file_digest(file: Path) -> str:
    """SHA-256 of `file` in hexadecimal. Raises CheckpointError when it cannot be read."""
    try:
        about = file.stat()
        key = f"{file.resolve()}|{about.st_size}|{about.st_mtime_ns}|{about.st_ctime_ns}"
        known = _remembered()
        if key not in known:
            with file.open("rb") as stream:
                known[key] = hashlib.file_digest(stream, "sha256").hexdigest()
            remember_json(_DIGESTS, dict(list(known.items())[-_ENTRIES_MAX:]))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error
    return known[key]


def _remembered() -> dict[str, str]:
    known = recall_json(_DIGESTS)
    return {key: value for key, value in known.items() if isinstance(value, str)}


def recall_json(name: str) -> dict[str, object]:
    """The object stored as `name` in the cache folder; empty when there is none to be read."""
    try:
        value = json.loads((cache_folder() / name).read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def remember_json(name: str, value: object) -> None:
    """Stores `value` whole or not at all; a cache folder that cannot be written is no error."""
    with contextlib.suppress(OSError):
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
        try:
            with os.fdopen(handle, "w") as stream:
                json.dump(value, stream)
            Path(temporary).replace(folder / name)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
