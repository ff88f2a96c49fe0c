"""`dsi-mqtt status`: nodes and deployments, live."""

from __future__ import annotations

import asyncio
import json as json_module
import time
from dataclasses import asdict
from typing import Annotated, Any, Final

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from dsi_mqtt.cli.common import (
    DEFAULT_URL,
    ROOT,
    BrokerOption,
    JsonOption,
    RootOption,
    control_connection,
    marker,
    size,
    until_stopped,
)
from dsi_mqtt.cli.run_record import run_record
from dsi_mqtt.cli.watching import Picture, watch
from dsi_mqtt.core.membership import SILENT_S
from dsi_mqtt.core.node import DoorLoad, LinkSample, NodeStatus, SegmentLoad, Telemetry
from dsi_mqtt.core.nonsense import nonsense
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.core.table import Forecast, Table
from dsi_mqtt.errors import TransportError
from dsi_mqtt.transport.base import ConnectOptions, ControlConnection
from dsi_mqtt.transport.lasting import Backoff, keep_connected
from dsi_mqtt.transport.loop import run
from dsi_mqtt.transport.mqtt import MqttTransport
from dsi_mqtt.transport.together import first_of
from dsi_mqtt.wire.topics import Topics

SCHEMA: Final = "dsi.status/1"
LISTEN_S: Final = 1.2
REFRESH_S: Final = 0.5
RETRY_S: Final = 3.0


def status(
    broker: BrokerOption = DEFAULT_URL,
    root: RootOption = ROOT,
    once: Annotated[bool, typer.Option("--once", help="Print it once and end.")] = False,
    json: JsonOption = False,
) -> None:
    """Show nodes and deployments, live; Ctrl-C ends it."""
    record = run_record("status")
    topics = Topics(root)
    console = Console()
    if json or once or not console.is_terminal:
        picture = run(_once(broker, topics))
        if json:
            print(json_module.dumps({"schema": SCHEMA, **record, **document(picture)}))
        else:
            console.print(view(picture, time.monotonic()))
        return
    run(until_stopped(_live(broker, topics, console)))


async def _once(url: str, topics: Topics) -> Picture:
    """Listens long enough to hear every node's telemetry."""
    picture = Picture()

    def keep(seen: Picture) -> bool:
        nonlocal picture
        picture = seen
        return False

    async with control_connection(url) as connection:
        try:
            async with asyncio.timeout(LISTEN_S):
                await watch(connection, topics, keep, marker(topics))
        except TimeoutError:
            pass
    return picture


async def _live(url: str, topics: Topics, console: Console) -> None:
    """Goes on for ever: a screen on a wall waits for its broker, and says so."""
    async with control_connection(url):
        pass  # where there is no broker from the first, it is said at once
    shown: RenderableType = ""

    async def connect() -> ControlConnection:
        return await MqttTransport().control(url, ConnectOptions())

    with Live(console=console, auto_refresh=False, screen=False) as live:

        async def follow(connection: ControlConnection) -> None:
            """Draws by the clock and not by message: a last message is seen though none comes
            after it, and so is that a node has fallen silent.
            """
            seen: asyncio.Future[Picture] = asyncio.get_running_loop().create_future()

            def note(picture: Picture) -> bool:
                if not seen.done():
                    seen.set_result(picture)
                return False

            async def draw() -> None:
                nonlocal shown
                picture = await seen
                while True:
                    shown = view(picture, time.monotonic())
                    live.update(shown, refresh=True)
                    await asyncio.sleep(REFRESH_S)

            await first_of(watch(connection, topics, note, marker(topics)), draw())

        def say(error: TransportError, _wait_s: float) -> None:
            told = f"\nas it last was; waits for the broker: {error}"
            live.update(Group(shown, Text(told, style="red")), refresh=True)

        await keep_connected(connect, follow, backoff=Backoff(last_s=RETRY_S), on_wait=say)


# --- what is shown ----------------------------------------------------------------------------


