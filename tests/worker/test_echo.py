"""Probes over real and shaped connections, and what real transfers say of a link."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from dsi_mqtt.core.activation import Tensor
from dsi_mqtt.core.link import LinkMeter
from dsi_mqtt.core.message import Activation
from dsi_mqtt.core.node import LinkSample
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.shaping.link import ShapedLink
from dsi_mqtt.sim.links import Figures
from dsi_mqtt.transport.base import ConnectOptions, DataConnection
from dsi_mqtt.transport.memory import MemoryTransport
from dsi_mqtt.transport.memory_broker import MemoryBroker
from dsi_mqtt.transport.mqtt import MqttTransport
from dsi_mqtt.transport.together import first_of
from dsi_mqtt.wire.topics import Topics
from dsi_mqtt.worker.echo import Echo, probe_bytes
from dsi_mqtt.worker.port import ActivationPort
from tests.core.build import make_table, make_work

TOPICS = Topics("echo-tests/v1")


async def until(meter: LinkMeter, holds: Callable[[LinkSample], bool]) -> None:
    async with asyncio.timeout(90):
        while not holds(meter.sample(time.monotonic())):  # noqa: ASYNC110 - time alone changes it
            await asyncio.sleep(0.05)


@asynccontextmanager
async def probing(connection: DataConnection, node: str) -> AsyncIterator[LinkMeter]:
    meter = LinkMeter(probe_bytes(TOPICS, node))
    echo = Echo(node, TOPICS, meter, time.monotonic)
    await connection.subscribe(echo.topic)

    async def listen() -> None:
        async for message in connection.messages():
            echo.returned(message)

    task = asyncio.ensure_future(first_of(echo.send(connection), listen()))
    try:
        yield meter
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await connection.close()


def about(rate: float | None, mbit_s: float) -> bool:
    """Within a factor of 2.5: this machine has other work."""
    return rate is not None and mbit_s / 2.5 < rate < mbit_s * 2.5


async def test_probes_find_how_wide_a_link_is_and_that_it_has_fallen(data_broker: str) -> None:
    async with ShapedLink(Figures(up_mbit_s=2, down_mbit_s=8, rtt_ms=0)) as link:
        connection = await MqttTransport().data(await link.to(data_broker), ConnectOptions())
        async with probing(connection, "n1") as meter:
            await until(meter, lambda s: about(s.up_mbit_s, 2))
            link.throttle(0.1)
            await until(meter, lambda s: about(s.up_mbit_s, 0.2))


async def test_a_transfer_that_fills_the_socket_tells_the_way_up(data_broker: str) -> None:
    meter = LinkMeter()
    port = ActivationPort(
        "n2",
        TOPICS,
        arrived=lambda _: None,
        broke=lambda _: None,
        clock=time.monotonic,
        link=meter,
    )
    size = 12 * MIB
    tensor = Tensor("hidden_states", "uint8", (size,), bytes(size))
    work = Activation(make_work(make_table(), "s1").header, (tensor,))
    async with ShapedLink(Figures(up_mbit_s=16, down_mbit_s=16, rtt_ms=0)) as link:
        connection = await MqttTransport().data(await link.to(data_broker), ConnectOptions())
        port.attach(connection)
        sending = asyncio.ensure_future(port.send_waiting(connection))
        port.send("nobody", work)
        await until(meter, lambda s: about(s.up_mbit_s, 16))
        sending.cancel()
        connection.abort()
        await asyncio.gather(sending, return_exceptions=True)


async def test_a_connection_that_is_lost_ends_the_probing() -> None:
    broker = MemoryBroker()
    connection = await MemoryTransport(broker).data(f"mem://{broker.name}", ConnectOptions())
    async with probing(connection, "n3") as meter:
        await until(meter, lambda s: s.rtt_ms is not None)
        age = meter.age_s(time.monotonic())
        assert age is not None
    with pytest.raises(Exception, match="ended"):
        await Echo("n3", TOPICS, meter, time.monotonic).send(connection)
