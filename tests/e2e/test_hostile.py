"""Rubbish on the site's topics, and a broker that comes back with nothing: the site serves on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from dsi_mqtt.cli.common import marker
from dsi_mqtt.client import Client
from dsi_mqtt.core.site import SiteNode
from dsi_mqtt.transport.base import Message
from dsi_mqtt.transport.retained import read_retained
from dsi_mqtt.wire.topics import Topics
from tests.e2e.live import LiveSite, deployment, flowing, live_site, unsplit
from tests.e2e.programs import PATIENCE_S, dsi_mqtt

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

NAME = "hazards"
NODES = (SiteNode("city", "city", memory_mib=8), SiteNode("north", "roadside", memory_mib=8))
TOPICS = Topics()
TABLE = TOPICS.table.name(deployment=NAME)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(folder: Path) -> AsyncIterator[LiveSite]:
    async with live_site(folder, NODES) as live:
        await live.deploy(deployment(NAME))
        yield live


def rogue(**changes: Any) -> bytes:
    """The status of a node that nobody started."""
    unit = {"name": "u", "weight_bytes": 1, "flops": 1, "output_bytes": 1}
    graph = {"digest": "sha256:1", "tier": "fake", "units": [unit] * 6}
    status = {
        "node": "rogue",
        "incarnation": "r1",
        "state": "online",
        "capabilities": {"weight_bytes": 2**40, "gflops": 1, "memory_gib_s": 1},
        "models": [{"deployment": NAME, "graph": graph | changes.pop("graph", {})}],
    }
    return json.dumps(status | changes).encode()


STATUS = TOPICS.status.name(node="rogue")
RUBBISH = (
    (STATUS, b"rubbish"),
    (STATUS, rogue(graph={"ties": [{"units": [-7, 10**6], "weight_bytes": 1}]})),
    (STATUS, rogue(graph={"input_bytes": 10**30})),
    (STATUS, rogue(capabilities={"weight_bytes": -1, "gflops": 0, "memory_gib_s": -1})),
    (STATUS, rogue(capabilities={"weight_bytes": 2**40, "gflops": 1e-300})),
    (STATUS, rogue(seen={NAME: [2**52, "z", 2**52]})),
    (TOPICS.spec.name(deployment=NAME), b'{"name": "hazards", "model": {}, "sla": 3}'),
    (TABLE, b'{"serve": {"segments": [{"units": [-5, 10000000]}]}}'),
    (TOPICS.leader.name(), b'{"term": 9007199254740991, "nonce": "z", "beat": 1}'),
    (TOPICS.desired.name(node="city"), b"[]"),
)


async def retain(site: LiveSite, topic: str, payload: bytes) -> None:
    async with site.connection() as connection:
        await connection.publish(Message(topic, payload, qos=1, retain=True))


async def retained(site: LiveSite, topic: str) -> list[Message]:
    async with site.connection() as connection:
        return await read_retained(connection, [topic], marker(TOPICS))


async def test_rubbish_ends_nobody_and_costs_no_input(site: LiveSite) -> None:
    before = await site.serving(NAME, lambda _: True, "the chain")
    async with flowing(site, NAME) as flow:
        for topic, payload in RUBBISH:
            await retain(site, topic, payload)
        await flow.answered(20)
        await retain(site, STATUS, b"")
        after = await site.serving(NAME, lambda _: True, "the chain")
        await flow.answered(20)
    assert site.deaths == {}
    assert after.members() == before.members()


async def test_a_stray_status_under_a_nodes_name_shuts_it_out_for_moments_only(
    site: LiveSite,
) -> None:
    await site.serving(NAME, lambda _: True, "the chain")
    for node in NODES:
        stray = json.dumps({"node": node.id, "incarnation": "stray", "state": "online"})
        await retain(site, TOPICS.status.name(node=node.id), stray.encode())
    await site.until(
        lambda picture: any(
            document.serve is not None and not document.serve.serves
            for document in picture.documents.values()
        ),
        "an orchestrator that believes it",
    )
    await site.serving(NAME, lambda _: True, "the chain again")
    async with Client(site.url) as client:
        assert await client.infer(NAME, "x", timeout_s=PATIENCE_S) == unsplit("x")
    assert site.deaths == {}


async def test_after_a_restart_rubbish_is_still_no_reason_to_change_anything(
    site: LiveSite,
) -> None:
    """The deployment's topic still holds rubbish: nothing is withdrawn because of that."""
    before = await site.serving(NAME, lambda _: True, "the chain")
    await site.kill("orchestrator")
    await site.start("orchestrator")
    await site.until(
        lambda picture: (
            picture.leader is not None
            and picture.leader.term > before.term
            and picture.leader.term < 2**39
            and picture.leader.beat > 2
        ),
        "another leader",
    )
    async with Client(site.url) as client:
        assert await client.infer(NAME, "x", timeout_s=PATIENCE_S) == unsplit("x")
    again = await site.deploy(deployment(NAME))
    assert again.members() == before.members()
    assert site.deaths == {"orchestrator": 1}


async def test_a_cleared_table_is_there_again(site: LiveSite) -> None:
    before = await site.serving(NAME, lambda _: True, "the chain")
    async with flowing(site, NAME) as flow:
        await flow.answered(10)
        await retain(site, TABLE, b"")
        after = await site.serving(NAME, lambda _: True, "the table again")
        await flow.answered(10)
    assert after == before


async def test_a_broker_that_comes_back_with_nothing_is_told_everything(
    site: LiveSite, folder: Path
) -> None:
    before = await site.serving(NAME, lambda _: True, "the chain")
    assert site.site.brokers is not None
    broker = site.site.brokers.control
    await broker.kill()
    for saved in (folder / "broker" / "control").glob("*.db*"):
        saved.unlink()
    await broker.start()
    after = await site.serving(NAME, lambda _: True, "the chain")
    picture = await site.until(
        lambda picture: NAME in picture.specs and len(picture.live_nodes()) == len(NODES),
        "deployment and nodes",
    )
    assert picture.specs[NAME] == deployment(NAME)
    async with asyncio.timeout(PATIENCE_S):
        while not await retained(site, TOPICS.site.name()):
            pass
    assert after.members() == before.members()
    async with Client(site.url) as client:
        assert await client.infer(NAME, "x", timeout_s=PATIENCE_S) == unsplit("x")


async def test_a_site_without_a_node_is_told_so(tmp_path: Path) -> None:
    async with live_site(tmp_path, ()) as live:
        file = tmp_path / "echo.yaml"
        file.write_text("schema: dsi.deployment/1\nname: echo\nmodel: {tier: fake}\n")
        done = await dsi_mqtt("deploy", str(file), "--broker", live.url)
        assert done.code == 5
        assert "no node is online" in done.err
        picture = await live.picture()
        table = picture.documents["echo"].serve
        assert table is not None
        assert (table.state, table.epoch) == ("unavailable", 1)
