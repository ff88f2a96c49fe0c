"""What every table of one deployment carries: stamp, decision id, and the ingress session.

All of it goes on where another orchestrator ended: a stamp is above everything that was ever
published, and the session outlives doors and leaders.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from dsi_mqtt.core.aim import Texts
from dsi_mqtt.core.decisions import Authority
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.draft import WINDOW, Draft, draft_table
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.outlook import Outlook
from dsi_mqtt.core.table import EPOCH_MAX, DoorPlace, Stamp, Table, TableDocument, Transfer
from dsi_mqtt.core.transfers import faster, transfers, transits
from dsi_mqtt.errors import one_sentence


class Issuer:
    """Of deployment `name`. `document`, everywhere: the newest that is known."""

    def __init__(self, name: str, outlook: Outlook) -> None:
        self._name = name
        self._outlook = outlook
        self._session: str | None = None

    def found(self, document: TableDocument) -> None:
        """A newer document than any before, whoever made it."""
        for table in document.tables():
            if table.door is not None:
                self._session = table.door.session

    def stamp(self, document: TableDocument | None, authority: Authority) -> Stamp:
        """Above all that was ever published, as far as anybody alive knows."""
        seen = [self._outlook.newest_seen().epoch]
        if document is not None:
            seen.append(document.order[0].epoch)
        # Beyond is nobody's epoch; the term alone is above it.
        believed = [epoch for epoch in seen if epoch < EPOCH_MAX]
        newest = max(authority.epochs.get(self._name, 0), *believed, 0)
        authority.epochs[self._name] = newest + 1
        return Stamp(authority.term, authority.nonce, newest + 1)

    @property
    def known_session(self) -> str | None:
        return self._session

    def decision(self, authority: Authority) -> str:
        return f"{self._name}-{authority.nonce}-{next(authority.numbers)}"

    def session(self, authority: Authority) -> str:
        """The ingress session outlives doors and leaders, so its id does."""
        if self._session is None:
            self._session = f"{self._name}-{authority.secret()}"
        return self._session

    def table(self, document: TableDocument | None, draft: Draft, authority: Authority) -> Table:
        """What is drafted, under the next stamp."""
        nodes = {status.node: status for status, _ in self._outlook.members.reports()}
        stamp = self.stamp(document, authority)
        table = draft_table(draft, stamp, nodes, self.session(authority))
        old = document.serve if document else None
        return self.as_of_now(
            document, replace(table, transfers=self._transfers(old, table, draft))
        )

    def _transfers(self, old: Table | None, new: Table, draft: Draft) -> tuple[Transfer, ...]:
        """How caches of sessions come to the nodes of `new`; nothing where there are none."""
        cadence = draft.plan.cadence
        if old is None or cadence is None:
            return ()
        reports = self._outlook.members.reports()
        links = {status.node: told.link for status, told in reports if told is not None}
        texts = Texts.of(draft.spec)
        positions = texts.prompt_tokens + texts.new_tokens // 2
        mode = faster(
            transits(old, new, draft.graph),
            links,
            positions=positions,
            sessions=max(1, ceil(cadence.sessions)),
            recompute_s=cadence.prompt_s * positions / texts.prompt_tokens,
        )
        return transfers(old, new, mode)

    def as_of_now(self, document: TableDocument | None, table: Table) -> Table:
        """The table as it is published now: it and its door say who of the one before is gone."""
        old = document.serve if document else None
        table = replace(table, gone=self._outlook.gone(old))
        if table.door is None:
            return table
        orphaned = self._outlook.orphans(old, (table.door.node, table.door.incarnation))
        return replace(table, door=replace(table.door, orphaned=orphaned))

    def unavailable(
        self,
        document: TableDocument | None,
        reason: str,
        door: DoorPlace | None,
        authority: Authority,
    ) -> Table:
        return Table(
            self._name,
            *self.stamp(document, authority),
            "unavailable",
            one_sentence(reason),
            self.decision(authority),
            None,
            door,
            gone=self._outlook.gone(document.serve if document else None),
        )

    def waiting_door(
        self,
        document: TableDocument | None,
        spec: Deployment,
        graph: ModelGraph,
        authority: Authority,
    ) -> DoorPlace | None:
        """While nothing serves, a door still takes the inputs and answers each: `core.unserved`."""
        old = document.serve if document else None
        known = old.door.node if old and old.door else None
        keeper = self._outlook.keeper(spec, graph, known)
        if keeper is None or keeper.brokers is None:
            return None
        member = keeper.node, keeper.incarnation
        return DoorPlace(
            *member,
            keeper.brokers.control,
            self.session(authority),
            WINDOW,
            orphaned=self._outlook.orphans(old, member),
        )
