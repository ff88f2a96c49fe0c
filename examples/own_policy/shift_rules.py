"""Rules of a plant: while people work, nothing moves without need, and test benches stay free.

A deployment that says `policy: {use: shift}` is planned and moved by these. `asks` may change what
the planner is asked; `moves` has the last word on a better placement. What protects (zones, budgets
of exposure) no policy can loosen, and a chain whose node is gone is replaced without asking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.moving import Move
from dsi_mqtt.core.profile import NodeView

# Working hours, Monday to Friday.
FROM_HOUR, UNTIL_HOUR = 6, 22
SATURDAY = 5
# In them, the share of its score that a move must save, or it must bring the target back.
WORTH_IT = 0.5


class ShiftRules:
    """now: the time of day where the plant stands."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now().astimezone()) -> None:
        self._now = now

    @property
    def working(self) -> bool:
        now = self._now()
        return now.weekday() < SATURDAY and FROM_HOUR <= now.hour < UNTIL_HOUR

    def asks(self, deployment: Deployment, nodes: Sequence[NodeView]) -> Deployment:
        """Test benches are named `bench-…`; people need them while they work."""
        if not self.working:
            return deployment
        benches = tuple(node.node for node in nodes if node.node.startswith("bench-"))
        policy = replace(deployment.policy, forbid=(*deployment.policy.forbid, *benches))
        return replace(deployment, policy=policy)

    def moves(self, move: Move) -> bool:
        if not self.working:
            return move.pays
        return move.pays and (move.mends or move.gain >= WORTH_IT)
