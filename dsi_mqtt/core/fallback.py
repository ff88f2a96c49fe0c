"""What serves a deployment while its own model cannot: another model, planned like any other.

Nodes keep it apart from the deployment's own under a name that no deployment has, so both are
described, loaded and computed beside each other, and one makes way for the other as one table does
for the next. It has no rules for single units, for those of the file count the units of the own
model: where the file names zones, all of the fallback stays in zones that each of them allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from dsi_mqtt.core.choosing import Alternatives
from dsi_mqtt.core.decisions import Authority
from dsi_mqtt.core.deployment import FALLBACK_MARK, Deployment
from dsi_mqtt.core.draft import Draft, chain_of
from dsi_mqtt.core.failures import NodeKey
from dsi_mqtt.core.grounds import DRAINS, Grounds
from dsi_mqtt.core.issuer import Issuer
from dsi_mqtt.core.membership import Membership
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.offered import Coming
from dsi_mqtt.core.outlook import Outlook
from dsi_mqtt.core.plan import Infeasible, Plan
from dsi_mqtt.core.sharing import Sharing
from dsi_mqtt.core.table import Table, TableDocument
from dsi_mqtt.errors import ConfigError, one_sentence


@dataclass(frozen=True, slots=True)
class Instead:
    """A placement of the fallback. spec: as it was planned. grounds: what it was held against, and
    found better than, among fallbacks.
    """

    spec: Deployment
    graph: ModelGraph
    plan: Plan
    grounds: Grounds


class Fallback:
    """Of deployment `name`. What it takes of nodes counts as the deployment's own."""

    def __init__(self, name: str, members: Membership, sharing: Sharing) -> None:
        self._name = name
        self._spec: Deployment | None = None  # the deployment
        self.outlook = Outlook(name + FALLBACK_MARK, members, sharing=sharing, disregards=name)

    def spec_is(self, spec: Deployment) -> None:
        self._spec, other = spec, spec.falls_back_to
        self.outlook.opening = "" if other is None else other.opening

    def best(self, without: Iterable[NodeKey], beside: Table | None = None) -> Instead | str | None:
        """Where it can serve, or why it cannot; None: the deployment has none.

        beside: a table of it that serves until then. The deployment's own chain is disregarded: it
        is of no use any more.
        """
        wanted = self._asked()
        if wanted is None or isinstance(wanted, str):
            return wanted
        spec, graph = wanted
        self.outlook.sharing.takes(self._name, {})
        try:
            found = self.outlook.best(spec, graph, beside, without=without)
        except ConfigError as error:
            return str(error)
        if isinstance(found, Infeasible):
            return found.sentence
        self.outlook.sharing.takes(self._name, found.shares(spec.rate_per_s))
        nodes, coming = self.outlook.nodes(spec, graph), Coming(spec.rate_per_s)
        if beside is None:
            return Instead(spec, graph, found, Grounds(nodes, coming, None, found, None))
        present = self.outlook.present(spec, graph, beside)
        verdict = DRAINS if self.outlook.drains(beside) else ""
        grounds = Grounds(nodes, coming, chain_of(beside), found, present, verdict=verdict)
        return Instead(spec, graph, found, grounds)

    def suits(self, serve: Table) -> bool:
        """Whether a table of the fallback may serve on."""
        wanted = self._asked()
        if not serve.is_fallback or wanted is None or isinstance(wanted, str):
            return False
        return self.outlook.may_go_on(*wanted, serve)

    def tells(self, serve: Table) -> None:
        """What serves keeps its nodes busy, whoever has placed it."""
        wanted = self._asked()
        if wanted is None or isinstance(wanted, str):
            return
        spec, graph = wanted
        present = self.outlook.present(spec, graph, serve)
        shares = {} if present is None else present.shares(spec.rate_per_s)
        self.outlook.sharing.takes(self._name, shares)

    def table(
        self,
        found: Instead,
        reason: str,
        issuer: Issuer,
        document: TableDocument | None,
        authority: Authority,
    ) -> Table:
        """To be prepared. reason: why the deployment's own model cannot serve."""
        decision = issuer.decision(authority)
        draft = Draft(found.spec, found.graph, found.plan, decision, one_sentence(reason))
        table = issuer.table(document, draft, authority)
        model = None if table.model is None else replace(table.model, fallback=True)
        return replace(table, deployment=self._name, model=model)

    def makes_way(self, own: Outlook, compare: Callable[[], Alternatives]) -> Alternatives:
        """The best placement of the deployment's own model beside the fallback; where there is no
        room for both, without it. own: what `compare` asks.
        """
        choice = compare()
        if isinstance(choice.found, Plan):
            return choice
        own.disregards = self.outlook.name
        try:
            return replace(compare(), beside=False)
        finally:
            own.disregards = ""

    def _asked(self) -> tuple[Deployment, ModelGraph] | str | None:
        """As it is to be planned, or why it cannot be."""
        spec = self._spec
        other = None if spec is None else spec.falls_back_to
        if spec is None or other is None:
            return None
        graph = self.outlook.graph()
        if graph is None:
            return self.outlook.why_no_graph()
        try:
            return asked(spec, other, graph), graph
        except ConfigError as error:
            return str(error)


def asked(spec: Deployment, other: Deployment, graph: ModelGraph) -> Deployment:
    """The fallback of `spec` as it is to be planned, by the zones that its rules leave. Raises
    ConfigError where these leave none.
    """
    zones = [set(named) for named in spec.privacy.units.values()]
    if not zones:
        return other
    common = tuple(sorted(set.intersection(*zones)))
    if not common:
        raise ConfigError(
            "no zone is allowed for all units, which those of the fallback would need"
        )
    return replace(other, privacy=replace(other.privacy, units={str(graph.whole): common}))
