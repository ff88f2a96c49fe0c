"""A gateway that runs, and OpenAI's own client for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import openai
import pytest_asyncio

from tests.gateway.gateways import Live, live_gateway


@pytest_asyncio.fixture
async def live() -> AsyncIterator[Live]:
    async with live_gateway() as live:
        yield live


@pytest_asyncio.fixture
async def client(live: Live) -> AsyncIterator[openai.AsyncOpenAI]:
    async with live.openai() as client:
        yield client


@pytest_asyncio.fixture
async def http(live: Live) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=live.url, timeout=30) as client:
        yield client
