"""Everything that a simulation is known by afterwards: one line of JSON for each event.

Two runs of one scenario and seed write the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from typing import IO


class Journal:
    """Lines go to `file` where there is one; their digest is kept either way."""

    def __init__(self, file: IO[str] | None = None) -> None:
        self._file = file
        self._digest = hashlib.blake2b(digest_size=16)
        self.lines = 0

    def write(self, now: float, event: str, **told: object) -> None:
        line = json.dumps({"t": round(now, 6), "event": event, **told}, separators=(",", ":"))
        self._digest.update(f"{line}\n".encode())
        self.lines += 1
        if self._file is not None:
            self._file.write(f"{line}\n")

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()
