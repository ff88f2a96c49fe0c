"""The commands as processes of their own: what they say, and that Ctrl-C leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import shlex
import socket
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from dsi_mqtt.cli.common import control_connection, marker
from dsi_mqtt.cli.deploy import publish_spec
from dsi_mqtt.cli.watching import watch
from dsi_mqtt.transport.mosquitto import MosquittoProcess, control_settings, find_mosquitto
from dsi_mqtt.transport.retained import read_retained
from dsi_mqtt.wire.topics import Topics
from tests.e2e.live import LiveSite, deployment, unsplit
from tests.e2e.programs import PATIENCE_S, dsi_mqtt, in_terminal, left_over, running

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

EXAMPLES = Path(__file__).parents[2] / "examples"
ECHO = """
schema: dsi.deployment/1
name: echo
model: {tier: fake, options: {units: 6, unit_ms: 1, weight_mib: 1}}
---
schema: dsi.nodes/1
nodes: [{id: north, zone: roadside, memory_mib: 4}, {id: south, zone: roadside, memory_mib: 4}]
"""


def port_in(line: str) -> str:
    return line.partition("127.0.0.1:")[2].partition(",")[0].strip()


async def test_up_runs_a_site_until_ctrl_c(tmp_path: Path) -> None:
    file, state = tmp_path / "echo.yaml", tmp_path / "state"
    file.write_text(ECHO)
    ports = ("--port", "0", "--data-port", "0", "--state", str(state))
    async with running("up", str(file), *ports) as site:
        line = await site.said("everything runs")
        told = await site.said(str(state))
        assert told == f"{state / 'logs'}\n"  # alone, so that no terminal breaks it
        assert any(shown.split()[:1] == ["s1"] for shown in site.lines), site.lines
        url = f"mqtt://127.0.0.1:{port_in(line)}"
        asked = await dsi_mqtt("infer", "echo", "x", "--broker", url)
        assert (asked.code, json.loads(asked.out)) == (0, unsplit("x"))
        taken = await dsi_mqtt(
            "up", str(file), "--port", port_in(line), "--state", str(state / "b")
        )
        assert taken.code == 6
        assert f"a dsi-mqtt broker is at 127.0.0.1:{port_in(line)} already" in taken.err
        site.interrupt()
        ended = await site.ended()
    assert ended.code == 0
    assert "Traceback" not in ended.err
    assert not left_over(str(tmp_path), url)
    logs = {path.stem: path.read_text() for path in (state / "logs").glob("*.log")}
    assert logs.keys() == {"orchestrator", "north", "south"}
    assert not [text for text in logs.values() if "Traceback" in text]


async def test_up_that_is_ended_while_it_starts_was_interrupted(tmp_path: Path) -> None:
    file, state = tmp_path / "echo.yaml", tmp_path / "state"
    file.write_text(ECHO.replace("unit_ms: 1", "load_ms: 600000"))
    ports = ("--port", "0", "--data-port", "0", "--state", str(state))
    async with running("up", str(file), *ports) as site:
        await site.complained("starting the nodes")
        site.interrupt()
        ended = await site.ended()
    assert (ended.code, ended.out) == (130, "")
    assert "Traceback" not in ended.err
    assert not left_over(str(tmp_path))


@pytest.mark.slow
async def test_the_example_of_a_model_of_ones_own(tmp_path: Path) -> None:
    file = EXAMPLES / "07_own_model.yaml"
    command = file.read_text().partition("dsi-mqtt infer ")[2].splitlines()[0]
    ports = ("--port", "0", "--data-port", "0", "--state", str(tmp_path))
    async with running("up", str(file), *ports) as site:
        url = f"mqtt://127.0.0.1:{port_in(await site.said('everything runs'))}"
        asked = await dsi_mqtt("infer", *shlex.split(command), "--broker", url)
        site.interrupt()
        ended = await site.ended()
    assert (asked.code, json.loads(asked.out)) == (0, {"hz": 2.0, "amplitude": 9.95})
    assert [shown.split()[2] for shown in site.lines if " 0:2 " in shown or " 2:5 " in shown] == [
        "pier",
        "office",
    ]
    assert ended.code == 0


async def test_up_runs_on_the_nodes_of_another_file(tmp_path: Path) -> None:
    file, nodes = tmp_path / "echo.yaml", tmp_path / "nodes.yaml"
    file.write_text(ECHO)
    nodes.write_text(
        "schema: dsi.nodes/1\nnodes: [{id: one, memory_mib: 9, link: {rtt_ms: 4}}, {id: two}]\n"
    )
    ports = ("--port", "0", "--data-port", "0", "--state", str(tmp_path / "state"))
    async with running("up", str(file), "--nodes", str(nodes), *ports) as site:
        await site.said("everything runs")
        site.interrupt()
        ended = await site.ended()
    assert ended.code == 0
    assert "note: nodes.link has no effect yet" in ended.err
    logs = {path.stem for path in (tmp_path / "state" / "logs").glob("*.log")}
    assert logs == {"orchestrator", "one", "two"}


async def test_up_goes_on_where_it_ended_unless_it_is_to_begin_fresh(tmp_path: Path) -> None:
    one_node = ECHO.partition("nodes: [")[0] + "nodes: [{id: one}]"
    file, state = tmp_path / "echo.yaml", tmp_path / "state"
    arguments = ("up", str(file), "--port", "0", "--data-port", "0", "--state", str(state))

    async def told(text: str, *more: str) -> str:
        """What a run of the file says besides its output."""
        file.write_text(text)
        async with running(*arguments, *more) as site:
            await site.said("everything runs")
            site.interrupt()
            ended = await site.ended()
        assert ended.code == 0
        return ended.err

    assert "note:" not in await told(one_node)
    renamed = one_node.replace("name: echo", "name: other")
    assert "note: echo is still deployed from an earlier run; --fresh" in await told(renamed)
    assert "note:" not in await told(
        one_node.replace("weight_mib: 1", "weight_mib: 0.5"), "--fresh"
    )
    assert "note: echo replaces the one that was deployed: model.options" in await told(one_node)


async def test_broker_worker_and_orchestrator_by_hand_until_ctrl_c(tmp_path: Path) -> None:
    """As on several machines; the worker outlives its broker and ends while it is away."""
    ports = ("--port", "0", "--data-port", "0", "--state", str(tmp_path / "state"))
    async with running("broker", *ports) as broker:
        url = f"mqtt://127.0.0.1:{port_in(await broker.said('control and inputs'))}"
        assert (await broker.said("state")).split() == ["state", str(tmp_path / "state")]
        await broker.said("Ctrl-C ends it")
        where = ("--broker", url)
        async with (
            running("worker", "--name", "one", *where) as worker,
            running("orchestrator", *where) as orchestrator,
        ):
            await worker.said("node one in zone edge")
            await orchestrator.said("orchestrator at 127.0.0.1")
            topics = Topics()
            async with asyncio.timeout(PATIENCE_S), control_connection(url) as connection:
                await watch(connection, topics, lambda p: bool(p.live_nodes()), marker(topics))
            file = tmp_path / "echo.yaml"
            file.write_text(ECHO.partition("---")[0])
            deployed = await dsi_mqtt("deploy", str(file), *where)
            assert deployed.code == 0, deployed
            assert deployed.out.splitlines()[0].strip() == "echo serves"
            orchestrator.interrupt()
            assert (await orchestrator.ended()).code == 0
            broker.interrupt()
            assert (await broker.ended()).code == 0
            assert worker.pid in psutil.pids()
            worker.interrupt()
            ended = await worker.ended()
    assert ended.code == 0
    assert "Traceback" not in ended.err
    assert not left_over(str(tmp_path), url)


async def test_a_worker_says_goodbye(calm_site: LiveSite) -> None:
    async with running(
        "worker", "--name", "guest", "--root", "test/guest", "--broker", calm_site.url
    ) as worker:
        await worker.said("Ctrl-C ends it")
        worker.interrupt()
        assert (await worker.ended()).code == 0
    topics = Topics("test/guest")
    async with calm_site.connection() as connection:
        found = await read_retained(connection, [topics.status.filter()], "test/guest/marker")
    states = [topics.status.payload.decode(message.payload).state for message in found]
    assert states in ([], ["offline"])


async def test_status_in_a_terminal_until_ctrl_c(calm_site: LiveSite) -> None:
    async with in_terminal("status", "--broker", calm_site.url) as terminal:
        await terminal.shows("city-spare")
        terminal.type("\x03")
        assert await terminal.ended() == 0
    assert "hazards: " in terminal.shown
    assert "Traceback" not in terminal.shown


async def test_status_in_a_terminal_waits_for_its_broker() -> None:
    async with MosquittoProcess(control_settings()) as broker:
        async with in_terminal("status", "--broker", broker.url) as terminal:
            await terminal.shows("no node is online")
            await broker.kill()
            await terminal.shows("waits for the broker")
            await broker.start()
            async with control_connection(broker.url) as connection:
                await publish_spec(connection, Topics(), deployment("since"))
            await terminal.shows("since: waits for an orchestrator")
            terminal.type("\x03")
            assert await terminal.ended() == 0
        assert "Traceback" not in terminal.shown


async def test_status_fits_a_terminal_of_80_columns(calm_site: LiveSite) -> None:
    shown = await dsi_mqtt("status", "--once", "--broker", calm_site.url)
    assert shown.code == 0
    assert max(len(line.rstrip()) for line in shown.out.splitlines()) <= 80
    for text in ("hazards: serving", "door on city", "city-spare", "online, spare", "0:2"):
        assert text in shown.out


async def test_status_for_programs_is_one_object(calm_site: LiveSite) -> None:
    shown = await dsi_mqtt("status", "--json", "--broker", calm_site.url)
    assert (shown.code, shown.err) == (0, "")
    document = json.loads(shown.out)
    assert document["schema"] == "dsi.status/1"
    assert {node["node"] for node in document["nodes"]} == document["telemetry"].keys()
    assert document["deployments"]["hazards"]["serve"]["state"] == "serving"


async def test_the_doctor_for_programs_is_one_object(calm_site: LiveSite) -> None:
    assert calm_site.site.brokers is not None
    urls = ("--broker", calm_site.url, "--data-broker", calm_site.site.brokers.data.url)
    told = await dsi_mqtt("doctor", "--json", *urls)
    document = json.loads(told.out)
    assert document["schema"] == "dsi.doctor/1"
    assert document["healthy"] is (told.code == 0)
    assert "Traceback" not in told.err


async def test_infer_prints_a_value_a_line(calm_site: LiveSite, tmp_path: Path) -> None:
    file = tmp_path / "report.txt"
    file.write_text("from a file")
    where = ("--broker", calm_site.url)
    mixed = await dsi_mqtt(
        "infer", "hazards", "one", "-", "--file", str(file), *where, stdin="two\n\nthree\n"
    )
    texts = ["one", "two", "", "three", "from a file"]  # an empty line is an input, too
    assert (mixed.code, mixed.err) == (0, "")
    assert [json.loads(line) for line in mixed.out.splitlines()] == [unsplit(t) for t in texts]

    values = await dsi_mqtt(
        "infer", "hazards", "--parse", "7", '["a", "b"]', '{"raise": 2}', *where
    )
    assert values.code == 8
    results = [json.loads(line) for line in values.out.splitlines()]
    assert results[:2] == [unsplit(7), unsplit(["a", "b"])]
    assert results[2]["error"]["code"] == "model_failed"
    assert values.err == "dsi-mqtt: 1 of 3 inputs have no result; their lines say why\n"

    (tmp_path / "README.md").write_text("from a file")
    (tmp_path / "README").write_text("from a file")
    for taken_for, name in (("text/markdown", "README.md"), ("application/octet-stream", "README")):
        asked = ("infer", "hazards", "--file", str(tmp_path / name), *where)
        untold = await dsi_mqtt(*asked)
        assert (untold.code, untold.out) == (8, "")
        assert f"{taken_for!r} is not read here" in untold.err
        assert untold.err.endswith("; give --content-type TYPE\n")
        told = await dsi_mqtt(*asked, "--content-type", "text/plain")
        assert json.loads(told.out) == unsplit("from a file")

    alone = await dsi_mqtt("infer", "hazards", "--parse", '{"raise": 2}', *where)
    assert (alone.code, alone.out) == (8, "")
    assert alone.err.startswith("dsi-mqtt: the model raised")
    assert len(alone.err.splitlines()) == 1


async def test_a_mosquitto_that_wants_a_password(tmp_path: Path) -> None:
    async with MosquittoProcess(control_settings()) as former:
        port = former.port
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous false\nlog_type all\n")
    process = await asyncio.create_subprocess_exec(
        str(find_mosquitto()), "-c", str(config), stderr=asyncio.subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            while b"running" not in await process.stderr.readline():
                pass
        where = ("--broker", f"mqtt://127.0.0.1:{port}")
        for command in (("status", "--once"), ("worker",), ("infer", "x", "y")):
            ended = await dsi_mqtt(*command, *where)
            assert (ended.code, ended.out) == (7, "")
            assert ended.err == (
                f"dsi-mqtt: broker 127.0.0.1:{port} refuses the connection: not authorized\n"
            )
    finally:
        process.terminate()
        await process.communicate()


async def test_a_broker_that_says_nothing() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:  # nobody accepts
        port = silent.getsockname()[1]
        where = ("--broker", f"mqtt://127.0.0.1:{port}")
        ends = await asyncio.gather(
            dsi_mqtt("status", "--once", *where), dsi_mqtt("infer", "x", "y", *where)
        )
    for ended in ends:
        assert (ended.code, ended.out) == (7, "")
        assert f"no MQTT broker answers at 127.0.0.1:{port} (it timed out)" in ended.err
