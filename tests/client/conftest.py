"""A client and the simulated door that answers it, over a broker within the process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from dsi_mqtt.client import Client
from dsi_mqtt.transport.memory import MemoryTransport
from dsi_mqtt.transport.memory_broker import MemoryBroker
from tests.client.door import PATIENCE_S, URL, SimulatedDoor, simulated_door


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest_asyncio.fixture
async def door(broker: MemoryBroker) -> AsyncIterator[SimulatedDoor]:
    async with simulated_door(MemoryTransport(broker)) as door, asyncio.timeout(PATIENCE_S):
        yield door


@pytest_asyncio.fixture
async def client(broker: MemoryBroker, door: SimulatedDoor) -> AsyncIterator[Client]:
    async with Client(URL, device="cam", transport=MemoryTransport(broker)) as client:
        yield client
