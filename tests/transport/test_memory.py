"""What the in-process broker can do that a real one cannot be asked for: faults, and time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dsi_mqtt.errors import (
    BrokerUnreachableError,
    ConfigError,
    ConnectionLostError,
    TooLargeError,
)
from dsi_mqtt.transport.base import BrokerLimits, Connection, ConnectOptions, Message, Will
from dsi_mqtt.transport.memory import (
    MemoryControlConnection,
    MemoryDataConnection,
    MemoryTransport,
)
from dsi_mqtt.transport.memory_broker import MemoryBroker
from dsi_mqtt.transport.memory_faults import Passage


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def broker(clock: Clock) -> MemoryBroker:
    return MemoryBroker(clock=clock)


async def control(
    broker: MemoryBroker, client: str = "", **options: Any
) -> MemoryControlConnection:
    return await MemoryTransport(broker).control(
        f"mem://{broker.name}", ConnectOptions(client_id=client, **options)
    )


async def data(broker: MemoryBroker, client: str = "", **options: Any) -> MemoryDataConnection:
    return await MemoryTransport(broker).data(
        f"mem://{broker.name}", ConnectOptions(client_id=client, **options)
    )


async def payloads(connection: Connection, number: int) -> list[bytes]:
    async with asyncio.timeout(5):
        return [bytes((await anext(connection.messages())).payload) for _ in range(number)]


def to(payload: bytes) -> Any:
    def chosen(passage: Passage) -> bool:
        return passage.message.payload == payload

    return chosen


# -- names ---------------------------------------------------------------------------------------


async def test_brokers_are_reached_by_name(broker: MemoryBroker) -> None:
    other = MemoryBroker("other")
    transport = MemoryTransport(broker, other)
    one = await transport.control("mem://broker", ConnectOptions())
    await one.subscribe("a")
    two = await transport.data("mem://other", ConnectOptions())
    assert not await two.publish(Message("a", qos=1))

    with pytest.raises(BrokerUnreachableError, match="mem://nobody"):
        await transport.control("mem://nobody", ConnectOptions())
    with pytest.raises(ConfigError, match="mqtt://broker"):
        await transport.data("mqtt://broker", ConnectOptions())


# -- faults of messages --------------------------------------------------------------------------


async def test_a_dropped_message_is_acknowledged_all_the_same(broker: MemoryBroker) -> None:
    connection = await control(broker)
    await connection.subscribe("a", qos=1)
    fault = broker.drop(to(b"2"), times=1)
    for payload in (b"1", b"2", b"2", b"3"):
        assert await connection.publish(Message("a", payload, qos=1))

    assert await payloads(connection, 3) == [b"1", b"2", b"3"]
    assert fault.hits == 1


async def test_a_duplicated_message_comes_twice(broker: MemoryBroker) -> None:
    connection = await control(broker)
    await connection.subscribe("a")
    broker.duplicate(to(b"2"))
    for payload in (b"1", b"2", b"3"):
        await connection.publish(Message("a", payload))

    assert await payloads(connection, 4) == [b"1", b"2", b"2", b"3"]


async def test_delayed_messages_come_when_they_are_released(broker: MemoryBroker) -> None:
    connection = await control(broker)
    await connection.subscribe("a")
    fault = broker.delay(lambda passage: passage.message.payload in {b"1", b"2"})
    for payload in (b"1", b"2", b"3"):
        await connection.publish(Message("a", payload))
    assert await payloads(connection, 1) == [b"3"]

    fault.release()
    assert await payloads(connection, 2) == [b"1", b"2"]
    await connection.publish(Message("a", b"1"))
    fault.end()
    await connection.publish(Message("a", b"2"))
    assert await payloads(connection, 2) == [b"1", b"2"]
    assert fault.hits == 3


async def test_faults_choose_by_sender_and_receiver(broker: MemoryBroker) -> None:
    sender, one, two = [await control(broker, name) for name in ("sender", "one", "two")]
    for connection in (one, two):
        await connection.subscribe("#")
    broker.drop(lambda passage: (passage.sender, passage.receiver) == ("sender", "two"))
    await sender.publish(Message("a", b"from sender"))
    await one.publish(Message("a", b"from one"))

    assert await payloads(one, 2) == [b"from sender", b"from one"]
    assert await payloads(two, 1) == [b"from one"]


# -- faults of links -----------------------------------------------------------------------------


async def test_a_cut_link_ends_the_client_and_sends_its_will(broker: MemoryBroker) -> None:
    watcher = await control(broker)
    await watcher.subscribe("will")
    client = await data(broker, "client", will=Will("will", b"gone"))
    publishing = asyncio.create_task(client.publish(Message("a", qos=1)))

    broker.cut("client")

    with pytest.raises(ConnectionLostError):
        await publishing
    with pytest.raises(ConnectionLostError):
        await anext(client.messages())
    assert await payloads(watcher, 1) == [b"gone"]
    assert not broker.connected("client")
    with pytest.raises(LookupError, match="client"):
        broker.cut("client")


async def test_over_a_frozen_link_nothing_passes_and_nobody_notices(broker: MemoryBroker) -> None:
    watcher = await control(broker)
    await watcher.subscribe("#", qos=1)
    client = await data(broker, "client", will=Will("will", b"gone"))
    await client.subscribe("in", qos=1)

    link = broker.freeze("client")
    await watcher.publish(Message("in", b"to the client", qos=1))
    await client.publish(Message("out", b"at QoS 0"))
    publishing = asyncio.create_task(client.publish(Message("out", b"at QoS 1", qos=1)))
    reading = asyncio.create_task(payloads(client, 1))
    assert await payloads(watcher, 1) == [b"to the client"]
    assert not publishing.done()
    assert not reading.done()

    link.thaw()
    assert await reading == [b"to the client"]
    assert await publishing
    assert await payloads(watcher, 2) == [b"at QoS 0", b"at QoS 1"]


async def test_a_frozen_client_learns_of_its_time_out_when_it_thaws(broker: MemoryBroker) -> None:
    watcher = await control(broker)
    await watcher.subscribe("will")
    client = await data(broker, "client", will=Will("will", b"gone"))
    link = broker.freeze("client")

    broker.time_out("client")

    assert await payloads(watcher, 1) == [b"gone"]
    await client.publish(Message("out", b"into the void"))
    link.thaw()
    with pytest.raises(ConnectionLostError):
        await client.publish(Message("out"))


async def test_what_a_frozen_client_aborts_the_broker_does_not_see(broker: MemoryBroker) -> None:
    client = await data(broker, "client")
    link = broker.freeze("client")
    client.abort()
    assert broker.connected("client")
    link.thaw()
    assert not broker.connected("client")


# -- faults of the broker ------------------------------------------------------------------------


async def fill(broker: MemoryBroker) -> None:
    writer = await control(broker)
    reader = await data(broker, "durable", session_expiry_s=60, will=Will("state/will", b"gone"))
    await reader.subscribe("in", qos=1)
    await writer.publish(Message("state/a", b"kept", qos=1, retain=True))
    await writer.publish(Message("in", b"1", qos=1))
    await anext(reader.messages())


async def retained(broker: MemoryBroker) -> set[str]:
    reader = await control(broker)
    await reader.subscribe("state/#")
    await reader.publish(Message("state/fence"))
    found: set[str] = set()
    while (topic := (await anext(reader.messages())).topic) != "state/fence":
        found.add(topic)
    return found


async def test_a_killed_broker_loses_all_and_sends_no_will(broker: MemoryBroker) -> None:
    await fill(broker)
    broker.kill()
    with pytest.raises(BrokerUnreachableError, match="not running"):
        await control(broker)
    broker.start()

    assert await retained(broker) == set()
    assert not (await data(broker, "durable", clean_start=False)).session_present


async def test_a_killed_broker_falls_back_to_what_it_saved(broker: MemoryBroker) -> None:
    """Retained state was seen to go back from epoch 7 to 5 this way."""
    await fill(broker)
    broker.save()
    writer = await control(broker)
    await writer.publish(Message("state/b", b"later", qos=1, retain=True))
    await writer.publish(Message("in", b"later", qos=1))
    broker.kill()
    broker.start()

    assert await retained(broker) == {"state/a"}
    again = await data(broker, "durable", clean_start=False, session_expiry_s=60)
    assert again.session_present
    message = await anext(again.messages())
    assert (message.payload, message.duplicate) == (b"1", True)
    await (await control(broker)).publish(Message("in", b"fence", qos=1))
    assert await payloads(again, 1) == [b"fence"]


async def test_a_broker_that_saves_every_change_loses_nothing() -> None:
    broker = MemoryBroker(autosave=True)
    await fill(broker)
    broker.kill()
    broker.start()

    assert await retained(broker) == {"state/a"}
    assert (await data(broker, "durable", clean_start=False)).session_present


async def test_a_stopped_broker_sends_every_will_and_keeps_its_state(broker: MemoryBroker) -> None:
    await fill(broker)
    broker.stop()
    assert not broker.running
    broker.start()

    assert await retained(broker) == {"state/a", "state/will"}
    assert (await data(broker, "durable", clean_start=False)).session_present


# -- limits --------------------------------------------------------------------------------------


async def test_beyond_its_queue_a_session_loses_what_the_sender_was_told_is_fine() -> None:
    broker = MemoryBroker(queue_max=3)
    reader = await data(broker, "durable", session_expiry_s=60)
    await reader.subscribe("in", qos=1)
    await reader.close()
    sender = await control(broker)
    for number in range(10):
        assert await sender.publish(Message("in", b"%d" % number, qos=1))

    again = await data(broker, "durable", session_expiry_s=60, clean_start=False)
    await sender.publish(Message("in", b"end", qos=1))

    assert await payloads(again, 4) == [b"0", b"1", b"2", b"end"]


async def test_a_reader_that_does_not_read_loses_qos_0_beyond_the_queue() -> None:
    broker = MemoryBroker(queue_max=3)
    reader = await data(broker, hold_count=1)
    await reader.subscribe("#", qos=1)
    sender = await control(broker)
    await sender.publish(Message("held", b"held", qos=1))
    held = await anext(reader.messages())
    for number in range(10):
        await sender.publish(Message("in", b"%d" % number))

    reader.acknowledge(held)
    await sender.publish(Message("in", b"end"))

    assert await payloads(reader, 4) == [b"0", b"1", b"2", b"end"]


async def test_the_broker_ends_who_sends_too_large_a_packet(broker: MemoryBroker) -> None:
    """The limit is lowered behind the client's back, for its own check would come first."""
    client = await control(broker, "client", will=Will("will", b"gone"))
    watcher = await control(broker)
    await watcher.subscribe("will")
    broker.limits = BrokerLimits(max_packet_size=100)

    with pytest.raises(ConnectionLostError, match="too large"):
        await client.publish(Message("a", bytes(100), qos=1))

    assert await payloads(watcher, 1) == [b"gone"]
    late = await control(broker)
    with pytest.raises(TooLargeError):
        await late.publish(Message("a", bytes(100)))


