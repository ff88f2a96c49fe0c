"""A deployment whose model fits one node alone, with another model for when that is gone."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from dsi_mqtt.client import Client, Completion, Piece, TextGeneration
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.generation import Sampling
from dsi_mqtt.core.site import SiteNode
from dsi_mqtt.core.table import Table
from tests.e2e.live import Device, LiveSite, deployment, live_site, unsplit, unsplit_tokens
from tests.e2e.programs import PATIENCE_S, dsi_mqtt

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio]

NODES: Final = (
    SiteNode("large", "city", memory_mib=17.5),
    SiteNode("small", "city", memory_mib=5.5),
)
TINY: Final[dict[str, Any]] = {"units": 2, "unit_ms": 1, "weight_mib": 2}
# With this seed both models tell so many tokens, and would tell more.
LONG: Final = 1
LONG_TOKENS: Final = 60


async def falls_back(site: LiveSite, name: str = "hazards") -> Table:
    """The table of the fallback, once that serves."""

    def falls(table: Table | None) -> bool:
        return table is not None and table.state == "fallback"

    picture = await site.until(
        lambda picture: name in picture.documents and falls(picture.documents[name].serve),
        "the fallback",
    )
    table = picture.documents[name].serve
    assert table is not None
    return table


async def test_the_fallback_answers_while_the_model_fits_nowhere(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    fallback = {"model": str(tmp_path / "tiny"), "options": TINY}
    spec = deployment("hazards", fallback=fallback, policy={"cooldown_s": 1})
    async with live_site(tmp_path / "state", NODES) as site, Client(site.url) as client:
        own = await site.deploy(spec)
        async with Device(site, "hazards", "cam-7") as device:
            first = await device.ask(b'{"id": "q1", "input": "x"}')
            assert json.loads(bytes(first.payload)) == {
                "id": "q1",
                "status": "ok",
                "result": unsplit("x"),
            }
            await site.kill("large")
            table = await falls_back(site)
            assert {node for node, _ in table.members()} == {"small"}
            assert table.reason
            await device.tell(b'{"id": "q2", "input": "x"}')
            told = await device.answer_to("q2")
            assert json.loads(bytes(told.payload)) == {
                "id": "q2",
                "status": "ok",
                "fallback": True,
                "result": unsplit("x", **TINY),
            }
            assert dict(told.user_properties)["fallback"] == "true"
        answer = await client.infer_answer("hazards", "x", timeout_s=PATIENCE_S)
        assert (answer.result, answer.fallback) == (unsplit("x", **TINY), True)
        where = ("--broker", site.url)
        asked = await dsi_mqtt("infer", "hazards", "x", "y", *where)
        assert (asked.code, len(asked.out.splitlines())) == (0, 2)
        note = "dsi-mqtt: the fallback of hazards answered 2 of 2 inputs"
        assert asked.err == f"{note}, for its own model cannot serve\n"
        asked = await dsi_mqtt("infer", "hazards", "x", "--json", *where)
        document = json.loads(asked.out)
        assert (document["schema"], document["command"]) == ("dsi.answers/1", "infer")
        assert document["answers"] == [{"result": unsplit("x", **TINY), "fallback": True}]
        await site.start("large")
        back = await site.serving("hazards", lambda _: True, "the model again")
        assert back.model == own.model
        assert await client.infer("hazards", "x", timeout_s=PATIENCE_S) == unsplit("x")
        await site.undeploy("hazards")


async def test_a_generation_is_told_anew_by_the_fallback_and_the_model_comes_back(
    tmp_path: Path,
) -> None:
    (tmp_path / "tiny").mkdir()
    slow = {"ends": [3], "unit_ms": 20}
    spec = deployment(
        "chat",
        kind="generation",
        options=slow,
        generation={"context": 256, "max_tokens": LONG_TOKENS, "idle_s": 0, "kv_mib_max": 1},
        fallback={"model": str(tmp_path / "tiny"), "options": TINY | slow},
        policy={"cooldown_s": 1},
    )
    other = spec.falls_back_to
    assert other is not None
    small = replace(spec, model=other.model)

    def told(seed: int, by: Deployment, most: int = LONG_TOKENS) -> tuple[int, ...]:
        return tuple(unsplit_tokens(by, "w1 w2", Sampling(1.0, seed=seed), most))

    def asked(client: Client, seed: int, most: int = LONG_TOKENS) -> TextGeneration:
        return client.generate(
            "chat", "w1 w2", seed=seed, temperature=1.0, max_tokens=most, timeout_s=PATIENCE_S
        )

    async with live_site(tmp_path / "state", NODES) as site, Client(site.url) as client:
        own = await site.deploy(spec)
        first = await asked(client, 1, 5)
        assert (first.tokens, first.fallback) == (told(1, spec, 5), False)

        running = asked(client, LONG)
        pieces: list[Piece] = []
        async for piece in running:
            if not pieces:  # its chain, and its door, go in the middle of the text
                await site.kill("large")
            pieces.append(piece)
        assert (pieces[0].fallback, pieces[-1].fallback) == (False, True)
        assert any(piece.replaces for piece in pieces)
        assert (running.completion.tokens, running.completion.fallback) == (told(LONG, small), True)
        await falls_back(site, "chat")

        shown = await dsi_mqtt("generate", "chat", "w1 w2", "--json", "--broker", site.url)
        assert json.loads(shown.out)["fallback"] is True
        told_so = "dsi-mqtt: the fallback of chat told this, for its own model cannot serve\n"
        assert (shown.code, shown.err) == (0, told_so)

        last = asyncio.create_task(whole(asked(client, LONG)))
        await site.start("large")
        back = await site.serving("chat", lambda _: True, "the model again")
        assert back.model == own.model
        again = await asked(client, 1, 5)
        assert (again.tokens, again.fallback) == (first.tokens, False)
        finished = await last
        assert finished.tokens == told(LONG, small if finished.fallback else spec)
        await site.undeploy("chat")


async def whole(generation: TextGeneration) -> Completion:
    return await generation
