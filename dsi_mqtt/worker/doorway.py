"""Input and output of one door: the ingress connection and the one its answers leave by.

They are two connections, because the ingress is not read while the door holds all it may, and
then neither the broker's acknowledgements of answers nor cancels would be read.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

import xxhash

from dsi_mqtt.core import events as ev
from dsi_mqtt.core.effects import Acknowledge, OpenIngress
from dsi_mqtt.core.request import Input, ParsedInput, Redelivery
from dsi_mqtt.core.table import DoorPlace
from dsi_mqtt.errors import (
    ConnectionLostError,
    InvalidInputError,
    TransportError,
    WireError,
    one_sentence,
)
from dsi_mqtt.transport.base import ConnectOptions, DataConnection, Message, Transport
from dsi_mqtt.transport.retained import read_retained
from dsi_mqtt.transport.sessions import end_session
from dsi_mqtt.transport.together import first_of
from dsi_mqtt.wire.inputs import parse_input
from dsi_mqtt.wire.topics import Topics
from dsi_mqtt.worker.answering import KEEP_ALIVE_S, Answering, record_topic
from dsi_mqtt.worker.leaving import Outgoing

log = logging.getLogger(__name__)

# Its answer's topic is longer than its input's, and a topic has 65,535 bytes.
DEVICE_BYTES_MAX: Final = 32_768
SESSION_EXPIRY_S: Final = 7 * 24 * 3600
REQUEST_ID_BYTES: Final = 16

Emit = Callable[[ev.Event], None]


class Doorway:
    """Shell of one deployment's door on this node."""

    def __init__(self, deployment: str, transport: Transport, topics: Topics, emit: Emit) -> None:
        self._deployment = deployment
        self._transport = transport
        self._topics = topics
        self._emit = emit
        self._door: DoorPlace | None = None
        self._ingress: asyncio.Task[None] | None = None
        self._answering = Answering(deployment, transport, topics, emit)
        self._connection: DataConnection | None = None
        self._held: dict[int, Message] = {}
        self._loose: dict[int, int] = {}
        self._loose_bytes = 0
        self._loose_max = (0, 0)
        self._dropped = 0
        self._receipts = 0

    def open(self, effect: OpenIngress) -> None:
        before = self._end_ingress()
        self._door = effect.door
        self._loose_max = effect.hold_count, effect.hold_bytes
        self._answering.open(effect.door.ingress)
        self._ingress = asyncio.create_task(
            self._receive(effect, before), name=f"ingress {self._deployment}"
        )

    def open_answers(self, door: DoorPlace) -> None:
        """What leaves can do so before anything comes by an ingress of its own."""
        self._answering.open(door.ingress)

    def acknowledge(self, effect: Acknowledge) -> None:
        self._loose_bytes -= self._loose.pop(effect.receipt, 0)
        message = self._held.pop(effect.receipt, None)
        if message is not None:
            self._acknowledge(message)

    def publish(self, effect: Outgoing) -> None:
        """Sends now or when the connection is there again; the machine repeats what is lost."""
        self._answering.publish(effect)

    def close(self) -> None:
        """Leaves the MQTT session for the next door; what is on its way out still goes."""
        self._end_ingress()
        self._answering.close()

    def forget(self) -> Coroutine[Any, Any, None]:
        """Ends the MQTT session at the broker: that of now, for another may be opened behind."""
        return self._forget(self._door)

    async def _forget(self, door: DoorPlace | None) -> None:
        if door is None:
            return
        try:
            await end_session(self._transport, door.ingress, door.session)
        except TransportError as error:
            log.info("the session of %s is left to expire: %s", self._deployment, error)

    # --- ingress ------------------------------------------------------------------------------

    def _end_ingress(self) -> asyncio.Task[None] | None:
        """The task that ends now, if there is one."""
        ending, self._ingress = self._ingress, None
        if ending is not None:
            ending.cancel()
        self._held.clear()
        self._loose.clear()
        self._loose_bytes = 0
        return ending

    async def _receive(self, effect: OpenIngress, before: asyncio.Task[None] | None) -> None:
        """before: what it acknowledges on its last connection is not to come again."""
        door = effect.door
        if before is not None:
            await asyncio.wait([before])
        options = ConnectOptions(
            client_id=door.session,
            clean_start=False,
            session_expiry_s=SESSION_EXPIRY_S,
            keep_alive_s=KEEP_ALIVE_S,
            hold_count=effect.hold_count,
            hold_bytes=effect.hold_bytes,
        )
        connection: DataConnection | None = None
        try:
            await self._find_records(door.ingress)
            connection = await self._transport.data(door.ingress, options)
            self._connection = connection
            await first_of(self._listen(connection), self._subscribe(connection))
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

    async def _listen(self, connection: DataConnection) -> None:
        """From the beginning: where more waits than may be held, the broker's answer to the
        subscription stands behind it, and is not read before some of it is acknowledged.
        """
        async for message in connection.messages():
            self._admit(message)

    async def _subscribe(self, connection: DataConnection) -> None:
        await connection.subscribe(self._topics.input.filter(deployment=self._deployment), qos=1)
        self._emit(ev.IngressOpened(self._deployment))
        await asyncio.Event().wait()  # the connection's end is what ends this

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
        known = record_topic(self._topics, self._deployment, record) == message.topic
        if not known or record.count < 0 or record.void:
            raise WireError("it is not the record of the input that it names")
        return record

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
            parsed = parse_input(payload, message.content_type, message.user_properties)
        except InvalidInputError as error:
            parsed = ParsedInput(None, message.content_type or "", b"", str(error))
        asked = message.response_topic
        own = self._topics.own_answer(self._deployment, device, asked)
        self._receipts += 1
        if message.qos:
            self._held[self._receipts] = replace(message, payload=b"", user_properties=())
        else:
            self._loose[self._receipts] = len(payload)
            self._loose_bytes += len(payload)
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
        nbytes = self._loose_bytes + len(message.payload)
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
