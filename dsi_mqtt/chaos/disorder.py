"""A publisher that repeats what it hears: twice, late, and not in order."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from random import Random
from typing import Final, Self

from dsi_mqtt.errors import TransportError
from dsi_mqtt.transport.base import ConnectOptions, ControlConnection, Message
from dsi_mqtt.transport.mqtt import MqttTransport
from dsi_mqtt.wire.topics import Topics

# Of what it hears it repeats so much, after so long at most.
SHARE: Final = 0.3
LATE_S: Final = 1.5
SHOTS_MAX: Final = 2000


class Disorder:
    """On both brokers: inputs on the one, all that passes between segments on the other."""

    def __init__(self, control: str, data: str, topics: Topics, random: Random) -> None:
        act = topics.activation.filter()
        self._urls = {control: topics.input.filter(), data: act}
        self._random = random
        self._tasks: list[asyncio.Task[None]] = []
        self.repeated = 0

    async def __aenter__(self) -> Self:
        for url, topic in self._urls.items():
            connection = await MqttTransport().control(url, ConnectOptions())
            await connection.subscribe(topic, qos=1)
            self._tasks.append(asyncio.create_task(self._repeat(connection), name="disorder"))
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, connection: ControlConnection) -> None:
        own: set[tuple[str, bytes]] = set()
        shots: set[asyncio.Task[None]] = set()
        try:
            async for message in connection.messages():
                mark = message.topic, bytes(message.payload)
                if mark in own or self._random.random() > SHARE or self.repeated > SHOTS_MAX:
                    continue
                own.add(mark)
                shot = asyncio.create_task(self._late(connection, message))
                shots.add(shot)
                shot.add_done_callback(shots.discard)
        finally:
            for shot in shots:
                shot.cancel()
            await connection.close()

    async def _late(self, connection: ControlConnection, message: Message) -> None:
        due = time.monotonic() + self._random.random() * LATE_S
        await asyncio.sleep(due - time.monotonic())
        self.repeated += 1
        try:
            await connection.publish(replace(message, retain=False, receipt=None))
        except TransportError:
            return  # the broker is away: nothing to repeat to
