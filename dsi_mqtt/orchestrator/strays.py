"""Answers for inputs that no door will see: of unknown deployments, and of those without a door.

A device that misspells a deployment publishes to a topic nobody subscribes to, and would wait for
ever; so would one whose deployment cannot be placed anywhere. This runs beside the broker, where
every input passes anyway, so it costs no link anything and shows nobody anything new. An input
of a deployment that has a door is none of its business.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from dsi_mqtt.core.message import Failure
from dsi_mqtt.core.table import TableDocument
from dsi_mqtt.errors import ConnectionLostError, InvalidInputError, WireError, one_sentence
from dsi_mqtt.transport.base import ConnectOptions, ControlConnection, Message, Transport
from dsi_mqtt.transport.lasting import Backoff, keep_connected
from dsi_mqtt.wire.inputs import answer_error, parse_input
from dsi_mqtt.wire.topics import Topics

log = logging.getLogger(__name__)

# A deployment or table that is being published just now gets the time to arrive.
PATIENCE_S: Final = 1.0
WAITING_MAX: Final = 256


class StrayAnswerer:
    """Runs on the machine of the control broker, at `url`."""

    def __init__(self, url: str, transport: Transport, *, root: str) -> None:
        self._url = url
        self._transport = transport
        self._topics = Topics(root)
        self._specs: set[str] = set()
        self._tables: dict[str, TableDocument] = {}

    async def run(self) -> None:
        async def connect() -> ControlConnection:
            return await self._transport.control(self._url, ConnectOptions())

        await keep_connected(connect, self._serve, backoff=Backoff(last_s=3.0))

    async def _serve(self, connection: ControlConnection) -> None:
        self._specs.clear()
        self._tables.clear()
        topics = self._topics
        for topic in (topics.spec, topics.table):
            await connection.subscribe(topic.filter(), qos=1)
        await connection.subscribe(topics.input.filter())
        waiting: set[asyncio.Task[None]] = set()
        try:
            async for message in connection.messages():
                self._note(message)
                parts = topics.input.parts(message.topic)
                if parts is None or message.retain or len(waiting) >= WAITING_MAX:
                    continue
                if self._refusal(parts["deployment"]) is None:
                    continue
                task = asyncio.create_task(self._answer(connection, message, **parts))
                waiting.add(task)
                task.add_done_callback(waiting.discard)
        finally:
            for task in waiting:
                task.cancel()

    def _note(self, message: Message) -> None:
        spec = self._topics.spec.parts(message.topic)
        if spec is not None:
            (self._specs.add if message.payload else self._specs.discard)(spec["deployment"])
        table = self._topics.table.parts(message.topic)
        if table is None:
            return
        self._tables.pop(table["deployment"], None)
        if message.payload:
            try:
                document = self._topics.table.payload.decode(message.payload)
            except WireError as error:
                log.warning("%s is ignored: %s", message.topic, error)
            else:
                self._tables[table["deployment"]] = document

    def _refusal(self, deployment: str) -> Failure | None:
        """Why nobody will serve an input of this deployment; None when its door will see it."""
        document = self._tables.get(deployment)
        if document is None and deployment not in self._specs:
            sentence = f"deployment {deployment[:64]!r} does not exist here; check its spelling"
            return Failure("unknown_deployment", sentence)
        serve = document.serve if document else None
        if serve is not None and serve.door is not None:
            return None
        reason = (serve.reason if serve else None) or "it is being prepared"
        sentence = f"deployment {deployment[:64]!r} serves nothing now: {reason}"
        return Failure("unavailable", one_sentence(sentence))

    async def _answer(
        self, connection: ControlConnection, message: Message, *, deployment: str, device: str
    ) -> None:
        await asyncio.sleep(PATIENCE_S)
        failure = self._refusal(deployment)
        if failure is None:
            return
        topic = self._topics.own_answer(deployment, device, message.response_topic)
        try:
            identity = parse_input(bytes(message.payload), message.content_type).identity
        except InvalidInputError:
            identity = None
        answer = Message(
            topic or self._topics.result.name(deployment=deployment, device=device),
            answer_error(identity, failure),
            qos=1,
            content_type="application/json",
            correlation_data=message.correlation_data,
            user_properties=(("status", "error"), ("code", failure.code)),
        )
        try:
            await connection.publish(answer)
        except ConnectionLostError:
            log.debug("the broker went away before a stray input was answered")