def document(picture: Picture) -> dict[str, Any]:
    """The same for programs: everything as it stands in the topics."""
    return {
        "leader": asdict(picture.leader) if picture.leader else None,
        "nodes": [asdict(status) for status in picture.live_nodes()],
        "telemetry": {name: asdict(t) for name, t in sorted(picture.telemetry.items())},
        "nonsense": _nonsense(picture),
        "deployments": {name: asdict(doc) for name, doc in sorted(picture.documents.items())},
    }


def view(picture: Picture, now: float) -> RenderableType:
    """Everything that a person needs at a glance."""
    parts: list[RenderableType] = [_headline(picture)]
    parts += [_deployment(picture, name) for name in sorted({*picture.specs, *picture.documents})]
    parts.append(_nodes(picture, now))
    parts += [_odd(name, found) for name, found in _nonsense(picture).items()]
    return Group(*parts)


def _nonsense(picture: Picture) -> dict[str, tuple[str, ...]]:
    """By node, the figures of its newest telemetry that cannot be true."""
    told = {name: nonsense(telemetry) for name, telemetry in sorted(picture.telemetry.items())}
    return {name: found for name, found in told.items() if found}


def _odd(node: str, found: tuple[str, ...]) -> Text:
    are = "figure that is" if len(found) == 1 else "figures that are"
    return Text(f"{node} tells {len(found)} {are} set aside: {', '.join(found)}"[:200], "yellow")


def _headline(picture: Picture) -> Text:
    leader = picture.leader
    if leader is None or not picture.led:
        return Text("no orchestrator leads; what serves goes on serving", style="yellow")
    return Text(f"orchestrator {leader.nonce} leads, term {leader.term}")


def _deployment(picture: Picture, name: str) -> RenderableType:
    found = picture.documents.get(name)
    table = found.serve if found else None
    if found is None or table is None:
        waits = "is not placed yet" if picture.led else "waits for an orchestrator"
        return Text(f"\n{name}: {'is being prepared' if found else waits}", style="yellow")
    style = {"serving": "green", "fallback": "yellow"}.get(table.state, "red")
    line = Text.assemble(f"\n{name}: ", (table.state, style), f", epoch {table.epoch}")
    alive = {(status.node, status.incarnation) for status in picture.live_nodes()}
    gone = sorted({node for node, _ in table.members() - alive})
    if gone:
        line.append(f", but {', '.join(gone)} {'is' if len(gone) == 1 else 'are'} gone", "red")
    if table.state != "serving" and table.reason:
        line.append(f", {table.reason}")
    if found.prepare is not None:
        line.append(f"; epoch {found.prepare.epoch} is being prepared", style="yellow")
    if found.refused is not None:
        line.append(f"; as it is deployed now it cannot be placed: {found.refused}", "yellow")
    if table.forecast is not None:
        line.append(f"; forecast {_promised(table.forecast)}")
    parts: list[RenderableType] = [line]
    if table.segments:
        parts.append(_chain(picture, table))
    if table.door is not None:
        load = _door_load(picture, table)
        parts.append(_door(table.door.node, load))
        if load is not None and load.p50_ms is not None:
            parts.append(_measured(load, table.forecast))
    return Group(*parts)


def _promised(expected: Forecast) -> str:
    if expected.token_p50_ms is None:
        return (
            f"{expected.p50_ms:.1f} ms, 95 % within {expected.p95_ms:.1f} ms, "
            f"up to {expected.rate_per_s:.1f}/s"
        )
    return (
        f"{expected.p50_ms:.0f} ms to the first token, {expected.token_p50_ms:.1f} ms a token, "
        f"up to {expected.rate_per_s:.2g}/s"
    )


def _door(node: str, load: DoorLoad | None) -> Text:
    line = Text(f"door on {node}")
    if load is not None:
        line.append(f": {load.answered} answered, ")
        line.append(
            f"{load.errors} error{'' if load.errors == 1 else 's'}",
            style="red" if load.errors else "",
        )
        line.append(f" ({load.refused} refused for too many)" if load.refused else "")
        line.append(f", {load.retried} retried; {load.held} held, {load.in_flight} in the chain")
    return line


