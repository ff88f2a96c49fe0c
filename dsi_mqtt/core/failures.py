"""Nodes that could not prepare their part of a table, and for how long that counts.

A node fails when it says so, or when it has said nothing better for so long that nobody should
wait: the plan is then made without it. After a while it is forgiven, for what was wrong may have
been mended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dsi_mqtt.core.table import Stamp, Table

FORGIVE_S: Final = 60.0
# Gigabytes from a slow card take minutes; a node that hangs takes for ever.
PREPARE_S: Final = 600.0

NodeKey = tuple[str, str]  # name, incarnation


@dataclass(frozen=True, slots=True)
class _Failure:
    reason: str
    until: float


class Failures:
    """State machine, of one deployment."""

    def __init__(self) -> None:
        self._known: dict[NodeKey, _Failure] = {}
        self._preparing: tuple[Stamp, float] | None = None

    def clear(self) -> None:
        self._known.clear()

    def forgive(self, now: float) -> None:
        self._known = {
            node: failure for node, failure in self._known.items() if now < failure.until
        }

    def failed(self, node: NodeKey, why: str, now: float) -> None:
        self._known[node] = _Failure(f"node {node[0]}: {why}", now + FORGIVE_S)

    def nodes(self) -> frozenset[NodeKey]:
        return frozenset(self._known)

    def reasons(self) -> list[str]:
        return [failure.reason for _, failure in sorted(self._known.items())]

    def is_late(self, prepare: Table, patience_s: float, now: float) -> bool:
        """Whether `prepare` has been prepared for longer than `patience_s`, seen from here.

        A leader that takes over counts from then on.
        """
        if self._preparing is None or self._preparing[0] != prepare.stamp:
            self._preparing = prepare.stamp, now
        return now - self._preparing[1] > patience_s
