"""What befalls the demo's gateways in mid-run, told as it happens, with what followed from it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from dsi_mqtt.cli.child import Children
from dsi_mqtt.cli.common import control_connection
from dsi_mqtt.cli.demo_outcome import Answers, Befallen, FaultName
from dsi_mqtt.core.explanation import Explanations
from dsi_mqtt.core.table import Table, TableDocument
from dsi_mqtt.errors import TransportError, WireError
from dsi_mqtt.shaping.link import ShapedLink
from dsi_mqtt.sim.links import Figures
from dsi_mqtt.wire.topics import Topics

# What each gateway's link to the brokers carries, and what is left of one in mid-run.
LINK: Final = Figures(up_mbit_s=20.0, down_mbit_s=20.0, rtt_ms=4.0)
LEFT: Final = 0.05
# A fault comes when so many of the answers are there, and the one before is recovered from.
FAULTS: Final[Mapping[FaultName, float]] = {"link_throttle": 1 / 4, "worker_kill": 5 / 8}
PATIENCE_S: Final = 30.0
_TIME_WIDTH: Final = 7


@dataclass(slots=True)
class Faults:
    """Of one run, told to a person line by line. began: monotonic, of the first input.

    table: the newest that serves. kill: the gateway that dies; None: nothing befalls anybody.
    expected: how many answers there will be.
    """

    table: Table
    answers: Answers
    children: Children
    links: Mapping[str, ShapedLink]
    kill: str | None
    expected: int
    console: Console
    befallen: list[Befallen] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    _told: set[str] = field(default_factory=set)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def befall(self) -> None:
        """One after the other; ends when all are recovered from, or it is cancelled."""
        if self.kill is None:
            return
        for fault, share in FAULTS.items():
            while self.answers.ended < share * self.expected:
                await self._next()
            node = self.kill if fault == "worker_kill" else self._beside(self.kill)
            if node is None:
                continue
            self._begin(fault, node)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    while self.befallen[-1].recovered_at is None:
                        await self._next()

    def answered(self, *, result: bool) -> None:
        """An input has come to something."""
        newest, now = self._newest, time.monotonic()
        if result and newest is not None and newest.recovers(now):
            since = f"{now - newest.at:.1f} s after the fault"
            self._say(f"results come from the new chain, {since}")
        self._news.set()

    def ended(self, name: str, pid: int, code: int) -> None:
        """A gateway's process is no more."""
        if all(b.node != name or b.fault != "worker_kill" for b in self.befallen):
            self._say(f"{name} (pid {pid}) ended with {code}")

    async def read_along(self, url: str, topics: Topics) -> None:
        """Tells of decisions and of the tables that follow from them. Runs until cancelled."""
        name = self.table.deployment
        told = topics.explanations.name(deployment=name)
        with contextlib.suppress(TransportError):
            async with control_connection(url) as connection:
                for topic in (topics.table.name(deployment=name), told):
                    await connection.subscribe(topic, qos=1)
                async for message in connection.messages():
                    with contextlib.suppress(WireError):  # nobody's of ours, or cleared
                        if message.topic == told:
                            self._decided(topics.explanations.payload.decode(message.payload))
                        else:
                            self._published(topics.table.payload.decode(message.payload))

    # --- what happens -------------------------------------------------------------------------

    @property
    def _newest(self) -> Befallen | None:
        return self.befallen[-1] if self.befallen else None

    def _beside(self, kill: str) -> str | None:
        """Whose link is throttled: the one of a later part, over which all comes and goes."""
        later = [segment.replicas[0].node for segment in self.table.segments[1:]]
        return next((node for node in later if node != kill), None)

    def _begin(self, fault: FaultName, node: str) -> None:
        befallen = Befallen(fault, node, self.answers.ended, time.monotonic(), self.table)
        befallen.serves(self.table, befallen.at)  # where it takes no part, nothing has to follow
        self.befallen.append(befallen)
        if fault == "link_throttle":
            self.links[node].throttle(LEFT)
            befallen.left_mbit_s = LINK.up_mbit_s * LEFT
            done = f"falls from {LINK.up_mbit_s:g} to {befallen.left_mbit_s:g} Mbit/s"
            self._say(f"the link of {node} {done}, both ways", style="bold yellow")
            return
        pid = self.children.child(node).pid
        self.children.kill(node)
        self._say(f"kill -9 of {node} (pid {pid}), as a power cut would do it", style="bold yellow")

    def _decided(self, told: Explanations) -> None:
        """The first time it tells of what was decided before anything befell anybody."""
        newest = self._newest
        for each in told.explanations:
            if each.id in self._told:
                continue
            self._told.add(each.id)
            if newest is None or each.kind == "keep":
                continue
            newest.decides(each.id, each.kind, each.reason)
            self._say(f"the orchestrator decides, {each.kind}: {each.reason}")

    def _published(self, document: TableDocument) -> None:
        table, newest = document.serve, self._newest
        if table is None or table.state != "serving" or table.epoch <= self.table.epoch:
            return
        self.table = table
        if newest is not None:
            newest.serves(table, time.monotonic())
        chain = ", ".join(f"{s.units} on {s.replicas[0].node}" for s in table.segments)
        self._say(f"epoch {table.epoch} serves: {chain}")

    async def _next(self) -> None:
        self._news.clear()
        await self._news.wait()

    def _say(self, what: str, *, style: str = "yellow") -> None:
        line = RichTable.grid(padding=(0, 1))
        line.add_column(width=_TIME_WIDTH, justify="right")
        line.add_column()
        line.add_row(f"{time.monotonic() - self.began:.1f} s", Text(what, style=style))
        self.console.print(line)
