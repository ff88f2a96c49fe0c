"""What requests took: a share of them, and the newest, so that a forecast can be held against
them all the time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

KEPT: Final = 256
# Below this the 95th percentile would be one of the two slowest.
P95_MIN: Final = 20


def percentile(ordered: Sequence[float], part: float) -> float:
    """The least value that `part` of them stay within; 0 where there is none."""
    if not ordered:
        return 0.0
    # A share that is no binary fraction must not reach beyond the value that it means.
    return ordered[max(0, math.ceil(part * len(ordered) - 1e-9) - 1)]


class Latencies:
    """Of one table, for the next one promises something else."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=KEPT)

    def __len__(self) -> int:
        return len(self._seconds)

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)

    def clear(self) -> None:
        self._seconds.clear()

    @property
    def p50_ms(self) -> float | None:
        return median(self._seconds) * 1000 if self._seconds else None

    @property
    def p95_ms(self) -> float | None:
        """The least that 95 % stay within; None: too few to say."""
        if len(self._seconds) < P95_MIN:
            return None
        return percentile(sorted(self._seconds), 0.95) * 1000


@dataclass(slots=True)
class TextLengths:
    """Tokens of the generations that have ended: of their prompts, and drawn."""

    texts: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0

    def add(self, prompt_tokens: int, new_tokens: int) -> None:
        self.texts += 1
        self.prompt_tokens += prompt_tokens
        self.new_tokens += new_tokens
