"""A node goes where the site says that tensors go, also when it hears that late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count

import pytest

from dsi_mqtt.core import events as ev
from dsi_mqtt.core.node import DataBroker
from dsi_mqtt.core.table import BrokerUrls
from dsi_mqtt.engine.fake import FakeFactory
from dsi_mqtt.errors import WireError
from dsi_mqtt.transport.base import ConnectOptions, ControlConnection, Message
from dsi_mqtt.transport.mqtt import MqttTransport
from dsi_mqtt.wire.topics import Topics
from dsi_mqtt.worker.app import WorkerConfig, WorkerProcess
from dsi_mqtt.worker.home import Home

CONTROL, DATA = "mqtt://10.0.0.1:1883", "mqtt://10.0.0.1:1884"
BOTH = BrokerUrls(CONTROL, CONTROL)
TOPICS = Topics()
NUMBERS = count(1)
PATIENCE_S = 60.0
TURNS = 20


def site(payload: bytes) -> Message:
    return Message(TOPICS.site.name(), payload, qos=1, retain=True)


async def at_once() -> None:
    """Any word stands long enough."""


@asynccontextmanager
async def following(
    told: list[ev.Event], control: str = CONTROL, settled: Callable[[], Awaitable[None]] = at_once
) -> AsyncIterator[tuple[Home, asyncio.Task[None]]]:
    """A home at the control broker, and who waits for it to be left."""
    both = BrokerUrls(control, control)
    home = Home(both, TOPICS, told.append, follows=True, settled=settled)
    tasks = [asyncio.create_task(home.follow()), asyncio.create_task(home.left(control))]
    try:
        yield home, tasks[1]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_what_the_site_says_moves_a_node_that_follows_it_and_nothing_else_does() -> None:
    told: list[ev.Event] = []
    async with following(told) as (home, left):
        for payload in (b"", b'{"data_port": 1883}', b"{}"):
            assert home.heard(site(payload)), "it is about where tensors go"
            await turns()
        for payload in (b"rubbish", b'{"data_port": "many"}', b'{"data_port": 0}'):
            with pytest.raises(WireError):
                home.heard(site(payload))
        assert not home.heard(Message("dsi/v1/node/a/status", b'{"data_port": 1884}'))
        await turns()
        assert (told, left.done(), home.brokers) == ([], False, BOTH)
        assert home.heard(site(b'{"data_port": 1884}'))
        await left
        assert told == [ev.BrokersMoved(BrokerUrls(CONTROL, DATA))]
        await home.left(CONTROL)
        assert home.heard(site(b"{}"))
        await home.left(DATA)
        assert home.brokers == BOTH


@pytest.mark.asyncio
async def test_a_word_that_is_written_over_at_once_moves_nobody() -> None:
    told: list[ev.Event] = []
    stood = asyncio.Semaphore(0)

    async def settled() -> None:
        await stood.acquire()

    async with following(told, settled=settled) as (home, left):
        home.heard(site(b'{"data_port": 1}'))
        await turns()
        home.heard(site(b"{}"))
        home.heard(site(b'{"data_port": 1}'))
        home.heard(site(b'{"data_port": 1884}'))
        stood.release()
        await turns()
        assert not left.done(), "it has been written over meanwhile"
        stood.release()
        await left
        assert told == [ev.BrokersMoved(BrokerUrls(CONTROL, DATA))]


@pytest.mark.asyncio
async def test_the_same_broker_in_other_words_moves_nobody() -> None:
    told: list[ev.Event] = []
    async with following(told, control="mqtt://10.0.0.1") as (home, _):
        assert home.heard(site(b'{"data_port": 1883}'))
        await turns()
        assert told == []


def test_a_node_that_was_told_stays_where_it_is() -> None:
    told: list[ev.Event] = []
    home = Home(BOTH, TOPICS, told.append, follows=False)
    assert home.filters() == ()
    assert not home.heard(site(b'{"data_port": 1884}'))
    assert (told, home.brokers) == ([], BOTH)


@asynccontextmanager
async def listening(url: str, *topics: str) -> AsyncIterator[ControlConnection]:
    connection = await MqttTransport().control(url, ConnectOptions())
    for topic in topics:
        await connection.subscribe(topic, qos=1)
    try:
        yield connection
    finally:
        await connection.close()


async def until(connection: ControlConnection, holds: Callable[[Message], bool]) -> None:
    async for message in connection.messages():
        if holds(message):
            return
    raise AssertionError("the broker has ended")


@pytest.mark.asyncio
async def test_a_node_that_started_while_nothing_said_where_tensors_go_hears_it_later(
    control_broker: str, data_broker: str
) -> None:
    topics = Topics(f"test/home/{next(NUMBERS)}")
    status, echo = topics.status.name(node="a"), topics.echo.name(node="a")
    config = WorkerConfig(
        "a", "edge", BrokerUrls(control_broker, control_broker), topics.root, 1, follows_site=True
    )
    process = WorkerProcess(config, MqttTransport(), FakeFactory(sleep=lambda _: None))
    task = asyncio.create_task(process.run())
    there = BrokerUrls(control_broker, data_broker)
    try:
        async with (
            asyncio.timeout(PATIENCE_S),
            listening(control_broker, status, echo) as control,
            listening(data_broker, echo) as data,
        ):
            await until(control, lambda message: message.topic == echo)
            port = int(data_broker.rpartition(":")[2])
            payload = topics.site.payload.encode(DataBroker(port))
            await control.publish(Message(topics.site.name(), payload, qos=1, retain=True))
            await until(data, lambda message: message.topic == echo)
            await until(
                control,
                lambda message: (
                    message.topic == status
                    and topics.status.payload.decode(message.payload).brokers == there
                ),
            )
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
