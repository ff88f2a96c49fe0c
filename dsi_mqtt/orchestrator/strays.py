"""Answers for inputs that no door will see: of unknown deployments, and of those without a door.

A device that misspells a deployment publishes to a topic nobody subscribes to, and would wait for
ever; so would one whose deployment cannot be placed anywhere. This runs beside the broker, where
every input passes anyway, so it costs no link anything and shows nobody anything new. An input
of a deployment that has a door is none of its business.

At most `WAITING_MAX` wait for their answer at once. Those that came first keep their place; what
comes on top gets none, for a flood of inputs must not take this machine's memory, and the log says
so when that begins and when it is over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from dsi_mqtt.core.message import Failure
from dsi_mqtt.core.table import TableDocument
from dsi_mqtt.errors import InvalidInputError, TransportError, WireError, one_sentence
from dsi_mqtt.transport.base import ConnectOptions, ControlConnection, Message, Transport
from dsi_mqtt.transport.lasting import Backoff, keep_connected
from dsi_mqtt.wire.inputs import answer_error, parse_input
from dsi_mqtt.wire.topics import Topics

log = logging.getLogger(__name__)

# A deployment or table that is being published just now gets the time to arrive.
PATIENCE_S: Final = 1.0
# What a broker has forgotten, the leader writes again once it has connected too.
RETURN_S: Final = 6.0
WAITING_MAX: Final = 256


class StrayAnswerer:
    """Runs on the machine of the control broker, at `url`."""

    def __init__(
        self,
        url: str,
        transport: Transport,
        *,
        root: str,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._transport = transport
        self._topics = Topics(root)
        self._sleep = sleep
        self._clock = clock
        self._specs: set[str] = set()
        self._tables: dict[str, TableDocument] = {}
        self._connected = 0.0
        self._waiting: set[asyncio.Task[None]] = set()
        self._dropped = 0

    async def run(self) -> None:
        async def connect() -> ControlConnection:
            return await self._transport.control(self._url, ConnectOptions())

        await keep_connected(connect, self._serve, backoff=Backoff(last_s=3.0))

    async def _serve(self, connection: ControlConnection) -> None:
        self._specs.clear()
        self._tables.clear()
        self._connected = self._clock()
        topics = self._topics
        for topic in (topics.spec, topics.table):
            await connection.subscribe(topic.filter(), qos=1)
        await connection.subscribe(topics.input.filter())
        try:
            async for message in connection.messages():
                self._note(message)
                parts = topics.input.parts(message.topic)
                if parts is None or message.retain or self._refusal(parts["deployment"]) is None:
                    continue
                if self._has_room():
                    task = asyncio.create_task(self._answer(connection, message, **parts))
                    self._waiting.add(task)
                    task.add_done_callback(self._answered)
        finally:
            for task in self._waiting:
                task.cancel()

    def _has_room(self) -> bool:
        """Whether one more may wait; says once that they may not."""
        if len(self._waiting) < WAITING_MAX:
            return True
        if not self._dropped:
            log.warning(
                "%d inputs without a door wait for their answer; further ones get none until "
                "there is room",
                WAITING_MAX,
            )
        self._dropped += 1
        return False

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._waiting.discard(task)
        if self._dropped and not self._waiting:
            log.warning("there is room again; %d inputs got no answer", self._dropped)
            self._dropped = 0

    def _note(self, message: Message) -> None:
        spec = self._topics.spec.parts(message.topic)
        if spec is not None:
            (self._specs.add if message.payload else self._specs.discard)(spec["deployment"])
        table = self._topics.table.parts(message.topic)
        if table is None:
            return
        if not message.payload:
            self._tables.pop(table["deployment"], None)
            return
        try:
            document = self._topics.table.payload.decode(message.payload)
        except WireError as error:  # the last one stands, until the leader has written it again
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
        returning_s = self._connected + RETURN_S - self._clock()
        await self._sleep(max(PATIENCE_S, returning_s))
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
        except (TransportError, WireError, ValueError) as error:  # of a topic that is too long
            log.info("a stray input is not answered: %s", one_sentence(str(error)))
