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
from dsi_mqtt.cli.verdict import Wait, refusal
from dsi_mqtt.cli.watching import Picture, watch
from dsi_mqtt.core.deployment import Deployment, differences, without_effect
from dsi_mqtt.core.table import Table
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
        serve = known.serve if known is not None else None
        served = serve is not None and serve.state == "serving"
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
    seen = Wait(deployment, nodes, say, asyncio.get_running_loop().time)
    try:
        async with asyncio.timeout(timeout_s):
            picture = await watch(connection, topics, seen.settled, marker(topics))
    except TimeoutError:
        raise InfeasibleError(
            f"{deployment.name} does not serve after {timeout_s:g} s: {seen.progress}"
        ) from None
    refused = refusal(picture, deployment.name, served=served)
    if refused is not None:
        raise refused
    return seen.table


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
