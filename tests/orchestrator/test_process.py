"""The orchestrator's process beside a broker in memory: what nothing ends, and what it keeps."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dsi_mqtt.core.explanation import Explanation, Explanations
from dsi_mqtt.core.node import LinkSample, NodeStatus, Telemetry
from dsi_mqtt.core.orchestrator import OrchestratorEffects
from dsi_mqtt.core.table import TableDocument
from dsi_mqtt.errors import ConnectionLostError, WireError
from dsi_mqtt.orchestrator.app import OrchestratorProcess
from dsi_mqtt.transport.base import ConnectOptions, Message
from dsi_mqtt.transport.lasting import keep_connected
from dsi_mqtt.transport.memory import MemoryControlConnection, MemoryTransport
from dsi_mqtt.transport.memory_broker import MemoryBroker
from dsi_mqtt.wire.topics import Topics
from tests.core.orchestra import NAME, SPEC, Node

TOPICS = Topics()
PATIENCE_S = 30.0
SPEC_TOPIC = TOPICS.spec.name(deployment=NAME)
TABLE_TOPIC = TOPICS.table.name(deployment=NAME)
WHY_TOPIC = TOPICS.explanations.name(deployment=NAME)


class Site:
    """A broker, the orchestrator, and whoever watches what is retained. `retained`: by topic."""

    def __init__(self) -> None:
        self.broker = MemoryBroker("site", autosave=True)
        self.transport = MemoryTransport(self.broker)
        self.retained: dict[str, bytes] = {}
        self.process = OrchestratorProcess("mem://site", self.transport, root=TOPICS.root)
        self._changed = asyncio.Condition()
        self._connection: MemoryControlConnection | None = None

    async def watch(self) -> None:
        async def connect() -> MemoryControlConnection:
            return await self.transport.control("mem://site", ConnectOptions())

        await keep_connected(connect, self._follow)

    async def _follow(self, connection: MemoryControlConnection) -> None:
        await connection.subscribe(f"{TOPICS.root}/#", qos=1)
        self._connection = connection
        async for message in connection.messages():
            async with self._changed:
                self.retained[message.topic] = bytes(message.payload)
                self._changed.notify_all()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(holds)

    async def retain(self, topic: str, payload: bytes) -> None:
        assert self._connection is not None
        await self._connection.publish(Message(topic, payload, qos=1, retain=True))

    async def join(self, node: Node) -> None:
        """A node that holds what it is given at once, says so, and says nothing more."""
        node.known[NAME] = node.describes = 0.0
        payload = TOPICS.status.payload.encode(node.status(100.0))
        await self.retain(TOPICS.status.name(node=node.name), payload)

    def document(self) -> TableDocument | None:
        payload = self.retained.get(TABLE_TOPIC)
        try:
            return TOPICS.table.payload.decode(payload) if payload else None
        except WireError:  # what a test has written there
            return None

    def places(self) -> bool:
        document = self.document()
        return document is not None and document.prepare is not None


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    made = Site()
    tasks = [asyncio.create_task(made.process.run()), asyncio.create_task(made.watch())]
    try:
        await made.until(lambda: TOPICS.leader.name() in made.retained)
        yield made
        assert not tasks[0].done()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def status(**changes: Any) -> bytes:
    """Of node x: sound but for `changes`."""
    graph = {
        "digest": "sha256:1",
        "tier": "fake",
        "units": [{"name": "u", "weight_bytes": 1, "flops": 1, "output_bytes": 1}] * 6,
    } | changes.pop("graph", {})
    return json.dumps(
        {
            "node": "x",
            "incarnation": "x1",
            "state": "online",
            "capabilities": {"weight_bytes": 100, "gflops": 1, "memory_gib_s": 1},
            "models": [{"deployment": NAME, "graph": graph}],
        }
        | changes
    ).encode()


@pytest.mark.asyncio
async def test_what_is_undeployed_leaves_no_session_that_inputs_wait_in() -> None:
    """Its last door may have died, and a broker keeps a session for a week."""
    async with site() as made:
        await made.retain(SPEC_TOPIC, TOPICS.spec.payload.encode(SPEC))
        await made.join(Node("x", "x1"))
        await made.until(made.places)
        document = made.document()
        assert document is not None
        assert document.prepare is not None
        assert document.prepare.door is not None
        kept = ConnectOptions(document.prepare.door.session, clean_start=False, session_expiry_s=60)
        door = await made.transport.data("mem://site", kept)
        await made.retain(SPEC_TOPIC, b"")
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(ConnectionLostError):
                await anext(aiter(door.messages()))


RUBBISH = [
    (TOPICS.status.name(node="x"), b"{"),
    (TOPICS.status.name(node="x"), b"\xff\xfe"),
    (TOPICS.status.name(node="x"), status(graph={"ties": [{"units": [99], "weight_bytes": 1}]})),
    (TOPICS.status.name(node="x"), status(graph={"input_bytes": 10**30})),
    (TOPICS.status.name(node="x"), status(capabilities={"weight_bytes": 1, "gflops": 1e-300})),
    (TOPICS.status.name(node="x"), status(capabilities={"weight_bytes": -1})),
    (TOPICS.status.name(node="x"), status(seen={NAME: [2**52, "z", 2**52]})),
    (TOPICS.telemetry.name(node="x"), b'{"node": "x"}'),
    (SPEC_TOPIC, b'{"name": "other", "model": {}}'),
    (
        TOPICS.spec.name(deployment="other"),
        b'{"name": "other", "model": {}, "sla": {"deadline_ms": -1}}',
    ),
    (TABLE_TOPIC, b"[]"),
    (TABLE_TOPIC, b'{"serve": {}}'),
    (TOPICS.leader.name(), b'{"term": 9007199254740991, "nonce": "z", "beat": 1}'),
    (TOPICS.leader.name(), b"{}"),
    (TOPICS.explanations.name(deployment=NAME), b"{}"),
    (TOPICS.explanations.name(deployment=NAME), b"\x00"),
    (TOPICS.explanations.name(deployment="other"), b"rubbish"),
]


async def test_no_rubbish_on_any_topic_ends_it_or_keeps_it_from_placing() -> None:
    async with site() as live:
        for topic, payload in RUBBISH:
            await live.retain(topic, payload)
        await live.retain(SPEC_TOPIC, TOPICS.spec.payload.encode(SPEC))
        await live.join(Node("a", "a1"))
        await live.until(live.places)
        for topic, payload in RUBBISH:
            await live.retain(topic, payload)
        await live.join(Node("b", "b1"))
        await live.until(live.places)


async def test_what_is_wrong_with_a_topic_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    odd = status(capabilities={"weight_bytes": -1})
    async with site() as live:
        for payload in (odd, odd, b"{", odd):
            await live.retain(TOPICS.status.name(node="x"), payload)
        await live.retain(SPEC_TOPIC, TOPICS.spec.payload.encode(SPEC))
        await live.join(Node("a", "a1"))
        await live.until(live.places)
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("dsi/v1/node/x")]
    weight = "capabilities.weight_bytes: -1 must be 0 or more"
    assert len(told) == 3
    assert told[0] == told[2] == f"dsi/v1/node/x/status is ignored: NodeStatus: {weight}"


async def test_figures_that_cannot_be_true_are_counted_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    link = LinkSample(2.0, -1.0, 5.0)
    odd = TOPICS.telemetry.payload.encode(Telemetry("x", "x1", 1, 0.0, 0, 0, 0, None, link))
    async with site() as live:
        for _ in range(3):
            await live.retain(TOPICS.telemetry.name(node="x"), odd)
        await live.retain(SPEC_TOPIC, TOPICS.spec.payload.encode(SPEC))
        await live.join(Node("a", "a1"))
        await live.until(live.places)
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("x: ")]
    assert told == [
        "x: 1 figure is set aside that cannot be true, the last of link.up_mbit_s",
        "x: 2 figures are set aside that cannot be true, the last of link.up_mbit_s",
    ]


async def test_a_node_speaks_for_itself_only() -> None:
    async with site() as live:
        await live.retain(SPEC_TOPIC, TOPICS.spec.payload.encode(SPEC))
        await live.join(Node("a", "a1"))
        await live.until(live.places)
        kept = live.retained[TABLE_TOPIC]
        await live.retain(TOPICS.status.name(node="x"), status(node="a", incarnation="a2"))
        await live.retain(TABLE_TOPIC, b"")
        await live.until(lambda: live.retained[TABLE_TOPIC] == b"")
        await live.until(lambda: live.retained[TABLE_TOPIC] != b"")
        assert live.retained[TABLE_TOPIC] == kept


async def test_a_fault_at_one_message_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with site() as live:
        machine = live.process._machine
        sound = machine.status_arrived

        def faulty(said: NodeStatus, now: float) -> OrchestratorEffects:
            if said.node == "x":
                raise ZeroDivisionError("nobody has thought of this")
            return sound(said, now)

        monkeypatch.setattr(machine, "status_arrived", faulty)
        await live.retain(SPEC_TOPIC, TOPICS.spec.payload.encode(SPEC))
        await live.retain(TOPICS.status.name(node="x"), status())
        await live.join(Node("a", "a1"))
        await live.until(live.places)


@pytest.mark.parametrize("payload", [b"", b"rubbish", b"{}"])
async def test_a_table_that_was_cleared_or_overwritten_is_there_again(payload: bytes) -> None:
    async with site() as live:
        await live.retain(SPEC_TOPIC, TOPICS.spec.payload.encode(SPEC))
        await live.join(Node("a", "a1"))
        await live.until(live.places)
        kept = live.retained[TABLE_TOPIC]
        await live.retain(TABLE_TOPIC, payload)
        await live.until(lambda: live.retained[TABLE_TOPIC] == payload)
        await live.until(lambda: live.retained[TABLE_TOPIC] == kept)


async def test_a_broker_that_comes_back_with_nothing_is_told_everything_again() -> None:
    async with site() as live:
        spec = TOPICS.spec.payload.encode(SPEC)
        await live.retain(SPEC_TOPIC, spec)
        await live.join(Node("a", "a1"))
        await live.until(live.places)
        table = live.retained[TABLE_TOPIC]
        live.broker.kill()
        live.broker._retained.clear()
        live.retained.clear()
        live.broker.start()
        await live.until(lambda: {SPEC_TOPIC, TABLE_TOPIC} <= live.retained.keys())
        assert (live.retained[SPEC_TOPIC], live.retained[TABLE_TOPIC]) == (spec, table)


async def test_what_was_withdrawn_while_it_was_away_is_not_brought_back() -> None:
    async with site() as live:
        await live.retain(SPEC_TOPIC, TOPICS.spec.payload.encode(SPEC))
        await live.join(Node("a", "a1"))
        await live.until(live.places)
        live.broker.kill()
        del live.broker._retained[SPEC_TOPIC]
        live.retained.clear()
        live.broker.start()
        await live.until(lambda: live.retained.get(TABLE_TOPIC) == b"")
        assert SPEC_TOPIC not in live.retained


async def test_a_decision_is_logged_with_its_places_if_it_has_any(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with site() as live:
        await live.retain(SPEC_TOPIC, TOPICS.spec.payload.encode(SPEC))
        await live.until(lambda: live.document() is not None)
        await live.join(Node("a", "a1"))
        await live.until(live.places)
    nothing, placed = [m for r in caplog.records if (m := r.getMessage()).startswith(f"{NAME}: ")]
    assert nothing.endswith("if none is being started, use `dsi-mqtt worker`")
    assert " (0:6 on a; " in placed


async def explained(live: Site) -> Explanations:
    """What is told of the one placement there is, once it is retained."""
    await live.retain(SPEC_TOPIC, TOPICS.spec.payload.encode(SPEC))
    await live.join(Node("a", "a1"))
    await live.until(lambda: any(each.kind == "place" for each in told(live)))
    return TOPICS.explanations.payload.decode(live.retained[WHY_TOPIC])


def told(live: Site) -> tuple[Explanation, ...]:
    payload = live.retained.get(WHY_TOPIC)
    try:
        return TOPICS.explanations.payload.decode(payload).explanations if payload else ()
    except WireError:  # what a test has written there
        return ()


async def test_decisions_are_explained_on_a_topic_with_what_deciding_costs() -> None:
    async with site() as live:
        found = await explained(live)
        document = live.document()
    assert document is not None
    assert document.prepare is not None
    (place,) = (each for each in found.explanations if each.kind == "place")
    assert place.id == document.prepare.decision
    assert place.took_ms is not None
    assert place.took_ms > 0
    assert found.deciding.looks >= 1
    assert found.deciding.published_bytes > 0


@pytest.mark.parametrize("payload", [b"", b"rubbish"])
async def test_explanations_that_were_cleared_or_overwritten_are_there_again(
    payload: bytes,
) -> None:
    async with site() as live:
        kept = (await explained(live)).explanations
        await live.retain(WHY_TOPIC, payload)
        await live.until(lambda: live.retained[WHY_TOPIC] == payload)
        await live.until(lambda: told(live) == kept)


async def test_explanations_go_with_their_deployment() -> None:
    async with site() as live:
        await explained(live)
        await live.retain(SPEC_TOPIC, b"")
        await live.until(lambda: live.retained[WHY_TOPIC] == b"" == live.retained[TABLE_TOPIC])


async def test_with_everything_said_a_decision_is_logged_with_its_explanation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="dsi_mqtt.orchestrator.app")
    async with site() as live:
        (place,) = (e for e in (await explained(live)).explanations if e.kind == "place")
    messages = [record.getMessage() for record in caplog.records]
    (line,) = (m for m in messages if m.startswith(f"{NAME}: place"))
    assert place.id in line
    more = [m.removeprefix(f"{place.id}: ") for m in messages if m.startswith(f"{place.id}: ")]
    assert any(m.startswith("chosen: 0:6 on a, door on a") for m in more)
    assert any(m.startswith("by: a: ") for m in more)
