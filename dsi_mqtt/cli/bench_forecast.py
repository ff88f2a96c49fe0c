"""The run behind `dsi-mqtt bench forecast`: what was forecast, and what requests then took.

For each case a site of its own: brokers, an orchestrator and workers, each worker behind a shaped
link. The forecast is written down when links and engines are measured, before the first request.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from statistics import median
from typing import Final, TypeVar

from dsi_mqtt.cli.bench_forecast_cases import NAME, Case
from dsi_mqtt.cli.child import Child
from dsi_mqtt.cli.common import ROOT, control_connection, marker
from dsi_mqtt.cli.deploy import publish_spec, until_serving
from dsi_mqtt.cli.node_links import NodeLinks
from dsi_mqtt.cli.site import Site, running_site
from dsi_mqtt.cli.watching import Picture, watch
from dsi_mqtt.client import Client
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.draft import forecast
from dsi_mqtt.core.latencies import percentile
from dsi_mqtt.core.membership import Membership
from dsi_mqtt.core.node import LinkSample, NodeStatus, Telemetry
from dsi_mqtt.core.outlook import Outlook
from dsi_mqtt.core.table import Forecast, Table
from dsi_mqtt.errors import DsiError
from dsi_mqtt.transport.base import ControlConnection
from dsi_mqtt.transport.together import first_of
from dsi_mqtt.wire.topics import Topics

SCHEMA: Final = "dsi.bench.forecast/1"
START_S: Final = 180.0
# For links to be measured: by then what is not told counts as what is assumed. What is told at once
# is of a few samples.
MEASURE_S: Final = 40.0
STEADY_S: Final = 8.0
ASK_S: Final = 60.0
SHARE: Final = 0.95
# Requests a second of a system at rest.
AT_REST: Final = 0.001
# Before anything is counted: the first requests meet cold caches.
WARM: Final = 5

Say = Callable[[str], None]
Told = TypeVar("Told")


@dataclass(frozen=True, slots=True)
class Row:
    """forecast: before traffic; its p95_ms is that of `rate_per_s` at random.

    alone_s: of requests one after the other. loaded_s: of as many that came at random.
    retained: as the table that serves tells it, which may be from before links were measured.
    """

    case: Case
    forecast: Forecast
    retained: Forecast
    rate_per_s: float
    alone_s: tuple[float, ...]
    loaded_s: tuple[float, ...]
    codecs: tuple[str, ...]
    measured: dict[str, LinkSample]

    @property
    def p50_error(self) -> float:
        return self.forecast.p50_ms / 1e3 / median(self.alone_s) - 1

    @property
    def p95_error(self) -> float:
        return self.forecast.p95_ms / 1e3 / slowest_s(self.loaded_s) - 1


def slowest_s(seconds: Sequence[float]) -> float:
    """What `SHARE` of them stay within."""
    return percentile(sorted(seconds), SHARE)


async def measure(
    case: Case, requests: int, seed: int, say: Say, patience_s: float = MEASURE_S
) -> Row:
    """One case, from nothing to nothing. patience_s: for links to be measured.

    Raises DsiError where a process ends or it never serves.
    """
    asked = Asked(requests, seed, patience_s)
    return await beside(case, lambda site: _asking(site, case, asked, say))


async def beside(case: Case, asking: Callable[[Site], Coroutine[None, None, Told]]) -> Told:
    """What comes of asking a site of its own.

    Raises DsiError where a process of it ends.
    """
    died: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ended(child: Child, code: int) -> None:
        if not died.done():
            died.set_exception(DsiError(f"bench forecast: {child.name} ended with {code}"))

    async def wait() -> None:
        await died

    async with _site(case, ended) as site:
        working = asyncio.ensure_future(asking(site))

        async def work() -> None:
            await working

        await first_of(work(), wait())
        return working.result()


@asynccontextmanager
async def _site(case: Case, ended: Callable[[Child, int], None]) -> AsyncIterator[Site]:
    async with (
        NodeLinks(case.link_of) as links,
        running_site(
            case.nodes,
            root=ROOT,
            port=0,
            data_port=0,
            state=None,
            restart=False,
            ended=ended,
            reach=links.reach,
        ) as site,
    ):
        yield site


@dataclass(frozen=True, slots=True)
class Asked:
    requests: int
    seed: int
    patience_s: float


async def serving(site: Site, case: Case, asked: Asked, say: Say) -> tuple[Table, Picture]:
    """The table that serves, and what nodes say once links are measured."""
    topics, idle = Topics(ROOT), case.deployment(AT_REST)
    say(f"{case.name}: starting its nodes")
    async with control_connection(site.url) as connection:
        await publish_spec(connection, topics, idle)
        nodes = frozenset(site.workers)
        table = await until_serving(connection, topics, idle, START_S, nodes=nodes)
    say(f"{case.name}: measuring its links")
    async with control_connection(site.url) as connection:
        picture = await until_measured(connection, topics, nodes, asked.patience_s)
    table = picture.documents[NAME].serve or table
    return table, picture


async def _asking(site: Site, case: Case, asked: Asked, say: Say) -> Row:
    table, picture = await serving(site, case, asked, say)
    said, idle = (picture.statuses.values(), picture.telemetry.values()), case.deployment(AT_REST)
    at_rest = foretold(*said, idle, table)
    rate = case.load * at_rest.rate_per_s
    told = foretold(*said, case.deployment(rate), table)
    async with Client(site.url, device="bench") as client:
        for _ in range(WARM):
            await client.infer(NAME, case.input, timeout_s=ASK_S)
        say(f"{case.name}: requests one by one")
        alone = [await _took(client, case.input) for _ in range(asked.requests)]
        say(f"{case.name}: requests at random")
        random = Random(f"{asked.seed}/{case.name}")  # noqa: S311 - it must be repeatable
        gaps = [random.expovariate(rate) for _ in range(asked.requests)]
        loaded = await at_random(lambda: _took(client, case.input), gaps)
    return Row(
        case,
        told,
        table.forecast or at_rest,
        rate,
        tuple(alone),
        tuple(loaded),
        tuple(hop.codec["request"] for hop in table.hops),
        {name: telemetry.link for name, telemetry in sorted(picture.telemetry.items())},
    )


async def until_measured(
    connection: ControlConnection, topics: Topics, nodes: frozenset[str], patience_s: float
) -> Picture:
    """What all say once each has told of its link for `STEADY_S`, or after `patience_s`."""
    late, since = time.monotonic() + patience_s, math.inf

    def measured(telemetry: Telemetry | None) -> bool:
        link = telemetry.link if telemetry is not None else None
        return link is not None and None not in (link.rtt_ms, link.up_mbit_s, link.down_mbit_s)

    def settled(picture: Picture) -> bool:
        nonlocal since
        now, told = time.monotonic(), [picture.telemetry.get(node) for node in nodes]
        since = min(since, now) if all(map(measured, told)) else math.inf
        return now - since > STEADY_S or (None not in told and now > late)

    async with asyncio.timeout(patience_s + START_S):
        return await watch(connection, topics, settled, marker(topics))


def foretold(
    statuses: Iterable[NodeStatus], telemetry: Iterable[Telemetry], spec: Deployment, table: Table
) -> Forecast:
    """What the chain that serves promises by what nodes say now, as an orchestrator would tell it.

    Raises DsiError where the chain is not one of the deployment's any more.
    """
    members = Membership()
    for status in statuses:
        members.status_arrived(status, 0.0)
    for told in telemetry:
        members.telemetry_arrived(told, 0.0)
    outlook = Outlook(spec.name, members, spec.opening)
    graph = outlook.graph()
    plan = outlook.present(spec, graph, table) if graph is not None else None
    if plan is None:
        raise DsiError(f"bench forecast: {spec.name} does not serve as it was cut by hand")
    return forecast(plan, spec)


async def _took(client: Client, given: str) -> float:
    started = time.perf_counter()
    await client.infer(NAME, given, timeout_s=ASK_S)
    return time.perf_counter() - started


async def at_random(
    ask: Callable[[], Coroutine[None, None, Told]], gaps: Sequence[float]
) -> list[Told]:
    """gaps: seconds before each is asked, whatever has become of those before it."""
    asked, due = [], time.perf_counter()
    for gap in gaps:
        due += gap
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        asked.append(asyncio.ensure_future(ask()))
    return list(await asyncio.gather(*asked))
