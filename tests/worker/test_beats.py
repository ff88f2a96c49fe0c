"""Beats: what a node says between two telemetries, while anything depends on it."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from dsi_mqtt.core.table import BrokerUrls
from dsi_mqtt.engine.fake import FakeFactory
from dsi_mqtt.transport.base import ConnectOptions, ControlConnection, Message
from dsi_mqtt.transport.mqtt import MqttTransport
from dsi_mqtt.wire.topics import Topics
from dsi_mqtt.worker.app import WorkerConfig, WorkerProcess
from tests.core.build import NAME, B, document, make_table

NUMBERS = count(1)
PATIENCE_S = 60.0

pytestmark = pytest.mark.asyncio


async def words(ear: ControlConnection, topics: Topics, telemetries: int) -> tuple[str, list[str]]:
    """The incarnation that speaks, and the beats between so many telemetries."""
    beats: list[str] = []
    async for message in ear.messages():
        if topics.beat.parts(message.topic) is not None:
            beats.append(bytes(message.payload).decode())
            continue
        said = topics.telemetry.payload.decode(message.payload)
        telemetries -= 1
        if not telemetries:
            return said.incarnation, beats
    raise AssertionError("the broker has ended")


async def test_a_node_beats_while_a_table_depends_on_it(control_broker: str) -> None:
    topics = Topics(f"test/beats/{next(NUMBERS)}")
    ear = await MqttTransport().control(control_broker, ConnectOptions())
    for topic in (topics.beat, topics.telemetry):
        await ear.subscribe(topic.filter())
    config = WorkerConfig(
        "lone", "edge", BrokerUrls(control_broker, control_broker), topics.root, 1
    )
    process = WorkerProcess(config, MqttTransport(), FakeFactory(sleep=lambda _: None))
    task = asyncio.create_task(process.run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            incarnation, beats = await words(ear, topics, telemetries=4)
            assert beats == []
            table = document(make_table((("lone", incarnation), (0, 6)), door=B))
            payload = topics.table.payload.encode(table)
            await ear.publish(
                Message(topics.table.name(deployment=NAME), payload, qos=1, retain=True)
            )
            while not beats:
                _, beats = await words(ear, topics, telemetries=4)
            assert set(beats) == {incarnation}
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await ear.close()
