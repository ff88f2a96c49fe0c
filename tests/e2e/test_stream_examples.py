"""The examples that read streams, against a door that keeps the contract."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.client.door import Asked, text_of
from tests.e2e.programs import run_program, running, running_program
from tests.e2e.test_generate import serving

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

EXAMPLES = Path(__file__).parents[2] / "examples"
SHELL = ("bash", str(EXAMPLES / "08_stream.sh"))
PLAIN = (sys.executable, str(EXAMPLES / "09_stream_aiomqtt.py"))
OPENAI = (sys.executable, str(EXAMPLES / "10_openai_client.py"))


def port_of(url: str) -> str:
    return url.rpartition(":")[2]


async def restless(asked: Asked) -> None:
    """Messages twice, late, and those of a door that took over."""
    await asked.tell([0])
    await asked.tell([0, 1, 2], index=2)
    await asked.tell([0, 1], index=1)
    await asked.tell([0, 1], index=1)
    await asked.tell([0, 1, 2, 3], index=0, take=2)
    await asked.tell([0, 1, 2], index=2)
    await asked.complete([0, 1, 2, 3], take=2)


async def no_end(asked: Asked) -> None:
    await asked.tell([0])
    await asyncio.Event().wait()


async def test_the_shell_shows_every_message(control_broker: str) -> None:
    async with serving(control_broker) as (name, _):
        done = await run_program(*SHELL, "Once", "127.0.0.1", port_of(control_broker), name)
    assert (done.code, done.err) == (0, "")
    *told, answer = [json.loads(line) for line in done.out.splitlines()]
    assert {message["id"] for message in [*told, answer]} == {"s1"}
    assert "".join(message["text"] for message in told) == answer["result"]["text"]
    assert len(told) == 60


async def test_the_plain_library_shows_each_token_once(control_broker: str) -> None:
    async with serving(control_broker, restless) as (name, _):
        where = ("--port", port_of(control_broker), "--deployment", name)
        done = await run_program(*PLAIN, "Once", *where)
    assert (done.code, done.err) == (0, "")
    before, note, after, counted = done.out.splitlines()
    assert (before, note) == (text_of(range(3)), "(another door took over: anew)")
    assert (after, counted) == (text_of(range(4)), "4 tokens, ended by length")


@pytest.mark.parametrize("example", [SHELL, PLAIN], ids=["shell", "aiomqtt"])
async def test_ctrl_c_cancels(control_broker: str, example: tuple[str, ...]) -> None:
    port = port_of(control_broker)
    async with serving(control_broker, no_end) as (name, door):
        where = (
            ("Once", "127.0.0.1", port, name)
            if example == SHELL
            else ("--port", port, "--deployment", name)
        )
        async with running_program(*example, *where) as command:
            await command.begins(len("It"))
            command.interrupt()
            await door.until(lambda: bool(door.cancels))
            ended = await command.ended()
    assert ended.code in (1, 130)
    assert "Traceback" not in ended.err


async def test_openais_client_reads_through_the_gateway(control_broker: str) -> None:
    async with (
        serving(control_broker) as (name, _),
        running("gateway", "--broker", control_broker, "--port", "0") as gateway,
    ):
        url = (await gateway.said("OpenAI's API on")).split()[3].rstrip(";")
        done = await run_program(*OPENAI, "Tell me", "--url", url, "--model", name)
        assert (done.code, done.err) == (0, "")
        assert done.out == text_of(range(60)) + "\n60 tokens\n"
        unknown = await run_program(*OPENAI, "--url", url, "--model", "no-such")
        assert unknown.code == 1
        assert "'no-such' does not exist" in unknown.err
