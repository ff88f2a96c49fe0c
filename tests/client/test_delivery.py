"""What a client remembers of deployments and connections, and for how long."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from dsi_mqtt.client import Client
from dsi_mqtt.core.message import Failure
from dsi_mqtt.errors import DeadlineError, OverloadedError, UnknownDeploymentError
from dsi_mqtt.transport.base import ConnectOptions
from dsi_mqtt.transport.memory import MemoryTransport
from dsi_mqtt.transport.memory_broker import MemoryBroker
from dsi_mqtt.wire.inputs import answer_error
from tests.client.door import PATIENCE_S, URL, Asked, SimulatedDoor


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


async def test_a_priority_goes_with_the_input_and_a_refusal_says_when_to_come_back(
    door: SimulatedDoor, client: Client
) -> None:
    async def script(asked: Asked) -> None:
        await asked.send(answer_error(None, Failure("overloaded", "too many", 7)))

    door.script = script
    with pytest.raises(OverloadedError) as refused:
        await client.infer("chat", "x", priority="low")
    assert refused.value.retry_after_s == 7
    with pytest.raises(OverloadedError):
        await client.generate("chat", "x", priority="high")
    with pytest.raises(OverloadedError):
        await client.infer("chat", "x")
    told = [dict(message.user_properties).get("priority") for message in door.inputs]
    assert told == ["low", "high", None]


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
