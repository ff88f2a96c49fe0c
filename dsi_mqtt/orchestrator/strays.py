"""Answers for inputs that no door will ever see: those of unknown deployments.

A device that misspells a deployment publishes to a topic nobody subscribes to, and would wait for
ever. This runs beside the broker, where every input passes anyway, so it costs no link anything
and shows nobody anything new. An input of a deployment that exists is none of its business.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from dsi_mqtt.core.message import Failure
from dsi_mqtt.errors import ConnectionLostError, InvalidInputError
from dsi_mqtt.transport.base import ConnectOptions, ControlConnection, Message, Transport
from dsi_mqtt.transport.lasting import Backoff, keep_connected
from dsi_mqtt.wire.inputs import answer_error, parse_input
from dsi_mqtt.wire.topics import Topics

log = logging.getLogger(__name__)

# A deployment that is being published just now gets the time to arrive.
PATIENCE_S: Final = 1.0
WAITING_MAX: Final = 256


class StrayAnswerer:
    """Runs on the machine of the control broker, at `url`."""

    def __init__(self, url: str, transport: Transport, *, root: str) -> None:
        self._url = url
        self._transport = transport
        self._topics = Topics(root)
        self._known: set[str] = set()

    async def run(self) -> None:
        async def connect() -> ControlConnection:
            return await self._transport.control(self._url, ConnectOptions())

        await keep_connected(connect, self._serve, backoff=Backoff(last_s=3.0))

    async def _serve(self, connection: ControlConnection) -> None:
        self._known.clear()
        topics = self._topics
        for topic in (topics.spec, topics.table):
            await connection.subscribe(topic.filter(), qos=1)
        await connection.subscribe(topics.input.filter())
        waiting: set[asyncio.Task[None]] = set()
        try:
            async for message in connection.messages():
                self._note(message)
                parts = topics.input.parts(message.topic)
                stray = parts is not None and parts["deployment"] not in self._known
                if parts is None or not stray or not message.payload or len(waiting) >= WAITING_MAX:
                    continue
                task = asyncio.create_task(self._answer(connection, message, **parts))
                waiting.add(task)
                task.add_done_callback(waiting.discard)
        finally:
            for task in waiting:
                task.cancel()

    def _note(self, message: Message) -> None:
        for topic in (self._topics.spec, self._topics.table):
            parts = topic.parts(message.topic)
            if parts is not None and message.payload:
                self._known.add(parts["deployment"])
            elif parts is not None:
                self._known.discard(parts["deployment"])

    async def _answer(
        self, connection: ControlConnection, message: Message, *, deployment: str, device: str
    ) -> None:
        await asyncio.sleep(PATIENCE_S)
        if deployment in self._known:
            return
        own = self._topics.answers(deployment, device)
        asked = message.response_topic
        topic = asked if asked and asked.startswith(own) and asked != own else own + "result"
        try:
            identity = parse_input(bytes(message.payload), message.content_type).identity
        except InvalidInputError:
            identity = None
        sentence = f"deployment {deployment[:64]!r} does not exist here; check the topic's spelling"
        failure = Failure("unknown_deployment", sentence)
        answer = Message(
            topic,
            answer_error(identity, failure),
            qos=1,
            content_type="application/json",
            correlation_data=message.correlation_data,
            user_properties=(("status", "error"), ("code", failure.code)),
        )
        try:
            if not set(topic) & set("+#"):
                await connection.publish(answer)
        except ConnectionLostError:
            log.debug("the broker went away before a stray input was answered")
