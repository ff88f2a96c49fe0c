"""The sites that faults are tried on: who is there, and who may compute what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dsi_mqtt.chaos.trials import SiteName
from dsi_mqtt.core.site import SiteNode

UNITS: Final = 6


@dataclass(frozen=True, slots=True)
class Layout:
    """parts: of the model, each with the nodes that may compute it; the door is among the first.

    usual: who serves where nothing is the matter; None: whoever the planner likes. standbys: that
    hold a part warm. min_gain: of a move: those who are alike should not be left for what a busy
    machine does to their figures. unit_mib: what units' weights take, of real memory.
    """

    nodes: tuple[SiteNode, ...]
    parts: tuple[tuple[str, tuple[str, ...]], ...]
    usual: frozenset[str] | None = None
    standbys: int = 0
    min_gain: float = 0.15
    unit_mib: tuple[float, ...] = (0.5,) * UNITS

    def is_usual(self, members: frozenset[str]) -> bool:
        return bool(members) and self.usual in (None, members)

    def feasible(self, there: frozenset[str]) -> bool:
        """Whether each part has somebody among those who are there."""
        return all(there.intersection(nodes) for _, nodes in self.parts)


# Each part has a node and one that stands by for it. The door must be in the city.
_SPARES: Final = (
    SiteNode("city", "city"),
    SiteNode("north", "roadside"),
    SiteNode("south", "roadside"),
    SiteNode("city-spare", "city", spare=True),
    SiteNode("road-spare", "roadside", spare=True),
)
_WITH_SPARES: Final = (
    ("0:2", ("city", "city-spare")),
    ("2:4", ("north", "road-spare")),
    ("4:6", ("south", "road-spare")),
)
_USUAL: Final = frozenset({"city", "north", "south"})
# Each part has two nodes that are alike, so that whoever is worse off can be left; and where one of
# those in the middle is to be left and the other cannot load, there is a spare.
_EQUALS: Final = (
    SiteNode("city", "city"),
    SiteNode("city-2", "city"),
    SiteNode("north", "roadside"),
    SiteNode("north-2", "roadside"),
    SiteNode("south", "roadside"),
    SiteNode("south-2", "roadside"),
    SiteNode("north-spare", "roadside", spare=True),
)
_WITH_EQUALS: Final = (
    ("0:2", ("city", "city-2")),
    ("2:4", ("north", "north-2", "north-spare")),
    ("4:6", ("south", "south-2")),
)
# More than the 64 MiB that the C library reserves for a thread, which count as taken already.
_ONE_LARGE: Final = (0.5, 0.5, 65.0, 0.5, 0.5, 0.5)

LAYOUTS: Final[Mapping[SiteName, Layout]] = {
    "spares": Layout(_SPARES, _WITH_SPARES, _USUAL),
    "warm": Layout(_SPARES, _WITH_SPARES, _USUAL, standbys=1),
    "equals": Layout(_EQUALS, _WITH_EQUALS, min_gain=0.5, unit_mib=_ONE_LARGE),
}
