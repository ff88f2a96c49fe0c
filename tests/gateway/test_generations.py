"""Chat and completions, as OpenAI's own client and as plain HTTP see them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import httpx2
import openai
import pytest

from tests.client.door import Asked, text_of
from tests.gateway.gateways import Live, live_gateway

HI: Any = [{"role": "user", "content": "Hi"}]


def asked(live: Live) -> dict[str, Any]:
    given: dict[str, Any] = json.loads(bytes(live.door.inputs[-1].payload))["input"]
    return {name: value for name, value in given.items() if name != "alive_s"}


async def no_end(asked: Asked) -> None:
    await asked.tell([0])
    await asyncio.Event().wait()


async def test_a_chat_as_a_whole(live: Live, client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(
        model="chat",
        messages=[
            {"role": "developer", "content": "Be brief"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}],
            },
        ],
        max_completion_tokens=4,
        temperature=0.5,
        top_p=0.9,
        seed=-1,
        stop=["never"],
        n=1,
        user="me",
        metadata={"a": "b"},
        extra_body={"top_k": 7},
    )
    (choice,) = reply.choices
    assert (choice.message.role, choice.message.content) == ("assistant", text_of(range(4)))
    assert (choice.finish_reason, reply.model, reply.object) == (
        "length",
        "chat",
        "chat.completion",
    )
    assert reply.id.startswith("chatcmpl-")
    assert reply.usage is not None
    told = reply.usage
    assert (told.prompt_tokens, told.completion_tokens, told.total_tokens) == (5, 4, 9)
    assert asked(live) == {
        "messages": [
            {"role": "system", "content": "Be brief"},
            {"role": "user", "content": "Hi"},
        ],
        "max_tokens": 4,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "seed": 2**53 - 1,
        "stop": ["never"],
        "stream": False,
    }


async def test_a_chat_as_it_comes(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="chat", messages=HI, max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    *told, last, counted = chunks
    assert (told[0].choices[0].delta.role, told[0].choices[0].delta.content) == ("assistant", "")
    assert "".join(c.choices[0].delta.content or "" for c in told) == text_of(range(5))
    assert {chunk.choices[0].finish_reason for chunk in told} == {None}
    assert (last.choices[0].finish_reason, last.choices[0].delta.content) == ("length", None)
    assert counted.choices == []
    assert counted.usage is not None
    assert counted.usage.total_tokens == 10


async def test_openais_helper_for_streams_is_content(client: openai.AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model="chat", messages=HI, stop=" all") as stream:
        events = [event.type async for event in stream]
        final = await stream.get_final_completion()
    assert "content.done" in events
    assert final.choices[0].message.content == "It rained"


async def test_a_completion_as_a_whole_and_as_it_comes(
    live: Live, client: openai.AsyncOpenAI
) -> None:
    whole = await client.completions.create(model="chat", prompt="Once", max_tokens=3, stop=" all")
    assert (whole.choices[0].text, whole.choices[0].finish_reason) == ("It rained", "stop")
    assert (whole.object, whole.id[:5]) == ("text_completion", "cmpl-")
    stream = await client.completions.create(model="chat", prompt=[5, 6], max_tokens=3, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == text_of(range(3))
    assert chunks[-1].choices[0].finish_reason == "length"
    assert asked(live)["prompt"] == [5, 6]


async def test_the_events_are_openais_to_the_byte(http: httpx2.AsyncClient) -> None:
    body = {"model": "chat", "messages": HI, "max_tokens": 1, "stream": True}
    reply = await http.post("/v1/chat/completions", json=body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    *events, done, nothing = reply.content.split(b"\n\n")
    assert (done, nothing) == (b"data: [DONE]", b"")
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
    same = {name: chunks[0][name] for name in ("id", "created", "model", "object")}
    choice = {"index": 0, "logprobs": None, "finish_reason": None}
    assert chunks == [
        same | {"choices": [choice | {"delta": {"role": "assistant", "content": ""}}]},
        same | {"choices": [choice | {"delta": {"content": "It"}}]},
        same | {"choices": [choice | {"delta": {}, "finish_reason": "length"}]},
    ]


async def test_every_chunk_of_a_counted_stream_names_the_usage(http: httpx2.AsyncClient) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    body = {"model": "chat", "prompt": "x", "max_tokens": 1, **options}
    reply = await http.post("/v1/completions", json=body)
    events = reply.content.split(b"\n\n")[:-2]
    told = [json.loads(event.removeprefix(b"data: "))["usage"] for event in events]
    counted = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
    assert told == [None, None, counted]


async def test_half_a_character_is_escaped(live: Live, http: httpx2.AsyncClient) -> None:
    async def script(asked: Asked) -> None:
        payload = (
            b'{"status":"ok","result":{"text":"\\ud83d","tokens":[],"take":1,"hash":"",'
            b'"finish_reason":"stop","usage":{"prompt_tokens":1}}}'
        )
        await asked.send(payload)

    live.door.script = script
    for stream in (False, True):
        body = {"model": "chat", "prompt": "x", "stream": stream}
        reply = await http.post("/v1/completions", json=body)
        assert rb'"\ud83d"' in reply.content


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("code", "error", "status"),
    [
        ("invalid_input", openai.BadRequestError, 400),
        ("overloaded", openai.RateLimitError, 429),
        ("model_failed", openai.UnprocessableEntityError, 422),
        ("poison", openai.UnprocessableEntityError, 422),
        ("unavailable", openai.InternalServerError, 503),
        ("cancelled", openai.InternalServerError, 503),
        ("deadline", openai.InternalServerError, 504),
        ("failed", openai.InternalServerError, 500),
        ("news", openai.InternalServerError, 500),
    ],
)
async def test_an_error_of_the_door_has_its_status(
    *,
    live: Live,
    client: openai.AsyncOpenAI,
    code: str,
    error: type[openai.APIStatusError],
    status: int,
    stream: bool,
) -> None:
    async def script(asked: Asked) -> None:
        await asked.fail(code, "the reason why")

    live.door.script = script
    with pytest.raises(error) as raised:
        await client.chat.completions.create(model="chat", messages=HI, stream=stream)
    assert raised.value.status_code == status
    assert raised.value.code == code
    assert "the reason why" in str(raised.value)
    assert ("retry-after" in raised.value.response.headers) == (status in (429, 503))


async def test_an_error_behind_the_first_token_comes_in_the_stream(
    live: Live, client: openai.AsyncOpenAI
) -> None:
    async def script(asked: Asked) -> None:
        await asked.tell([0])
        await asked.fail("unavailable", "the last node has died")

    live.door.script = script
    text = ""

    async def read() -> None:
        nonlocal text
        stream = await client.chat.completions.create(model="chat", messages=HI, stream=True)
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""

    with pytest.raises(openai.APIError, match="the last node has died"):
        await read()
    assert text == "It"


async def test_a_text_that_begins_anew_ends_the_stream(
    live: Live, client: openai.AsyncOpenAI
) -> None:
    go_on = asyncio.Event()

    async def script(asked: Asked) -> None:
        await asked.tell([0, 1])
        await go_on.wait()
        await asked.tell([0, 7], index=0, take=2)
        await asked.complete([0, 7], take=2)

    live.door.script = script
    stream = await client.chat.completions.create(model="chat", messages=HI, stream=True)

    async def read() -> None:
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                go_on.set()

    with pytest.raises(openai.APIError, match="another door took over"):
        await read()
    whole = await client.chat.completions.create(model="chat", messages=HI)
    assert whole.choices[0].message.content == text_of([0, 7])


async def test_who_hangs_up_in_a_stream_cancels(live: Live, client: openai.AsyncOpenAI) -> None:
    live.door.script = no_end
    stream = await client.chat.completions.create(model="chat", messages=HI, stream=True)
    await anext(aiter(stream))
    await stream.close()
    await live.door.until(lambda: bool(live.door.cancels))


@pytest.mark.parametrize("stream", [True, False])
async def test_who_hangs_up_before_there_is_anything_cancels(
    live: Live, client: openai.AsyncOpenAI, stream: bool
) -> None:
    async def script(asked: Asked) -> None:
        await asyncio.Event().wait()

    live.door.script = script
    asking = asyncio.create_task(
        client.chat.completions.create(model="chat", messages=HI, stream=stream)
    )
    await live.door.until(lambda: bool(live.door.inputs))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await live.door.until(lambda: bool(live.door.cancels))


async def test_a_stream_that_has_ended_is_not_cancelled(
    live: Live, client: openai.AsyncOpenAI
) -> None:
    await client.chat.completions.create(model="chat", messages=HI, max_tokens=1)
    stream = await client.chat.completions.create(
        model="chat", messages=HI, max_tokens=1, stream=True
    )
    assert [chunk async for chunk in stream]
    live.door.script = no_end
    stream = await client.chat.completions.create(model="chat", messages=HI, stream=True)
    await stream.close()
    await live.door.until(lambda: bool(live.door.cancels))
    ids = [message.correlation_data for message in live.door.cancels]
    assert ids == [live.door.inputs[2].correlation_data]


async def closed(port: int) -> None:
    """Returns when nothing is accepted there any more."""
    with contextlib.suppress(ConnectionError):
        while True:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            await writer.wait_closed()


async def test_the_end_of_the_gateway_waits_for_what_runs() -> None:
    go_on = asyncio.Event()

    async def script(asked: Asked) -> None:
        await asked.tell([0])
        await go_on.wait()
        await asked.complete([0, 1])

    async def finish(port: int) -> None:
        await closed(port)
        go_on.set()

    async with live_gateway(grace_s=60) as live:
        live.door.script = script
        client = live.openai()
        stream = await client.chat.completions.create(model="chat", messages=HI, stream=True)
        finishing = asyncio.create_task(finish(live.port))
    texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(texts) == text_of(range(2))
    await finishing
    await client.close()


async def test_the_end_of_the_gateway_cancels_what_goes_on() -> None:
    async with live_gateway(grace_s=1) as live:
        live.door.script = no_end
        client = live.openai()
        stream = await client.chat.completions.create(model="chat", messages=HI, stream=True)
    assert len(live.door.cancels) == 1
    await stream.close()
    await client.close()


async def test_a_stream_that_waits_says_that_it_is_there() -> None:
    """Before its first token as well as between two; the events themselves stay as they are."""
    go_on = asyncio.Event()

    async def script(asked: Asked) -> None:
        await go_on.wait()
        go_on.clear()
        await asked.tell([0])
        await go_on.wait()
        await asked.complete([0, 1])

    async with (
        live_gateway(silent_s=0.02) as live,
        httpx2.AsyncClient(base_url=live.url, timeout=30) as http,
    ):
        live.door.script = script
        body = {"model": "chat", "prompt": "x", "stream": True}
        told, silences = "", 0
        async with http.stream("POST", "/v1/completions", json=body) as reply:
            async for line in reply.aiter_lines():
                silences += line.startswith(":")
                if line.startswith(":") and not go_on.is_set():
                    go_on.set()
                elif line.startswith("data: {"):
                    (choice,) = json.loads(line.removeprefix("data: "))["choices"]
                    told += choice["text"]
    assert told == text_of([0, 1])
    assert silences >= 2


async def test_openais_client_reads_over_the_silence() -> None:
    async def script(asked: Asked) -> None:
        for _ in range(20):  # comments come as fast as they can be sent
            await asked.tell([0], index=0)
        await asked.complete([0, 1])

    async with live_gateway(silent_s=0.0) as live, live.openai() as client:
        live.door.script = script
        stream = await client.completions.create(model="chat", prompt="x", stream=True)
        told = [chunk.choices[0].text async for chunk in stream]
    assert "".join(told) == text_of([0, 1])


async def test_what_goes_wrong_behind_a_silence_comes_as_an_event() -> None:
    go_on = asyncio.Event()

    async def script(asked: Asked) -> None:
        await go_on.wait()
        await asked.fail("overloaded", "its queue is full")

    async with (
        live_gateway(silent_s=0.02) as live,
        httpx2.AsyncClient(base_url=live.url, timeout=30) as http,
    ):
        live.door.script = script
        body = {"model": "chat", "prompt": "x", "stream": True}
        events = []
        async with http.stream("POST", "/v1/completions", json=body) as reply:
            assert reply.status_code == 200
            async for line in reply.aiter_lines():
                go_on.set()
                if line.startswith("data: "):
                    events.append(json.loads(line.removeprefix("data: ")))
    (only,) = events
    assert only["error"]["code"] == "overloaded"
