"""The gateway over a real socket, in front of a door that keeps the contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import openai

from dsi_mqtt.cli.gateway import Devices
from dsi_mqtt.client import Client
from dsi_mqtt.core.deployment import Deployment, InputLimits
from dsi_mqtt.core.model import ModelSpec
from dsi_mqtt.gateway.app import Gateway
from dsi_mqtt.gateway.catalogue import Catalogue
from dsi_mqtt.gateway.connections import Bounds
from dsi_mqtt.gateway.keys import Keys
from dsi_mqtt.gateway.server import BOUNDS, listen, serving
from dsi_mqtt.transport.memory import MemoryTransport
from dsi_mqtt.transport.memory_broker import MemoryBroker
from dsi_mqtt.wire.topics import Topics
from tests.client.door import CHAT, PATIENCE_S, URL, SimulatedDoor, simulated_door

VECTORS = Deployment("vectors", ModelSpec(tier="fake"), input=InputLimits(batch_max=2))


@dataclass
class Live:
    """A gateway that runs, and what stands behind it."""

    port: int
    door: SimulatedDoor
    broker: MemoryBroker
    catalogue: Catalogue

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def openai(self, key: str = "any") -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(api_key=key, base_url=f"{self.url}/v1", max_retries=0)


@asynccontextmanager
async def live_gateway(
    *,
    keys: Keys | None = None,
    body_max: int = 100_000,
    body_s: float = PATIENCE_S,
    open_max: int = 100,
    grace_s: int = 5,
    silent_s: float = 15.0,
    bounds: Bounds = BOUNDS,
) -> AsyncIterator[Live]:
    broker = MemoryBroker()
    transport = MemoryTransport(broker)
    async with (
        asyncio.timeout(PATIENCE_S * 2),
        simulated_door(transport, deployments=[CHAT, VECTORS]) as door,
        Devices(lambda: Client(URL, transport=transport)) as devices,
    ):
        catalogue = Catalogue(URL, transport, Topics(), clock=lambda: 1_700_000_000.5)
        following = asyncio.create_task(catalogue.run())
        await catalogue.read()
        app = Gateway(
            devices.of,
            catalogue,
            keys,
            body_max=body_max,
            body_s=body_s,
            open_max=open_max,
            timeout_s=PATIENCE_S,
            silent_s=silent_s,
        ).app()
        listening = listen("127.0.0.1", 0, may_be_open=False)
        async with serving(app, listening, bounds=bounds, grace_s=grace_s):
            yield Live(listening.getsockname()[1], door, broker, catalogue)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
