"""How long nodes that are about to speak are waited for before it is said that nothing can serve.

A node that has just come has yet to say how the model looks from there, which takes it a while; one
that was started together with the orchestrator speaks later than that does.
"""

from __future__ import annotations

from typing import Final

from dsi_mqtt.core.membership import Membership
from dsi_mqtt.core.outlook import Outlook
from dsi_mqtt.core.table import TableDocument

SETTLE_S: Final = 1.0
# Before the first word about a deployment is that nothing can serve it.
FIRST_S: Final = 5.0
DESCRIBE_S: Final = 60.0


class Patience:
    """State machine: it begins when it is asked for, and lasts until the next decision."""

    def __init__(self, members: Membership, outlook: Outlook) -> None:
        self._members = members
        self._outlook = outlook
        self._since: float | None = None

    def ends(self) -> None:
        """A decision has been made: nothing before it is waited for any more."""
        self._since = None

    def still_arriving(self, now: float) -> bool:
        """A node has just come, or has yet to say how the model looks from there."""
        if self._waited_s(now) > DESCRIBE_S:
            return False
        return self._members.newest_since(now) < SETTLE_S or self._outlook.undescribed()

    def is_early(self, document: TableDocument | None, now: float) -> bool:
        """Nothing was ever said of this deployment, and more nodes may be about to speak."""
        quiet_s = min(self._members.connected_s(now), self._members.newest_since(now))
        return document is None and quiet_s < FIRST_S and self._waited_s(now) <= DESCRIBE_S

    def _waited_s(self, now: float) -> float:
        if self._since is None:
            self._since = now
        return now - self._since
