from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dsi_mqtt.errors import ConnectionLostError
from dsi_mqtt.transport.base import Message
from dsi_mqtt.transport.inbox import RECORD_BYTES, Inbox


def held(inbox: Inbox, packet_id: int, payload: bytes = b"") -> Message:
    return Message("a", payload, qos=1, receipt=inbox.hold(packet_id))


async def test_what_came_before_the_end_is_handed_over_first() -> None:
    inbox = Inbox()
    inbox.put(Message("a"))
    inbox.put(Message("b"))
    inbox.end("the end")

    assert (await anext(inbox)).topic == "a"
    assert (await anext(inbox)).topic == "b"
    for _ in range(2):
        with pytest.raises(ConnectionLostError, match=r"^the end$"):
            await anext(inbox)


async def test_messages_that_wait_are_taken_without_a_task_switch() -> None:
    inbox = Inbox()
    for _ in range(3):
        inbox.put(Message("a"))
    switched = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(switched.set_result, None)

    for _ in range(3):
        await anext(inbox)

    assert not switched.done()
    await switched


async def test_count_bounds_what_is_held_not_what_waits() -> None:
    inbox = Inbox(count_max=2, bytes_max=10**9)
    told: list[bool] = []
    inbox.on_room = lambda: told.append(inbox.full)
    first, second = held(inbox, 11), held(inbox, 12)
    for message in (first, second, Message("at QoS 0")):
        inbox.put(message)
    assert inbox.full
    for _ in range(3):
        await anext(inbox)
    assert told == [], "taking does not release what is held"

    assert inbox.release(first.receipt) == 11

    assert told == [False]
    assert inbox.release(second.receipt) == 12
    assert told == [False], "only the change from full is told"


async def test_bytes_bound_what_is_held_and_what_waits() -> None:
    inbox = Inbox(bytes_max=2 * (100 + RECORD_BYTES))
    told: list[bool] = []
    inbox.on_room = lambda: told.append(inbox.full)
    waiting, kept = Message("a", bytes(100)), held(inbox, 1, bytes(100))
    inbox.put(waiting)
    inbox.put(kept)
    assert inbox.full

    await anext(inbox)  # taken, and at QoS 0 nothing more is to be done with it
    assert told == [False]
    inbox.put(waiting)
    assert inbox.full
    inbox.release(kept.receipt)
    assert told == [False, False]


@pytest.mark.parametrize(
    "fields",
    [
        {"correlation_data": bytes(1000)},
        {"response_topic": "r" * 1000},
        {"content_type": "t" * 1000},
        {"user_properties": (("n" * 500, "v" * 500),)},
        {"user_properties": (("", ""),) * 4},
    ],
    ids=lambda fields: next(iter(fields)),
)
async def test_what_a_message_has_beside_its_payload_is_bounded_too(fields: Any) -> None:
    inbox = Inbox(bytes_max=4 * (1000 + RECORD_BYTES))
    for number in range(4):
        assert not inbox.full, number
        receipt = None if number % 2 else inbox.hold(number)
        inbox.put(Message("a", receipt=receipt, **fields))
    assert inbox.full
    first = await anext(inbox)
    inbox.release(first.receipt)
    assert not inbox.full


async def test_empty_messages_are_bounded_too() -> None:
    inbox = Inbox(bytes_max=10 * RECORD_BYTES)
    for number in range(10):
        assert not inbox.full, number
        inbox.put(Message("a"))
    assert inbox.full


async def test_a_receipt_counts_once_and_here_only() -> None:
    here, elsewhere = Inbox(), Inbox()
    message = held(here, 7)

    assert elsewhere.release(message.receipt) is None
    assert here.release(None) is None
    assert here.release(message.receipt) == 7
    assert here.release(message.receipt) is None
