"""OpenAI's client, the gateway, and a transformers model in three worker processes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from dsi_mqtt.core.site import SiteNode
from dsi_mqtt.wire.files import deployment_of
from tests import preloaded
from tests.e2e.live import live_site
from tests.e2e.programs import PATIENCE_S, running
from tests.engine.torch.generation.causal import lively_model
from tests.engine.torch.generation.test_tokens import TEMPLATE, byte_level

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NODES = tuple(SiteNode(name, "hall", memory_mib=64) for name in ("one", "two", "three"))
TOKENS = 24
TURNS: Any = [{"role": "user", "content": "two roads diverged"}]


def checkpoint(folder: Path) -> tuple[Any, Any]:
    """A small Llama in a folder; also as transformers has it, with its tokenizer."""
    model, tokenizer = lively_model("llama", 0), byte_level()
    tokenizer.chat_template = TEMPLATE
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def expected(model: Any, tokenizer: Any) -> str:
    """What transformers itself answers, greedily."""
    asked = tokenizer.apply_chat_template(TURNS, add_generation_prompt=True, return_dict=False)
    with torch.inference_mode():
        told = model.generate(
            torch.tensor([asked]), max_new_tokens=TOKENS, do_sample=False, use_cache=True
        )
    text: str = tokenizer.decode(told[0, len(asked) :], skip_special_tokens=True)
    return text


async def test_chats_stream_through_three_workers_as_transformers_writes_them(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "llama"
    text = expected(*checkpoint(folder))
    document = {
        "schema": "dsi.deployment/1",
        "name": "chat",
        "kind": "generation",
        "model": {"path": str(folder)},
        "generation": {"context": 512, "max_tokens": TOKENS, "temperature": 0},
        "sla": {"deadline_ms": 120_000},
        "split": [
            {"units": "0:2", "nodes": ["one"]},
            {"units": "2:3", "nodes": ["two"]},
            {"units": "3:5", "nodes": ["three"]},
        ],
    }
    async with live_site(tmp_path / "site", NODES, processes=preloaded.heavy) as live:
        table = await live.deploy(deployment_of(document, tmp_path / "chat.yaml"))
        picture = await live.picture()
        pids = {picture.statuses[s.replicas[0].node].pid for s in table.segments}
        assert len(pids) == 3
        async with running("gateway", "--broker", live.url, "--port", "0") as gateway:
            line = await gateway.said("OpenAI's API on http://127.0.0.1:")
            url = line.split()[3].rstrip(";")
            async with openai.AsyncOpenAI(
                api_key="none", base_url=url, max_retries=0, timeout=PATIENCE_S
            ) as client:

                async def chat() -> tuple[str, int]:
                    told, counted = "", 0
                    stream = await client.chat.completions.create(
                        model="chat",
                        messages=TURNS,
                        stream=True,
                        stream_options={"include_usage": True},
                    )
                    async for chunk in stream:
                        told += "".join(c.delta.content or "" for c in chunk.choices)
                        counted = chunk.usage.completion_tokens if chunk.usage else counted
                    return told, counted

                told = await asyncio.gather(*(chat() for _ in range(4)))
            gateway.interrupt()
            await gateway.ended()
    assert told == [(text, TOKENS)] * 4
