"""How long a segment takes, once it is warm."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_PASSES: Final = 3


def warm_seconds(run: Callable[[], object]) -> float:
    """Of the fastest pass: the first ones also pay for memory and plans."""
    seconds = []
    for _ in range(_PASSES):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
