"""`dsi-mqtt deploy` and `undeploy`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table as RichTable

from dsi_mqtt.cli.common import (
    DEFAULT_URL,
    ROOT,
    BrokerOption,
    RootOption,
    control_connection,
    marker,
    waiting,
)
from dsi_mqtt.cli.deploy_check import check_deployment
from dsi_mqtt.cli.watching import Picture, watch
from dsi_mqtt.core.deployment import Deployment, differences, without_effect
from dsi_mqtt.core.table import Table, TableDocument
from dsi_mqtt.errors import (
    ConfigError,
    InfeasibleError,
    UnknownDeploymentError,
    one_sentence,
)
from dsi_mqtt.transport.base import ControlConnection, Message
from dsi_mqtt.transport.loop import run
from dsi_mqtt.wire.files import read_nodes, read_site
from dsi_mqtt.wire.topics import Topics, check_name

WAIT_S: Final = 180.0
# An orchestrator that starts together with us leads after about so long.
PATIENCE_S: Final = 6.0
# How long a table must stand before it counts as the answer to what was deployed: a refusal until
# nodes that have just come have had their part in the plan.
SETTLED_S: Final = 1.0
REFUSED_S: Final = 3.0
_NOBODY_LEADS: Final = "no orchestrator has answered; is `dsi-mqtt orchestrator` running?"


def deploy(
    file: Annotated[Path, typer.Argument(help="One deployment or several, as YAML.")],
    broker: BrokerOption = DEFAULT_URL,
    root: RootOption = ROOT,
    check_only: Annotated[
        bool,
        typer.Option("--check", help="Try model, rules and the file's nodes; publish nothing."),
    ] = False,
    nodes_file: Annotated[
        Path | None, typer.Option("--nodes", help="With --check: a file of nodes to plan on.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until it serves.")] = True,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.")] = WAIT_S,
) -> None:
    """Deploy a model, or change how it is deployed."""
    deployments, site = read_site(file)
    if nodes_file is not None:
        if not check_only:
            raise ConfigError("--nodes: only --check looks at it; leave it out, or add --check")
        site = read_nodes(nodes_file)
    for deployment in deployments:
        say_without_effect(deployment)
        if check_only:
            nodes = site.nodes if site is not None else ()
            check_deployment(deployment, file, nodes, nodes_file or file)
            continue
        table = run(_deploy(deployment, broker, Topics(root), timeout if wait else None))
        if table is not None:
            Console().print(placement(table))


def say_without_effect(deployment: Deployment) -> None:
    """Nobody should believe in a setting that does nothing."""
    for note in without_effect(deployment):
        print(f"note: {deployment.name}: {note} has no effect yet", file=sys.stderr)


def undeploy(
    name: Annotated[str, typer.Argument(help="The deployment's name.")],
    broker: BrokerOption = DEFAULT_URL,
    root: RootOption = ROOT,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.")] = 30.0,
) -> None:
    """Remove a deployment.

    Its inputs are refused from then on, and its weights released.
    """
    check_name(name, "name")
    run(_undeploy(name, broker, Topics(root), timeout))
    print(f"{name} is removed")


# --- deploy -----------------------------------------------------------------------------------


async def _deploy(
    deployment: Deployment, url: str, topics: Topics, timeout_s: float | None
) -> Table | None:
    async with control_connection(url) as connection:
        before = await watch(connection, topics, lambda _: True, marker(topics))
        say_replaced(before.specs.get(deployment.name), deployment)
        await publish_spec(connection, topics, deployment)
        if timeout_s is None:
            return None
        console = Console(stderr=True)
        known = before.documents.get(deployment.name)
        served = known is not None and _goes_on(known)
        with waiting(console, f"{deployment.name}: waiting for the orchestrator") as say:
            return await until_serving(
                connection, topics, deployment, timeout_s, say, served=served
            )


async def publish_spec(
    connection: ControlConnection, topics: Topics, deployment: Deployment
) -> None:
    """Retains it: from then on the orchestrator places it."""
    name = topics.spec.name(deployment=deployment.name)
    payload = topics.spec.payload.encode(deployment)
    await connection.publish(Message(name, payload, qos=1, retain=True))


def say_replaced(before: Deployment | None, deployment: Deployment) -> None:
    """Nobody should take the place of another's deployment without noticing."""
    if before is None:
        return
    changed = differences(before, deployment)
    what = f"replaces the one that was deployed: {', '.join(changed)}"
    note = what if changed else "is deployed like this already; nothing changes"
    print(one_sentence(f"note: {deployment.name} {note}"), file=sys.stderr)


