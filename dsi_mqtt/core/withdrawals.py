"""What a node concludes from what is not retained when its control connection comes.

That a deployment was withdrawn is said once, to those who listen then: an empty message, which no
broker retains. A node that was away would keep its weights for ever. So when all that is retained
has come, what is not among it was withdrawn, unless the broker has forgotten it: then it has
forgotten this node as well, whose status or will it retains from its first word on. A leader writes
again what was forgotten, and clears the table of what was withdrawn once every node that it hears
of has let go; with that the node's own tables of it are over too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dsi_mqtt.core.node import NodeStatus


@dataclass(slots=True)
class _Reading:
    specs: set[str] = field(default_factory=set)
    tables: set[str] = field(default_factory=set)
    knows_us: bool = False


class Withdrawals:
    """State machine of one incarnation of a node."""

    def __init__(self, incarnation: str) -> None:
        self._incarnation = incarnation
        self._reading: _Reading | None = None

    def connected(self) -> None:
        """What is retained is about to come."""
        self._reading = _Reading()

    def spec_arrived(self, deployment: str) -> None:
        if self._reading is not None:
            self._reading.specs.add(deployment)

    def table_arrived(self, deployment: str) -> None:
        if self._reading is not None:
            self._reading.tables.add(deployment)

    def heard(self, status: NodeStatus) -> None:
        """A status under this node's name."""
        if self._reading is not None and status.incarnation == self._incarnation:
            self._reading.knows_us = True

    def read(self, known: tuple[str, ...]) -> dict[str, bool]:
        """All that is retained has come: which of `known` were withdrawn, and whether their tables
        are over as well.
        """
        reading, self._reading = self._reading, None
        if reading is None or not reading.knows_us:
            return {}
        return {name: name not in reading.tables for name in known if name not in reading.specs}
