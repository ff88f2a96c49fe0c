"""Which models there are: the deployments whose specs are retained on the broker."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.errors import WireError
from dsi_mqtt.transport.base import ConnectOptions, ControlConnection, Message, Transport
from dsi_mqtt.transport.lasting import Backoff, keep_connected
from dsi_mqtt.wire.topics import Topics, check_topic_name

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Model:
    """created: when it was first seen, in seconds of the clock on the wall."""

    spec: Deployment
    created: int

    @property
    def generates(self) -> bool:
        return self.spec.kind == "generation"


class Catalogue:
    """Follows the retained specs; while the broker is away, what it knew last stays."""

    def __init__(
        self,
        url: str,
        transport: Transport,
        topics: Topics,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._url = url
        self._transport = transport
        self._topics = topics
        self._clock = clock
        self._models: dict[str, Model] = {}
        self._read = asyncio.Event()
        self._connected = False

    @property
    def connected(self) -> bool:
        """Whether the broker is there now."""
        return self._connected

    async def run(self) -> None:
        """For ever. Connects again by itself."""

        async def connect() -> ControlConnection:
            return await self._transport.control(self._url, ConnectOptions())

        await keep_connected(connect, self._follow, backoff=Backoff(last_s=3.0))

    async def read(self) -> None:
        """Returns when everything retained has been read once."""
        await self._read.wait()

    def get(self, name: str) -> Model | None:
        return self._models.get(name)

    def all(self) -> list[Model]:
        """By name."""
        return [self._models[name] for name in sorted(self._models)]

    async def _follow(self, connection: ControlConnection) -> None:
        """A marker behind the subscription tells when what was there before is read again."""
        marker = self._topics.echo.name(node=f"gateway-{os.urandom(8).hex()}")
        found: dict[str, Model] = {}
        await connection.subscribe(self._topics.spec.filter(), qos=1)
        await connection.subscribe(marker, qos=1)
        await connection.publish(Message(marker, qos=1))
        try:
            async for message in connection.messages():
                if message.topic == marker:
                    self._models, self._connected = found, True
                    self._read.set()
                else:
                    self._note(found, message)
        finally:
            self._connected = False

    def _note(self, found: dict[str, Model], message: Message) -> None:
        parts = self._topics.spec.parts(message.topic)
        if parts is None:
            return
        name = parts["deployment"]
        known = found.get(name) or self._models.get(name)
        if not message.payload:
            found.pop(name, None)
            return
        try:
            spec = self._topics.spec.payload.decode(message.payload)
            check_topic_name(spec.name, name)
        except WireError as error:
            log.warning("%s is ignored: %s", message.topic, error)
            if known is not None:
                found[name] = known  # the last that could be read stands
            return
        found[name] = Model(spec, known.created if known else int(self._clock()))
