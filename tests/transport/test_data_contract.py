"""What a data connection promises beyond the common contract, on both transports."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from dsi_mqtt.errors import ConnectionLostError
from dsi_mqtt.transport.base import DataConnection, Message
from dsi_mqtt.transport.inbox import RECORD_BYTES

if TYPE_CHECKING:
    from tests.transport.conftest import Site


def numbers(messages: list[Message]) -> list[int]:
    return [int(bytes(message.payload)) for message in messages]


async def publish_numbers(
    connection: DataConnection, topic: str, stop: int, start: int = 0
) -> None:
    for number in range(start, stop):
        await connection.publish(Message(topic, b"%d" % number, qos=1))


async def test_what_is_not_acknowledged_comes_again(site: Site) -> None:
    sender = await site.data()
    first = await site.data("durable", session_expiry_s=60)
    await first.subscribe(site.name("in"), qos=1)
    await publish_numbers(sender, site.name("in"), 10)
    held = await site.hold(first, 10)
    for message in held[::2]:
        first.acknowledge(message)
    await site.settled(first)
    first.abort()

    second = await site.data("durable", session_expiry_s=60, clean_start=False)
    again = await site.hold(second, 5)
    await sender.publish(Message(site.name("in"), b"99", qos=1))

    assert numbers(again) == [1, 3, 5, 7, 9]
    assert all(message.duplicate for message in again)
    assert not any(message.duplicate for message in held)
    [fresh] = await site.take(second, 1)
    assert (fresh.payload, fresh.duplicate) == (b"99", False)


async def test_a_take_over_hands_on_queue_and_unacknowledged(site: Site) -> None:
    """More than the broker sends at a time, so that some wait in its queue."""
    sender = await site.data()
    old = await site.data("durable", session_expiry_s=60, hold_count=5)
    await old.subscribe(site.name("in"), qos=1)
    await publish_numbers(sender, site.name("in"), 60)
    held = await site.hold(old, 5)
    old.acknowledge(held[0])
    await site.settled(sender)

    new = await site.data("durable", session_expiry_s=60, clean_start=False)
    await site.end_of(old)
    got = await site.take(new, 59)

    assert new.session_present
    assert numbers(got) == list(range(1, 60))
    assert all(message.duplicate for message in got[:4])


async def test_receipts_of_an_earlier_connection_acknowledge_nothing(site: Site) -> None:
    sender = await site.data()
    first = await site.data("durable", session_expiry_s=60)
    await first.subscribe(site.name("in"), qos=1)
    await publish_numbers(sender, site.name("in"), 3)
    stale = await site.hold(first, 3)
    first.abort()
    with pytest.raises(ConnectionLostError):
        first.acknowledge(stale[0])

    second = await site.data("durable", session_expiry_s=60, clean_start=False)
    await site.hold(second, 3)
    for message in stale:
        second.acknowledge(message)
    second.abort()

    third = await site.data("durable", session_expiry_s=60, clean_start=False)
    assert numbers(await site.hold(third, 3)) == [0, 1, 2]


async def test_acknowledging_twice_acknowledges_one_message(site: Site) -> None:
    connection = await site.data("durable", session_expiry_s=60)
    await connection.subscribe(site.name("in"), qos=1)
    await publish_numbers(connection, site.name("in"), 2)
    first, _ = await site.hold(connection, 2)
    for _ in range(3):
        connection.acknowledge(first)
    await site.settled(connection)
    connection.abort()

    again = await site.data("durable", session_expiry_s=60, clean_start=False)
    assert numbers(await site.hold(again, 1)) == [1]


async def test_messages_at_qos_0_need_no_acknowledgement(site: Site) -> None:
    connection = await site.data(hold_count=1)
    await connection.subscribe(site.name("in"), qos=1)
    for number in range(20):
        connection.publish_soon(Message(site.name("in"), b"%d" % number))

    got = await site.hold(connection, 20)

    assert numbers(got) == list(range(20))
    assert all(message.receipt is None for message in got)
    connection.acknowledge(got[0])


async def test_hold_count_bounds_what_is_unacknowledged(site: Site) -> None:
    """Eight held, three hundred sent: never a ninth, and in the end all of them."""
    sender, holder = await site.data(), await site.data(hold_count=8)
    await holder.subscribe(site.name("in"), qos=1)
    sending = asyncio.create_task(publish_numbers(sender, site.name("in"), 300))
    waiting = await site.hold(holder, 8)
    ninth = asyncio.create_task(site.hold(holder, 1))
    assert numbers(waiting) == list(range(8))

    for expected in range(8, 300):
        await site.settled(sender)
        assert not ninth.done()
        holder.acknowledge(waiting.pop(0))
        admitted = await ninth
        assert numbers(admitted) == [expected]
        waiting += admitted
        ninth = asyncio.create_task(site.hold(holder, 1))

    ninth.cancel()
    await sending


async def test_hold_bytes_bounds_what_is_unacknowledged(site: Site) -> None:
    """Room for two payloads: the third is read when one of the first has been done with."""
    size = 100_000
    sender = await site.data()
    holder = await site.data(hold_bytes=2 * (size + RECORD_BYTES))
    await holder.subscribe(site.name("in"), qos=1)
    for number in range(3):
        await sender.publish(Message(site.name("in"), bytes([number]) * size, qos=1))
    held = await site.hold(holder, 2)
    third = asyncio.create_task(site.hold(holder, 1))
    await site.settled(sender)
    assert not third.done()

    holder.acknowledge(held[0])

    assert [message.payload[0] for message in await third] == [2]


async def test_at_its_bound_a_connection_notices_its_end(mortal_site: Site) -> None:
    """Long before a ping would tell."""
    site = mortal_site
    holder = await site.data(hold_count=1, keep_alive_s=600)
    await holder.subscribe(site.name("in"), qos=1)
    sender = await site.data()
    await publish_numbers(sender, site.name("in"), 5)
    [held] = await site.hold(holder, 1)

    await site.kill()

    await site.end_of(holder)
    with pytest.raises(ConnectionLostError):
        holder.acknowledge(held)


async def test_a_message_beyond_every_bound_is_admitted(site: Site) -> None:
    connection = await site.data(hold_count=1, hold_bytes=1)
    await connection.subscribe(site.name("in"), qos=1)
    for size in (3_000_000, 10, 3_000_000):
        sending = asyncio.create_task(
            connection.publish(Message(site.name("in"), bytes(size), qos=1))
        )
        [message] = await site.take(connection, 1)
        assert len(message.payload) == size
        assert await sending


async def test_publish_soon_refuses_what_must_be_acknowledged(site: Site) -> None:
    connection = await site.data()
    with pytest.raises(ValueError, match="QoS 0"):
        connection.publish_soon(Message("a", b"", qos=1))


async def test_after_its_end_a_data_connection_does_nothing(site: Site) -> None:
    connection = await site.data()
    connection.abort()
    with pytest.raises(ConnectionLostError):
        connection.publish_soon(Message("a", b""))
    with pytest.raises(ConnectionLostError):
        connection.acknowledge(Message("a", b""))
    with pytest.raises(ConnectionLostError):
        await connection.drained()


async def test_many_large_messages_wait_for_the_socket(site: Site) -> None:
    """64 MB, written faster than a broker takes them, with a reader that keeps pace."""
    sender, receiver = await site.data(), await site.data()
    await receiver.subscribe(site.name("in"))
    taking = asyncio.create_task(site.take(receiver, 256))
    payload = bytes(256 * 1024)
    for _ in range(256):
        await sender.drained()
        sender.publish_soon(Message(site.name("in"), payload))

    assert all(message.payload == payload for message in await taking)
