"""What is seen of a deployment that is waited for: whether it serves, how far it is, why not.

Retained words come in any order, and nodes, orchestrator and table each speak for themselves. So
a document counts as the answer to what was deployed only where it has stood for a while, and what
the nodes say of the model agrees with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dsi_mqtt.cli.watching import Picture
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.node import ModelReport
from dsi_mqtt.core.patience import DESCRIBE_S
from dsi_mqtt.core.table import Table, TableDocument
from dsi_mqtt.errors import InfeasibleError

# An orchestrator that starts together with us leads after about so long.
PATIENCE_S: Final = 6.0
# How long a table must stand before it counts as the answer to what was deployed: a refusal until
# nodes that have just come have had their part in the plan. Those that have yet to look at the
# model are waited for as long as an orchestrator would.
SETTLED_S: Final = 1.0
REFUSED_S: Final = 3.0
_NOBODY_LEADS: Final = "no orchestrator has answered; is `dsi-mqtt orchestrator` running?"


def refusal(picture: Picture, name: str, *, served: bool = False) -> InfeasibleError | None:
    """What has become of a deployment that cannot be placed, and why; None: it serves.

    served: that another served before under its name.
    """
    document = picture.documents.get(name)
    table = document.serve if document else None
    if document is None or table is None:
        return None
    why = other_weights(picture, name) or document.refused or table.reason
    if table.state == "fallback":
        return InfeasibleError(f"{name} cannot be placed, so its fallback serves: {why}")
    if table.state != "serving" and served:
        error = InfeasibleError(f"{name} serves nothing now: {why}")
        error.add_note("deploy the former file again, or change what is missing")
        return error
    if table.state != "serving":
        return InfeasibleError(f"{name} cannot be served: {why}")
    if document.refused is not None:
        return InfeasibleError(f"{name} cannot be placed, so the former placement serves on: {why}")
    return None


class Wait:
    """What is seen of a deployment while it is waited for. progress: how far it is."""

    def __init__(
        self,
        deployment: Deployment,
        nodes: frozenset[str],
        say: Callable[[str], None] | None,
        clock: Callable[[], float],
    ) -> None:
        self._deployment = deployment
        self._nodes = nodes
        self._say = say
        self._clock = clock
        self._started = clock()
        self._verdict: tuple[TableDocument, float] | None = None
        self.progress = _NOBODY_LEADS

    @property
    def table(self) -> Table:
        """The answer to what was deployed, once it is settled."""
        table = self._verdict[0].serve if self._verdict is not None else None
        if table is None:
            raise RuntimeError("there is no verdict yet")
        return table

    def settled(self, picture: Picture) -> bool:
        """Whether a document has stood long enough: one from before does not know what is new."""
        name = self._deployment.name
        if picture.specs.get(name) != self._deployment:
            return False
        now = self._clock()
        self.progress = progress(picture, name, self._nodes)
        early = now - self._started < PATIENCE_S
        if self._say is not None and not (early and self.progress == _NOBODY_LEADS):
            self._say(f"{name}: {self.progress}")
        verdict = _verdict(picture, name, self._nodes)
        if verdict is None:
            self._verdict = None
            return False
        if self._verdict is None or self._verdict[0] != verdict:
            self._verdict = verdict, now
        if refusal(picture, name) is None:
            return now - self._verdict[1] >= SETTLED_S
        unheard = {s.node for s in picture.live_nodes()} - _looked(picture, name).keys()
        if unheard and now - self._started < DESCRIBE_S:
            return False
        return now - self._verdict[1] >= REFUSED_S


def other_weights(picture: Picture, name: str) -> str | None:
    """What keeps nodes out that are there: to the planner those with other weights are not."""
    digests = {
        node: report.graph.digest
        for node, report in _looked(picture, name).items()
        if report.graph is not None
    }
    if len(set(digests.values())) <= 1:
        return None
    return (
        f"the nodes {', '.join(digests)} have different weights for its model; give all the same "
        "files, or seed its factory (`dsi-mqtt deploy FILE --check`)"
    )


def _verdict(picture: Picture, name: str, nodes: frozenset[str]) -> TableDocument | None:
    """The document that says how it stands, unless it speaks of the past or of too early."""
    document = picture.documents.get(name)
    table = document.serve if document else None
    if document is None or table is None or document.prepare is not None:
        return None
    if table.state == "serving":
        intact = _gone(picture, table) is None and _computes(picture, table)
        return document if intact else None
    leads = picture.leader is not None and picture.leader.nonce == table.leader
    return document if leads and nodes <= _looked(picture, name).keys() else None


def _gone(picture: Picture, table: Table) -> str | None:
    """Whom a table names that is not there; None: nobody."""
    living = {(status.node, status.incarnation) for status in picture.live_nodes()}
    gone = ", ".join(sorted({node for node, _ in table.members() - living}))
    return f"of the chain that serves {gone} is gone or runs anew" if gone else None


def _computes(picture: Picture, table: Table) -> bool:
    """Whether all whom a table names have its model open, as it is deployed now, and its parts.

    It may be from before the last change of the deployment, which nodes have heard of by then.
    """
    looked = _looked(picture, table.deployment)
    with_it = {
        node
        for node, report in looked.items()
        if report.graph is not None and table.model and report.graph.digest == table.model.digest
    }
    named = {node for node, _ in table.members()}
    return named <= with_it and _loaded(picture, table) == len(table.segments)


def _loaded(picture: Picture, table: Table) -> int:
    """How many segments of a table are, where they are computed."""
    key = table.deployment, table.stamp
    places = {(s.id, replica.node) for s in table.segments for replica in s.replicas}
    return sum(
        holding.state == "ready" and (holding.segment, status.node) in places
        for status in picture.live_nodes()
        for holding in status.holdings
        if (holding.deployment, holding.stamp) == key
    )


def _looked(picture: Picture, name: str) -> dict[str, ModelReport]:
    """The nodes that have said how the model that is deployed looks from there, and what."""
    spec = picture.specs.get(name)
    reports = {
        status.node: status.described(name, spec.opening if spec else "")
        for status in picture.live_nodes()
    }
    return {node: report for node, report in reports.items() if report is not None}


def _goes_on(document: TableDocument) -> bool:
    """Whether there is a chain in it, that serves or is being loaded."""
    serve = document.serve
    return document.prepare is not None or (serve is not None and serve.serves)


def _awaited(picture: Picture, name: str, expected: frozenset[str]) -> str | None:
    """Which nodes have yet to come or to look at the model; None: none of `expected`."""
    there = {status.node for status in picture.live_nodes()}
    if not there and not expected:
        return "no node is online; start one with `dsi-mqtt worker`"
    if expected - there:
        return (
            f"{len(expected & there)} of {len(expected)} nodes are online (starting takes a while)"
        )
    awaited = expected or there
    looked = awaited & _looked(picture, name).keys()
    if looked == awaited:
        return None
    return (
        f"{len(looked)} of {len(awaited)} nodes have looked at the model (starting takes a while)"
    )


def progress(picture: Picture, name: str, expected: frozenset[str] = frozenset()) -> str:
    """How far it is. expected: nodes that are on their way, so that nobody need start one."""
    document = picture.documents.get(name)
    nodes = picture.live_nodes()
    if not picture.led:
        return _NOBODY_LEADS
    if document is None or not nodes or (expected and not _goes_on(document)):
        awaited = _awaited(picture, name, expected)
        if awaited is not None or document is None:
            return awaited or "the nodes have looked at the model"
    if document.prepare is not None:
        return _loading(picture, document.prepare)
    serve = document.serve
    if serve is None or serve.state != "serving":
        return serve.reason or "" if serve else ""
    gone = _gone(picture, serve)
    if gone is None and _computes(picture, serve):
        return document.refused or "it serves"
    awaited = _awaited(picture, name, expected) if expected or gone is None else None
    return awaited or gone or _loading(picture, serve)


def _loading(picture: Picture, table: Table) -> str:
    return f"{_loaded(picture, table)} of {len(table.segments)} segments are loaded"
