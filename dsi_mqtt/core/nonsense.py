"""Figures in telemetry that cannot be true, so that they are counted and not only set aside.

A time that is 0, negative, infinite or no number, a rate below 0, counts below 0. Whoever plans
(`core/profile.py`, `core/estimate.py`) takes none of them; here they are named for people.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Final

from dsi_mqtt.core.estimate import positive
from dsi_mqtt.core.node import DoorLoad, Telemetry

_NODES_MAX: Final = 1024


def nonsense(telemetry: Telemetry) -> tuple[str, ...]:
    """The fields whose figures are none, as they are called in the message."""
    return tuple(_found(telemetry))


def _found(telemetry: Telemetry) -> Iterator[str]:
    link = telemetry.link
    for name in ("up_mbit_s", "down_mbit_s", "up_usual_mbit_s", "down_usual_mbit_s"):
        rate = getattr(link, name)
        if rate is not None and not 0 <= rate < math.inf:
            yield f"link.{name}"
    if link.rtt_ms is not None and not 0 <= link.rtt_ms < math.inf:
        yield "link.rtt_ms"
    for i, load in enumerate(telemetry.segments):
        path = f"segments[{i}]"
        if load.compute_ms is not None and not positive(load.compute_ms):
            yield f"{path}.compute_ms"
        if load.prefill_token_ms is not None and not positive(load.prefill_token_ms):
            yield f"{path}.prefill_token_ms"
        if min(load.requests, load.prefills, load.prefill_tokens) < 0:
            yield f"{path}.requests"
    yield from _of_doors(telemetry.doors)


def _of_doors(doors: Iterable[DoorLoad]) -> Iterator[str]:
    for i, door in enumerate(doors):
        for name in ("p50_ms", "p95_ms", "token_p50_ms", "token_p95_ms"):
            ms = getattr(door, name)
            if ms is not None and not positive(ms):
                yield f"doors[{i}].{name}"
        if min(door.texts, door.prompt_tokens, door.new_tokens) < 0:
            yield f"doors[{i}].texts"


class NonsenseCount:
    """How many such figures each node has told."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def of(self, node: str) -> int:
        return self._counts.get(node, 0)

    def saw(self, telemetry: Telemetry) -> str | None:
        """What to say of it: at the first, and at each doubling, for it may go on."""
        found = nonsense(telemetry)
        if not found:
            return None
        node = telemetry.node
        if node not in self._counts and len(self._counts) >= _NODES_MAX:
            self._counts.clear()  # a stranger may tell of nodes that there are not
        before = self.of(node)
        self._counts[node] = count = before + len(found)
        if before and before.bit_length() == count.bit_length():
            return None
        are = "figure is" if count == 1 else "figures are"
        return f"{node}: {count} {are} set aside that cannot be true, the last of {found[-1]}"
