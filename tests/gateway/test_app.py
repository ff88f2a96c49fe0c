"""Models, keys, bounds and health of a gateway that runs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx2
import openai
import pytest

from dsi_mqtt.gateway.keys import Keys
from dsi_mqtt.transport.base import Message
from tests.client.door import CHAT, Asked
from tests.gateway.gateways import VECTORS, Live, live_gateway

KEY = "sk-0123456789abcdef"


async def until_listed(client: openai.AsyncOpenAI, *names: str) -> None:
    """Asks until these are the models."""
    async with asyncio.timeout(30):
        while [model.id async for model in client.models.list()] != list(names):
            pass


async def test_models_are_the_deployments(live: Live, client: openai.AsyncOpenAI) -> None:
    models = [model async for model in client.models.list()]
    assert [model.id for model in models] == ["chat", "vectors"]
    shown = await client.models.retrieve("chat")
    assert shown == models[0]
    assert (shown.object, shown.created, shown.owned_by) == ("model", 1_700_000_000, "dsi-mqtt")
    await live.door.deploy(replace(CHAT, name="second"))
    spec = live.door.topics.spec.name(deployment="vectors")
    await live.door.connection.publish(Message(spec, qos=1, retain=True))
    await until_listed(client, "chat", "second")
    with pytest.raises(openai.NotFoundError, match="'vectors' does not exist") as raised:
        await client.models.retrieve("vectors")
    assert raised.value.code == "model_not_found"


async def test_a_spec_that_is_none_lists_no_model(live: Live, client: openai.AsyncOpenAI) -> None:
    spec = live.door.topics.spec.name(deployment="broken")
    await live.door.connection.publish(Message(spec, b"{}", qos=1, retain=True))
    await live.door.deploy(replace(CHAT, name="after"))
    await until_listed(client, "after", "chat", "vectors")


@pytest.mark.parametrize("rubbish", [b"{}", b"no JSON", None])
async def test_the_last_spec_that_could_be_read_stands(
    live: Live, client: openai.AsyncOpenAI, rubbish: bytes | None
) -> None:
    topics = live.door.topics
    given = topics.spec.payload.encode(CHAT) if rubbish is None else rubbish  # another's
    for name in ("vectors", "unheard-of"):
        spec = topics.spec.name(deployment=name)
        await live.door.connection.publish(Message(spec, given, qos=1, retain=True))
    await live.door.deploy(replace(CHAT, name="after"))
    await until_listed(client, "after", "chat", "vectors")
    known = live.catalogue.get("vectors")
    assert known is not None
    assert known.spec == VECTORS


async def test_what_was_withdrawn_while_the_broker_was_away_is_gone(
    live: Live, client: openai.AsyncOpenAI
) -> None:
    spec = live.door.topics.spec.name(deployment="vectors")
    live.broker.freeze("anonymous-2")
    await live.door.connection.publish(Message(spec, qos=1, retain=True))
    live.broker.cut("anonymous-2")
    assert live.catalogue.get("vectors") is not None
    await until_listed(client, "chat")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
async def test_an_unknown_model_is_named(http: httpx2.AsyncClient, path: str) -> None:
    reply = await http.post(path, json={"model": "gpt-x"})
    assert reply.status_code == 404
    assert reply.json() == {
        "error": {
            "message": "the model 'gpt-x' does not exist; GET /v1/models lists those that do",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/files", 404), ("GET", "/v1/completions", 405)]
)
async def test_other_paths_and_methods_are_refused_in_the_same_shape(
    http: httpx2.AsyncClient, method: str, path: str, status: int
) -> None:
    reply = await http.request(method, path)
    assert reply.status_code == status
    assert "OpenAI's API" in reply.json()["error"]["message"]


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_is_bounded(http: httpx2.AsyncClient, chunked: bool) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(12):
            yield b" " * 10_000

    content = parts() if chunked else b" " * 120_000
    reply = await http.post("/v1/completions", content=content)
    assert reply.status_code == 413
    assert "more than 100000 bytes" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "chat", "prompt": "a", "\\ud800": 1}',
        b'{"model": "\\ud800", "prompt": "a"}',
        b'{"model": "chat", "prompt": "a", "stop": {"\\ud800": 1}}',
    ],
)
async def test_half_a_character_is_refused_as_anything_else(
    http: httpx2.AsyncClient, body: bytes
) -> None:
    reply = await http.post("/v1/completions", content=body)
    assert reply.status_code in {400, 404}
    assert reply.json()["error"]["message"]


async def test_only_who_has_a_key_is_admitted() -> None:
    hashed = hashlib.sha256(b"another-secret-key").digest()
    keys = Keys([hashlib.sha256(KEY.encode()).digest(), hashed])
    async with live_gateway(keys=keys) as live:
        for key in (KEY, "another-secret-key"):
            async with live.openai(key) as client:
                assert [model async for model in client.models.list()]
        async with live.openai("sk-wrong") as client:
            with pytest.raises(openai.AuthenticationError, match="API key") as raised:
                await client.chat.completions.create(
                    model="chat", messages=[{"role": "user", "content": "Hi"}]
                )
        assert raised.value.code == "invalid_api_key"
        async with httpx2.AsyncClient(base_url=live.url) as http:
            reply = await http.post("/v1/embeddings", content=b"{")
            assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
            basic = {"Authorization": f"Basic {KEY}"}
            assert (await http.get("/v1/models", headers=basic)).status_code == 401
            assert (await http.get("/health")).status_code == 200
        assert live.door.inputs == []


async def test_each_key_is_a_device_of_its_own() -> None:
    """Caches are kept for a device: none of one key's may speed up another's."""
    other = "sk-of-somebody-else"
    keys = Keys([hashlib.sha256(key.encode()).digest() for key in (KEY, other)])
    async with live_gateway(keys=keys) as live:
        for key in (KEY, other, KEY):
            async with live.openai(key) as client:
                await client.completions.create(model="chat", prompt="x", max_tokens=1)
        first, second, again = (
            parts["device"]
            for message in live.door.inputs
            if (parts := live.door.topics.input.parts(message.topic)) is not None
        )
        assert first == again != second


async def test_requests_at_once_are_bounded() -> None:
    go_on = asyncio.Event()

    async def script(asked: Asked) -> None:
        await go_on.wait()
        await asked.complete([0])

    async with live_gateway(open_max=2) as live, live.openai() as client:
        live.door.script = script

        async def ask(*, stream: bool = False) -> object:
            return await client.completions.create(model="chat", prompt="x", stream=stream)

        asking = [asyncio.create_task(ask()), asyncio.create_task(ask(stream=True))]
        await live.door.until(lambda: len(live.door.inputs) == 2)
        for stream in (True, False):
            with pytest.raises(openai.RateLimitError, match="2 requests are open"):
                await ask(stream=stream)
        go_on.set()
        _, streamed = await asyncio.gather(*asking)
        assert isinstance(streamed, openai.AsyncStream)
        assert [chunk async for chunk in streamed]
        assert await ask()


async def test_health_tells_whether_the_broker_is_there(
    live: Live, http: httpx2.AsyncClient
) -> None:
    reply = await http.get("/health")
    assert (reply.status_code, reply.json()) == (200, {"status": "ok", "models": 2})
    live.broker.kill()
    async with asyncio.timeout(30):
        while (reply := await http.get("/health")).status_code == 200:
            pass
    assert (reply.status_code, reply.json()) == (503, {"status": "the broker is away"})
