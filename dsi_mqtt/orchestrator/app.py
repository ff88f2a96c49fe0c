"""The orchestrator process: two connections and a clock around its state machine.

One connection observes; the other, with the leader's fixed client id, is the only one that tables
go over. The second is never opened again by itself: losing it is losing the lead.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Callable
from typing import Any, Final

from dsi_mqtt.core.decisions import (
    ClearDocument,
    Decided,
    Noticed,
    PublishDocument,
    PublishExplanations,
    PublishSpec,
)
from dsi_mqtt.core.explanation import Explanations
from dsi_mqtt.core.explanation_text import lines
from dsi_mqtt.core.leadership import GONE, DropLead, PublishLeader, TakeLead
from dsi_mqtt.core.node import Leader
from dsi_mqtt.core.nonsense import NonsenseCount
from dsi_mqtt.core.orchestrator import Orchestrator, OrchestratorEffects
from dsi_mqtt.errors import TooLargeError, TransportError, WireError, one_sentence
from dsi_mqtt.orchestrator.outgoing import Outgoing
from dsi_mqtt.orchestrator.policies import installed_policies
from dsi_mqtt.transport.base import (
    ConnectOptions,
    ControlConnection,
    Message,
    Transport,
    Will,
)
from dsi_mqtt.transport.lasting import Backoff, keep_connected, log_wait
from dsi_mqtt.transport.sessions import end_session
from dsi_mqtt.wire.topics import Topic, Topics, check_document, check_topic_name

log = logging.getLogger(__name__)

TICK_S: Final = 0.05
KEEP_ALIVE_S: Final = 4
RECONNECT: Final = Backoff(last_s=3.0)
COMPLAINTS_MAX: Final = 1000
INCARNATION_MAX: Final = 64

Parts = dict[str, str]
Read = Callable[[Parts, bytes], OrchestratorEffects]


class OrchestratorProcess:
    """One orchestrator. `run` serves until it is cancelled; several may run, one leads.

    decided: called with every decision, for a log or a terminal.
    """

    def __init__(
        self,
        url: str,
        transport: Transport,
        *,
        root: str,
        decided: Callable[[Decided], None] | None = None,
        on_wait: Callable[[TransportError, float], None] = log_wait,
    ) -> None:
        self._url = url
        self._transport = transport
        self._topics = Topics(root)
        self._decided = decided or _log_decision
        self._on_wait = on_wait
        self._machine = Orchestrator(
            *(os.urandom(4).hex(), lambda: secrets.token_hex(8), installed_policies()),
            stopwatch=time.perf_counter,
        )
        self._lead: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._outgoing = Outgoing(self._machine.published)
        self._explained: dict[str, tuple[bytes, Explanations]] = {}  # as sent last
        self._complaints: dict[str, str] = {}
        self._readers: tuple[tuple[Topic[Any], Read], ...] = (
            (self._topics.status, self._status),
            (self._topics.beat, self._beat),
            (self._topics.telemetry, self._telemetry),
            (self._topics.spec, self._spec),
            (self._topics.table, self._table),
            (self._topics.leader, self._leader),
            (self._topics.explanations, self._explanations),
        )
        self._nonsense = NonsenseCount()
        self._perform: dict[type, Callable[[Any], None]] = {
            TakeLead: self._take_lead,
            DropLead: lambda _: self._drop_lead(),
            PublishLeader: lambda e: self._publish(self._topics.leader, e.leader),
            PublishDocument: lambda e: self._publish(
                self._topics.table, e.document, deployment=e.deployment
            ),
            PublishSpec: lambda e: self._publish(self._topics.spec, e.spec, deployment=e.spec.name),
            PublishExplanations: self._explain,
            ClearDocument: self._clear,
            Decided: self._decided,
            Noticed: lambda e: log.warning("%s: %s", e.deployment, e.sentence),
        }

    @property
    def leading(self) -> bool:
        return self._machine.leading

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._observe(), name="observe")
                group.create_task(self._tick(), name="tick")
        finally:
            ending = [*self._ending, *([self._lead] if self._lead is not None else [])]
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)

    # --- events -------------------------------------------------------------------------------

    def _act(self, effects: OrchestratorEffects) -> None:
        for effect in effects:
            try:
                self._perform[type(effect)](effect)
            except Exception as error:  # noqa: BLE001 — the effects behind it belong to others
                _log_fault(f"{type(effect).__name__} failed", error)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._act(self._machine.tick(time.monotonic(), int(time.time())))

    async def _observe(self) -> None:
        async def connect() -> ControlConnection:
            options = ConnectOptions(keep_alive_s=KEEP_ALIVE_S)
            return await self._transport.control(self._url, options)

        await keep_connected(connect, self._watch, backoff=RECONNECT, on_wait=self._on_wait)

    async def _watch(self, connection: ControlConnection) -> None:
        # Comes back behind everything that is retained: a broker keeps the order for one client.
        marker = self._topics.echo.name(node=f"orchestrator-{secrets.token_hex(8)}")
        for topic, _ in self._readers:
            await connection.subscribe(topic.filter(), qos=topic.qos)
        await connection.subscribe(marker, qos=1)
        await connection.publish(Message(marker, b"all retained messages came before", qos=1))
        self._machine.connected(time.monotonic())
        try:
            async for message in connection.messages():
                if message.topic == marker:
                    self._machine.retained_read(time.monotonic())
                else:
                    self._read(message)
        finally:
            self._machine.disconnected()

    def _read(self, message: Message) -> None:
        """What a message says; no message ends the orchestrator."""
        for topic, read in self._readers:
            parts = topic.parts(message.topic)
            if parts is None:
                continue
            try:
                self._act(read(parts, bytes(message.payload)))
            except WireError as error:
                self._complain(message.topic, str(error))
            except Exception as error:  # noqa: BLE001 — those that come behind it are read
                _log_fault(f"{message.topic} is ignored", error)
            return

    def _complain(self, topic: str, sentence: str) -> None:
        """Once for each topic and sentence: nodes repeat what they say twice a second."""
        if self._complaints.get(topic) != sentence:
            if len(self._complaints) >= COMPLAINTS_MAX:
                self._complaints.clear()
            self._complaints[topic] = sentence
            log.warning("%s is ignored: %s", topic, sentence)

    def _status(self, parts: Parts, payload: bytes) -> OrchestratorEffects:
        if not payload:
            return []
        status = self._topics.status.payload.decode(payload)
        check_topic_name(status.node, parts["node"])
        return self._machine.status_arrived(status, time.monotonic())

    def _telemetry(self, _parts: Parts, payload: bytes) -> OrchestratorEffects:
        telemetry = self._topics.telemetry.payload.decode(payload)
        odd = self._nonsense.saw(telemetry)
        if odd is not None:
            log.warning("%s", one_sentence(odd))
        return self._machine.telemetry_arrived(telemetry, time.monotonic())

    def _beat(self, parts: Parts, payload: bytes) -> OrchestratorEffects:
        incarnation = payload[:INCARNATION_MAX].decode(errors="replace")
        self._machine.beat_arrived(parts["node"], incarnation, time.monotonic())
        return []

    def _spec(self, parts: Parts, payload: bytes) -> OrchestratorEffects:
        name = parts["deployment"]
        if not payload:
            self._machine.spec_gone(name)
            return []
        try:
            spec = self._topics.spec.payload.decode(payload)
            check_topic_name(spec.name, name)
        except WireError:
            self._machine.spec_unreadable(name)
            raise
        self._machine.spec_arrived(spec)
        return []

    def _table(self, parts: Parts, payload: bytes) -> OrchestratorEffects:
        name, now = parts["deployment"], time.monotonic()
        if not payload:
            self._machine.document_lost(name, now)
            return []
        try:
            document = self._topics.table.payload.decode(payload)
            check_document(document, name)
        except WireError:
            self._machine.document_lost(name, now)
            raise
        return self._machine.document_seen(name, document, now)

    def _leader(self, _parts: Parts, payload: bytes) -> OrchestratorEffects:
        if not payload:
            return []
        leader = self._topics.leader.payload.decode(payload)
        return self._machine.leader_seen(leader, time.monotonic())

    def _explanations(self, parts: Parts, payload: bytes) -> OrchestratorEffects:
        name, now = parts["deployment"], time.monotonic()
        if not payload:
            self._machine.explanations_lost(name, now)
            return []
        sent, document = self._explained.get(name, (b"", None))
        try:
            if document is None or payload != sent:  # reading one's own would take a while
                document = self._topics.explanations.payload.decode(payload)
        except WireError:
            self._machine.explanations_lost(name, now)
            raise
        self._machine.explanations_seen(name, document, now)
        return []

    # --- leading ------------------------------------------------------------------------------

    def _take_lead(self, effect: TakeLead) -> None:
        self._outgoing = Outgoing(self._machine.published)
        self._lead = asyncio.create_task(self._hold_lead(effect), name="lead")

    def _drop_lead(self) -> None:
        if self._lead is not None:
            self._lead.cancel()
            self._lead = None

    async def _hold_lead(self, effect: TakeLead) -> None:
        farewell = self._topics.leader.payload.encode(Leader(effect.term, effect.nonce, GONE))
        topic = self._topics.leader.name()
        options = ConnectOptions(
            client_id=f"{self._topics.root.replace('/', '-')}-leader",
            keep_alive_s=KEEP_ALIVE_S,
            will=Will(topic, farewell),
        )
        connection: ControlConnection | None = None
        try:
            connection = await self._transport.control(self._url, options)
            self._act(self._machine.lead_taken(time.monotonic()))
            await self._outgoing.send_all(connection)
        except Exception as error:  # noqa: BLE001 — whatever it is, nobody leads any more
            log.warning("the lead is lost: %s", one_sentence(str(error) or repr(error)))
            if connection is not None:
                connection.abort()
            self._act(self._machine.lead_lost(time.monotonic()))
        except asyncio.CancelledError:
            if connection is not None:
                await _leave(connection, Message(topic, farewell, qos=1, retain=True))
            raise

    def _publish(self, topic: Topic[Any], value: object, **parts: str) -> None:
        message = _message(topic, value, **parts)
        if message is not None:
            self._outgoing.put(message)

    def _explain(self, effect: PublishExplanations) -> None:
        told = _message(self._topics.explanations, effect.document, deployment=effect.deployment)
        if told is not None:
            self._explained[effect.deployment] = bytes(told.payload), effect.document
            self._outgoing.put_behind(told)

    def _clear(self, effect: ClearDocument) -> None:
        deployment = effect.deployment
        self._explained.pop(deployment, None)
        for topic in (self._topics.table, self._topics.explanations):
            name = topic.name(deployment=deployment)
            self._outgoing.put(Message(name, b"", qos=1, retain=True))
        if effect.session is not None:
            task = asyncio.create_task(self._end_session(effect.session), name="end a session")
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _end_session(self, session: str) -> None:
        try:
            await end_session(self._transport, self._url, session)
        except TransportError as error:
            log.info("session %s is left to expire: %s", session, error)


def _message(topic: Topic[Any], value: object, **parts: str) -> Message | None:
    """None: it is too large, which the log says."""
    try:
        payload = topic.payload.encode(value)
    except TooLargeError as error:
        log.error("%s", error)  # noqa: TRY400 — a sentence says it, a traceback does not
        return None
    return Message(topic.name(**parts), payload, qos=topic.qos, retain=topic.retain)


async def _leave(connection: ControlConnection, farewell: Message) -> None:
    try:
        await connection.publish(farewell)
        await connection.close()
    except TransportError:
        log.debug("the broker was gone before the farewell")


def _log_fault(what: str, error: Exception) -> None:
    log.error("%s: %s", what, one_sentence(repr(error)))
    log.debug("what happened", exc_info=error)


def _log_decision(decided: Decided) -> None:
    what = f"{decided.kind} ({decided.id})"
    log.info("%s: %s, because %s%s", decided.deployment, what, decided.reason, _told(decided))
    if decided.explanation is not None and log.isEnabledFor(logging.DEBUG):
        for line in lines(decided.explanation):
            log.debug("%s: %s", decided.id, line)


def _told(decided: Decided) -> str:
    """What was placed where, in brackets; empty where nothing was."""
    plan = decided.plan
    if plan is None:
        return ""
    places = ", ".join(f"{s.units} on {s.node}" for s in plan.segments)
    places += f"; {plan.latency_s * 1000:.1f} ms expected, by one node alone "
    alone = plan.single_node_latency_s
    places += "none would fit" if alone is None else f"{alone * 1000:.1f} ms"
    return f" ({places})"
