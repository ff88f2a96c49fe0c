"""Generations over real brokers and processes: streams, company, deaths, cancels."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

import psutil
import pytest

from dsi_mqtt.cli.watching import Picture
from dsi_mqtt.client import Client
from dsi_mqtt.client.generation import TextGeneration
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.generation import Completion, Sampling
from dsi_mqtt.errors import InvalidInputError, OverloadedError, RequestError
from dsi_mqtt.transport.base import Message
from tests.e2e.live import Device, LiveSite, generating, live_site, unsplit_tokens
from tests.e2e.programs import PATIENCE_S

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

TEMPERATURE = 5.0
# Longer than a client promises to speak again.
STILL_S = 5.0


def name() -> str:
    return f"chat-{uuid.uuid4().hex[:8]}"


def right(spec: Deployment, prompt: str, completion: Completion, seed: int, most: int) -> bool:
    sampling = Sampling(TEMPERATURE, seed=seed)
    return list(completion.tokens) == unsplit_tokens(spec, prompt, sampling, most)


def said_by(message: Message) -> dict[str, Any]:
    """What an answer, or a message of a stream, says."""
    said: dict[str, Any] = json.loads(bytes(message.payload))
    return said


async def whole(generation: TextGeneration) -> Completion:
    return await generation


async def no_sessions(live: LiveSite, deployment: str) -> None:
    """Waits until every node says that it keeps no cache of it."""

    def free(picture: Picture) -> bool:
        loads = picture.telemetry.values()
        return len(loads) >= 3 and not any(load.sessions.get(deployment) for load in loads)

    await live.until(free, f"no caches of {deployment}")


async def test_streams_of_many_are_each_that_of_the_whole_model(calm_site: LiveSite) -> None:
    spec = generating(name())
    await calm_site.deploy(spec)

    async def one(client: Client, number: int) -> tuple[str, str, Completion]:
        prompt = f"w{number} " * (1 + number * 9)
        text = ""
        generation = client.generate(
            spec.name, prompt, seed=number, temperature=TEMPERATURE, timeout_s=PATIENCE_S
        )
        async for piece in generation:
            assert not piece.replaces
            text += piece.text
        return prompt, text, generation.completion

    async with Client(calm_site.url) as client:
        told = await asyncio.gather(*(one(client, number) for number in range(12)))
    for number, (prompt, text, completion) in enumerate(told):
        assert text == completion.text
        assert right(spec, prompt, completion, number, 20)
    await no_sessions(calm_site, spec.name)
    await calm_site.undeploy(spec.name)


async def test_a_plain_device_reads_a_stream_and_cancels_one(calm_site: LiveSite) -> None:
    spec = generating(name(), options={"unit_ms": 5})
    await calm_site.deploy(spec)
    async with Device(calm_site, spec.name, "plain") as device:
        asked = {"id": "g1", "input": {"prompt": "w1 w2", "stream": True, "temperature": 0}}
        tokens: list[int] = []
        said = said_by(await device.ask(json.dumps(asked).encode()))
        while said["status"] == "partial":
            assert said["index"] == len(tokens)
            tokens += said["tokens"]
            said = said_by(await device.answer())
        assert (said["id"], said["status"]) == ("g1", "ok")
        assert said["result"]["tokens"] == tokens
        assert tokens == unsplit_tokens(spec, "w1 w2", Sampling(0.0), 20)

        long = {"id": "g2", "input": {"prompt": "w5", "stream": True, "max_tokens": 200}}
        await device.ask(json.dumps(long | {"temperature": 9}).encode())
        await device.cancel(b'{"id": "g2"}')
        said = said_by(await device.answer())
        while said["status"] == "partial":
            said = said_by(await device.answer())
        assert said["error"]["code"] == "cancelled"
    await no_sessions(calm_site, spec.name)
    await calm_site.undeploy(spec.name)


async def test_who_reads_no_stream_any_more_is_not_generated_for(calm_site: LiveSite) -> None:
    spec = generating(name(), options={"unit_ms": 8, "ends": []})
    await calm_site.deploy(spec)
    asked = {"id": "g", "input": {"prompt": "w5", "stream": True, "max_tokens": 250}}
    async with Device(calm_site, spec.name, "gone") as device:
        await device.ask(json.dumps(asked).encode())
    # 250 tokens of six units of 8 ms would take 12 s; what follows is faster only if it ends.
    await no_sessions(calm_site, spec.name)
    await calm_site.until(
        lambda p: any(
            load.errors for t in p.telemetry.values() for load in t.doors
            if load.deployment == spec.name
        ),
        "the door gave it up",
    )  # fmt: skip
    await calm_site.undeploy(spec.name)


async def test_what_is_wrong_or_too_much_is_said_at_once(calm_site: LiveSite) -> None:
    limits = {"sessions_max": 1, "queue_max": 2, "max_tokens": 60}
    spec = generating(name(), generation=limits, options={"unit_ms": 10, "ends": []})
    await calm_site.deploy(spec)
    async with Client(calm_site.url) as client:
        for prompt, word in (("w1 " * 300, "300 tokens"), ("", "prompt"), ([99], "below 16")):
            with pytest.raises(InvalidInputError, match=word):
                await client.generate(spec.name, prompt, timeout_s=PATIENCE_S)
        asked = [client.generate(spec.name, "w1", timeout_s=PATIENCE_S) for _ in range(8)]
        told = await asyncio.gather(*asked, return_exceptions=True)
    refused = [answer for answer in told if isinstance(answer, RequestError)]
    assert len(refused) == 5
    assert all(isinstance(answer, OverloadedError) for answer in refused)
    assert all(len(c.tokens) == 60 for c in told if isinstance(c, Completion))
    await calm_site.undeploy(spec.name)


async def test_first_and_last_units_stay_where_they_must(calm_site: LiveSite) -> None:
    split = [
        {"units": "0:2", "nodes": ["city"]},
        {"units": "2:5", "nodes": ["north", "south"]},
        {"units": "5:6", "nodes": ["city"]},
    ]
    zones = {"units": {"0:2": ["city"], "5:6": ["city"]}}
    spec = generating(name(), split=split, privacy=zones)
    table = await calm_site.deploy(spec)
    places = [segment.replicas[0].node for segment in table.segments]
    assert places[0] == places[2] == "city" != places[1]
    assert table.door is not None
    assert table.door.node == "city"
    async with Client(calm_site.url) as client:
        for prompt in ("w1", "w2 " * 40):
            completion = await client.generate(
                spec.name, prompt, seed=5, temperature=TEMPERATURE, timeout_s=PATIENCE_S
            )
            assert right(spec, prompt, completion, 5, 20)
    await calm_site.undeploy(spec.name)


async def test_two_hundred_cancelled_leave_nothing(calm_site: LiveSite) -> None:
    limits = {"sessions_max": 16, "queue_max": 300, "idle_s": 60}
    spec = generating(name(), generation=limits, options={"unit_ms": 2, "ends": []})
    await calm_site.deploy(spec)
    async with Client(calm_site.url) as client:

        async def first_piece_only(number: int) -> None:
            generation = client.generate(
                spec.name, f"w{number % 16}", max_tokens=250, timeout_s=PATIENCE_S
            )
            async with generation:
                async for _ in generation:
                    break

        for _ in range(5):
            await asyncio.gather(*(first_piece_only(number) for number in range(40)))
        await no_sessions(calm_site, spec.name)
    await calm_site.undeploy(spec.name)


async def test_a_thousand_at_once_are_run_queued_or_refused(calm_site: LiveSite) -> None:
    limits = {"sessions_max": 4, "queue_max": 20, "max_tokens": 3}
    spec = generating(name(), generation=limits, options={"ends": []})
    await calm_site.deploy(spec)
    async with Device(calm_site, spec.name, "crowd") as crowd:
        for number in range(1000):
            await crowd.tell(json.dumps({"id": number, "input": "w1"}).encode())
        codes: dict[str, int] = {}
        ids: set[str] = set()
        while len(ids) < 1000:
            said = said_by(await crowd.answer())
            ids.add(said["id"])
            code = said.get("error", {}).get("code", said["status"])
            codes[code] = codes.get(code, 0) + 1
    assert codes.keys() == {"ok", "overloaded"}
    assert codes["ok"] >= 24
    async with Client(calm_site.url) as client:
        completion = await client.generate(spec.name, "w1", timeout_s=PATIENCE_S)
    assert len(completion.tokens) == 3
    await calm_site.undeploy(spec.name)


async def test_a_dead_node_and_a_dead_door_change_no_text(tmp_path: Path) -> None:
    async with live_site(tmp_path) as live:
        spec = generating(name(), options={"unit_ms": 4, "ends": []})
        table = await live.deploy(spec)
        assert table.door is not None
        middle = next(s.replicas[0].node for s in table.segments[1:])
        async with Client(live.url) as client:
            asked = [
                client.generate(
                    spec.name, f"w{n}", seed=n, max_tokens=150, temperature=TEMPERATURE,
                    timeout_s=PATIENCE_S,
                )
                for n in range(4)
            ]  # fmt: skip
            running = [asyncio.ensure_future(whole(generation)) for generation in asked]
            await live.until(
                lambda p: any(d.in_flight == 4 for t in p.telemetry.values() for d in t.doors),
                "four run",
            )
            await live.kill(middle)
            await live.start(middle)
            await live.serving(spec.name, lambda t: t.epoch > table.epoch, "another table")
            served = await live.serving(spec.name, lambda t: t.door is not None, "a door")
            assert served.door is not None
            await live.kill(served.door.node)
            await live.start(served.door.node)
            told = await asyncio.gather(*running)
        for n, completion in enumerate(told):
            assert right(spec, f"w{n}", completion, n, 150)
        await no_sessions(live, spec.name)


async def test_a_control_broker_that_stands_still_silences_no_client(tmp_path: Path) -> None:
    """For longer than the client's promise to speak; its connections stay open."""
    async with live_site(tmp_path) as live:
        spec = generating(name(), options={"unit_ms": 8, "ends": []})
        await live.deploy(spec)
        async with Client(live.url) as client:
            generation = client.generate(
                spec.name, "w", seed=1, max_tokens=240, temperature=TEMPERATURE,
                timeout_s=PATIENCE_S,
            )  # fmt: skip
            running = asyncio.ensure_future(whole(generation))
            await live.until(
                lambda p: any(d.in_flight == 1 for t in p.telemetry.values() for d in t.doors),
                "it runs",
            )
            assert live.site.brokers is not None
            broker = psutil.Process(live.site.brokers.control.pid)
            broker.suspend()
            await asyncio.sleep(STILL_S)
            broker.resume()
            completion = await running
        assert right(spec, "w", completion, 1, 240)
        await no_sessions(live, spec.name)
