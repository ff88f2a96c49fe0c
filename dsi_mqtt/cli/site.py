"""A whole site on one machine: brokers, workers and an orchestrator, from one file."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final

from dsi_mqtt.cli.broker import SiteBrokers, site_brokers
from dsi_mqtt.cli.child import Child, Children, Start, start_process
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.node import FREE
from dsi_mqtt.core.site import SiteFile, SiteNode
from dsi_mqtt.core.table import BrokerUrls
from dsi_mqtt.transport.address import parse_broker_url

ORCHESTRATOR: Final = "orchestrator"

# Where a node reaches the site's brokers: the URLs of what lies between, in front of them.
Reach = Callable[[SiteNode, BrokerUrls], Awaitable[BrokerUrls]]


@dataclass(slots=True)
class Site:
    """What runs. `brokers` is None where brokers that were there before are used."""

    url: str
    brokers: SiteBrokers | None
    children: Children
    workers: dict[str, Child]


def nodes_for(deployments: Sequence[Deployment], site: SiteFile | None) -> tuple[SiteNode, ...]:
    """The nodes of the file; without any, one for each zone that a privacy rule names."""
    if site is not None and site.nodes:
        return site.nodes
    zones = sorted({z for d in deployments for zs in d.privacy.units.values() for z in zs})
    return tuple(SiteNode(id=zone, zone=zone) for zone in zones or ["edge"])


@asynccontextmanager
async def running_site(
    nodes: Sequence[SiteNode],
    *,
    root: str,
    port: int,
    data_port: int,
    state: Path | None,
    restart: bool,
    broker: str | None = None,
    ended: Callable[[Child, int], None] | None = None,
    models: Path | None = None,
    fresh: bool = False,
    start: Start = start_process,
    reach: Reach | None = None,
) -> AsyncIterator[Site]:
    """Starts everything in order and ends it in the opposite one.

    state: folder for the brokers' state and the children's logs; None takes one that is removed.
    models: where the workers find checkpoint folders and the modules of factories.
    broker: an existing one instead of own ones. A port of 0 takes a free one.
    fresh: own brokers forget what they keep in `state` from earlier runs.
    start: makes a process of a command's arguments.
    reach: of own brokers, where a node reaches them; None: at their own URLs.
    Raises MachineError: no Mosquitto, a port in use; ConfigError when `broker` is no URL.
    """
    if broker is not None:
        parse_broker_url(broker)  # before it stands in command lines
    async with AsyncExitStack() as stack:
        folder = state
        if folder is None:
            own = tempfile.TemporaryDirectory(prefix="dsi-mqtt-", ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(own))
        brokers = None
        if broker is None:
            brokers = await stack.enter_async_context(
                site_brokers(folder / "broker", port, data_port, root=root, fresh=fresh)
            )
        url = broker or (brokers.control.url if brokers else "")
        children = Children(folder / "logs", restart=restart, ended=ended, start=start)
        stack.push_async_callback(children.stop)
        await children.start(ORCHESTRATOR, "orchestrator", "--broker", url, "--root", root)
        workers = {}
        for node in nodes:
            at, more = url, tuple[str, ...]()
            if reach is not None and brokers is not None:
                at, data = astuple(await reach(node, BrokerUrls(url, brokers.data.url)))
                more = ("--data-broker", data)
            arguments = worker_arguments(node, at, root, models)
            workers[node.id] = await children.start(node.id, *arguments, *more)
        yield Site(url, brokers, children, workers)


def worker_arguments(
    node: SiteNode, url: str, root: str, models: Path | None = None
) -> tuple[str, ...]:
    cap = "none" if node.memory_mib is None else f"{node.memory_mib:g}"
    arguments = ["worker", "--name", node.id, "--zone", node.zone, "--broker", url]
    arguments += ["--root", root, "--memory-cap", cap, "--threads", str(node.threads)]
    if node.upkeep != FREE:
        watts = node.upkeep.watts
        arguments += ["--price", node.price, "--watts", f"{watts.idle:g},{watts.busy:g}"]
    if models is not None:
        arguments += ["--models", str(models)]
    return (*arguments, "--spare") if node.spare else tuple(arguments)
