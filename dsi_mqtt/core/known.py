"""One deployment and the document of its tables: what is known of both, and retained.

Whoever leads keeps them at the broker: what that has lost, or somebody has overwritten, is written
again (`kept`).
"""

from __future__ import annotations

from dsi_mqtt.core.decisions import Noticed, PublishDocument, PublishSpec, ServedEffects
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.kept import Kept
from dsi_mqtt.core.outlook import Outlook
from dsi_mqtt.core.table import Table, TableDocument


class Known:
    """Of deployment `name`. outlook: on its own model.

    spec, document: the newest. unreadable: what is retained as the deployment. changed: it was,
    since the last decision. removed: it was, and nothing is retained of it any more.
    """

    def __init__(self, name: str, outlook: Outlook) -> None:
        self.name = name
        self.spec: Deployment | None = None
        self.document: TableDocument | None = None
        self.unreadable = False
        self.changed = False
        self.removed = False
        self._outlook = outlook
        self._spec_kept = Kept()
        self._table_kept = Kept()

    # --- facts --------------------------------------------------------------------------------

    def spec_arrived(self, spec: Deployment) -> bool:
        """Whether it is another than before."""
        self._spec_kept.is_right()
        self.unreadable = False
        if self.spec == spec:
            return False
        self.spec, self.changed = spec, True
        return True

    def spec_gone(self) -> None:
        """Withdrawn by an operator."""
        self._spec_kept.is_right()
        self.unreadable = False
        self.spec = None

    def spec_forgotten(self, now: float) -> None:
        """The broker does not know it any more, and no operator has withdrawn it."""
        self._spec_kept.is_missing(now)

    def document_lost(self, now: float) -> None:
        """Somebody has cleared the topic, or written what cannot be read."""
        if self.document is not None:
            self._table_kept.is_wrong(now)

    def document_forgotten(self, now: float) -> None:
        """The broker does not know any table."""
        if self.document is not None:
            self._table_kept.is_missing(now)

    def document_seen(self, document: TableDocument, now: float) -> bool:
        """A document on the topic, one's own among them; says whether it is news."""
        newer = self.document is None or document.order > self.document.order
        if newer or document == self.document:
            self._table_kept.is_right()
        else:
            self._table_kept.is_wrong(now)
        if newer:
            self.document = document
        return newer

    def repeated(self, now: float) -> ServedEffects:
        """What the broker should retain and does not."""
        effects: ServedEffects = []
        if self.spec is not None and self._spec_kept.due(now):
            effects.append(Noticed(self.name, "the broker has forgotten it; it is told again"))
            effects.append(PublishSpec(self.spec))
        if self.document is not None and not self.removed and self._table_kept.due(now):
            effects.append(Noticed(self.name, "its retained table was lost; it is written again"))
            effects.append(PublishDocument(self.name, self.document))
        return effects

    # --- questions ----------------------------------------------------------------------------

    @property
    def serve(self) -> Table | None:
        return self.document.serve if self.document else None

    @property
    def prepare(self) -> Table | None:
        return self.document.prepare if self.document else None

    @property
    def serves(self) -> bool:
        return self.serve is not None and self.serve.serves

    @property
    def own_chain(self) -> Table | None:
        """What serves, or did, of the deployment's own model."""
        return None if self.serve is not None and self.serve.is_fallback else self.serve

    @property
    def intact(self) -> Table | None:
        """The serving table, if it serves, is the newest there is, and all its nodes live."""
        serve = self.serve
        whole = serve is not None and self.serves and self._outlook.whole(serve)
        return serve if whole and not self.outrun else None

    @property
    def outrun(self) -> bool:
        """Nodes have seen a newer table: a broker has lost it, and nobody knows what it said."""
        return self.document is not None and self._outlook.newest_seen() > self.document.order[0]
