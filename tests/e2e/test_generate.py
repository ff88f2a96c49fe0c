"""`dsi-mqtt generate` as a process of its own, against a door that keeps the contract."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from dsi_mqtt.transport.mqtt import MqttTransport
from tests.client.door import CHAT, Asked, Script, SimulatedDoor, simulated_door, story, text_of
from tests.e2e.programs import Finished, dsi_mqtt, running

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]


@asynccontextmanager
async def serving(url: str, script: Script = story) -> AsyncIterator[tuple[str, SimulatedDoor]]:
    """A deployment of a name of its own."""
    spec = replace(CHAT, name=f"chat-{uuid.uuid4().hex}")
    async with simulated_door(MqttTransport(), url, script, deployments=[spec]) as door:
        yield spec.name, door


async def generate(url: str, *arguments: str, stdin: str = "") -> Finished:
    return await dsi_mqtt("generate", "--broker", url, *arguments, stdin=stdin)


def asked(door: SimulatedDoor) -> object:
    given = json.loads(bytes(door.inputs[-1].payload))["input"]
    return {name: value for name, value in given.items() if name not in ("seed", "alive_s")}


async def test_text_comes_as_it_is_told(control_broker: str) -> None:
    go_on = asyncio.Event()

    async def script(asked: Asked) -> None:
        await asked.tell([0])
        await go_on.wait()
        await asked.complete([0, 1])

    async with (
        serving(control_broker, script) as (name, _),
        running("generate", name, "Tell me", "--broker", control_broker) as command,
    ):
        assert await command.begins(len("It")) == "It"
        go_on.set()
        ended = await command.ended()
    assert (ended.code, ended.out, ended.err) == (0, " rained\n", "")


async def test_what_is_asked(control_broker: str) -> None:
    async with serving(control_broker) as (name, door):
        settings = ("--max-tokens", "2", "--temperature", "0", "--top-k", "3", "--top-p", "0.5")
        ended = await generate(control_broker, name, "-", *settings, stdin="Tell\nme\n")
        assert (ended.code, ended.out, ended.err) == (0, text_of(range(2)) + "\n", "")
        told = {"max_tokens": 2, "temperature": 0, "top_k": 3, "top_p": 0.5, "stream": True}
        assert asked(door) == {"prompt": "Tell\nme"} | told
        ended = await generate(
            control_broker, name, "Hi", "--chat", "--stop", " day", "--stop", "x"
        )
        assert ended.out == "It rained all\n"
        messages = [{"role": "user", "content": "Hi"}]
        assert asked(door) == {"messages": messages, "stop": [" day", "x"], "stream": True}


async def test_for_programs_it_is_one_object(control_broker: str) -> None:
    async with serving(control_broker) as (name, _):
        given = ("--json", "--max-tokens", "2", "--seed", "9")
        ended = await generate(control_broker, name, "Hi", *given)
    document = json.loads(ended.out)
    assert (ended.code, document["schema"]) == (0, "dsi.generation/1")
    assert (document["command"], document["seed"]) == ("generate", 9)
    assert (document["text"], document["finish_reason"]) == (text_of(range(2)), "length")
    assert document["usage"] == {"prompt_tokens": 5, "completion_tokens": 2}


async def test_a_text_that_begins_anew_says_so(control_broker: str) -> None:
    async def script(asked: Asked) -> None:
        await asked.tell([0, 1])
        await asked.tell([0, 7], index=0, take=2)
        await asked.complete([0, 7], take=2)

    async with serving(control_broker, script) as (name, _):
        ended = await generate(control_broker, name, "Hi")
    assert ended.code == 0
    # A reader that was not scheduled in between has seen the last text only.
    assert ended.out.splitlines()[-1] == text_of([0, 7])
    assert ("begins anew" in ended.err) == (len(ended.out.splitlines()) == 2)


async def test_ctrl_c_cancels(control_broker: str) -> None:
    async def script(asked: Asked) -> None:
        await asked.tell([0])
        await asyncio.Event().wait()

    async with (
        serving(control_broker, script) as (name, door),
        running("generate", name, "Hi", "--broker", control_broker) as command,
    ):
        await command.begins(len("It"))
        command.interrupt()
        ended = await command.ended()
        await door.until(lambda: bool(door.cancels))
    assert (ended.code, ended.out, ended.err) == (130, "\n", "")
    assert door.cancels[0].correlation_data == door.inputs[0].correlation_data


async def test_errors_are_a_sentence_and_an_exit_code(control_broker: str) -> None:
    async with serving(control_broker) as (name, _):
        refused = await generate(control_broker, name, "Hi", "--max-tokens", "513")
    assert (refused.code, refused.out) == (8, "")
    wanted = "dsi-mqtt: field max_tokens must be a whole number from 1 to 512"
    assert refused.err.strip() == wanted
    unknown = await generate(control_broker, f"no-{uuid.uuid4().hex}", "Hi")
    assert unknown.code == 3
    assert "does not exist on this broker" in unknown.err
    for nothing in ("", "\n"):
        empty = await generate(control_broker, "chat", "-", stdin=nothing)
        assert (empty.code, empty.err.strip()) == (
            3,
            "dsi-mqtt: prompt: is empty; give a text, or - and a text on standard input",
        )
