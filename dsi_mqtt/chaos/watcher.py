"""Reads along: what is retained and said, and every answer that is published.

It is a plain subscriber with a durable MQTT session, connected without a link: what is published
while it connects again waits at the broker, as far as the broker remembers.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

from dsi_mqtt.chaos.journal import Journal
from dsi_mqtt.chaos.layouts import Layout
from dsi_mqtt.chaos.ledger import Ledger
from dsi_mqtt.chaos.reference import GENERATING, ONE_PASS, said
from dsi_mqtt.chaos.trials import KINDS, Kind
from dsi_mqtt.core.node import Leader, NodeStatus, Telemetry
from dsi_mqtt.core.table import Stamp, TableDocument
from dsi_mqtt.errors import WireError
from dsi_mqtt.transport.base import ConnectOptions, ControlConnection, Message
from dsi_mqtt.transport.lasting import Backoff, keep_connected
from dsi_mqtt.transport.mqtt import MqttTransport
from dsi_mqtt.wire.topics import Topics

KIND_OF: Final[Mapping[str, Kind]] = {ONE_PASS: "one-pass", GENERATING: "generation"}
SESSION_S: Final = 600


class Watcher:
    """What the system says now. ledgers: of the present rows, told of what they judge by.

    carried: those of whom links bear what has to pass.
    """

    def __init__(
        self,
        url: str,
        topics: Topics,
        known: set[str],
        journal: Journal,
        *,
        layout: Layout,
        carried: Callable[[], frozenset[str]],
    ) -> None:
        self.statuses: dict[str, NodeStatus] = {}
        self.documents: dict[str, TableDocument] = {}
        self.telemetry: dict[str, tuple[float, Telemetry]] = {}
        self.leader: Leader | None = None
        # Since when a chain has been feasible without a break, and since when links have borne one;
        # never, while none is.
        self.feasible_since = 0.0
        self.carried_since = 0.0
        self._layout = layout
        self._carried = carried
        self.ledgers: dict[Kind, Ledger] = {}
        self._known = known
        self._journal = journal
        self._topics = topics
        self._url = url
        self._news = asyncio.Condition()
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._client_id = f"watcher-{os.urandom(8).hex()}"
        self._fresh = True

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="watcher")
        await self._ready.wait()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._task is not None:
            self._task.cancel()
            (end,) = await asyncio.gather(self._task, return_exceptions=True)
            if isinstance(end, Exception):
                raise end  # it had stopped reading, so that nothing said of the run is true

    async def until(self, holds: Callable[[], bool], patience_s: float) -> bool:
        """Waits until it holds, of what is said or of what the ledgers say. False: not in time."""
        try:
            async with asyncio.timeout(patience_s), self._news:
                await self._news.wait_for(holds)
        except TimeoutError:
            return False
        return True

    async def nudge(self) -> None:
        """Something else has changed that somebody may wait for."""
        async with self._news:
            self._news.notify_all()

    def members(self, kind: Kind) -> frozenset[str]:
        """The nodes of the table that serves."""
        name = ONE_PASS if kind == "one-pass" else GENERATING
        document = self.documents.get(name)
        return serving(document) if document is not None else frozenset()

    # --- inside -------------------------------------------------------------------------------

    async def _run(self) -> None:
        async def connect() -> ControlConnection:
            options = ConnectOptions(
                self._client_id, clean_start=self._fresh, session_expiry_s=SESSION_S
            )
            connection = await MqttTransport().control(self._url, options)
            self._fresh = False
            return connection

        await keep_connected(
            connect, self._watch, backoff=Backoff(last_s=0.5), on_wait=lambda *_: None
        )

    async def _watch(self, connection: ControlConnection) -> None:
        topics = self._topics
        for topic in (topics.status, topics.telemetry, topics.table, topics.leader):
            await connection.subscribe(topic.filter(), qos=topic.qos)
        await connection.subscribe(topics.answers("+", "+") + "#", qos=1)
        self._ready.set()
        async for message in connection.messages():
            try:
                self._note(message)
            except WireError as error:
                self._journal.note("unreadable", topic=message.topic, why=str(error))
            await self.nudge()

    def _note(self, message: Message) -> None:
        topics, payload = self._topics, bytes(message.payload)
        if (parts := topics.telemetry.parts(message.topic)) is not None:
            told = topics.telemetry.payload.decode(payload)
            self.telemetry[parts["node"]] = time.monotonic(), told
        elif (parts := topics.status.parts(message.topic)) is not None and payload:
            self._status(topics.status.payload.decode(payload))
        elif (parts := topics.table.parts(message.topic)) is not None and payload:
            self._table(parts["deployment"], topics.table.payload.decode(payload))
        elif topics.leader.parts(message.topic) is not None and payload:
            self._leads(topics.leader.payload.decode(payload))
        elif "/out/" in message.topic:
            self._answer(message.topic.split("/deploy/")[1].split("/")[0], message)

    def _status(self, status: NodeStatus) -> None:
        before = self.statuses.get(status.node)
        self.statuses[status.node] = status
        self.look_whether_feasible()
        now = status.state, status.incarnation
        if before is None or now != (before.state, before.incarnation):
            self._journal.note("node", node=status.node, state=now[0], incarnation=now[1])

    def look_whether_feasible(self) -> None:
        """No chain is, while a part has no node whose link bears it; and then until one that they
        bear serves again.
        """
        online = {name for name, status in self.statuses.items() if status.state == "online"}
        carried = self._carried()
        chains = [self.members(kind) for kind in KINDS]
        serve = all(chain and chain <= carried for chain in chains)
        self.carried_since = self._since(
            self.carried_since, self._layout.feasible(carried), serve=serve
        )
        self.feasible_since = self._since(
            self.feasible_since, self._layout.feasible(carried & online), serve=serve
        )

    @staticmethod
    def _since(before: float, feasible: bool, *, serve: bool) -> float:
        if not feasible:
            return math.inf
        return time.monotonic() if math.isinf(before) and serve else before

    def _leads(self, leader: Leader) -> None:
        before = self.leader
        self.leader = leader
        if before is None or (before.term, before.nonce) != (leader.term, leader.nonce):
            self._journal.note("leader", term=leader.term, nonce=leader.nonce, beat=leader.beat)

    def _table(self, name: str, document: TableDocument) -> None:
        kind = KIND_OF.get(name)
        if kind is None:
            return
        self.documents[name] = document
        self.look_whether_feasible()
        serve = document.serve
        self._journal.note(
            "table",
            deployment=name,
            serve=list(serve.stamp) if serve else None,
            state=serve.state if serve else None,
            nodes=[r.node for s in serve.segments for r in s.replicas] if serve else [],
            door=serve.door.node if serve and serve.door else None,
            prepare=list(document.prepare.stamp) if document.prepare else None,
            reason=serve.reason if serve else None,
        )
        if kind in self.ledgers:
            now, nodes = time.monotonic(), (serving(document), computing(document))
            self.ledgers[kind].table(document.order[0], now, *nodes)

    def _answer(self, name: str, message: Message) -> None:
        kind = KIND_OF.get(name)
        if kind is None or kind not in self.ledgers:
            return
        id_, status, told = message.correlation_data or b"", "unreadable", ""
        try:
            answer = json.loads(bytes(message.payload))
            status, id_ = answer["status"], id_ or str(answer["id"]).encode()
            if status == "partial":
                return
            told = _told(kind, answer)
        except (ValueError, KeyError, TypeError):
            self._journal.note("unreadable", topic=message.topic, why="it is no answer")
        result = None if status == "error" else told
        self.ledgers[kind].read_along(id_, result, known=told in self._known)
        short = told if status == "error" else f"{zlib.crc32(told.encode()):08x}"
        self._journal.note("answer", deployment=name, id=id_.hex(), status=status, said=short)


def serving(document: TableDocument) -> frozenset[str]:
    """The nodes of what serves; none where nothing does."""
    table = document.serve
    if table is None or table.state != "serving":
        return frozenset()
    return frozenset(node for node, _ in table.members())


def computing(document: TableDocument) -> frozenset[str]:
    """Those of them that compute a part."""
    parts = document.serve.segments if document.serve is not None else ()
    return serving(document) & frozenset(r.node for part in parts for r in part.replicas)


def newest(document: TableDocument | None) -> Stamp:
    return document.order[0] if document is not None else Stamp(0, "", 0)


def _told(kind: Kind, answer: dict[str, Any]) -> str:
    """What an answer says of its input, without what differs between tellings of the same."""
    if answer["status"] != "ok":
        return str(answer["error"]["code"])
    return said(answer["result"] if kind == "one-pass" else answer["result"]["tokens"])
