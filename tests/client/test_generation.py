"""A generation as its caller sees it, against a door that keeps the contract."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

import dsi_mqtt.client
from dsi_mqtt.client import Client, Piece
from dsi_mqtt.errors import (
    DeadlineError,
    InvalidInputError,
    OverloadedError,
    RequestCancelledError,
    UnknownDeploymentError,
)
from dsi_mqtt.transport.memory import MemoryTransport
from dsi_mqtt.transport.memory_broker import MemoryBroker
from tests.client.door import CHAT, URL, Asked, SimulatedDoor, text_of

TOLD = [3, 1, 4, 1, 5]
Leave = Callable[[Client, SimulatedDoor], Awaitable[None]]


async def no_end(asked: Asked) -> None:
    """Tells two tokens and then nothing."""
    await asked.tell([7, 8])
    await asyncio.Event().wait()


async def test_tokens_come_one_by_one_and_then_the_whole(client: Client) -> None:
    generation = client.generate("chat", "Tell me", max_tokens=6)
    pieces = [piece async for piece in generation]
    assert "".join(piece.text for piece in pieces) == text_of(range(6))
    assert [token for piece in pieces for token in piece.tokens] == list(range(6))
    assert [piece.index for piece in pieces] == list(range(6))
    completion = generation.completion
    assert (completion.text, completion.finish_reason) == (text_of(range(6)), "length")
    assert (len(completion.tokens), completion.prompt_tokens) == (6, 5)
    assert await generation == completion
    assert [piece async for piece in generation] == []


async def test_awaited_it_is_asked_for_without_a_stream(
    client: Client, door: SimulatedDoor
) -> None:
    completion = await client.generate("chat", "Tell me", max_tokens=3, stop=" all")
    assert (completion.text, completion.finish_reason) == ("It rained", "stop")
    (message,) = door.inputs
    asked = json.loads(bytes(message.payload))["input"]
    assert asked.pop("seed") >= 0
    assert asked == {
        "prompt": "Tell me",
        "max_tokens": 3,
        "stop": " all",
        "stream": False,
        "alive_s": 3.0,
    }


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("Hi", {"prompt": "Hi"}),
        ([5, 6], {"prompt": [5, 6]}),
        (({"role": "user", "content": "Hi"},), {"messages": [{"role": "user", "content": "Hi"}]}),
    ],
)
async def test_what_a_prompt_may_be(
    client: Client, door: SimulatedDoor, prompt: str, asked: dict[str, object]
) -> None:
    await client.generate(
        "chat", prompt, max_tokens=1, temperature=0.5, top_k=3, top_p=0.9, seed=7, alive_s=None
    )
    given = json.loads(bytes(door.inputs[0].payload))["input"]
    settings = {"max_tokens": 1, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "seed": 7}
    assert given == asked | settings | {"stream": False}


@pytest.mark.parametrize("prompt", [[], "", 7, [1, "a"], [{"role": "user"}, "a"], None])
async def test_what_is_no_prompt_is_refused_here(client: Client, prompt: list[int]) -> None:
    with pytest.raises(InvalidInputError, match="field prompt must be"):
        client.generate("chat", prompt)


@pytest.mark.parametrize(
    "message", [{"role": "user"}, {"role": 1, "content": "a"}, {"content": b"a"}]
)
async def test_messages_that_are_none_are_refused_here(
    client: Client, message: dict[str, str]
) -> None:
    with pytest.raises(InvalidInputError, match=r"field prompt: .* role and content"):
        client.generate("chat", [{"role": "user", "content": "Hi"}, message])


async def test_what_is_no_number_is_refused_here(client: Client) -> None:
    with pytest.raises(InvalidInputError, match="no JSON value"):
        await client.generate("chat", "Hi", temperature=float("nan"))


async def test_messages_twice_late_and_out_of_order_are_put_right(
    client: Client, door: SimulatedDoor
) -> None:
    async def script(asked: Asked) -> None:
        await asked.tell(TOLD[:1])
        await asked.tell(TOLD[:3], index=2)  # number 1 is late, number 3 is lost
        await asked.tell(TOLD[:2], index=1)
        await asked.tell(TOLD[:2], index=1)
        await asked.tell(TOLD[:1], index=0)
        await asked.complete(TOLD)

    door.script = script
    tokens: list[int] = []
    async for piece in client.generate("chat", "Hi"):
        assert piece.index == len(tokens)
        tokens += piece.tokens
    assert tokens == TOLD


async def test_another_door_goes_on_where_the_text_was_or_begins_anew(
    client: Client, door: SimulatedDoor
) -> None:
    seen = asyncio.Event()

    async def script(asked: Asked) -> None:
        await asked.tell([1, 2], take=1)
        await seen.wait()
        seen.clear()
        await asked.tell([1, 2, 3], index=0, take=2)
        await seen.wait()
        await asked.tell([1, 7], index=0, take=3)
        await asked.complete([1, 7, 8], take=3)

    door.script = script
    pieces: list[Piece] = []
    async for piece in client.generate("chat", "Hi"):
        pieces.append(piece)
        seen.set()
    assert pieces[0] == Piece(text_of([1, 2]), (1, 2), 0, 1)
    assert pieces[1] == Piece(text_of([3]), (3,), 2, 2)
    assert pieces[2].replaces
    assert (pieces[2].index, pieces[2].take) == (0, 3)
    assert [token for piece in pieces[2:] for token in piece.tokens] == [1, 7, 8]


async def test_a_slow_reader_gets_what_came_meanwhile_as_one(
    client: Client, door: SimulatedDoor
) -> None:
    read = asyncio.Event()

    async def script(asked: Asked) -> None:
        if asked.deployment == "marker":
            await asked.result("what was told before has come")
            return
        await asked.tell([0])
        await read.wait()
        for count in range(2, 400):
            await asked.tell(range(count))
        read.clear()
        await asyncio.Event().wait()

    door.script = script
    await door.deploy(replace(CHAT, name="marker"))
    pieces = aiter(client.generate("chat", "Hi"))
    assert (await anext(pieces)).tokens == (0,)
    read.set()
    while read.is_set():
        await client.infer("marker", None)
    assert (await anext(pieces)).tokens == tuple(range(1, 399))


async def leave_the_loop(client: Client, door: SimulatedDoor) -> None:
    async for _ in client.generate("chat", "Hi"):
        break


async def raise_in_the_loop(client: Client, door: SimulatedDoor) -> None:
    async def read() -> None:
        async for piece in client.generate("chat", "Hi"):
            raise ZeroDivisionError(piece)

    with pytest.raises(ZeroDivisionError):
        await read()


async def cancel_the_task(client: Client, door: SimulatedDoor) -> None:
    task = asyncio.ensure_future(client.generate("chat", "Hi"))
    await door.until(lambda: bool(door.inputs))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def leave_the_context(client: Client, door: SimulatedDoor) -> None:
    async with client.generate("chat", "Hi") as generation:
        pieces = aiter(generation)
        await anext(pieces)
    with pytest.raises(RequestCancelledError, match="cancelled here"):
        await anext(pieces)


async def cancel_from_beside(client: Client, door: SimulatedDoor) -> None:
    generation = client.generate("chat", "Hi")
    task = asyncio.ensure_future(generation)
    await door.until(lambda: bool(door.inputs))
    generation.cancel()
    with pytest.raises(RequestCancelledError, match="cancelled here"):
        await task


async def let_the_time_pass(client: Client, door: SimulatedDoor) -> None:
    with pytest.raises(DeadlineError, match="did not end in time"):
        await client.generate("chat", "Hi", timeout_s=2.0)


@pytest.mark.parametrize(
    "leave",
    [
        leave_the_loop,
        raise_in_the_loop,
        cancel_the_task,
        leave_the_context,
        cancel_from_beside,
        let_the_time_pass,
    ],
)
async def test_whoever_leaves_cancels(client: Client, door: SimulatedDoor, leave: Leave) -> None:
    door.script = no_end
    await leave(client, door)
    await door.until(lambda: bool(door.cancels))
    assert door.cancels[0].topic == "dsi/v1/deploy/chat/cancel/cam"
    assert door.cancels[0].qos == 1
    assert door.cancels[0].correlation_data == door.inputs[0].correlation_data


async def test_closing_the_client_cancels_and_tells_who_waits(
    broker: MemoryBroker, door: SimulatedDoor
) -> None:
    door.script = no_end
    async with Client(URL, transport=MemoryTransport(broker)) as client:
        pieces = aiter(client.generate("chat", "Hi"))
        await anext(pieces)
        waiting = asyncio.ensure_future(anext(pieces))
        await asyncio.sleep(0)
    with pytest.raises(RequestCancelledError, match="the client was closed"):
        await waiting
    await door.until(lambda: len(door.cancels) == 1)


async def test_a_cancel_is_repeated_until_it_is_answered(
    client: Client, door: SimulatedDoor
) -> None:
    door.script, door.answers_cancels = no_end, False
    await leave_the_loop(client, door)
    await door.until(lambda: len(door.cancels) == 2)
    door.answers_cancels = True
    await door.until(lambda: len(door.cancels) == 3)


async def test_one_that_has_ended_is_not_cancelled(client: Client, door: SimulatedDoor) -> None:
    async with client.generate("chat", "Hi", max_tokens=1) as generation:
        await generation
    generation.cancel()
    assert generation.completion.text == "It"
    door.script = no_end
    await leave_the_loop(client, door)
    await door.until(lambda: bool(door.cancels))
    assert [m.correlation_data for m in door.cancels] == [door.inputs[1].correlation_data]


async def test_one_that_nobody_reads_is_not_asked_for(client: Client, door: SimulatedDoor) -> None:
    generation = client.generate("chat", "Hi")
    with pytest.raises(RuntimeError, match="not been read"):
        _ = generation.completion
    generation.cancel()
    with pytest.raises(RequestCancelledError):
        await generation
    assert (await client.generate("chat", "Hi", max_tokens=1)).text == "It"
    assert len(door.inputs) == 1


async def test_there_is_one_reader(client: Client) -> None:
    generation = client.generate("chat", "Hi")
    async for _ in generation:
        with pytest.raises(RuntimeError, match="one reader"):
            await generation


async def test_while_it_runs_its_door_hears_that_the_device_lives(
    client: Client, door: SimulatedDoor
) -> None:
    door.script = no_end
    async for _ in client.generate("chat", "Hi"):
        await door.until(lambda: len(door.alive) >= 2)
        break
    assert {message.topic for message in door.alive} == {"dsi/v1/deploy/chat/alive/cam"}


async def test_it_goes_on_over_a_lost_connection(
    broker: MemoryBroker, client: Client, door: SimulatedDoor
) -> None:
    seen = asyncio.Event()
    heard: list[bool] = []

    async def script(asked: Asked) -> None:
        await asked.tell([0])
        await seen.wait()
        broker.cut(client._delivery._client_id)
        # More than a connection holds unread: its session keeps them, and they come first.
        heard.extend([await asked.tell(range(count)) for count in range(2, 200)])
        await door.until(lambda: len(door.inputs) == 2)
        await asked.complete(range(200))

    door.script = script
    tokens: list[int] = []
    async for piece in client.generate("chat", "Hi"):
        assert piece.index == len(tokens)
        tokens += piece.tokens
        seen.set()
    assert tokens == list(range(200))
    assert all(heard)  # else a door would give it up
    assert door.inputs[0] == door.inputs[1]
    assert client.resent == 1


async def test_of_whom_nothing_is_heard_may_not_run(client: Client, door: SimulatedDoor) -> None:
    async def silent(_: Asked) -> None:
        await asyncio.Event().wait()

    door.script = silent
    with pytest.raises(DeadlineError, match="`dsi-mqtt status` shows whether it serves"):
        await client.generate("chat", "Hi", timeout_s=0.5)


async def test_errors_are_raised_where_it_is_read(client: Client, door: SimulatedDoor) -> None:
    with pytest.raises(UnknownDeploymentError):
        await client.generate("chut", "Hi")

    async def script(asked: Asked) -> None:
        await asked.tell([1])
        await asked.fail("overloaded", "its queue is full")

    door.script = script
    with pytest.raises(OverloadedError, match="its queue is full"):
        await client.generate("chat", "Hi")
    tokens: list[int] = []

    async def read() -> None:
        async for piece in client.generate("chat", "Hi"):
            tokens.extend(piece.tokens)

    with pytest.raises(OverloadedError):
        await read()
    assert tokens == [1]
    assert door.cancels == []


async def test_generations_beside_each_other_get_their_own(client: Client) -> None:
    lengths = range(1, 9)
    asked = [client.generate("chat", "Hi", max_tokens=length) for length in lengths]
    texts = [completion.text for completion in await asyncio.gather(*asked)]
    assert texts == [text_of(range(length)) for length in lengths]


async def test_a_stream_asked_for_as_an_inference_ends_with_its_answer(client: Client) -> None:
    result = await client.infer("chat", {"prompt": "Hi", "stream": True, "max_tokens": 2})
    assert result["text"] == text_of(range(2))


def test_what_a_caller_needs_to_name_is_the_packages() -> None:
    for name in ("Client", "Completion", "Piece", "TextGeneration"):
        assert getattr(dsi_mqtt, name) is getattr(dsi_mqtt.client, name)
        assert name in dsi_mqtt.__all__
    with pytest.raises(AttributeError, match="no attribute 'Generation'"):
        _ = dsi_mqtt.Generation


async def test_a_text_of_the_fallback_says_so_while_it_comes_and_as_a_whole(
    client: Client, door: SimulatedDoor
) -> None:
    async def smaller(asked: Asked) -> None:
        """Another door takes over, whose deployment has fallen back meanwhile."""
        await asked.tell([3], take=1)
        await asked.tell([3], index=0, take=2, fallback=True)
        await asked.tell([3, 1], take=2, fallback=True)
        await asked.complete([3, 1], take=2, fallback=True)

    door.script = smaller
    generation = client.generate("chat", "Tell me")
    pieces = [piece async for piece in generation]
    assert pieces[-1].fallback
    assert generation.completion.fallback
    assert generation.completion.text == text_of([3, 1])


async def test_a_text_of_the_own_model_says_that(client: Client) -> None:
    generation = client.generate("chat", "Tell me", max_tokens=2)
    assert not any([piece.fallback async for piece in generation])
    assert not generation.completion.fallback


@pytest.mark.parametrize("fallback", [False, True])
async def test_an_answer_tells_whether_its_result_is_of_the_fallback(
    client: Client, door: SimulatedDoor, *, fallback: bool
) -> None:
    async def answers(asked: Asked) -> None:
        await asked.result([1], fallback=fallback)

    door.script = answers
    answer = await client.infer_answer("chat", "x")
    assert (answer.result, answer.fallback) == ([1], fallback)
    assert await client.infer("chat", "x") == [1]
