"""`dsi-mqtt drain`: take a node out of every chain, so that it can be switched off."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Console

from dsi_mqtt.cli.common import (
    DEFAULT_URL,
    ROOT,
    BrokerOption,
    RootOption,
    control_connection,
    marker,
)
from dsi_mqtt.cli.watching import Picture, watch
from dsi_mqtt.core.node import Desired
from dsi_mqtt.errors import ConfigError, InfeasibleError
from dsi_mqtt.transport.base import Message
from dsi_mqtt.transport.loop import run
from dsi_mqtt.wire.topics import Topics, check_name


def drain(
    node: Annotated[str, typer.Argument(help="The node's name.")],
    broker: BrokerOption = DEFAULT_URL,
    root: RootOption = ROOT,
    undo: Annotated[bool, typer.Option(help="Let the node take part again.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.")] = 60.0,
) -> None:
    """Empty a node, so that it may be switched off."""
    check_name(node, "node")
    run(_drain(node, broker, Topics(root), undo=undo, timeout_s=timeout))
    print(f"{node} takes part again" if undo else f"{node} holds nothing and may be switched off")


async def _drain(node: str, url: str, topics: Topics, *, undo: bool, timeout_s: float) -> None:
    async with control_connection(url) as connection:
        known = await watch(connection, topics, lambda _: True, marker(topics))
        if node not in known.statuses:
            raise ConfigError(f"node: there is no node {node!r}; `dsi-mqtt status` lists them")
        payload = b"" if undo else topics.desired.payload.encode(Desired(drain=True))
        name = topics.desired.name(node=node)
        await connection.publish(Message(name, payload, qos=1, retain=True))
        if undo:
            return
        last = known
        with Console(stderr=True).status(f"moving everything away from {node}"):
            try:
                async with asyncio.timeout(timeout_s):

                    def empty(picture: Picture) -> bool:
                        nonlocal last
                        last = picture
                        return _is_empty(picture, node)

                    await watch(connection, topics, empty, marker(topics))
            except TimeoutError:
                raise InfeasibleError(_why(last, node, timeout_s)) from None


def _is_empty(picture: Picture, node: str) -> bool:
    status = picture.statuses.get(node)
    if status is None or status.state == "offline":
        return True
    named = any(
        member == node
        for document in picture.documents.values()
        for table in document.tables()
        for member, _ in table.members()
    )
    return status.state == "draining" and not (status.holdings or status.doors or named)


def _why(picture: Picture, node: str, timeout_s: float) -> str:
    status = picture.statuses.get(node)
    held = sorted({h.deployment for h in status.holdings}) if status else []
    return (
        f"{node} still serves {', '.join(held) or 'a door'} after {timeout_s:g} s: there may be no "
        "other placement; start another node, or let it stay with --undo"
    )
