"""Every event of a run as a line of JSON, and what happened as lines for a person."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import IO, Any

Say = Callable[[str], None]


class Journal:
    """lines: where the events go. say: takes a line for a person."""

    def __init__(self, lines: IO[str], say: Say) -> None:
        self._lines = lines
        self._began = time.monotonic()
        self.say = say

    def note(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - any JSON value
        """An event, with the seconds since the run began."""
        at = round(time.monotonic() - self._began, 4)
        self._lines.write(json.dumps({"at": at, "event": event, **fields}) + "\n")

    def flush(self) -> None:
        self._lines.flush()
