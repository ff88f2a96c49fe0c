"""What goes wrong on the way: a cut wire, a door that is killed, answers and records of odd kinds.

Inputs are held where they are by a node or a wire that stands still, until all of them are there.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import pytest_asyncio

from dsi_mqtt.cli.site import worker_arguments
from dsi_mqtt.cli.watching import Picture
from dsi_mqtt.core.node import DoorLoad
from dsi_mqtt.core.site import SiteNode
from dsi_mqtt.transport.base import Message
from tests.e2e.live import NODES, Device, LiveSite, deployment, live_site, unsplit
from tests.e2e.wire import wire_to

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

COUNT = 6


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveSite]:
    async with live_site(tmp_path_factory.mktemp("rough")) as live:
        yield live


def load(picture: Picture, name: str) -> DoorLoad | None:
    """Of the door of `name`, wherever it is."""
    loads = [load for telemetry in picture.telemetry.values() for load in telemetry.doors]
    return next((load for load in loads if load.deployment == name), None)


async def in_the_chain(site: LiveSite, name: str, count: int) -> None:
    def there(picture: Picture) -> bool:
        found = load(picture, name)
        return found is not None and found.in_flight == count

    await site.until(there, f"{count} inputs of {name} in the chain")


async def each_answered_once(device: Device) -> None:
    """Of inputs 0 to COUNT, whose Correlation Data is their number; then the device sends one more.

    Its answer comes in order behind theirs: had one been answered twice, it came before.
    """
    answers = [await device.answer() for _ in range(COUNT)]
    answers.append(await device.ask(b'{"input": "last"}', correlation_data=b"last"))
    given = {str(number).encode(): number for number in range(COUNT)}
    results = {a.correlation_data: json.loads(bytes(a.payload))["result"] for a in answers}
    assert sorted(a.correlation_data or b"" for a in answers) == [*sorted(given), b"last"]
    assert results == {key: unsplit(number) for key, number in given.items()} | {
        b"last": unsplit("last")
    }


async def ask_all(device: Device) -> None:
    for number in range(COUNT):
        await device.tell(
            json.dumps({"input": number}).encode(), correlation_data=str(number).encode()
        )


async def test_what_was_on_a_wire_that_is_cut_is_answered_once(site: LiveSite) -> None:
    assert site.site.brokers is not None
    async with wire_to(site.site.brokers.data.port) as wire:
        node = SiteNode("wired", "roadside")
        arguments = worker_arguments(node, site.url, "dsi/v1")
        data = f"mqtt://127.0.0.1:{wire.port}"
        await site.site.children.start("wired", *arguments, "--data-broker", data)
        await site.online("wired")
        split = [{"units": "0:2", "nodes": ["city"]}, {"units": "2:6", "nodes": ["wired"]}]
        await site.deploy(deployment("cut", split=split))
        async with Device(site, "cut", "cam") as device:
            wire.hold()
            await ask_all(device)
            await in_the_chain(site, "cut", COUNT)
            wire.cut()
            await each_answered_once(device)
        await site.undeploy("cut")
        assert await site.terminate("wired") == 0


async def test_the_inputs_in_the_hands_of_a_killed_door_are_answered_by_the_next(
    site: LiveSite,
) -> None:
    before = await site.deploy(deployment("killed"))
    assert before.door is not None
    last = before.segments[-1].replicas[0].node
    assert last != before.door.node
    async with Device(site, "killed", "cam") as device:
        stopped = site.pid(last)
        os.kill(stopped, signal.SIGSTOP)
        try:
            await ask_all(device)
            await in_the_chain(site, "killed", COUNT)
            await site.kill(before.door.node)
        finally:
            with suppress(ProcessLookupError):
                os.kill(stopped, signal.SIGCONT)
        await each_answered_once(device)
    after = await site.serving("killed", lambda table: table.door is not None, "another chain")
    assert after.door is not None
    assert (after.door.node, after.door.incarnation) != (before.door.node, before.door.incarnation)
    await site.start(before.door.node)
    await site.online(before.door.node)
    await site.undeploy("killed")


async def test_rubbish_where_deaths_are_retained_is_ignored(site: LiveSite) -> None:
    rubbish = {
        site.topics.redelivery.name(deployment="odd", key=key): payload
        for key, payload in (
            ("not-json", b"\xffrubbish"),
            ("another", b'{"key": "cam/i/1", "count": 3}'),
            ("large", b'{"key": "%s", "count": 3}' % (b"x" * 1_500_000)),
        )
    }
    async with site.connection() as connection:
        for topic, payload in rubbish.items():
            await connection.publish(Message(topic, payload, qos=1, retain=True))
    table = await site.deploy(deployment("odd"))
    assert table.door is not None
    async with Device(site, "odd", "cam") as device:
        answer = await device.ask(b'{"input": "fine", "id": "1"}')
    assert json.loads(bytes(answer.payload))["result"] == unsplit("fine")
    said = site.site.children.log_path(table.door.node).read_text()
    assert all(f"{topic} is ignored" in said for topic in rubbish)
    await site.undeploy("odd")


async def test_an_answer_larger_than_a_packet_is_said_to_be_and_the_door_goes_on(
    site: LiveSite,
) -> None:
    wide = {"units": 2, "hidden": 250_000, "weight_mib": 0.1}
    await site.deploy(deployment("wide", options=wide, privacy={"units": {}}))
    before = {node.id: site.pid(node.id) for node in NODES}
    async with Device(site, "wide", "cam") as device:
        for number in (1, 2):
            answer = await device.ask(b'{"input": 7, "id": "a%d"}' % number, correlation_data=b"q")
            document = json.loads(bytes(answer.payload))
            assert document["id"] == f"a{number}"
            assert document["error"]["code"] == "failed"
            assert document["error"]["message"].startswith("the result cannot be sent: ")
            assert answer.correlation_data == b"q"
        unread = json.loads(bytes((await device.ask(b"nonsense")).payload))
    assert unread["error"]["code"] == "invalid_input"
    statuses = (await site.picture()).statuses
    assert {name: statuses[name].pid for name in before} == before
    await site.undeploy("wide")
