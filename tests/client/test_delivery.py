"""What a client remembers of deployments and connections, and for how long."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from dsi_mqtt.client import Client
from dsi_mqtt.errors import DeadlineError, UnknownDeploymentError
from dsi_mqtt.transport.base import ConnectOptions
from dsi_mqtt.transport.memory import MemoryTransport
from dsi_mqtt.transport.memory_broker import MemoryBroker
from tests.client.door import PATIENCE_S, URL, SimulatedDoor


async def test_a_deployment_that_does_not_exist_is_not_remembered(client: Client) -> None:
    for number in range(20):
        with pytest.raises(UnknownDeploymentError):
            await client.infer(f"misspelt-{number}", "x")
    await client.generate("chat", "Hi", max_tokens=1)
    assert client._delivery._subscribed == {"chat"}
    assert client._delivery._markers == {}


async def test_what_waits_in_vain_for_the_broker_leaves_nothing(
    broker: MemoryBroker, client: Client
) -> None:
    broker.freeze(client._delivery._client_id)
    with pytest.raises(DeadlineError, match="the broker does not answer"):
        await client.infer("chat", "x", timeout_s=0.05)
    assert client._delivery._subscribed == set()
    assert client._delivery._markers == {}


async def test_an_input_that_was_asked_while_the_connection_was_lost_is_answered(
    broker: MemoryBroker, client: Client, door: SimulatedDoor
) -> None:
    """Whether its deployment is known could not be asked: it is taken for known."""
    broker.freeze(client._delivery._client_id)
    asking = asyncio.ensure_future(client.generate("chat", "Hi", max_tokens=1))
    async with asyncio.timeout(PATIENCE_S):
        while not client._delivery._markers:  # noqa: ASYNC110 - nothing tells that it has begun
            await asyncio.sleep(0)
    broker.cut(client._delivery._client_id)
    assert (await asking).text == "It"
    assert len(door.inputs) == 1
    assert client._delivery._markers == {}


async def test_an_input_expires_at_the_broker_when_its_caller_gives_up(
    broker: MemoryBroker, client: Client
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        transport = MemoryTransport(broker)
        ear = await transport.control(URL, ConnectOptions())
        stack.push_async_callback(ear.close)
        await ear.subscribe("dsi/v1/deploy/chat/in/+", qos=1)
        await client.generate("chat", "Hi", max_tokens=1, timeout_s=PATIENCE_S)
        message = await anext(aiter(ear.messages()))
    assert message.expiry_s is not None
    assert 0 < message.expiry_s <= PATIENCE_S
