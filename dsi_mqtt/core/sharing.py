"""What deployments keep busy of the nodes that they share.

A deployment at some rate keeps each node of its chain busy for a share of the time: its processor,
its uplink, its downlink. To the others that much is gone: they are planned with what is left. So
each is placed as the best answer to the others, and looks again when they take other shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# By node, of its processor, uplink and downlink.
Shares = Mapping[str, tuple[float, float, float]]

NONE: Final = (0.0, 0.0, 0.0)
# However much others take, a node is slow and not gone: they may be planned away from it.
FULL: Final = 0.95
# A share that differs by less calls for no other look.
DIFFERENCE: Final = 0.1


class Sharing:
    """Of all deployments that serve or are about to."""

    def __init__(self) -> None:
        self._of: dict[str, Shares] = {}
        self._told: dict[str, Shares] = {}
        self._news: set[str] = set()

    def news(self) -> set[str]:
        """Deployments that take other shares than when this was asked before."""
        news, self._news = self._news, set()
        return news

    def takes(self, deployment: str, shares: Shares) -> None:
        """What it takes from now on, of nothing: it is gone, or cannot be served."""
        self.foresees(deployment, shares)
        if _differ(shares, self._told.get(deployment, {})):
            self._news.add(deployment)
            self._told[deployment] = shares

    def foresees(self, deployment: str, shares: Shares) -> bool:
        """What it is about to take, which is no news yet; says whether it was others."""
        before = self._of.get(deployment, {})
        if shares:
            self._of[deployment] = shares
        else:
            self._of.pop(deployment, None)
        return _differ(shares, before)

    def beside(self, deployment: str) -> Shares:
        """What the others take, by node."""
        taken: dict[str, tuple[float, float, float]] = {}
        for name, shares in sorted(self._of.items()):
            if name != deployment:
                for node, more in shares.items():
                    taken[node] = added(taken.get(node, NONE), more)
        return {node: capped(shares) for node, shares in taken.items()}


def _differ(some: Shares, others: Shares) -> bool:
    return any(
        abs(one - other) >= DIFFERENCE
        for node in some.keys() | others.keys()
        for one, other in zip(some.get(node, NONE), others.get(node, NONE), strict=True)
    )


def added(
    some: tuple[float, float, float], more: tuple[float, float, float]
) -> tuple[float, float, float]:
    return some[0] + more[0], some[1] + more[1], some[2] + more[2]


def capped(shares: tuple[float, float, float]) -> tuple[float, float, float]:
    work, up, down = (min(share, FULL) for share in shares)
    return work, up, down
