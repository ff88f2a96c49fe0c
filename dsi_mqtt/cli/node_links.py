"""A link of its own between each node of a site on this machine and the site's brokers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Self

from dsi_mqtt.core.site import SiteNode
from dsi_mqtt.core.table import BrokerUrls
from dsi_mqtt.shaping.link import ShapedLink
from dsi_mqtt.sim.links import Figures


class NodeLinks:
    """Links as `figures` says of a node, each made when the site asks how that node reaches its
    brokers. They end with the block. of: by the node's name.
    """

    def __init__(self, figures: Callable[[SiteNode], Figures]) -> None:
        self._figures = figures
        self._open = AsyncExitStack()
        self.of: dict[str, ShapedLink] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._open.aclose()

    async def reach(self, node: SiteNode, brokers: BrokerUrls) -> BrokerUrls:
        """A `cli.site.Reach`."""
        link = ShapedLink(self._figures(node))
        self.of[node.id] = await self._open.enter_async_context(link)
        return BrokerUrls(await link.to(brokers.control), await link.to(brokers.data))
