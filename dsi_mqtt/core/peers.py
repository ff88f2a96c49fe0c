"""Who lives, as one node hears it from the others' statuses.

Two kinds of word, told apart everywhere: a status with another incarnation than a table names is
*proof* that the named one is dead; a will or a farewell is a *hint*, for a broker that stops sends
the will of everybody. Nodes that were never heard of count as alive.
"""

from __future__ import annotations

from dsi_mqtt.core.node import NodeStatus
from dsi_mqtt.core.table import Stamp, Table

Member = tuple[str, str]


class Peers:
    """The newest status of every other node. Holds one for each node name."""

    def __init__(self) -> None:
        self._statuses: dict[str, NodeStatus] = {}

    def heard(self, status: NodeStatus) -> bool:
        """Takes up a status. False for the will of an earlier life, which changes nothing."""
        known = self._statuses.get(status.node)
        if (
            status.state == "offline"
            and known is not None
            and known.incarnation != status.incarnation
        ):
            return False
        self._statuses[status.node] = status
        return True

    def is_replaced(self, member: Member) -> bool:
        """Proof: this node lives as another incarnation."""
        status = self._statuses.get(member[0])
        return status is not None and status.state != "offline" and status.incarnation != member[1]

    def is_missing(self, member: Member) -> bool:
        """Proof or hint: replaced, or said to be offline."""
        status = self._statuses.get(member[0])
        said = status is not None and (status.state, status.incarnation) == ("offline", member[1])
        return said or self.is_replaced(member)

    def lacks(self, table: Table) -> bool:
        """Whether, by proof or hint, a member of `table` is gone."""
        return any(self.is_missing(member) for member in table.members())

    def disproves(self, table: Table) -> bool:
        """Whether there is proof that a member of `table` is dead."""
        return any(self.is_replaced(member) for member in table.members())

    def has_ingress(self, deployment: str) -> bool:
        """Whether a living node says that it has this ingress open."""
        return any(
            door.deployment == deployment and door.ingress_open
            for status in self._alive()
            for door in status.doors
        )

    def oldest(self, deployment: str) -> dict[Member, Stamp]:
        """What the doors of living nodes say about the oldest table their requests use."""
        return {
            (status.node, status.incarnation): door.oldest
            for status in self._alive()
            for door in status.doors
            if door.deployment == deployment
        }

    def _alive(self) -> list[NodeStatus]:
        return [status for status in self._statuses.values() if status.state != "offline"]
