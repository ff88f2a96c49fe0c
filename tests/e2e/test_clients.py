"""Every kind of client gets what the unsplit model makes of its inputs."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import uuid
from contextlib import closing
from pathlib import Path

import aiomqtt
import psutil
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

import dsi_mqtt
from dsi_mqtt.errors import MESSAGE_MAX
from tests.e2e.live import Device, LiveSite, unsplit
from tests.e2e.programs import PATIENCE_S, run_program

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

EXAMPLES = Path(__file__).parents[2] / "examples"


async def test_the_site_is_three_processes_without_torch(calm_site: LiveSite) -> None:
    picture = await calm_site.picture()
    table = picture.documents["hazards"].serve
    assert table is not None
    nodes = [segment.replicas[0].node for segment in table.segments]
    pids = {picture.statuses[node].pid for node in nodes}
    assert [segment.units for segment in table.segments] == [(0, 2), (2, 4), (4, 6)]
    assert nodes[0] == "city"
    assert "city-spare" not in nodes
    assert pids == {calm_site.pid(node) for node in nodes}
    assert len(pids) == 3
    for pid in pids:
        mapped = [part.path for part in psutil.Process(pid).memory_maps()]
        assert not [path for path in mapped if "torch" in path]


async def test_the_clients_concurrent_inputs_get_their_own_results(calm_site: LiveSite) -> None:
    texts = [f"report {number}" for number in range(60)]
    async with dsi_mqtt.Client(calm_site.url) as client:
        asked = [client.infer("hazards", text, timeout_s=PATIENCE_S) for text in texts]
        results = await asyncio.gather(*asked)
        batch = await client.infer("hazards", texts[:4], timeout_s=PATIENCE_S)
    assert results == [unsplit(text) for text in texts]
    assert batch == results[:4]
    assert client.resent == client.repeated_answers == 0


async def test_request_and_response_of_mqtt_5(calm_site: LiveSite) -> None:
    device = f"rr-{uuid.uuid4().hex}"
    root = "dsi/v1/deploy/hazards"
    answer = await run_program(
        "mosquitto_rr", "-V", "mqttv5", "-p", str(calm_site.port), "-q", "1", "-W", "30",
        "-t", f"{root}/in/{device}", "-e", f"{root}/out/{device}/mine",
        "-D", "publish", "correlation-data", "q1", "-m", '{"input": "Ice", "id": "a"}',
        "-F", "%t %D %C %p",
    )  # fmt: skip
    topic, correlation, kind, payload = answer.out.strip().split(" ", 3)
    assert (topic, correlation, kind) == (f"{root}/out/{device}/mine", "q1", "application/json")
    assert json.loads(payload) == {"id": "a", "status": "ok", "result": unsplit("Ice")}


@pytest.mark.parametrize("identity", [None, "x-1"])
async def test_plain_mqtt_3(calm_site: LiveSite, identity: str | None) -> None:
    device = f"old-{uuid.uuid4().hex}"
    root, given = "dsi/v1/deploy/hazards", {"input": "Fog", "id": identity}
    mqtt_3 = ("-V", "mqttv311", "-p", str(calm_site.port), "-q", "1")
    listen = ("mosquitto_sub", *mqtt_3, "-i", device, "-t", f"{root}/out/{device}/result")
    await run_program(*listen, "-c", "-E")  # leaves a subscription, so that no answer is missed
    payload = json.dumps({key: value for key, value in given.items() if value is not None})
    sent = ("mosquitto_pub", *mqtt_3, "-t", f"{root}/in/{device}", "-m", payload)
    assert (await run_program(*sent)).code == 0
    answer = await run_program(*listen, "-c", "-C", "1", "-W", "30")
    await run_program(*listen, "-E")
    assert json.loads(answer.out) == {"id": identity, "status": "ok", "result": unsplit("Fog")}


async def test_a_plain_library(calm_site: LiveSite) -> None:
    device = f"lib-{uuid.uuid4().hex}"
    root = "dsi/v1/deploy/hazards"
    wanted = {b"1": "one", b"2": "two", b"3": "three"}
    found = {}
    version = aiomqtt.ProtocolVersion.V5
    async with aiomqtt.Client("127.0.0.1", calm_site.port, protocol=version) as client:
        await client.subscribe(f"{root}/out/{device}/#", qos=1)
        for correlation, text in wanted.items():
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.CorrelationData = correlation
            properties.ContentType = "text/plain"
            await client.publish(f"{root}/in/{device}", text, qos=1, properties=properties)
        async with asyncio.timeout(PATIENCE_S):
            async for message in client.messages:
                assert message.properties is not None
                assert message.properties.UserProperty == [("status", "ok")]  # type: ignore[attr-defined]
                found[message.properties.CorrelationData] = json.loads(bytes(message.payload))  # type: ignore[attr-defined]
                if len(found) == len(wanted):
                    break
    assert {key: answer["result"] for key, answer in found.items()} == {
        key: unsplit(text) for key, text in wanted.items()
    }


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("text/plain", "Rauch über der Straße"),
        ("text/plain; charset=utf-8", "Ice"),
        (None, '{"input": "Ice"}'),
    ],
)
async def test_the_content_type_says_what_the_bytes_are(
    calm_site: LiveSite, kind: str | None, payload: str
) -> None:
    async with Device(calm_site, "hazards", f"raw-{uuid.uuid4().hex}") as device:
        answer = await device.ask(payload.encode(), content_type=kind)
    text = payload if kind else "Ice"
    assert json.loads(bytes(answer.payload))["result"] == unsplit(text)


async def test_a_repeated_id_is_computed_once_and_answered_twice(calm_site: LiveSite) -> None:
    async with Device(calm_site, "hazards", f"again-{uuid.uuid4().hex}") as device:
        first = await device.ask(b'{"input": "Ice", "id": "7"}')
        again = await device.ask(b'{"input": "something else", "id": "7"}')
        other = await device.ask(b'{"input": "something else", "id": "8"}')
    assert again.payload == first.payload
    assert json.loads(bytes(other.payload))["result"] == unsplit("something else")


@pytest.mark.parametrize(
    "command",
    [
        (sys.executable, "01_infer.py", "--url", "mqtt://127.0.0.1:{port}"),
        ("bash", "02_plain_clients.sh", "127.0.0.1", "{port}"),
        (sys.executable, "03_plain_aiomqtt.py", "--port", "{port}"),
    ],
    ids=lambda command: command[1],
)
async def test_the_examples_work(calm_site: LiveSite, command: tuple[str, ...]) -> None:
    program, script, *arguments = command
    given = [argument.format(port=calm_site.port) for argument in arguments]
    done = await run_program(program, str(EXAMPLES / script), *given)
    assert (done.code, done.err) == (0, "")
    assert "values" in done.out


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ((sys.executable, "01_infer.py", "--url", "mqtt://127.0.0.1:{port}"), "--url mqtt://"),
        (("bash", "02_plain_clients.sh", "127.0.0.1", "{port}"), "HOST and PORT"),
        ((sys.executable, "03_plain_aiomqtt.py", "--port", "{port}"), "--host and --port"),
        (("bash", "08_stream.sh", "Once", "127.0.0.1", "{port}"), "HOST and PORT"),
        ((sys.executable, "09_stream_aiomqtt.py", "--port", "{port}"), "--host and --port"),
    ],
    ids=lambda given: given[1] if isinstance(given, tuple) else "",
)
async def test_an_example_without_a_broker_says_what_to_start_or_give(
    command: tuple[str, ...], advice: str
) -> None:
    with closing(socket.socket()) as unheard:  # bound, so that nobody else takes it
        unheard.bind(("127.0.0.1", 0))
        port = unheard.getsockname()[1]
        program, script, *arguments = command
        given = [argument.format(port=port) for argument in arguments]
        done = await run_program(program, str(EXAMPLES / script), *given)
    assert (done.code, done.out) == (1, "")
    (sentence,) = done.err.splitlines()
    assert "no MQTT broker answers at " in sentence
    assert f"127.0.0.1:{port}" in sentence
    assert "start one (dsi-mqtt up examples/" in sentence
    assert f"or give {advice}" in sentence
    assert len(sentence) <= MESSAGE_MAX
