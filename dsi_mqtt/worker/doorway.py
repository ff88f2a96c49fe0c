"""Input and output of one door: the ingress connection and the one its answers leave by.

They are two connections, because the ingress is not read while the door holds all it may, and
then the broker's acknowledgements of answers would not be read either.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import xxhash

from dsi_mqtt.core import events as ev
from dsi_mqtt.core.activation import JSON
from dsi_mqtt.core.effects import (
    Acknowledge,
    ClearRetained,
    OpenIngress,
    PublishReply,
    WriteRecord,
)
from dsi_mqtt.core.message import Failure
from dsi_mqtt.core.request import Input, ParsedInput, Redelivery
from dsi_mqtt.core.table import DoorPlace
from dsi_mqtt.errors import (
    BrokerRefusedError,
    ConnectionLostError,
    InvalidInputError,
    TooLargeError,
    TransportError,
    WireError,
    one_sentence,
)
from dsi_mqtt.transport.base import ConnectOptions, DataConnection, Message, Transport
from dsi_mqtt.transport.lasting import Backoff, keep_connected
from dsi_mqtt.transport.retained import read_retained
from dsi_mqtt.transport.together import first_of
from dsi_mqtt.wire.inputs import answer_error, answer_ok, parse_input
from dsi_mqtt.wire.topics import Topics

log = logging.getLogger(__name__)

RECONNECT: Final = Backoff(last_s=3.0)
# Its answer's topic is longer than its input's, and a topic has 65,535 bytes.
DEVICE_BYTES_MAX: Final = 32_768
SESSION_EXPIRY_S: Final = 7 * 24 * 3600
REQUEST_ID_BYTES: Final = 16

Emit = Callable[[ev.Event], None]
Outgoing = PublishReply | WriteRecord | ClearRetained


class Doorway:
    """Shell of one deployment's door on this node."""

    def __init__(self, deployment: str, transport: Transport, topics: Topics, emit: Emit) -> None:
        self._deployment = deployment
        self._transport = transport
        self._topics = topics
        self._emit = emit
        self._door: DoorPlace | None = None
        self._ingress: asyncio.Task[None] | None = None
        self._answers: asyncio.Task[None] | None = None
        self._answers_url = ""
        self._closing: asyncio.Task[None] | None = None
        self._connection: DataConnection | None = None
        self._held: dict[int, Message] = {}
        self._loose: dict[int, int] = {}
        self._loose_max = (0, 0)
        self._dropped = 0
        self._receipts = 0
        self._leaving: asyncio.Queue[Outgoing] = asyncio.Queue()
        self._waiting: set[bytes] = set()

    def open(self, effect: OpenIngress) -> None:
        self._end_ingress()
        self._door = effect.door
        self._loose_max = effect.hold_count, effect.hold_bytes
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        if self._answers is not None and self._answers_url != effect.door.ingress:
            self._answers.cancel()
            self._answers = None
        if self._answers is None:
            self._answers_url = effect.door.ingress
            self._answers = asyncio.create_task(
                self._keep_answering(self._answers_url), name=f"answers {self._deployment}"
            )
        self._ingress = asyncio.create_task(
            self._receive(effect), name=f"ingress {self._deployment}"
        )

    def acknowledge(self, effect: Acknowledge) -> None:
        self._loose.pop(effect.receipt, None)
        message = self._held.pop(effect.receipt, None)
        if message is not None:
            self._acknowledge(message)

    def publish(self, effect: Outgoing) -> None:
        """Sends now or when the connection is there again; the machine repeats what is lost.

        An answer that waits is not queued once more: the connection may be away for long.
        """
        if isinstance(effect, PublishReply):
            if effect.request in self._waiting:
                return
            self._waiting.add(effect.request)
        self._leaving.put_nowait(effect)

    def close(self) -> None:
        """Leaves the MQTT session for the next door; what is on its way out still goes."""
        self._end_ingress()
        if self._answers is not None and self._closing is None:
            self._closing = asyncio.create_task(
                self._end_answers(self._answers), name=f"last answers {self._deployment}"
            )

    async def forget(self) -> None:
        """Ends the MQTT session at the broker."""
        if self._door is None:
            return
        options = ConnectOptions(client_id=self._door.session)  # ends with the connection
        try:
            connection = await self._transport.data(self._door.ingress, options)
            await connection.close()
        except TransportError as error:
            log.info("the session of %s is left to expire: %s", self._deployment, error)

    async def _end_answers(self, answers: asyncio.Task[None]) -> None:
        await self._leaving.join()
        answers.cancel()
        self._answers = self._closing = None

    # --- ingress ------------------------------------------------------------------------------

    def _end_ingress(self) -> None:
        if self._ingress is not None:
            self._ingress.cancel()
            self._ingress = None
        self._held.clear()
        self._loose.clear()

    async def _receive(self, effect: OpenIngress) -> None:
        door = effect.door
        options = ConnectOptions(
            client_id=door.session,
            clean_start=False,
            session_expiry_s=SESSION_EXPIRY_S,
            hold_count=effect.hold_count,
            hold_bytes=effect.hold_bytes,
        )
        connection: DataConnection | None = None
        try:
            await self._find_records(door.ingress)
            connection = await self._transport.data(door.ingress, options)
            self._connection = connection
            await connection.subscribe(
                self._topics.input.filter(deployment=self._deployment), qos=1
            )
            self._emit(ev.IngressOpened(self._deployment))
            async for message in connection.messages():
                self._admit(message)
        except TransportError as error:
            log.info("ingress of %s: %s", self._deployment, error)
        except Exception as error:  # noqa: BLE001 — the machine must learn that it ended
            log.error("ingress of %s: %s", self._deployment, one_sentence(repr(error)))  # noqa: TRY400
        finally:
            if self._connection is connection:
                self._connection = None
            if connection is not None:
                await connection.close()
        self._emit(ev.IngressLost(self._deployment))

    async def _find_records(self, url: str) -> None:
        """Counts of earlier doors come before the first input."""
        connection = await self._transport.data(url, ConnectOptions())
        marker = self._topics.echo.name(node=f"door-{os.urandom(8).hex()}")
        records = self._topics.redelivery.filter(deployment=self._deployment)
        try:
            found = await read_retained(connection, [records], marker)
        finally:
            await connection.close()
        for message in found:
            try:
                record = self._read_record(message)
            except WireError as error:
                log.warning("%s is ignored: %s", message.topic, error)
            else:
                self._emit(ev.RecordFound(self._deployment, record))

    def _read_record(self, message: Message) -> Redelivery:
        """Raises WireError for what no door has written."""
        record = self._topics.redelivery.payload.decode(message.payload)
        if self._record_topic(record) != message.topic or record.count < 0 or record.void:
            raise WireError("it is not the record of the input that it names")
        return record

    def _record_topic(self, record: Redelivery) -> str:
        key = xxhash.xxh3_64_hexdigest(record.key.encode())
        return self._topics.redelivery.name(deployment=self._deployment, key=key)

    def _admit(self, message: Message) -> None:
        payload = bytes(message.payload)
        parts = self._topics.input.parts(message.topic)
        if parts is None or (message.retain and not payload):
            self._acknowledge(message)  # a removal of what was retained
            return
        device = parts["device"]
        if len(device.encode()) > DEVICE_BYTES_MAX:
            log.warning("an input of a device whose name is too long for an answer is dropped")
            self._acknowledge(message)
            return
        if message.qos == 0 and not self._has_room(message):
            return
        try:
            parsed = parse_input(payload, message.content_type)
        except InvalidInputError as error:
            parsed = ParsedInput(None, message.content_type or "", b"", str(error))
        asked = message.response_topic
        own = self._topics.own_answer(self._deployment, device, asked)
        self._receipts += 1
        if message.qos:
            self._held[self._receipts] = replace(message, payload=b"", user_properties=())
        else:
            self._loose[self._receipts] = len(payload)
        given = Input(
            receipt=self._receipts,
            request=os.urandom(REQUEST_ID_BYTES),
            device=device,
            parsed=parsed,
            digest=xxhash.xxh3_64_hexdigest(message.topic.encode() + b"\0" + payload),
            nbytes=len(payload),
            correlation=message.correlation_data,
            response_topic=own,
            foreign_topic=asked is not None and own is None,
            duplicate=message.duplicate,
            retained=message.retain,
            expiry_s=message.expiry_s,
        )
        self._emit(ev.InputArrived(self._deployment, given))

    def _has_room(self, message: Message) -> bool:
        """What is not acknowledged is not held back by the connection: beyond its bounds it goes.

        QoS 0 means at most once.
        """
        count_max, bytes_max = self._loose_max
        nbytes = sum(self._loose.values()) + len(message.payload)
        if len(self._loose) < count_max and nbytes <= bytes_max:
            return True
        self._dropped += 1
        if self._dropped == 1:
            log.warning(
                "inputs of %s at QoS 0 are dropped while %d are in hand; publish at QoS 1",
                self._deployment,
                len(self._loose),
            )
        return False

    def _acknowledge(self, message: Message) -> None:
        if self._connection is None:
            return
        try:
            self._connection.acknowledge(message)
        except ConnectionLostError:
            log.debug("too late to acknowledge; the broker will repeat the input")

    # --- answers ------------------------------------------------------------------------------

    async def _keep_answering(self, url: str) -> None:
        async def connect() -> DataConnection:
            return await self._transport.data(url, ConnectOptions())

        await keep_connected(connect, self._answer, backoff=RECONNECT)

    async def _answer(self, connection: DataConnection) -> None:
        """Publishes everything that leaves, several at once; ends with the connection."""
        await first_of(_watch(connection), self._send_leaving(connection))

    async def _send_leaving(self, connection: DataConnection) -> None:
        sending: dict[asyncio.Task[None], Outgoing] = {}

        def sent(task: asyncio.Task[None]) -> None:
            effect = sending.pop(task)
            if task.cancelled():  # what waits for its acknowledgement when the connection ends
                self.publish(effect)
            self._leaving.task_done()

        try:
            while True:
                effect = await self._leaving.get()
                if isinstance(effect, PublishReply):
                    self._waiting.discard(effect.request)
                task = asyncio.create_task(self._send(connection, effect))
                sending[task] = effect
                task.add_done_callback(sent)
        finally:
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)

    async def _send(self, connection: DataConnection, effect: Outgoing) -> None:
        try:
            await connection.publish(self._message(effect))
        except (TooLargeError, BrokerRefusedError, ValueError) as error:
            self._refused(effect, error)
            return
        except TransportError:
            self.publish(effect)
            return
        if isinstance(effect, PublishReply):
            self._emit(ev.ReplyPublished(self._deployment, effect.request))
        elif isinstance(effect, WriteRecord) and not effect.record.void:
            self._emit(ev.RecordWritten(self._deployment, effect.record))

    def _refused(self, effect: Outgoing, error: Exception) -> None:
        """The broker does not take it: an answer gives way to the reason, which is short."""
        log.warning("%s: %s", self._deployment, error)
        if isinstance(effect, PublishReply) and effect.reply.failure is None:
            failure = Failure("failed", one_sentence(f"the result cannot be sent: {error}"))
            reply = replace(effect.reply, failure=failure, body=b"")
            self.publish(replace(effect, reply=reply))

    def _message(self, effect: Outgoing) -> Message:
        if isinstance(effect, ClearRetained):
            topic = self._topics.input.name(deployment=self._deployment, device=effect.device)
            return Message(topic, b"", qos=1, retain=True)
        if isinstance(effect, WriteRecord):
            record = effect.record
            payload = b"" if record.void else self._topics.redelivery.payload.encode(record)
            return Message(self._record_topic(record), payload, qos=1, retain=True)
        reply = effect.reply
        topic = reply.topic or self._topics.result.name(
            deployment=self._deployment, device=reply.device
        )
        message = Message(topic, b"", qos=1, content_type=JSON, correlation_data=reply.correlation)
        if reply.failure is not None:
            return replace(
                message,
                payload=answer_error(reply.identity, reply.failure),
                user_properties=(("status", "error"), ("code", reply.failure.code)),
            )
        if reply.content_type != JSON:
            message = replace(message, content_type=reply.content_type, payload=reply.body)
        else:
            message = replace(message, payload=answer_ok(reply.identity, reply.body))
        return replace(message, user_properties=(("status", "ok"),))


async def _watch(connection: DataConnection) -> None:
    """Notices the end of a connection that only sends."""
    async for _ in connection.messages():
        pass
