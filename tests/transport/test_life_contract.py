"""What every connection promises of its beginning, its MQTT session and its end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from dsi_mqtt.errors import (
    BrokerRefusedError,
    BrokerUnreachableError,
    ConnectionLostError,
)
from dsi_mqtt.transport.base import Message

if TYPE_CHECKING:
    from tests.transport.conftest import Kind, Site


# -- MQTT sessions -------------------------------------------------------------------------------


async def test_a_durable_session_keeps_what_comes_meanwhile(site: Site, kind: Kind) -> None:
    sender = await site.connect(kind)
    first = await site.connect(kind, "durable", session_expiry_s=60)
    assert not first.session_present
    await first.subscribe(site.name("in"), qos=1)
    await first.close()
    for number in range(50):
        assert await sender.publish(Message(site.name("in"), b"%d" % number, qos=1))
    await sender.publish(Message(site.name("in"), b"at QoS 0", qos=0))

    second = await site.connect(kind, "durable", session_expiry_s=60, clean_start=False)
    got = await site.take(second, 50)
    await sender.publish(Message(site.name("in"), b"end", qos=1))

    assert second.session_present
    assert [int(bytes(message.payload)) for message in got] == list(range(50))
    assert [message.payload for message in await site.take(second, 1)] == [b"end"]


async def test_a_clean_start_deletes_the_session(site: Site, kind: Kind) -> None:
    sender = await site.connect(kind)
    first = await site.connect(kind, "durable", session_expiry_s=60)
    await first.subscribe(site.name("in"), qos=1)
    await first.close()
    await sender.publish(Message(site.name("in"), b"lost", qos=1))

    second = await site.connect(kind, "durable", session_expiry_s=60, clean_start=True)
    assert not second.session_present
    assert not await sender.publish(Message(site.name("in"), b"nobody", qos=1))
    await second.subscribe(site.name("in"), qos=1)
    await sender.publish(Message(site.name("in"), b"kept", qos=1))

    assert [message.payload for message in await site.take(second, 1)] == [b"kept"]


async def test_a_session_without_expiry_ends_with_its_connection(site: Site, kind: Kind) -> None:
    first = await site.connect(kind, "brief", session_expiry_s=0)
    await first.subscribe(site.name("in"), qos=1)
    await first.close()

    second = await site.connect(kind, "brief", clean_start=False)

    assert not second.session_present
    assert not await second.publish(Message(site.name("in"), b"", qos=1))


async def test_a_take_over_ends_the_old_connection(site: Site, kind: Kind) -> None:
    old = await site.connect(kind, "one", session_expiry_s=60)
    await old.subscribe(site.name("in"), qos=1)
    ending = asyncio.create_task(site.end_of(old))

    new = await site.connect(kind, "one", session_expiry_s=60, clean_start=False)

    assert site.url.removeprefix("mqtt://") in str(await ending)
    assert new.session_present
    await new.publish(Message(site.name("in"), b"to the new one", qos=1))
    assert [message.payload for message in await site.take(new, 1)] == [b"to the new one"]


# -- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_after_its_end_a_connection_does_nothing(site: Site, kind: Kind, how: str) -> None:
    connection = await site.connect(kind)
    reading = asyncio.create_task(site.end_of(connection))
    await asyncio.sleep(0)
    if how == "close":
        await connection.close()
    else:
        connection.abort()

    assert isinstance(await reading, ConnectionLostError)
    assert isinstance(await site.end_of(connection), ConnectionLostError)
    for qos in (0, 1):
        with pytest.raises(ConnectionLostError):
            await connection.publish(Message("a", b"", qos=qos))
    with pytest.raises(ConnectionLostError):
        await connection.subscribe("a")
    with pytest.raises(ConnectionLostError):
        await connection.unsubscribe("a")
    await connection.close()
    connection.abort()


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_when_the_broker_dies_readers_and_later_calls_are_told(
    mortal_site: Site, kind: Kind, how: str
) -> None:
    site = mortal_site
    connection = await site.connect(kind)
    await connection.subscribe(site.name("in"), qos=1)
    await connection.publish(Message(site.name("in"), b"before", qos=1))
    assert [message.payload for message in await site.take(connection, 1)] == [b"before"]
    reading = asyncio.create_task(site.end_of(connection))

    await (site.stop if how == "stop" else site.kill)()

    assert site.url.removeprefix("mqtt://") in str(await reading)
    with pytest.raises(ConnectionLostError):
        await connection.publish(Message(site.name("in"), b"after", qos=1))
    with pytest.raises(BrokerUnreachableError, match="start it"):
        await site.connect(kind)


async def test_one_reader_at_a_time(site: Site, kind: Kind) -> None:
    connection = await site.connect(kind)
    reading = asyncio.create_task(site.end_of(connection))
    await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="reader"):
        await anext(connection.messages())

    connection.abort()
    await reading


async def test_a_cancelled_reader_loses_nothing(site: Site, kind: Kind) -> None:
    connection = await site.connect(kind)
    await connection.subscribe(site.name("in"), qos=1)
    reading = asyncio.create_task(site.take(connection, 1))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await connection.publish(Message(site.name("in"), b"kept", qos=1))

    assert [message.payload for message in await site.take(connection, 1)] == [b"kept"]


# -- admission -----------------------------------------------------------------------------------


async def test_a_wrong_password_is_refused(locked_site: Site, kind: Kind) -> None:
    with pytest.raises(BrokerRefusedError, match="not authori"):
        await locked_site.connect(kind, username="anna", password="wrong")
    with pytest.raises(BrokerRefusedError, match="not authori"):
        await locked_site.connect(kind)


async def test_the_right_password_is_admitted(locked_site: Site, kind: Kind) -> None:
    connection = await locked_site.connect(kind, username="anna", password="pa:ss")
    assert not await connection.publish(Message("a", b"", qos=1))


async def test_what_the_broker_grants_is_known(site: Site, kind: Kind) -> None:
    connection = await site.connect(kind)
    assert connection.limits.max_packet_size == 16 * 1024 * 1024
    assert connection.limits.receive_max == 20
    assert connection.limits.retain_available