def _measured(load: DoorLoad, expected: Forecast | None) -> Text:
    """What the forecast says, held against what the door has seen."""
    line = Text(f"measured {load.p50_ms:.1f} ms in the middle of {load.samples}")
    if expected is not None and expected.p50_ms > 0 and load.p50_ms is not None:
        line.append(f" ({load.p50_ms / expected.p50_ms:.2g} times the forecast)")
    if load.p95_ms is not None:
        line.append(f", 95 % within {load.p95_ms:.1f} ms")
    if load.token_p50_ms is not None:
        line.append(f"; a token {load.token_p50_ms:.1f} ms")
        told = None if expected is None else expected.token_p50_ms
        line.append(f" ({load.token_p50_ms / told:.2g} times the forecast)" if told else "")
    return line


def _chain(picture: Picture, table: Table) -> RichTable:
    shown = _columns("segment", "units", "node", "requests", "queue", "compute", "sent on")
    for segment in table.segments:
        for replica in segment.replicas:
            load = _segment_load(picture, table.deployment, segment.id, replica.node)
            shown.add_row(
                segment.id,
                str(segment.units),
                replica.node,
                str(load.requests) if load else "-",
                str(load.queued) if load else "-",
                f"{load.compute_ms:.1f} ms" if load and load.compute_ms is not None else "-",
                size(load.bytes_out) if load else "-",
            )
        for standby in segment.standbys:
            nothing = ("-",) * 4
            shown.add_row(segment.id, str(segment.units), f"{standby.node} stands by", *nothing)
    return shown


def _columns(*names: str) -> RichTable:
    """A table without lines whose rows stay one line each, but for what a link tells."""
    shown = RichTable(box=None, pad_edge=False)
    for name in names:
        # Where there is no room for all, a link's rates go to a second line.
        shown.add_column(name, no_wrap=name != "link", overflow="ellipsis")
    return shown


def _door_load(picture: Picture, table: Table) -> DoorLoad | None:
    telemetry = picture.telemetry.get(table.door.node) if table.door else None
    doors = telemetry.doors if telemetry else ()
    return next((d for d in doors if d.deployment == table.deployment), None)


def _segment_load(picture: Picture, name: str, segment: str, node: str) -> SegmentLoad | None:
    telemetry = picture.telemetry.get(node)
    loads = telemetry.segments if telemetry else ()
    return next((s for s in loads if (s.deployment, s.segment) == (name, segment)), None)


def _nodes(picture: Picture, now: float) -> RenderableType:
    if not picture.live_nodes():
        return Text("\nno node is online; start one with `dsi-mqtt worker`", style="yellow")
    shown = _columns("node", "zone", "state", "weights", "memory", "cpu", "link")
    for node in picture.live_nodes():
        telemetry = picture.telemetry.get(node.node)
        heard = picture.heard.get(node.node)
        silent = heard is not None and now - heard > SILENT_S
        state = "silent" if silent else f"{node.state}, spare" if node.spare else node.state
        shown.add_row(node.node, node.zone, state, _weights(node), *_load(telemetry))
    return Group(Text(""), shown)


def _weights(node: NodeStatus) -> str:
    weights = sum(map(node.held_bytes, node.deployments()))
    caches = sum(map(node.cache_bytes, node.deployments()))
    cap = node.capabilities.weight_bytes if node.capabilities else 0
    kept = f" + {caches / MIB:.0f} caches" if caches else ""
    return f"{weights / MIB:.1f}{kept} of {round(cap / MIB, 1):g} MiB"


def _load(telemetry: Telemetry | None) -> tuple[str, str, str]:
    if telemetry is None:
        return "-", "-", "-"
    return (
        f"{telemetry.rss_bytes / MIB:.0f} MiB",
        f"{telemetry.cpu:.0%}",
        _link(telemetry.link),
    )


def _link(link: LinkSample) -> str:
    """Round trip, then up and down in Mbit/s, where they are known."""
    told = f"{link.rtt_ms:.1f} ms" if link.rtt_ms is not None else "-"
    rates = (link.up_mbit_s, link.down_mbit_s)
    if all(rate is None for rate in rates):
        return told
    up, down = (_rate(rate) for rate in rates)
    return f"{told} ↑{up} ↓{down}"


def _rate(rate: float | None) -> str:
    """Short, for a node's line has to fit 80 columns."""
    if rate is None:
        return "-"
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"  # noqa: PLR2004 - two digits say enough
