"""`dsi-mqtt drain`: take a node out of every chain, so that it can be switched off."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
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
    waiting,
)
from dsi_mqtt.cli.watching import Picture, watch
from dsi_mqtt.core.deployment import FALLBACK_MARK, Deployment
from dsi_mqtt.core.fallback import Fallback, Instead
from dsi_mqtt.core.membership import Membership
from dsi_mqtt.core.node import Desired
from dsi_mqtt.core.outlook import Outlook
from dsi_mqtt.core.plan import Plan
from dsi_mqtt.core.sharing import Sharing
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.core.table import Table
from dsi_mqtt.errors import ConfigError, InfeasibleError, one_sentence
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
    """Empty a node, so that it may be switched off.

    Says at once what the node holds and where that can go, then waits.
    """
    check_name(node, "node")
    run(_drain(node, broker, Topics(root), undo=undo, timeout_s=timeout))
    print(f"{node} takes part again" if undo else f"{node} holds nothing and may be switched off")


async def _drain(node: str, url: str, topics: Topics, *, undo: bool, timeout_s: float) -> None:
    async with control_connection(url) as connection:
        known = await watch(connection, topics, lambda _: True, marker(topics))
        if node not in known.statuses:
            raise ConfigError(f"node: there is no node {node!r}; `dsi-mqtt status` lists them")
        # Not cleared: a node that is away would not hear that, and go on draining.
        payload = topics.desired.payload.encode(Desired(drain=not undo))
        name = topics.desired.name(node=node)
        await connection.publish(Message(name, payload, qos=1, retain=True))
        if undo:
            return
        for line in outlook(known, node):
            print(line, file=sys.stderr)
        last = known

        def empty(picture: Picture) -> bool:
            nonlocal last
            last = picture
            return _is_empty(picture, node)

        try:
            with waiting(Console(stderr=True), f"moving everything away from {node}"):
                async with asyncio.timeout(timeout_s):
                    await watch(connection, topics, empty, marker(topics))
        except TimeoutError:
            raise InfeasibleError(_why(last, node, timeout_s)) from None


def outlook(picture: Picture, node: str) -> list[str]:
    """What the node holds and where that could go, a line each; nothing where it holds nothing.

    The planner is asked as the orchestrator asks it, about the same facts.
    """
    names = _served_by(picture, node)
    lines = [f"{node} holds {_held(picture, node, name)}" for name in names]
    if names and picture.leader is None:
        lines.append("no orchestrator leads, so nothing moves; start `dsi-mqtt orchestrator`")
    for name in names:
        found = _elsewhere(picture, node, name)
        if isinstance(found, Plan):
            parts = ", ".join(f"{part.units} on {part.node}" for part in found.segments)
            lines.append(one_sentence(f"{name} can move: {parts}, door on {found.door}"))
        else:
            lines.append(one_sentence(f"{name} serves on, for it cannot move yet: {found}"))
    return lines


def _served_by(picture: Picture, node: str) -> list[str]:
    """The deployments of which the node has a part, or is to have one."""
    status = picture.statuses.get(node)
    holdings = status.holdings if status else ()
    held = {report.deployment.removesuffix(FALLBACK_MARK) for report in holdings}
    doors = {report.deployment for report in status.doors} if status else set()
    named = {
        name
        for name, document in picture.documents.items()
        for table in document.tables()
        for member, _ in table.named()
        if member == node
    }
    return sorted(named | held | doors)


def _held(picture: Picture, node: str, name: str) -> str:
    status = picture.statuses[node]
    what = []
    for model, whose in ((name, ""), (name + FALLBACK_MARK, " of the fallback")):
        nbytes = {h.units: h.weight_bytes for h in status.holdings if h.deployment == model}
        sizes = sorted(nbytes.items())
        what += [f"units {units}{whose} ({size / MIB:.1f} MiB)" for units, size in sizes]
    what += ["the door" for door in status.doors if door.deployment == name]
    return f"{' and '.join(what) or 'a part'} of {name}"


def _elsewhere(picture: Picture, node: str, name: str) -> Plan | str:
    """The placement without the node, or why there is none."""
    members = Membership()
    for status in picture.live_nodes():
        leaves = status.node == node
        members.status_arrived(replace(status, state="draining") if leaves else status, 0.0)
        if status.node in picture.telemetry:
            members.telemetry_arrived(picture.telemetry[status.node], 0.0)
    spec, document = picture.specs.get(name), picture.documents.get(name)
    asked = Outlook(name, members, spec.opening if spec else "")
    graph = asked.graph()
    if spec is None:
        return "it is being removed"
    serve = document.serve if document else None
    by_fallback = serve is not None and serve.is_fallback
    if graph is None:
        return _fallback_elsewhere(spec, members, serve) if by_fallback else asked.why_no_graph()
    try:
        found = asked.best(spec, graph, None if by_fallback else serve)
    except ConfigError as error:
        return str(error)
    if isinstance(found, Plan):
        return found
    return _fallback_elsewhere(spec, members, serve) if by_fallback else found.sentence


def _fallback_elsewhere(spec: Deployment, members: Membership, serve: Table | None) -> Plan | str:
    fallback = Fallback(spec.name, members, Sharing())
    fallback.spec_is(spec)
    found = fallback.best((), serve)
    return found.plan if isinstance(found, Instead) else found or "it has no fallback any more"


def _is_empty(picture: Picture, node: str) -> bool:
    status = picture.statuses.get(node)
    if status is None or status.state == "offline":
        return True
    return status.state == "draining" and not _served_by(picture, node)


def _why(picture: Picture, node: str, timeout_s: float) -> str:
    names = _served_by(picture, node)
    found = [_elsewhere(picture, node, name) for name in names]
    reason = next((why for why in found if isinstance(why, str)), "it is still moving; ask again")
    return (
        f"{node} still serves {', '.join(names)} after {timeout_s:g} s, "
        f"and leaves when it can; --undo lets it stay: {reason}"
    )
