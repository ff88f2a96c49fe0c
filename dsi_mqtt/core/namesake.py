"""Two nodes of one name: which of them stays.

All of one name hear each other's statuses, in one order, for a broker keeps the order of a topic.
So they agree on whose first word came last: that one stays, and what it hears of the others makes
it say its own status again. Whom it heard before its own first word are its *elders*. Another that
is heard behind one's own word lives and is no elder: it began later, and one gives way to it. So
does a node that was cut off while another took its name, and so do orchestrators see it, to whom
an incarnation that was replaced does not come back.

What came before one's own word on this connection was retained and may be of one long gone. No two
are elders of each other: once a connection has ended, its will may have been the first word.
"""

from __future__ import annotations

from dsi_mqtt.core.effects import Effects, GiveWay, ReportStatus
from dsi_mqtt.core.node import NodeStatus


class Namesake:
    """State machine of what is said under this node's name, by itself and by others."""

    def __init__(self, incarnation: str) -> None:
        self._incarnation = incarnation
        self._elders: set[str] = set()
        self._connected = False
        self._has_begun = False
        self._has_spoken = False

    def connected(self) -> None:
        """What is retained comes first again."""
        self._has_begun |= self._connected
        self._connected, self._has_spoken = True, False

    def heard(self, status: NodeStatus) -> Effects:
        """A status of this name has come: one's own, an earlier life's, or another node's."""
        if status.incarnation == self._incarnation:
            self._has_begun = self._has_spoken = True
        elif not self._has_begun:
            self._elders.add(status.incarnation)
        if status.state == "offline":
            return [ReportStatus()]  # a will must not stand, whoever's it is: this one lives
        if status.incarnation == self._incarnation or not self._has_spoken:
            return []
        return [ReportStatus()] if status.incarnation in self._elders else [GiveWay()]
