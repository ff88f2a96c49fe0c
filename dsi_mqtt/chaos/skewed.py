"""`python -m dsi_mqtt.chaos.skewed FILE ARGUMENT…`: `dsi-mqtt ARGUMENT…` by another wall clock.

FILE says how many seconds that clock goes before the machine's; it is read at every look at the
clock, so that it can jump. Of the program's own modules all read it by `time.time`.
"""

from __future__ import annotations

import sys
import time
from importlib import import_module
from pathlib import Path

_true_time = time.time


def skewed_time(file: Path) -> float:
    """Seconds since 1970 by the clock that FILE tells of."""
    try:
        return _true_time() + float(file.read_text())
    except (OSError, ValueError):  # none yet, or half of one
        return _true_time()


def main() -> None:
    file = Path(sys.argv[1])
    time.time = lambda: skewed_time(file)
    sys.argv[1:] = sys.argv[2:]
    # The program is above this room, and is not imported: it is what runs in this process.
    import_module("dsi_mqtt.cli").main()


if __name__ == "__main__":
    main()
