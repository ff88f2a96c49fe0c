"""A device that floods a real broker: it is refused, and another is answered before it."""

from __future__ import annotations

import asyncio
import json

import pytest

from dsi_mqtt.client import Client
from tests.e2e.live import Device, LiveSite, deployment, unsplit
from tests.e2e.programs import PATIENCE_S

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

FLOOD = 900
QUEUE = 40


async def test_a_flood_is_answered_whole_and_holds_nobody_else_up(calm_site: LiveSite) -> None:
    """The chain is too slow to serve a flood as fast as it comes, and no input's time is up before
    the queue is served, however slow the machine is.
    """
    spec = deployment(
        "narrow",
        options={"weight_mib": 0.01, "unit_ms": 50},
        input={"queue_max": QUEUE},
        privacy={"units": {}},
        sla={"deadline_ms": 600_000},
    )
    await calm_site.deploy(spec)
    codes: dict[str, str] = {}

    async def told(device: Device) -> None:
        while len(codes) < FLOOD:
            answer = await device.answer()
            code = dict(answer.user_properties).get("code", "ok")
            assert codes.setdefault(json.loads(bytes(answer.payload))["id"], code) == code

    async with Device(calm_site, "narrow", "flood") as flood, Client(calm_site.url) as client:
        listening = asyncio.create_task(told(flood))
        asked = (json.dumps({"input": n, "id": n}).encode() for n in range(FLOOD))
        await asyncio.gather(*map(flood.tell, asked))
        # What the chain holds already, and one of the flood, goes before it: not what waits.
        assert await client.infer("narrow", "x", timeout_s=PATIENCE_S) == unsplit("x")
        served_before = list(codes.values()).count("ok")
        async with asyncio.timeout(PATIENCE_S):
            await listening
    assert set(codes.values()) == {"ok", "overloaded"}
    assert list(codes.values()).count("ok") >= served_before + QUEUE // 2
    await calm_site.undeploy("narrow")
