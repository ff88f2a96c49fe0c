"""Whatever dies while inputs flow, each is answered correctly, and the chain is whole again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from dsi_mqtt.client import Client
from dsi_mqtt.core.site import SiteNode
from dsi_mqtt.core.table import Table
from dsi_mqtt.errors import PoisonError
from tests.e2e.live import LiveSite, deployment, flowing, live_site, unsplit
from tests.e2e.programs import PATIENCE_S

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

USUAL = {"city", "north", "south"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveSite]:
    async with live_site(tmp_path_factory.mktemp("failures")) as live:
        await live.deploy(deployment("hazards"))
        yield live


def on(names: set[str]) -> Callable[[Table], bool]:
    return lambda table: {node for node, _ in table.members()} == names


def without(name: str) -> Callable[[Table], bool]:
    return lambda table: name not in {node for node, _ in table.members()}


@pytest.mark.parametrize("victim", sorted(USUAL))
async def test_a_dead_node_costs_no_input(site: LiveSite, victim: str) -> None:
    before = await site.serving("hazards", on(USUAL), "the usual chain")
    async with flowing(site, "hazards") as flow:
        await flow.answered(20)
        await site.kill(victim)
        moved = await site.serving("hazards", without(victim), f"a chain without {victim}")
        await flow.answered(20)
        await site.start(victim)
        after = await site.serving("hazards", on(USUAL), "the usual chain again")
        await flow.answered(20)
    assert before.stamp < moved.stamp < after.stamp
    assert dict(before.members())[victim] != dict(after.members())[victim]


async def test_the_chain_serves_on_without_orchestrator(site: LiveSite) -> None:
    before = await site.serving("hazards", on(USUAL), "the usual chain")
    async with flowing(site, "hazards") as flow:
        await site.kill("orchestrator")
        await flow.answered(40)
        await site.start("orchestrator")
        leads = await site.until(
            lambda picture: (
                picture.leader is not None
                and picture.leader.term > before.term
                and picture.leader.beat > 0
            ),
            "another leader",
        )
        await site.kill("north")
        moved = await site.serving("hazards", without("north"), "a chain without north")
        await flow.answered(20)
        await site.start("north")
        await site.serving("hazards", on(USUAL), "the usual chain again")
    assert leads.leader is not None
    assert (moved.term, moved.leader) == (leads.leader.term, leads.leader.nonce)
    assert moved.epoch > before.epoch


@pytest.mark.parametrize("which", ["control", "data"])
async def test_a_broker_that_dies_and_comes_back_costs_no_input(site: LiveSite, which: str) -> None:
    before = await site.serving("hazards", on(USUAL), "the usual chain")
    assert site.site.brokers is not None
    broker = site.site.brokers.control if which == "control" else site.site.brokers.data
    async with flowing(site, "hazards") as flow:
        await flow.answered(20)
        await broker.kill()
        await broker.start()
        await flow.answered(40)
    after = await site.serving("hazards", on(USUAL), "the usual chain")
    assert after.stamp >= before.stamp
    assert after.members() == before.members()


@pytest.mark.slow
async def test_a_poisonous_input_is_answered_at_the_third_death(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    nodes = (SiteNode("city", "city"), SiteNode("north", "roadside"))
    spec = deployment("hazards", split=[
        {"units": "0:2", "nodes": ["city"]}, {"units": "2:6", "nodes": ["north"]}
    ], sla={"deadline_ms": 60_000})  # fmt: skip
    folder = tmp_path_factory.mktemp("poison")
    async with live_site(folder, nodes, restart=True) as live:
        await live.deploy(spec)
        first = live.pid("north")
        async with Client(live.url) as client:
            with pytest.raises(PoisonError, match="three times"):
                await client.infer("hazards", {"exit": 3}, timeout_s=PATIENCE_S)
            fine = await client.infer("hazards", "fine", timeout_s=PATIENCE_S)
        assert fine == unsplit("fine")
        assert live.pid("north") != first
        assert live.deaths == {"north": 3}
