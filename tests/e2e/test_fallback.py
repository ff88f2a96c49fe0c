"""A deployment whose model fits one node alone, with another model for when that is gone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from dsi_mqtt.client import Client
from dsi_mqtt.core.site import SiteNode
from dsi_mqtt.core.table import Table
from tests.e2e.live import Device, LiveSite, deployment, live_site, unsplit
from tests.e2e.programs import PATIENCE_S

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio]

NODES: Final = (
    SiteNode("large", "city", memory_mib=17.5),
    SiteNode("small", "city", memory_mib=5.5),
)
TINY: Final[dict[str, Any]] = {"units": 2, "unit_ms": 1, "weight_mib": 2}


async def falls_back(site: LiveSite) -> Table:
    """The table of the fallback, once that serves."""

    def falls(table: Table | None) -> bool:
        return table is not None and table.state == "fallback"

    picture = await site.until(
        lambda picture: (
            "hazards" in picture.documents and falls(picture.documents["hazards"].serve)
        ),
        "the fallback",
    )
    table = picture.documents["hazards"].serve
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
        await site.start("large")
        back = await site.serving("hazards", lambda _: True, "the model again")
        assert back.model == own.model
        assert await client.infer("hazards", "x", timeout_s=PATIENCE_S) == unsplit("x")
        await site.undeploy("hazards")
