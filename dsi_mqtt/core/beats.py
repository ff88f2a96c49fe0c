"""How long beats take: what is usual, by how much they differ, and what goes beside the newest."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Final

from dsi_mqtt.core.probes import NEAR_S, Probe

# Clocks and event loops are no finer.
RESOLUTION_S: Final = 0.0002
LATE_S: Final = 0.1

_LATE: Final = 4
_BEATS: Final = 8
_KNOWN: Final = 4


class Beats:
    """Of one connection after the other. All times in s."""

    def __init__(self) -> None:
        self._took: deque[float] = deque(maxlen=_BEATS)
        # When it was sent, what it took, all that others had sent by then, and whether it met them.
        self._newest = (-1.0, 0.0, 0, False)

    def back(self, sent_at: float, seconds: float, received: int, met: int) -> None:
        """received: bytes of others until now; met: those of them that came while it was out."""
        self._newest = sent_at, seconds, received, met > 0

    def counts(self, seconds: float) -> None:
        """One that waited behind nothing that is known."""
        self._took.append(seconds)

    @property
    def known(self) -> bool:
        """Whether there are enough of them to hold something else against."""
        return len(self._took) >= _KNOWN

    @property
    def any(self) -> bool:
        return bool(self._took)

    @property
    def rtt_ms(self) -> float | None:
        """Of the quicker half, for others have waited behind what passes."""
        ordered = sorted(self._took)
        return median(ordered[: (len(ordered) + 1) // 2]) * 1000 if ordered else None

    @property
    def quickest(self) -> float:
        return min(self._took, default=NEAR_S)

    @property
    def usual(self) -> float:
        return median(self._took) if self._took else NEAR_S

    @property
    def noise(self) -> float:
        """What may have other reasons than the link."""
        usual = self.usual
        differ = median(abs(seconds - usual) for seconds in self._took) if self._took else 0.0
        return max(RESOLUTION_S, 2 * differ)

    def beside(self, probe: Probe) -> float:
        """What the beat took that was sent with this probe, or what one usually takes."""
        sent_at, seconds, *_ = self._newest
        return seconds if sent_at == probe.sent_at else self.usual

    def between(self, probe: Probe, received: int) -> int | None:
        """Others' bytes that came behind its beat and before it; None: it had none, or one that may
        have waited for others on its way back. Meanwhile the probe came up, and what it took for
        that is hidden.

        Messages keep their order both ways, so that nothing else held up the one and not the other.
        received: bytes of others until now.
        """
        sent_at, _, before, met = self._newest
        return received - before if sent_at == probe.sent_at and not met else None

    def is_late(self, seconds: float) -> bool:
        return self.any and seconds >= max(LATE_S, _LATE * self.quickest)
