"""What leaves a door: answers, streams, records; and what devices say of inputs they have asked.

One connection, clean at every start: a cancel that is missed is sent again by its device.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import xxhash

from dsi_mqtt.core import events as ev
from dsi_mqtt.core.activation import JSON
from dsi_mqtt.core.effects import (
    ClearRetained,
    EchoHearing,
    PublishPartial,
    PublishReply,
    WriteRecord,
)
from dsi_mqtt.core.generation import Partial
from dsi_mqtt.core.message import Failure
from dsi_mqtt.core.request import Redelivery, Reply, input_key
from dsi_mqtt.errors import (
    BrokerRefusedError,
    InvalidInputError,
    TooLargeError,
    TransportError,
    one_sentence,
)
from dsi_mqtt.transport.base import ConnectOptions, DataConnection, Message, Transport
from dsi_mqtt.transport.lasting import Backoff, keep_connected
from dsi_mqtt.transport.together import first_of
from dsi_mqtt.wire.asks import completion_body, partial_answer
from dsi_mqtt.wire.inputs import FALLBACK, answer_error, answer_ok, parse_input
from dsi_mqtt.wire.topics import Topics
from dsi_mqtt.worker.leaving import Leaving, Outgoing

log = logging.getLogger(__name__)

RECONNECT: Final = Backoff(last_s=3.0)
# Of a door's connections: one that is broken in silence is to be noticed as soon as the others.
KEEP_ALIVE_S: Final = 4
# Of the door's own words on their way; what is older has been lost.
ECHOES_MAX: Final = 16

Emit = Callable[[ev.Event], None]


class Answering:
    """Everything that leaves the door of one deployment."""

    def __init__(self, deployment: str, transport: Transport, topics: Topics, emit: Emit) -> None:
        self._deployment = deployment
        self._transport = transport
        self._topics = topics
        self._emit = emit
        self._url = ""
        self._connected: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._leaving = Leaving()
        # The device that the door is to itself, and its words that are on their way.
        self._myself = secrets.token_hex(8)
        self._echoes: dict[bytes, float] = {}

    def open(self, url: str) -> None:
        """Goes on, or begins, at this broker."""
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        if self._connected is not None and self._url != url:
            self._connected.cancel()
            self._connected = None
        if self._connected is None:
            self._url = url
            self._connected = asyncio.create_task(
                self._keep_connected(url), name=f"answers {self._deployment}"
            )

    def publish(self, effect: Outgoing) -> None:
        self._leaving.put(effect)

    def close(self) -> None:
        """Ends when what is on its way out has gone."""
        if self._connected is not None and self._closing is None:
            self._closing = asyncio.create_task(
                self._end(self._connected), name=f"last answers {self._deployment}"
            )

    async def _end(self, connected: asyncio.Task[None]) -> None:
        await self._leaving.empty()
        connected.cancel()
        self._connected = self._closing = None

    async def _keep_connected(self, url: str) -> None:
        async def connect() -> DataConnection:
            return await self._transport.data(url, ConnectOptions(keep_alive_s=KEEP_ALIVE_S))

        while True:
            try:
                return await keep_connected(connect, self._serve, backoff=RECONNECT)
            except Exception as error:  # noqa: BLE001 — without it, nothing would ever leave again
                log.error("answers of %s: %s", self._deployment, one_sentence(repr(error)))  # noqa: TRY400
            await asyncio.sleep(RECONNECT.last_s)

    async def _serve(self, connection: DataConnection) -> None:
        """Publishes everything that leaves, several at once; ends with the connection."""
        for topic in (self._topics.cancel, self._topics.alive):
            await connection.subscribe(topic.filter(deployment=self._deployment), qos=topic.qos)
        self._echoes.clear()
        self._emit(ev.HearingChanged(self._deployment, hears=True))
        try:
            await first_of(self._listen(connection), self._send_leaving(connection))
        finally:
            self._emit(ev.HearingChanged(self._deployment, hears=False))

    # --- what devices say ---------------------------------------------------------------------

    async def _listen(self, connection: DataConnection) -> None:
        async for message in connection.messages():
            alive = self._topics.alive.parts(message.topic)
            cancel = self._topics.cancel.parts(message.topic)
            if alive is not None and alive["device"] == self._myself:
                asked_at = self._echoes.pop(bytes(message.payload), None)
                if asked_at is not None:
                    self._emit(ev.HearingProven(self._deployment, asked_at))
            elif alive is not None:
                self._emit(ev.DeviceSpoke(self._deployment, alive["device"]))
            elif cancel is not None and not message.retain:
                self._cancelled(message, cancel["device"])
            connection.acknowledge(message)

    def _cancelled(self, message: Message, device: str) -> None:
        identity = None
        if message.correlation_data is None:
            try:
                identity = parse_input(bytes(message.payload), message.content_type).identity
            except InvalidInputError as error:
                log.info("%s is ignored: %s", message.topic, error)
        key = input_key(device, message.correlation_data, identity)
        if key is not None:
            self._emit(ev.CancelArrived(self._deployment, key))

    # --- what leaves --------------------------------------------------------------------------

    async def _send_leaving(self, connection: DataConnection) -> None:
        sending: dict[asyncio.Task[None], Outgoing] = {}

        def sent(task: asyncio.Task[None]) -> None:
            effect = sending.pop(task)
            if task.cancelled():  # what waits for its acknowledgement when the connection ends
                self._leaving.put(effect)
            self._leaving.finished(effect)

        try:
            while True:
                effect = await self._leaving.get()
                task = asyncio.create_task(self._send(connection, effect))
                sending[task] = effect
                task.add_done_callback(sent)
        finally:
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)

    async def _send(self, connection: DataConnection, effect: Outgoing) -> None:
        try:
            heard = await connection.publish(self._message(effect))
        except (TooLargeError, BrokerRefusedError, ValueError) as error:
            self._refused(effect, error)
            return
        except TransportError:
            self._leaving.put(effect)
            return
        if isinstance(effect, PublishReply):
            self._emit(ev.ReplyPublished(self._deployment, effect.request))
        elif isinstance(effect, WriteRecord) and not effect.record.void:
            self._emit(ev.RecordWritten(self._deployment, effect.record))
        elif isinstance(effect, PublishPartial) and effect.ask:
            self._emit(ev.PartialTaken(self._deployment, effect.request, heard))

    def _refused(self, effect: Outgoing, error: Exception) -> None:
        """The broker does not take it: an answer gives way to the reason, which is short."""
        log.warning("%s: %s", self._deployment, error)
        if isinstance(effect, PublishReply) and effect.reply.failure is None:
            failure = Failure("failed", one_sentence(f"the result cannot be sent: {error}"))
            reply = replace(effect.reply, failure=failure, body=b"")
            self._leaving.put(replace(effect, reply=reply))

    def _message(self, effect: Outgoing) -> Message:
        if isinstance(effect, ClearRetained):
            topic = self._topics.input.name(deployment=self._deployment, device=effect.device)
            return Message(topic, b"", qos=1, retain=True)
        if isinstance(effect, EchoHearing):
            payload = repr(effect.asked_at).encode()
            self._echoes[payload] = effect.asked_at
            while len(self._echoes) > ECHOES_MAX:
                del self._echoes[next(iter(self._echoes))]
            topic = self._topics.alive.name(deployment=self._deployment, device=self._myself)
            return Message(topic, payload)
        if isinstance(effect, WriteRecord):
            record = effect.record
            topic = record_topic(self._topics, self._deployment, record)
            payload = b"" if record.void else self._topics.redelivery.payload.encode(record)
            return Message(topic, payload, qos=1, retain=True)
        if isinstance(effect, PublishPartial):
            given = effect.given
            payload = partial_answer(given.parsed.identity, effect.partial)
            message = self._to_device(given.device, given.response_topic, given.correlation)
            said = (("status", "partial"), *_marked(effect.partial))
            return replace(message, payload=payload, user_properties=said, qos=int(effect.ask))
        return self._answer(effect.reply)

    def _answer(self, reply: Reply) -> Message:
        message = self._to_device(reply.device, reply.topic, reply.correlation)
        if reply.failure is not None:
            return replace(
                message,
                payload=answer_error(reply.identity, reply.failure),
                user_properties=(("status", "error"), ("code", reply.failure.code)),
            )
        if reply.completion is not None:
            body = completion_body(reply.completion)
            payload = answer_ok(reply.identity, body, fallback=reply.fallback)
            message = replace(message, payload=payload)
        elif reply.content_type != JSON:
            message = replace(message, content_type=reply.content_type, payload=reply.body)
        else:
            payload = answer_ok(reply.identity, reply.body, fallback=reply.fallback)
            message = replace(message, payload=payload)
        return replace(message, user_properties=(("status", "ok"), *_marked(reply)))

    def _to_device(self, device: str, topic: str | None, correlation: bytes | None) -> Message:
        name = topic or self._topics.result.name(deployment=self._deployment, device=device)
        return Message(name, b"", qos=1, content_type=JSON, correlation_data=correlation)


def _marked(told: Reply | Partial) -> tuple[tuple[str, str], ...]:
    return (FALLBACK,) if told.fallback else ()


def record_topic(topics: Topics, deployment: str, record: Redelivery) -> str:
    """Where a record is retained."""
    key = xxhash.xxh3_64_hexdigest(record.key.encode())
    return topics.redelivery.name(deployment=deployment, key=key)
