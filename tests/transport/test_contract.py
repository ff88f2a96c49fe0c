"""What every connection promises, on both transports and both kinds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from dsi_mqtt.errors import (
    TooLargeError,
)
from dsi_mqtt.transport.base import Message, Will
from dsi_mqtt.transport.retained import read_retained

if TYPE_CHECKING:
    from tests.transport.conftest import Kind, Site


# -- messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_message_arrives_with_all_its_properties(site: Site, kind: Kind, qos: int) -> None:
    connection = await site.connect(kind)
    topic = site.name("in")
    await connection.subscribe(topic, qos=1)
    sent = Message(
        topic,
        b"\x00payload\xff",
        qos=qos,
        content_type="application/json",
        response_topic=site.name("out"),
        correlation_data=b"\x00\x01",
        expiry_s=600,
        user_properties=(("k", "v"), ("k", "w"), ("trace", "ü")),
    )
    assert await connection.publish(sent)

    [got] = await site.take(connection, 1)

    assert got.topic == sent.topic
    assert got.payload == sent.payload
    assert got.qos == qos
    assert (got.retain, got.duplicate) == (False, False)
    assert got.content_type == sent.content_type
    assert got.response_topic == sent.response_topic
    assert got.correlation_data == sent.correlation_data
    assert got.expiry_s is not None
    assert 590 <= got.expiry_s <= 600
    assert got.user_properties == sent.user_properties


async def test_what_is_not_set_is_not_received(site: Site, kind: Kind) -> None:
    connection = await site.connect(kind)
    await connection.subscribe(site.name("in"))
    await connection.publish(Message(site.name("in")))

    assert await site.take(connection, 1) == [Message(site.name("in"))]


@pytest.mark.parametrize("qos", [0, 1])
async def test_messages_keep_their_order(site: Site, kind: Kind, qos: int) -> None:
    sender, receiver = await site.connect(kind), await site.connect(kind)
    await receiver.subscribe(site.name("in"), qos=qos)
    taking = asyncio.create_task(site.take(receiver, 500))

    for number in range(500):
        await sender.publish(Message(site.name("in"), b"%d" % number, qos=qos))

    assert [int(bytes(message.payload)) for message in await taking] == list(range(500))


async def test_concurrent_publishes_are_all_acknowledged_and_all_arrive(
    site: Site, kind: Kind
) -> None:
    """Ten times as many as the broker admits in flight."""
    sender, receiver = await site.connect(kind), await site.connect(kind)
    await receiver.subscribe(site.name("in"), qos=1)
    taking = asyncio.create_task(site.take(receiver, 200))

    async with asyncio.timeout(20):
        answers = await asyncio.gather(
            *(sender.publish(Message(site.name("in"), b"%d" % n, qos=1)) for n in range(200))
        )

    assert answers == [True] * 200
    assert {int(bytes(message.payload)) for message in await taking} == set(range(200))


@pytest.mark.parametrize("qos", [0, 1])
async def test_eight_megabytes_arrive_as_they_were(site: Site, kind: Kind, qos: int) -> None:
    connection = await site.connect(kind)
    await connection.subscribe(site.name("large"), qos=qos)
    payload = bytes(range(256)) * 32768
    for tail in (b"1", b"22"):
        await connection.publish(Message(site.name("large"), payload + tail, qos=qos))
    await connection.publish(Message(site.name("large"), b"small", qos=qos))

    got = await site.take(connection, 3)

    assert [message.payload for message in got] == [payload + b"1", payload + b"22", b"small"]


async def test_a_view_is_sent_like_bytes(site: Site, kind: Kind) -> None:
    connection = await site.connect(kind)
    await connection.subscribe(site.name("view"))
    for size in (10, 100_000):
        view = memoryview(bytes(size) + b"end")[5:]
        await connection.publish(Message(site.name("view"), view))

    got = await site.take(connection, 2)

    assert [bytes(message.payload) for message in got] == [
        bytes(5) + b"end",
        bytes(99_995) + b"end",
    ]


async def test_too_large_is_refused_before_sending(site: Site, kind: Kind) -> None:
    connection = await site.connect(kind)
    limit = connection.limits.max_packet_size
    assert limit is not None
    await connection.subscribe(site.name("in"), qos=1)
    # Fixed header (5), topic, packet id and property length of a QoS 1 packet of this size.
    overhead = 5 + 2 + len(site.name("in")) + 2 + 1
    payload = bytes(limit - overhead)

    with pytest.raises(TooLargeError, match=site.name("in")):
        await connection.publish(Message(site.name("in"), payload + b"x", qos=1))
    assert await connection.publish(Message(site.name("in"), payload, qos=1))

    [got] = await site.take(connection, 1)
    assert len(got.payload) == len(payload)


async def test_who_has_subscribed_is_told_at_qos_1(site: Site, kind: Kind) -> None:
    connection = await site.connect(kind)
    assert not await connection.publish(Message(site.name("in"), b"", qos=1))
    assert await connection.publish(Message(site.name("in"), b""))

    await connection.subscribe(site.name("in"))
    assert await connection.publish(Message(site.name("in"), b"", qos=1))

    await connection.unsubscribe(site.name("in"))
    assert not await connection.publish(Message(site.name("in"), b"", qos=1))


@pytest.mark.parametrize("topic", ["", "a/+", "a/#", "a\0b", "a" * 70_000])
async def test_what_is_no_topic_is_not_published_to(site: Site, kind: Kind, topic: str) -> None:
    connection = await site.connect(kind)
    with pytest.raises(ValueError, match="topic"):
        await connection.publish(Message(topic, b""))


@pytest.mark.parametrize("topic_filter", ["", "a/#/b", "a/b#", "a/+b", "a\0"])
async def test_what_is_no_filter_is_not_subscribed_to(
    site: Site, kind: Kind, topic_filter: str
) -> None:
    connection = await site.connect(kind)
    with pytest.raises(ValueError, match="topic filter"):
        await connection.subscribe(topic_filter)
    with pytest.raises(ValueError, match="topic filter"):
        await connection.unsubscribe(topic_filter)


async def test_qos_2_is_not_published(site: Site, kind: Kind) -> None:
    connection = await site.connect(kind)
    with pytest.raises(ValueError, match="QoS 2"):
        await connection.publish(Message("a", b"", qos=2))


# -- subscriptions -------------------------------------------------------------------------------


async def test_a_message_comes_once_for_each_filter_that_matches(site: Site, kind: Kind) -> None:
    connection = await site.connect(kind)
    for topic_filter, qos in (("o/#", 0), ("o/+", 1), ("o/1", 0), ("o/2", 1)):
        await connection.subscribe(site.name(topic_filter), qos=qos)
    await connection.publish(Message(site.name("o/1"), b"", qos=1))
    await connection.publish(Message(site.name("o"), b"end"))

    got = await site.take(connection, 4)

    assert sorted(message.qos for message in got[:3]) == [0, 0, 1]
    assert got[3].payload == b"end"


async def test_wildcards_do_not_match_topics_of_the_broker(site: Site, kind: Kind) -> None:
    connection = await site.connect(kind)
    own = f"$own/{site.name('x')}"
    await connection.subscribe(f"+/{site.name('x')}")
    await connection.publish(Message(own, b"not this"))
    await connection.publish(Message(f"own/{site.name('x')}", b"this"))
    await connection.subscribe(own)
    await connection.publish(Message(own, b"and this"))

    got = await site.take(connection, 2)

    assert [message.payload for message in got] == [b"this", b"and this"]


async def test_after_unsubscribing_nothing_more_comes(site: Site, kind: Kind) -> None:
    connection = await site.connect(kind)
    await connection.subscribe(site.name("a"))
    await connection.subscribe(site.name("fence"))
    await connection.unsubscribe(site.name("a"))
    await connection.publish(Message(site.name("a"), b""))
    await connection.publish(Message(site.name("fence"), b""))

    [got] = await site.take(connection, 1)

    assert got.topic == site.name("fence")


# -- retained messages ---------------------------------------------------------------------------


async def test_a_retained_message_comes_to_who_subscribes_later(site: Site, kind: Kind) -> None:
    writer, early = await site.connect(kind), await site.connect(kind)
    await early.subscribe(site.name("state/#"), qos=1)
    await writer.publish(Message(site.name("state/a"), b"1", qos=1, retain=True))
    await writer.publish(Message(site.name("state/a"), b"2", qos=1, retain=True))
    await writer.publish(Message(site.name("state/a"), b"3", qos=1))

    late = await site.connect(kind)
    await late.subscribe(site.name("state/#"), qos=1)

    # With the flag as published, a reader sees live which messages are state.
    live = await site.take(early, 3)
    assert [(m.payload, m.retain) for m in live] == [(b"1", True), (b"2", True), (b"3", False)]
    [kept] = await site.take(late, 1)
    assert (kept.payload, kept.retain, kept.qos) == (b"2", True, 1)


async def test_an_empty_retained_message_clears(site: Site, kind: Kind) -> None:
    writer, early = await site.connect(kind), await site.connect(kind)
    await writer.publish(Message(site.name("state/a"), b"1", qos=1, retain=True))
    await early.subscribe(site.name("state/#"))
    await writer.publish(Message(site.name("state/a"), b"", qos=1, retain=True))
    await writer.publish(Message(site.name("state/fence"), b"2", qos=1, retain=True))

    late = await site.connect(kind)
    await late.subscribe(site.name("state/#"))

    seen = await site.take(early, 3)
    assert [(m.payload, m.retain) for m in seen] == [(b"1", True), (b"", True), (b"2", True)]
    [kept] = await site.take(late, 1)
    assert kept.topic == site.name("state/fence")


async def test_all_that_is_retained_can_be_read_at_once(site: Site, kind: Kind) -> None:
    """More than a data connection would hold unacknowledged."""
    writer, reader = await site.connect(kind), await site.connect(kind)
    for number in range(100):
        await writer.publish(Message(site.name(f"state/{number}"), b"1", qos=1, retain=True))
    await writer.publish(Message(site.name("state/7"), b"", qos=1, retain=True))
    await writer.publish(Message(site.name("state/8"), b"2", qos=1, retain=True))

    async with asyncio.timeout(20):
        found = await read_retained(reader, [site.name("state/#")], site.name("marker"))

    assert {message.topic for message in found} == {
        site.name(f"state/{number}") for number in range(100) if number != 7
    }
    assert {message.payload for message in found} == {b"1", b"2"}
    assert not await writer.publish(Message(site.name("state/9"), b"", qos=1))


# -- wills ---------------------------------------------------------------------------------------


async def test_the_will_is_sent_when_a_connection_is_aborted(site: Site, kind: Kind) -> None:
    watcher = await site.connect(kind)
    await watcher.subscribe(site.name("will"), qos=1)
    will = Will(site.name("will"), b"gone", qos=1, retain=True)
    connection = await site.connect(kind, will=will)

    connection.abort()

    [got] = await site.take(watcher, 1)
    assert (got.payload, got.retain, got.qos) == (b"gone", True, 1)


async def test_no_will_is_sent_when_a_connection_is_closed(site: Site, kind: Kind) -> None:
    watcher = await site.connect(kind)
    await watcher.subscribe(site.name("will/#"), qos=1)
    closing = await site.connect(kind, will=Will(site.name("will/closed"), b""))
    aborting = await site.connect(kind, will=Will(site.name("will/aborted"), b""))

    await closing.close()
    aborting.abort()

    [got] = await site.take(watcher, 1)
    assert got.topic == site.name("will/aborted")


@pytest.mark.parametrize(
    ("expiry_s", "clean_start", "sent"),
    [(0, True, True), (0, False, True), (60, True, True), (60, False, False)],
)
async def test_a_take_over_sends_the_will_unless_the_session_goes_on(
    site: Site, kind: Kind, expiry_s: int, clean_start: bool, sent: bool
) -> None:
    watcher = await site.connect(kind)
    await watcher.subscribe(site.name("will/#"), qos=1)
    will = Will(site.name("will/old"), b"", retain=False)
    await site.connect(kind, "one", session_expiry_s=expiry_s, will=will)

    new = await site.connect(kind, "one", session_expiry_s=60, clean_start=clean_start)
    await new.publish(Message(site.name("will/fence"), b"", qos=1))

    [got] = await site.take(watcher, 1)
    assert (got.topic == site.name("will/old")) == sent
