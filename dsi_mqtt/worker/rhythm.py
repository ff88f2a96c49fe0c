"""When a node says what it says now and then: telemetry and probes in turn.

On a slow link telemetry takes as long as a probe, and a probe behind it would measure both. So each
has its place in the second, half a telemetry apart; nodes of one machine have places of their own.
"""

from __future__ import annotations

from zlib import crc32


def phase_s(node: str, every_s: float) -> float:
    """The node's place, from 0 to `every_s`."""
    return crc32(node.encode()) / 2**32 * every_s


def until_beat_s(now: float, every_s: float, phase_s: float) -> float:
    """Until the next time that lies `phase_s` behind a multiple of `every_s`, but for one that is
    nearer than half of `every_s`: loops wake a little early, and that was this one.
    """
    left = every_s - (now - phase_s) % every_s
    return left if left > every_s / 2 else left + every_s
