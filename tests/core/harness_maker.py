"""One who makes tables as an orchestrator would, at random places."""

from __future__ import annotations

from dataclasses import replace
from itertools import count, pairwise
from random import Random
from typing import TYPE_CHECKING

from dsi_mqtt.core.node import NodeStatus
from dsi_mqtt.core.table import Replica, Segment, Standby, Table, TransferMode
from dsi_mqtt.core.transfers import transfers
from tests.core.build import Member, document, make_table

if TYPE_CHECKING:
    from tests.core.harness import Site

UNITS = 6
CREDIT = (2000, 3)
# Of segments, those that have replicas, and those that have stand-bys.
SHARED = 0.4


class TableMaker:
    """Makes tables as an orchestrator would: prepare, wait until all are ready, serve.

    modes: of transfers, one of which is drawn for each table.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.alive: dict[str, NodeStatus] = {}
        self.moving = False
        self._wills: dict[str, tuple[str, float]] = {}
        self._epochs = count(1)
        self._rng = Random(0)
        self.modes: tuple[TransferMode, ...] = ("copy", "copy", "recompute")

    def status_arrived(self, status: NodeStatus) -> None:
        known = self.alive.get(status.node)
        if status.state == "offline":
            if known is not None and known.incarnation == status.incarnation:
                self._wills[status.node] = (status.incarnation, self.site.now)
            return
        self._wills.pop(status.node, None)
        self.alive[status.node] = status

    def gone(self, node: str, incarnation: str) -> None:
        known = self.alive.get(node)
        if known is not None and known.incarnation == incarnation:
            del self.alive[node]

    def reconsider(self) -> None:
        for node, (incarnation, since) in list(self._wills.items()):
            if self.site.now - since > 0.25:  # a will is a hint
                del self._wills[node]
                self.gone(node, incarnation)
        shown = self.site.document
        serve, prepare = (shown.serve, shown.prepare) if shown else (None, None)
        if prepare is not None and self._whole(prepare):
            if self._ready(prepare):
                self.site.publish_document(document(self._serving(prepare)))
            return
        broken = serve is None or not self._whole(serve)
        if (broken or self.moving or prepare is not None) and self.alive and self._enough():
            self.moving = False
            drawn, mode = self._draw(), self._rng.choice(self.modes)
            moved = transfers(serve, drawn, mode)
            self.site.publish_document(document(serve, replace(drawn, transfers=moved)))

    def _serving(self, table: Table) -> Table:
        return replace(table, state="serving")

    def _enough(self) -> bool:
        """At the start everybody is waited for."""
        return self.site.document is not None or len(self.alive) == len(self.site.nodes)

    def _draw(self) -> Table:
        rng, names = self.site.rng, sorted(self.alive)
        cuts = [0, *sorted(rng.sample(range(1, UNITS), rng.randint(1, 3))), UNITS]
        chosen = [self._member(rng.choice(names)) for _ in cuts[1:]]
        drawn = make_table(
            *zip(chosen, pairwise(cuts), strict=True),
            epoch=next(self._epochs),
            door=self._member(rng.choice(names)),
            window=self.site.window,
            credit=CREDIT,
        )
        return replace(drawn, segments=tuple(self._with_others(s) for s in drawn.segments))

    def _with_others(self, segment: Segment) -> Segment:
        """Sometimes another replica, and somebody who stands by."""
        rng = self.site.rng
        others = [name for name in sorted(self.alive) if name != segment.replicas[0].node]
        rng.shuffle(others)
        if others and rng.random() < SHARED:
            another = Replica(*self._member(others.pop()), rng.choice((0.5, 1.0)))
            segment = replace(segment, replicas=(*segment.replicas, another))
        if others and rng.random() < SHARED:
            segment = replace(segment, standbys=(Standby(*self._member(others.pop())),))
        return segment

    def _member(self, node: str) -> Member:
        return node, self.alive[node].incarnation

    def _whole(self, table: Table) -> bool:
        return all(
            node in self.alive and self.alive[node].incarnation == incarnation
            for node, incarnation in table.members()
        )

    def _ready(self, table: Table) -> bool:
        ready = {
            (status.node, holding.segment)
            for status in self.alive.values()
            for holding in status.holdings
            if holding.stamp == table.stamp and holding.state == "ready"
        }
        return all((r.node, s.id) in ready for s in table.segments for r in s.replicas)