async def until_serving(
    connection: ControlConnection,
    topics: Topics,
    deployment: Deployment,
    timeout_s: float,
    say: Callable[[str], None] | None = None,
    nodes: frozenset[str] = frozenset(),
    *,
    served: bool = False,
) -> Table:
    """The table once it serves. say: told how far it is. nodes: they are on their way, and no
    refusal is final before they have looked at the model. served: that it did before this.

    Raises InfeasibleError: with the reason when it cannot be placed, or after `timeout_s`.
    """
    seen = _Wait(deployment, nodes, say, asyncio.get_running_loop().time)
    try:
        async with asyncio.timeout(timeout_s):
            picture = await watch(connection, topics, seen.settled, marker(topics))
    except TimeoutError:
        raise InfeasibleError(
            f"{deployment.name} does not serve after {timeout_s:g} s: {seen.progress}"
        ) from None
    refused = refusal(picture, deployment.name, served=served)
    if refused is not None:
        raise InfeasibleError(refused)
    return seen.table


def refusal(picture: Picture, name: str, *, served: bool = False) -> str | None:
    """What has become of a deployment that cannot be placed, and why; None: it serves.

    served: that another served before under its name.
    """
    document = picture.documents.get(name)
    table = document.serve if document else None
    if document is None or table is None:
        return None
    why = other_weights(picture, name) or document.refused or table.reason
    if table.state != "serving":
        gone = "serves nothing now; deploy the former file again, or change what is missing"
        return f"{name} {gone if served else 'cannot be served'}: {why}"
    if document.refused is not None:
        return f"{name} cannot be placed, so the former placement serves on: {why}"
    return None


class _Wait:
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
        patience_s = SETTLED_S if refusal(picture, name) is None else REFUSED_S
        return now - self._verdict[1] >= patience_s


def other_weights(picture: Picture, name: str) -> str | None:
    """What keeps nodes out that are there: to the planner those with other weights are not."""
    graphs = {status.node: status.graph(name) for status in picture.live_nodes()}
    digests = {node: graph.digest for node, graph in graphs.items() if graph is not None}
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
        alive = {(status.node, status.incarnation) for status in picture.live_nodes()}
        return document if table.members() <= alive else None
    looked = _looked(picture, name)
    leads = picture.leader is not None and picture.leader.nonce == table.leader
    return document if leads and nodes <= looked else None


def _looked(picture: Picture, name: str) -> set[str]:
    """The nodes that have said how the model looks from there."""
    return {
        status.node
        for status in picture.live_nodes()
        if any(report.deployment == name for report in status.models)
    }


def _goes_on(document: TableDocument) -> bool:
    """Whether there is a chain in it, that serves or is being loaded."""
    serve = document.serve
    return document.prepare is not None or (serve is not None and serve.state == "serving")


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
    looked = awaited & _looked(picture, name)
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
        stamp = document.prepare.stamp
        ready = sum(h.state == "ready" for s in nodes for h in s.holdings if h.stamp == stamp)
        return f"{ready} of {len(document.prepare.segments)} segments are loaded"
    serve = document.serve
    if serve is None or serve.state != "serving":
        return serve.reason or "" if serve else ""
    gone = serve.members() - {(status.node, status.incarnation) for status in nodes}
    missing = ", ".join(sorted({node for node, _ in gone}))
    if not missing:
        return document.refused or "it serves"
    awaited = _awaited(picture, name, expected) if expected else None
    return awaited or f"of the chain that serves {missing} is gone or runs anew"


def placement(table: Table) -> RichTable:
    """Which segment runs where."""
    shown = RichTable("segment", "units", "node", box=None, pad_edge=False)
    shown.title, shown.title_justify, shown.title_style = f"{table.deployment} serves", "left", ""
    for segment in table.segments:
        nodes = ", ".join(replica.node for replica in segment.replicas)
        shown.add_row(segment.id, str(segment.units), nodes)
    if table.door is not None:
        shown.add_row("door", "", table.door.node)
    return shown


# --- undeploy ---------------------------------------------------------------------------------


async def _undeploy(name: str, url: str, topics: Topics, timeout_s: float) -> None:
    async with control_connection(url) as connection:
        known = await watch(connection, topics, lambda _: True, marker(topics))
        if name not in known.specs and name not in known.documents:
            raise UnknownDeploymentError(
                f"there is no deployment {name!r}; `dsi-mqtt status` lists those that are"
            )
        await connection.publish(
            Message(topics.spec.name(deployment=name), b"", qos=1, retain=True)
        )
        try:
            async with asyncio.timeout(timeout_s):
                await watch(connection, topics, lambda p: _is_gone(p, name), marker(topics))
        except TimeoutError:
            raise InfeasibleError(
                f"{name} is withdrawn, but its table is still there after {timeout_s:g} s; "
                "is an orchestrator running?"
            ) from None


def _is_gone(picture: Picture, name: str) -> bool:
    return name not in picture.specs and name not in picture.documents
