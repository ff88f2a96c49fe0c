"""Deploying, draining, leaving and undeploying while the site lives on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from dsi_mqtt.client import Client
from dsi_mqtt.core.table import DoorPlace, Table
from dsi_mqtt.transport.base import ConnectOptions
from dsi_mqtt.transport.mqtt import MqttTransport
from tests.e2e.live import (
    LiveSite,
    deployment,
    deployment_file,
    flowing,
    live_site,
    unknown,
    unsplit,
)
from tests.e2e.programs import PATIENCE_S, dsi_mqtt

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveSite]:
    async with live_site(tmp_path_factory.mktemp("lifecycle")) as live:
        await live.deploy(deployment("hazards"))
        yield live


def nodes_of(table: Table) -> set[str]:
    return {node for node, _ in table.members()}


async def session_is_kept(door: DoorPlace) -> bool:
    """Whether the ingress broker knows the door's MQTT session. Ends the session."""
    options = ConnectOptions(client_id=door.session, clean_start=False)
    connection = await MqttTransport().data(door.ingress, options)
    present = connection.session_present
    await connection.close()
    return present


async def test_a_node_that_is_asked_to_end_leaves_cleanly(site: LiveSite) -> None:
    async with flowing(site, "hazards") as flow:
        await flow.answered(10)
        assert await site.terminate("south") == 0
        gone = await site.until(
            lambda picture: picture.statuses["south"].state == "offline", "south offline"
        )
        await site.serving("hazards", lambda t: "south" not in nodes_of(t), "a chain without south")
        await flow.answered(10)
        await site.start("south")
        await site.serving("hazards", lambda t: "south" in nodes_of(t), "south again")
    assert gone.statuses["south"].holdings == ()


async def test_a_drained_node_is_empty_until_it_is_undone(site: LiveSite) -> None:
    await site.serving("hazards", lambda t: "city" in nodes_of(t), "the usual chain")
    async with flowing(site, "hazards") as flow:
        done = await dsi_mqtt("drain", "city", "--broker", site.url)
        assert (done.code, done.out) == (0, "city holds nothing and may be switched off\n")
        assert "hazards can move: 0:2 on city-spare" in done.err
        picture = await site.picture()
        table = picture.documents["hazards"].serve
        assert table is not None
        assert "city" not in nodes_of(table)
        explained = await dsi_mqtt(
            "explain", "--json", "--decision", table.decision, "--broker", site.url
        )
        (why,) = json.loads(explained.out)["deployments"]["hazards"]["explanations"]
        assert (why["reason"], why["rejected"][0]["what"]) == ("node city drains", "present")
        assert [part["node"] for part in why["chosen"]["segments"]] == [
            segment.replicas[0].node for segment in table.segments
        ]
        assert picture.statuses["city"].state == "draining"
        assert not picture.statuses["city"].holdings
        assert not picture.statuses["city"].doors
        await flow.answered(10)
        undone = await dsi_mqtt("drain", "city", "--undo", "--broker", site.url)
        assert (undone.code, undone.out) == (0, "city takes part again\n")
        await site.serving("hazards", lambda t: "city" in nodes_of(t), "city in the chain again")
        await flow.answered(10)


async def test_a_drain_without_another_place_says_so(site: LiveSite) -> None:
    """The spare drained, then the city: nobody else may hold the first units."""
    await dsi_mqtt("drain", "city-spare", "--broker", site.url)
    async with flowing(site, "hazards") as flow:
        done = await dsi_mqtt("drain", "city", "--timeout", "2", "--broker", site.url)
        assert done.code == 5
        holds, cannot, ended = done.err.splitlines()
        assert holds.startswith("city holds units 0:2 (4.0 MiB) and the door of hazards")
        reason = "units 0:2 must be computed in zone city, and no node is there; start a node"
        assert cannot.startswith(f"hazards serves on, for it cannot move yet: {reason}")
        assert ended.startswith("dsi-mqtt: city still serves hazards after 2 s")
        assert reason[:60] in ended
        await flow.answered(10)
    for node in ("city", "city-spare"):
        assert (await dsi_mqtt("drain", node, "--undo", "--broker", site.url)).code == 0
    await site.until(
        lambda picture: all(s.state == "online" for s in picture.statuses.values()), "all online"
    )


async def test_two_deployments_share_the_nodes(site: LiveSite) -> None:
    small = {"units": 3, "weight_mib": 0.1, "seed": 7}
    await site.deploy(deployment("second", options=small, privacy={"units": {"0:1": ["city"]}}))
    async with flowing(site, "hazards") as flow, Client(site.url) as client:
        await flow.answered(10)
        for number in range(10):
            result = await client.infer("second", number, timeout_s=PATIENCE_S)
            assert result == unsplit(number, **small)
        await site.undeploy("second")
        await flow.answered(10)
    assert await unknown(site, "second")


async def test_a_change_that_cannot_be_placed_leaves_what_serves(
    site: LiveSite, tmp_path: Path
) -> None:
    file = tmp_path / "hazards.yaml"
    pinned = deployment_file("hazards", policy={"pin": {"2:3": "attic"}})
    before = await site.serving("hazards", lambda _: True, "the chain")
    file.write_text(json.dumps(pinned))
    async with flowing(site, "hazards") as flow:
        await flow.answered(10)
        refused = await dsi_mqtt("deploy", str(file), "--broker", site.url)
        await flow.answered(10)
    assert refused.code == 5
    assert "hazards cannot be placed, so the former placement serves on: " in refused.err
    shown = await dsi_mqtt("status", "--once", "--broker", site.url)
    assert "cannot be placed: units 2:3 are pinned to attic" in " ".join(shown.out.split())
    file.write_text(json.dumps(deployment_file("hazards")))
    again = await dsi_mqtt("deploy", str(file), "--broker", site.url)
    assert again.code == 0, again.err
    after = await site.serving("hazards", lambda _: True, "the chain")
    assert (after.segments, after.stamp > before.stamp) == (before.segments, True)


async def test_undeploying_releases_everything_and_deploying_again_works(site: LiveSite) -> None:
    before = await site.serving("hazards", lambda _: True, "the chain")
    assert before.door is not None
    done = await dsi_mqtt("undeploy", "hazards", "--broker", site.url)
    assert (done.code, done.out) == (0, "hazards is removed\n")
    picture = await site.until(
        lambda p: not any(s.holdings or s.doors or s.models for s in p.statuses.values()),
        "nothing held",
    )
    assert "hazards" not in picture.documents
    assert "hazards" not in picture.specs
    assert not await session_is_kept(before.door)
    assert await unknown(site, "hazards")

    after = await site.deploy(deployment("hazards"))
    assert after.stamp > before.stamp
    async with Client(site.url) as client:
        assert await client.infer("hazards", "x", timeout_s=PATIENCE_S) == unsplit("x")
    assert after.door is not None
    assert after.door.session != before.door.session


async def test_another_model_under_the_same_name_takes_over(site: LiveSite) -> None:
    other = {"seed": 5}
    async with Client(site.url) as client:
        assert await client.infer("hazards", "x", timeout_s=PATIENCE_S) == unsplit("x")
        await site.deploy(deployment("hazards", options=other))
        result = await client.infer("hazards", "x", timeout_s=PATIENCE_S)
    assert result == unsplit("x", **other) != unsplit("x")
    status = await dsi_mqtt("status", "--json", "--broker", site.url)
    assert json.loads(status.out)["deployments"]["hazards"]["serve"]["state"] == "serving"
