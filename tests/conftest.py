"""Brokers for tests: real ones, on free ports, ended with the tests."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from dsi_mqtt.transport.mosquitto import (
    BrokerSettings,
    MosquittoProcess,
    control_settings,
    data_settings,
)
from tests import preloaded
from tests.thoroughness import register

register()

# Files whose tests wait for long: begun first, they do not keep one of two processes idle at the
# end.
LONG = ("e2e/test_demo.py", "cli/test_bench_decode.py", "e2e/test_generation.py")

# A shell ignores Ctrl-C for what it starts in the background, and so would each program that the
# tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

StartMosquitto = Callable[[BrokerSettings], Awaitable[MosquittoProcess]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def control_broker() -> AsyncIterator[str]:
    """The URL of a control broker that all tests share: use topics and client ids of your own."""
    async with MosquittoProcess(control_settings()) as broker:
        yield broker.url


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def data_broker() -> AsyncIterator[str]:
    """The URL of a data broker that all tests share: use topics and client ids of your own."""
    async with MosquittoProcess(data_settings()) as broker:
        yield broker.url


@pytest_asyncio.fixture
async def mosquitto() -> AsyncIterator[StartMosquitto]:
    """Starts brokers with settings of the test's own; they end with the test."""
    async with AsyncExitStack() as running:

        async def start(settings: BrokerSettings) -> MosquittoProcess:
            return await running.enter_async_context(MosquittoProcess(settings))

        yield start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(tuple(f"tests/{file}" for file in LONG)))


def pytest_sessionfinish() -> None:
    preloaded.close()
