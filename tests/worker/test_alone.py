"""A node's name is its own: of two that bear it one ends, whoever of them begins when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count

import pytest
import pytest_asyncio

from dsi_mqtt.core.node import NodeStatus, Telemetry
from dsi_mqtt.core.table import BrokerUrls
from dsi_mqtt.engine.fake import FakeFactory
from dsi_mqtt.errors import ConfigError
from dsi_mqtt.transport.base import ConnectOptions, ControlConnection, Message
from dsi_mqtt.transport.mqtt import MqttTransport
from dsi_mqtt.wire.topics import Topics
from dsi_mqtt.worker.app import WorkerConfig, WorkerProcess

NUMBERS = count(1)
PATIENCE_S = 60.0

pytestmark = pytest.mark.asyncio


class Site:
    """A broker, workers at it that bear one name, and an ear."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._topics = Topics(f"test/alone/{next(NUMBERS)}")
        self.status_topic = self._topics.status.name(node="twin")
        self.telemetry_topic = self._topics.telemetry.name(node="twin")
        self.tasks: list[asyncio.Task[None]] = []
        self._ear: ControlConnection

    async def listen(self) -> Site:
        self._ear = await self.connection()
        await self._ear.subscribe(self.status_topic, qos=1)
        return self

    async def connection(self) -> ControlConnection:
        return await MqttTransport().control(self._url, ConnectOptions())

    def start(self) -> asyncio.Task[None]:
        brokers = BrokerUrls(self._url, self._url)
        config = WorkerConfig("twin", "edge", brokers, self._topics.root, 1)
        process = WorkerProcess(config, MqttTransport(), FakeFactory(sleep=lambda _: None))
        self.tasks.append(asyncio.create_task(process.run()))
        return self.tasks[-1]

    async def say(self, status: NodeStatus) -> None:
        """As another of this name would."""
        payload = self._topics.status.payload.encode(status)
        await self._ear.publish(Message(self.status_topic, payload, qos=1, retain=True))

    async def send_telemetry(self, incarnation: str) -> None:
        said = Telemetry("twin", incarnation, 1, 0.0, 1, 1, 1, None)
        payload = self._topics.telemetry.payload.encode(said)
        await self._ear.publish(Message(self.telemetry_topic, payload))

    async def status(self) -> NodeStatus:
        """What is said next."""
        async for message in self._ear.messages():
            return self._topics.status.payload.decode(message.payload)
        raise AssertionError("the broker has ended")

    async def speaker(self) -> str:
        """The incarnation that telemetry comes of by now."""
        said = await self._first(self.telemetry_topic)
        return self._topics.telemetry.payload.decode(said.payload).incarnation

    async def retained(self) -> NodeStatus:
        """The status as whoever comes now sees it."""
        return self._topics.status.payload.decode((await self._first(self.status_topic)).payload)

    async def _first(self, topic: str) -> Message:
        connection = await self.connection()
        await connection.subscribe(topic, qos=1)
        async for message in connection.messages():
            await connection.close()
            return message
        raise AssertionError("the broker has ended")


@pytest_asyncio.fixture
async def site(control_broker: str) -> AsyncIterator[Site]:
    site = await Site(control_broker).listen()
    yield site
    for task in site.tasks:
        task.cancel()
    await asyncio.gather(*site.tasks, return_exceptions=True)


def sentence(task: asyncio.Task[None]) -> str:
    """What a worker has ended with."""
    error = task.exception()
    assert isinstance(error, ExceptionGroup)
    (only,) = error.exceptions
    assert isinstance(only, ConfigError)
    return str(only)


async def test_of_two_that_start_at_once_one_ends_and_the_other_is_retained(site: Site) -> None:
    site.start()
    site.start()
    first = asyncio.FIRST_COMPLETED
    done, left = await asyncio.wait(site.tasks, timeout=PATIENCE_S, return_when=first)
    assert [sentence(task) for task in done] == [
        "--name: a node 'twin' is online already; give this one another"
    ]
    assert len(left) == 1
    staying = await site.speaker()
    while (await site.retained()).incarnation != staying:
        await site.status()
    assert (await site.retained()).state == "online"
    assert not next(iter(left)).done()


async def test_who_comes_later_does_not_begin(site: Site) -> None:
    first = site.start()
    staying = await site.speaker()
    second = site.start()
    await asyncio.wait([second], timeout=PATIENCE_S)
    assert "online already" in sentence(second)
    assert (await site.retained()).incarnation == staying
    assert not first.done()


async def test_a_node_whose_name_is_taken_meanwhile_ends_without_a_word(site: Site) -> None:
    taken = site.start()
    before = await site.speaker()
    async with asyncio.timeout(PATIENCE_S):
        while not taken.done():  # where the machine is slow, the first is not believed
            await site.say(NodeStatus("twin", "another", "online"))
            await site.send_telemetry("another")
            await asyncio.wait([taken], timeout=0.1)
    assert "online already" in sentence(taken)
    assert (await site.retained()).incarnation == "another"
    assert before != "another"


async def test_a_status_that_nobody_lives_behind_ends_nobody(site: Site) -> None:
    taken = site.start()
    staying = await site.speaker()
    for _ in range(2):
        await site.say(NodeStatus("twin", "another", "online"))
        while (await site.retained()).incarnation != staying:
            await site.status()
    assert not taken.done()
