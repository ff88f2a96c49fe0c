"""`dsi-mqtt up`: everything on one machine, from one file."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dsi_mqtt.cli import INTERRUPTED
from dsi_mqtt.cli.broker import CONTROL_PORT, DataPortOption, PortOption, data_port_of
from dsi_mqtt.cli.child import Child
from dsi_mqtt.cli.common import (
    ROOT,
    RootOption,
    control_connection,
    marker,
    state_folder,
    until_stopped,
    usable_folder,
    waiting,
)
from dsi_mqtt.cli.deploy import (
    WAIT_S,
    placement,
    publish_spec,
    say_replaced,
    say_without_effect,
    until_serving,
)
from dsi_mqtt.cli.site import Site, nodes_for, running_site
from dsi_mqtt.cli.watching import watch
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.site import SiteFile, nodes_without_effect
from dsi_mqtt.engine.found import found_here
from dsi_mqtt.errors import ConfigError
from dsi_mqtt.transport.address import parse_broker_url
from dsi_mqtt.transport.loop import run
from dsi_mqtt.wire.files import read_nodes, read_site
from dsi_mqtt.wire.topics import Topics

NodesOption = Annotated[
    Path | None,
    typer.Option("--nodes", help="A file of nodes to run on, instead of those in FILE."),
]
StateOption = Annotated[
    Path | None, typer.Option("--state", help="Folder for the brokers' state and the logs.")
]
ThereOption = Annotated[
    str | None, typer.Option("--broker", help="Use this broker instead of starting two.")
]
FreshOption = Annotated[
    bool, typer.Option("--fresh", help="Forget what the brokers keep from earlier runs.")
]


def up(
    file: Annotated[Path, typer.Argument(help="Deployments, and the nodes to run them on.")],
    nodes_file: NodesOption = None,
    port: PortOption = CONTROL_PORT,
    data_port: DataPortOption = None,
    broker: ThereOption = None,
    state: StateOption = None,
    fresh: FreshOption = False,
    root: RootOption = ROOT,
) -> None:
    """Run a whole site on this machine; Ctrl-C ends it all.

    Brokers, workers and orchestrator, with the deployments of the file on them. What the brokers
    keep outlives it, for each file and port: the next run goes on where this one ended.
    """
    deployments, site = read_site(file)
    if fresh and broker is not None:
        raise ConfigError("--fresh: only brokers that `up` starts can forget; leave out --broker")
    if nodes_file is not None:
        site = read_nodes(nodes_file)
    _say_without_effect(deployments, site)
    models = file.parent.resolve()
    for deployment in deployments:
        _look_for_models(deployment, models)
    if broker is not None:
        parse_broker_url(broker)
    folder = usable_folder(state or run_folder(file, port), "--state")
    starting = running_site(
        nodes_for(deployments, site),
        root=root,
        port=port,
        data_port=data_port_of(port, data_port),
        state=folder,
        restart=True,
        broker=broker,
        ended=_say_ended,
        models=models,
        fresh=fresh,
    )
    serving = _serve(starting, deployments, Topics(root), folder)
    if not run(until_stopped(serving, ending="ending everything, which takes some seconds")):
        raise typer.Exit(INTERRUPTED)


def _look_for_models(deployment: Deployment, models: Path) -> None:
    """Said before anything is started. Raises CheckpointError where a folder is missing."""
    found_here(deployment.model, models)
    other = deployment.falls_back_to
    if other is not None:
        found_here(other.model, models, "fallback.model")


def _say_without_effect(deployments: Sequence[Deployment], site: SiteFile | None) -> None:
    for deployment in deployments:
        say_without_effect(deployment)
    for name in nodes_without_effect(site) if site is not None else ():
        print(f"note: {name} has no effect yet", file=sys.stderr)


async def _serve(
    starting: AbstractAsyncContextManager[Site],
    deployments: Sequence[Deployment],
    topics: Topics,
    folder: Path,
) -> bool:
    """Runs the site until it is cancelled. True: it ran by then."""
    async with starting as site:
        await _deploy_all(site, deployments, topics)
        where = parse_broker_url(site.url)
        print(f"everything runs; broker at {where}, logs in")
        print(folder / "logs")  # a line of its own, for it may fill one
        print(f"live: dsi-mqtt status --broker mqtt://{where}; Ctrl-C ends it all", flush=True)
        with contextlib.suppress(asyncio.CancelledError):  # this is how it ends
            if site.brokers is not None:
                await site.brokers.watch()
            else:
                await asyncio.Event().wait()
    return True


def run_folder(file: Path, port: int) -> Path:
    """Where the runs of this file on this port keep their state; no other file's is there."""
    path = file.resolve()
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    return state_folder() / f"up-{port}" / f"{path.stem}-{digest}"


async def _deploy_all(site: Site, deployments: Sequence[Deployment], topics: Topics) -> None:
    console = Console(stderr=True)
    async with control_connection(site.url) as connection:
        before = (await watch(connection, topics, lambda _: True, marker(topics))).specs
        if site.brokers is not None:
            _say_left_over(before.keys() - {deployment.name for deployment in deployments})
        for deployment in deployments:
            if before.get(deployment.name) != deployment:  # the same again is the usual case
                say_replaced(before.get(deployment.name), deployment)
            await publish_spec(connection, topics, deployment)
    for deployment in deployments:
        async with control_connection(site.url) as connection:
            with waiting(console, f"{deployment.name}: starting the nodes", plain=True) as say:
                nodes = frozenset(site.workers)
                table = await until_serving(
                    connection, topics, deployment, WAIT_S, say, nodes=nodes
                )
        Console().print(placement(table))


def _say_left_over(names: Iterable[str]) -> None:
    for name in sorted(names):
        told = f"note: {name} is still deployed from an earlier run; --fresh forgets it"
        print(told, file=sys.stderr)


def _say_ended(child: Child, code: int) -> None:
    print(f"{child.name} ended with {code}; it is started again", file=sys.stderr)
