"""The standing system that faults are injected into: every process behind a link of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import IO, Final

from dsi_mqtt.chaos.ground import Ended
from dsi_mqtt.cli.broker import SiteBrokers, site_brokers
from dsi_mqtt.cli.child import PARENT, Child, Children, Started
from dsi_mqtt.cli.site import worker_arguments
from dsi_mqtt.core.site import SiteNode
from dsi_mqtt.shaping.link import ShapedLink
from dsi_mqtt.sim.links import Figures
from dsi_mqtt.sim.traces import Trace
from dsi_mqtt.transport.mosquitto import MosquittoProcess

LINK: Final = Figures(up_mbit_s=10.0, down_mbit_s=10.0, rtt_ms=2.0)
ORCHESTRATORS: Final = ("orchestrator-a", "orchestrator-b")
TAIL: Final = 3000


class ChaosSite:
    """A `chaos.ground.Ground`."""

    def __init__(
        self, brokers: SiteBrokers, children: Children, nodes: Sequence[str], clocks: Path
    ) -> None:
        self._brokers = brokers
        self._clocks = clocks
        self.children = children
        self.links: dict[str, ShapedLink] = {}
        self.nodes = tuple(nodes)
        self.orchestrators = ORCHESTRATORS

    @property
    def url(self) -> str:
        return self.control.url

    @property
    def data_url(self) -> str:
        return self.data.url

    @property
    def control(self) -> MosquittoProcess:
        return self._brokers.control

    @property
    def data(self) -> MosquittoProcess:
        return self._brokers.data

    def pid(self, name: str) -> int:
        return self.children.child(name).pid

    def link(self, name: str) -> ShapedLink:
        return self.links[name]

    async def kill(self, name: str) -> None:
        self.children.kill(name)
        await self.children.child(name).process.wait()

    async def start(self, name: str) -> None:
        await self.children.start(name, *self.children.child(name).arguments)

    def skew(self, name: str, seconds: float) -> None:
        clock_of(self._clocks, name).write_text(f"{seconds}")

    def tail(self, name: str) -> str:
        return self.children.log_path(name).read_text(errors="replace")[-TAIL:]


@asynccontextmanager
async def chaos_site(
    nodes: Sequence[SiteNode],
    folder: Path,
    ended: Ended,
    traces: dict[str, Trace],
    *,
    root: str,
    seed: int,
) -> AsyncIterator[ChaosSite]:
    """Brokers, the nodes and one orchestrator; the second is begun by whoever has seen it lead.

    folder: for the brokers' state and the logs. ended: told of every end of a process. traces: one
    of them is replayed on each node's link, from a second on that the seed draws.
    Raises MachineError: no Mosquitto.
    """
    clocks = folder / "clocks"
    clocks.mkdir(parents=True, exist_ok=True)
    random = Random(f"{seed}/links")  # noqa: S311 - it must be repeatable

    async def start(arguments: tuple[str, ...], output: IO[bytes]) -> Started:
        return await _start_skewed(clocks, arguments, output)

    def told(child: Child, code: int) -> None:
        ended(child.name, code)

    async with AsyncExitStack() as stack:
        brokers = await stack.enter_async_context(
            site_brokers(folder / "broker", 0, 0, root=root, fresh=True)
        )
        children = Children(folder / "logs", restart=False, ended=told, start=start)
        stack.push_async_callback(children.stop)
        site = ChaosSite(brokers, children, [node.id for node in nodes], clocks)
        for name in ORCHESTRATORS:
            site.links[name] = await stack.enter_async_context(ShapedLink(LINK))
        for node in nodes:
            link = _link(traces, random)
            site.links[node.id] = await stack.enter_async_context(link)
            at = await link.to(brokers.control.url)
            data = ("--data-broker", await link.to(brokers.data.url))
            await children.start(node.id, *worker_arguments(node, at, root), *data)
        await site.children.start(ORCHESTRATORS[0], *await _orchestrator(site, 0, root))
        yield site


async def start_second(site: ChaosSite, root: str) -> None:
    """The orchestrator that stands by."""
    await site.children.start(ORCHESTRATORS[1], *await _orchestrator(site, 1, root))


def clock_of(clocks: Path, name: str) -> Path:
    """What says by how much the wall clock of that process is wrong."""
    return clocks / name


async def _orchestrator(site: ChaosSite, index: int, root: str) -> tuple[str, ...]:
    at = await site.links[ORCHESTRATORS[index]].to(site.url)
    return ("orchestrator", "--broker", at, "--root", root)


def _link(traces: dict[str, Trace], random: Random) -> ShapedLink:
    if not traces:
        return ShapedLink(LINK)
    trace = traces[random.choice(sorted(traces))]
    return ShapedLink(LINK, trace, random.randrange(len(trace)))


async def _start_skewed(clocks: Path, arguments: tuple[str, ...], output: IO[bytes]) -> Started:
    """`dsi-mqtt` by a wall clock of its own. Its log is named like the process."""
    clock = clock_of(clocks, Path(output.name).stem)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dsi_mqtt.chaos.skewed", str(clock), *arguments),
        stdin=DEVNULL,
        stdout=output,
        stderr=output,
        env={**os.environ, PARENT: str(os.getpid())},
        start_new_session=True,
    )