async def test_no_more_than_the_window_is_sent_unacknowledged() -> None:
    broker = MemoryBroker(limits=BrokerLimits(receive_max=4))
    reader, sender = await data(broker, "reader"), await control(broker)
    await reader.subscribe("in", qos=1)
    for number in range(9):
        await sender.publish(Message("in", b"%d" % number, qos=1))
    held = [await anext(reader.messages()) for _ in range(4)]
    fifth = asyncio.create_task(payloads(reader, 1))
    await sender.publish(Message("nothing", qos=1))
    assert not fifth.done()

    reader.acknowledge(held[2])
    assert await fifth == [b"4"]


# -- time ----------------------------------------------------------------------------------------


async def test_a_session_ends_when_it_has_expired(broker: MemoryBroker, clock: Clock) -> None:
    sender = await control(broker)
    first = await data(broker, "durable", session_expiry_s=60)
    await first.subscribe("in", qos=1)
    await first.close()

    clock.now += 59.5
    assert await sender.publish(Message("in", qos=1))
    clock.now += 0.5
    assert not await sender.publish(Message("in", qos=1))
    assert not (await data(broker, "durable", clean_start=False)).session_present


async def test_a_message_expires_while_it_waits(broker: MemoryBroker, clock: Clock) -> None:
    sender = await control(broker)
    first = await data(broker, "durable", session_expiry_s=600)
    await first.subscribe("in", qos=1)
    await first.close()
    await sender.publish(Message("in", b"brief", qos=1, expiry_s=10))
    await sender.publish(Message("in", b"lasting", qos=1, expiry_s=100))
    await sender.publish(Message("state", b"brief", retain=True, expiry_s=10))
    clock.now += 30

    again = await data(broker, "durable", session_expiry_s=600, clean_start=False)
    await again.subscribe("state")
    message = await anext(again.messages())
    assert (message.payload, message.expiry_s) == (b"lasting", 70)
    await sender.publish(Message("state", b"fence"))
    assert await payloads(again, 1) == [b"fence"]


async def test_a_thousand_queued_messages_are_handed_on_without_recursion() -> None:
    broker = MemoryBroker(limits=BrokerLimits(receive_max=1), queue_max=5000)
    first = await control(broker, "durable", session_expiry_s=60)
    await first.subscribe("in", qos=1)
    await first.close()
    sender = await control(broker)
    for number in range(5000):
        await sender.publish(Message("in", b"%d" % number, qos=1))

    again = await control(broker, "durable", session_expiry_s=60, clean_start=False)

    assert await payloads(again, 5000) == [b"%d" % number for number in range(5000)]
