"""`dsi-mqtt gateway` as a process of its own: what it says, whom it admits, how it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.programs import running
from tests.e2e.test_generate import serving

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

KEY = "sk-0123456789abcdef"
HI: Any = [{"role": "user", "content": "Hi"}]


async def test_it_serves_until_ctrl_c(control_broker: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text(f"{KEY}\n")
    async with (
        serving(control_broker) as (name, _),
        running(
            "gateway", "--broker", control_broker, "--port", "0", "--keys", str(keys)
        ) as command,
    ):
        line = await command.said("OpenAI's API on http://127.0.0.1:")
        url = line.split()[3].rstrip(";")
        async with openai.AsyncOpenAI(api_key=KEY, base_url=url, max_retries=0) as client:
            assert name in [model.id async for model in client.models.list()]
            reply = await client.chat.completions.create(model=name, messages=HI, max_tokens=2)
            assert reply.choices[0].message.content == "It rained"
            stranger = client.with_options(api_key="sk-another")
            with pytest.raises(openai.AuthenticationError):
                await stranger.chat.completions.create(model=name, messages=HI)
            command.interrupt()
            ended = await command.ended()
    assert (ended.code, ended.out) == (0, "")
    assert "Traceback" not in ended.err
