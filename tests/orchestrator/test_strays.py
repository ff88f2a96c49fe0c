"""Inputs that no door will see are answered, in what order, and how many at most."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.core.table import TableDocument
from dsi_mqtt.orchestrator.strays import PATIENCE_S, RETURN_S, WAITING_MAX, StrayAnswerer
from dsi_mqtt.transport.base import ConnectOptions, Message
from dsi_mqtt.transport.memory import MemoryControlConnection, MemoryTransport
from dsi_mqtt.transport.memory_broker import MemoryBroker
from dsi_mqtt.wire.topics import Topics
from tests.core.build import make_table, no_route

TOPICS = Topics()
NAME = "hazards"


class Time:
    """Stands still; `pass_s` lets it pass for all who sleep."""

    def __init__(self) -> None:
        self.now = 100.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    async def sleep(self, seconds: float) -> None:
        waker = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, waker))
        await waker

    async def pass_s(self, seconds: float) -> None:
        self.now += seconds
        for due, waker in self._sleepers:
            if due <= self.now and not waker.done():
                waker.set_result(None)
        await settle()


async def settle() -> None:
    """Everybody has done what there was to do."""
    for _ in range(WAITING_MAX):
        await asyncio.sleep(0)


class Broker:
    """A broker with a stray answerer beside it, and a device that hears every answer."""

    def __init__(self, time: Time, device: MemoryControlConnection) -> None:
        self.time = time
        self._device = device
        self.answers: list[Message] = []

    async def listen(self) -> None:
        async for message in self._device.messages():
            self.answers.append(message)

    async def retain(self, topic: str, payload: bytes) -> None:
        await self._device.publish(Message(topic, payload, qos=1, retain=True))
        await settle()

    async def ask(self, *devices: str) -> None:
        """One input of each device, in order."""
        for device in devices:
            topic = TOPICS.input.name(deployment=NAME, device=device)
            await self._device.publish(Message(topic, b'{"input": 1}', qos=1))
        await settle()

    def answered(self) -> set[str]:
        """The devices that have an answer."""
        parts = [TOPICS.result.parts(answer.topic) for answer in self.answers]
        return {found["device"] for found in parts if found is not None}

    async def tables(self, document: TableDocument) -> None:
        await self.retain(TOPICS.table.name(deployment=NAME), TOPICS.table.payload.encode(document))

    def codes(self) -> list[str]:
        return [json.loads(bytes(answer.payload))["error"]["code"] for answer in self.answers]


@asynccontextmanager
async def answering(*, settled: bool = True) -> AsyncIterator[Broker]:
    memory, time = MemoryBroker("site"), Time()
    transport = MemoryTransport(memory)
    strays = StrayAnswerer(
        "mem://site", transport, root=TOPICS.root, sleep=time.sleep, clock=lambda: time.now
    )
    device = await transport.control("mem://site", ConnectOptions())
    await device.subscribe(TOPICS.result.filter(), qos=1)
    broker = Broker(time, device)
    tasks = [asyncio.create_task(strays.run()), asyncio.create_task(broker.listen())]
    await settle()
    if settled:
        await time.pass_s(RETURN_S)
    try:
        yield broker
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def spec() -> bytes:
    return TOPICS.spec.payload.encode(Deployment(NAME, ModelSpec(tier="fake")))


async def test_an_unknown_deployment_is_answered_after_a_moment() -> None:
    async with answering() as broker:
        await broker.ask("cam")
        await broker.time.pass_s(PATIENCE_S - 0.1)
        assert broker.answers == []
        await broker.time.pass_s(0.1)
        assert broker.codes() == ["unknown_deployment"]


async def test_a_deployment_that_comes_meanwhile_is_left_to_its_door() -> None:
    async with answering() as broker:
        await broker.ask("cam")
        await broker.retain(TOPICS.spec.name(deployment=NAME), spec())
        await broker.tables(TableDocument(make_table()))
        await broker.time.pass_s(PATIENCE_S)
        assert broker.answers == []


async def test_a_deployment_without_a_door_says_why() -> None:
    async with answering() as broker:
        await broker.retain(TOPICS.spec.name(deployment=NAME), spec())
        await broker.tables(TableDocument(no_route(1, "no node is online")))
        await broker.ask("cam")
        await broker.time.pass_s(PATIENCE_S)
        assert broker.codes() == ["unavailable"]
        assert b"no node is online" in bytes(broker.answers[0].payload)


async def test_rubbish_on_the_table_s_topic_does_not_speak_for_the_door() -> None:
    async with answering() as broker:
        await broker.retain(TOPICS.spec.name(deployment=NAME), spec())
        await broker.tables(TableDocument(make_table()))
        await broker.retain(TOPICS.table.name(deployment=NAME), b"{rubbish")
        await broker.ask("cam")
        await broker.time.pass_s(PATIENCE_S)
        assert broker.answers == []


async def test_after_a_connection_the_leader_gets_the_time_to_write_again() -> None:
    async with answering(settled=False) as broker:
        await broker.ask("cam")
        await broker.time.pass_s(PATIENCE_S)
        assert broker.answers == []
        await broker.time.pass_s(RETURN_S)
        assert broker.codes() == ["unknown_deployment"]


async def test_in_a_flood_the_first_are_answered_and_the_log_says_so_once_per_episode(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    async with answering() as broker:
        for episode in range(2):
            caplog.clear()
            broker.answers.clear()
            await broker.ask(*(f"cam-{number}" for number in range(WAITING_MAX + 20)))
            (begun,) = caplog.records
            assert begun.getMessage() == (
                "256 inputs without a door wait for their answer; further ones get none until "
                "there is room"
            )
            await broker.time.pass_s(PATIENCE_S)
            assert len(broker.answers) == WAITING_MAX, episode
            assert broker.answered() == {f"cam-{number}" for number in range(WAITING_MAX)}
            await settle()
            assert caplog.records[-1].getMessage() == (
                "there is room again; 20 inputs got no answer"
            )
            assert len(caplog.records) == 2
        await broker.ask("cam")
        await broker.time.pass_s(PATIENCE_S)
        assert len(broker.answers) == WAITING_MAX + 1


async def test_an_answer_that_cannot_be_sent_ends_nothing() -> None:
    async with answering() as broker:
        await broker.ask("d" * 65_509, "cam")
        await broker.time.pass_s(PATIENCE_S)
        assert broker.codes() == ["unknown_deployment"]
