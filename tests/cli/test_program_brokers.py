"""What a person sees where the broker is away, refuses, or has something else to say."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import closing
from pathlib import Path

import pytest

from dsi_mqtt import __version__
from dsi_mqtt.cli.common import control_connection
from dsi_mqtt.cli.up import run_folder
from dsi_mqtt.transport.base import Message
from dsi_mqtt.wire.topics import Topics
from tests.cli.running import DEPLOYMENT, Ended, Run, answering


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"], ["status", "--json"], ["explain"], ["worker"], ["orchestrator"], ["drain", "x"],
        ["undeploy", "x"], ["infer", "x", "y"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_no_broker(run: Run, nowhere: str, arguments: list[str]) -> None:
    ended = run(*arguments, "--broker", nowhere)
    assert ended.code == 7
    host = nowhere.removeprefix("mqtt://")
    assert ended.sentence() == (
        f"no MQTT broker answers at {host} (Connection refused); start it or correct its URL"
    )


@pytest.mark.parametrize("command", ["up", "deploy"])
def test_no_broker_for_a_file(run: Run, nowhere: str, command: str, tmp_path: Path) -> None:
    file = tmp_path / "echo.yaml"
    file.write_text(DEPLOYMENT)
    ended = run(command, file, "--broker", nowhere)
    assert ended.code == 7
    assert "no MQTT broker answers" in ended.sentence()


@pytest.mark.parametrize("arguments", [["status"], ["infer", "x", "y"]], ids=" ".join)
@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("20 03 00 86 00", "refuses the connection: bad user name or password"),
        ("20 03 00 87 00", "refuses the connection: not authorized"),
        ("20 03 00 84 00", "refuses the connection: unsupported protocol version"),
        ("20 02 00 01", "broker"),
    ],
    ids=["password", "rights", "version", "MQTT 3.1.1"],
)
def test_a_broker_that_refuses(run: Run, arguments: list[str], answer: str, sentence: str) -> None:
    with answering(bytes.fromhex(answer)) as url:
        ended = run(*arguments, "--broker", url)
    assert ended.code == 7
    assert sentence in ended.sentence()


def test_a_port_in_use(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "echo.yaml"
    file.write_text(DEPLOYMENT)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        in_use = f"port {port} on 127.0.0.1 is in use by another program"
        for command in (["broker"], ["up", file]):
            where = ("--state", tmp_path / "state")
            first = run(*command, "--port", port, "--data-port", 0, *where)
            second = run(*command, "--port", 0, "--data-port", port, *where)
            assert first.code == second.code == 6
            assert first.sentence() == f"{in_use}; end it or choose another --port"
            assert second.sentence() == f"{in_use}; end it or choose another --data-port"


def test_an_address_that_is_not_this_machines(run: Run, tmp_path: Path) -> None:
    where = ("--port", 0, "--data-port", 0, "--state", tmp_path / "state")
    ended = run("broker", "--bind", "192.0.2.7", "--open-to-network", *where)
    assert ended.code == 3
    assert ended.sentence().startswith(
        "broker control: bind 192.0.2.7 is no address of this machine"
    )


def test_an_address_that_anybody_reaches_names_the_option(run: Run, tmp_path: Path) -> None:
    where = ("--port", 0, "--data-port", 0, "--state", tmp_path / "state")
    ended = run("broker", "--bind", "0.0.0.0", *where)
    assert ended.code == 3
    assert ended.sentence().endswith("or give --open-to-network in a network of your own")


def test_only_brokers_of_ones_own_begin_fresh(run: Run, nowhere: str, tmp_path: Path) -> None:
    file = tmp_path / "echo.yaml"
    file.write_text(DEPLOYMENT)
    ended = run("up", file, "--fresh", "--broker", nowhere)
    assert ended.code == 3
    assert ended.sentence().startswith("--fresh: only brokers that `up` starts can forget")


def test_runs_of_each_file_and_port_keep_their_own_state(tmp_path: Path) -> None:
    files = [tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "deeper" / "a.yaml"]
    folders = {run_folder(file, port) for file in files for port in (1883, 1993)}
    assert len(folders) == 6
    assert run_folder(tmp_path / "deeper" / ".." / "a.yaml", 1883) in folders


def test_no_mosquitto(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsi_mqtt.transport.mosquitto.shutil.which", lambda *_, **__: None)
    ended = run("broker")
    assert ended.code == 6
    assert "apt-get install mosquitto" in ended.sentence()


def test_unknown_names(run: Run, control_broker: str) -> None:
    for arguments, sentence in (
        (["infer", "nothing", "x"], "deployment 'nothing' does not exist on this broker"),
        (["undeploy", "nothing"], "there is no deployment 'nothing'"),
        (["drain", "nobody"], "node: there is no node 'nobody'"),
    ):
        ended = run(*arguments, "--broker", control_broker, "--root", "test/unknown/names")
        assert ended.code == 3
        assert ended.sentence().startswith(sentence)


def test_up_with_a_password_in_the_url_starts_nothing(run: Run, tmp_path: Path) -> None:
    file, state = tmp_path / "echo.yaml", tmp_path / "state"
    file.write_text(DEPLOYMENT)
    ended = run("up", file, "--broker", "mqtt://u:secret@h", "--state", state)
    assert ended.code == 3
    assert ended.sentence().startswith("the broker URL holds a user name or password")
    assert not state.exists()


@pytest.mark.parametrize(
    "payload", [b"rubbish", b'{"data_port": "many"}', b'{"data_port": 0}', b'{"data_port": 70000}']
)
def test_a_site_that_does_not_say_where_tensors_go(
    run: Run, control_broker: str, payload: bytes
) -> None:
    topics = Topics("test/rubbish/site")

    async def retain(content: bytes) -> None:
        async with control_connection(control_broker) as connection:
            await connection.publish(Message(topics.site.name(), content, qos=1, retain=True))

    asyncio.run(retain(payload))
    ended = run("worker", "--broker", control_broker, "--root", topics.root)
    asyncio.run(retain(b""))
    assert ended.code == 3
    said = ended.sentence()
    address = control_broker.removeprefix("mqtt://")
    assert said.startswith(f"test/rubbish/site/broker/site at {address} does not say where tensors")
    assert "data_port" in said or "JSON" in said
    assert said.endswith("start `dsi-mqtt broker` again, or give --data-broker")


def test_deploying_where_nobody_orchestrates(run: Run, control_broker: str, tmp_path: Path) -> None:
    file = tmp_path / "echo.yaml"
    file.write_text(DEPLOYMENT)
    where = ("--broker", control_broker, "--root", "test/nobody/orchestrates")
    ended = run("deploy", file, "--timeout", 0.3, *where)
    assert ended.code == 5
    assert "is `dsi-mqtt orchestrator` running?" in ended.sentence()
    assert run("deploy", file, "--no-wait", *where).code == 0
    gone = run("undeploy", "echo", "--timeout", 0.3, *where)
    assert gone == Ended(0, "echo is removed\n", "")


def test_deploying_over_another_says_what_changes(
    run: Run, control_broker: str, tmp_path: Path
) -> None:
    file = tmp_path / "echo.yaml"
    file.write_text(DEPLOYMENT)
    where = ("--no-wait", "--broker", control_broker, "--root", "test/deployed/twice")
    assert run("deploy", file, *where) == Ended(0, "", "")
    again = run("deploy", file, *where)
    same = "note: echo is deployed like this already; nothing changes\n"
    assert again == Ended(0, "", same)
    file.write_text(DEPLOYMENT + "sla: {deadline_ms: 500}\npolicy: {forbid: [old]}\n")
    other = run("deploy", file, *where)
    assert (other.code, other.out) == (0, "")
    assert other.err == (
        "note: echo replaces the one that was deployed: "
        "sla.deadline_ms none → 500.0, policy.forbid [] → [old]\n"
    )


def test_a_model_that_answers_in_one_pass_is_not_asked_for_text(
    run: Run, control_broker: str, tmp_path: Path
) -> None:
    file = tmp_path / "echo.yaml"
    file.write_text(DEPLOYMENT)
    where = ("--broker", control_broker, "--root", "test/no/text")
    assert run("deploy", file, "--no-wait", *where).code == 0
    ended = run("generate", "echo", "x", *where)
    assert ended.code == 3
    assert ended.sentence() == "echo is one-pass, it generates no text; use `dsi-mqtt infer`"


def test_status_of_an_empty_broker(run: Run, control_broker: str) -> None:
    where = ("--broker", control_broker, "--root", "test/empty")
    ended = run("status", "--json", *where)
    assert (ended.code, ended.err) == (0, "")
    document = json.loads(ended.out)
    assert document["schema"] == "dsi.status/1"
    assert document["command"] == "status"
    assert document["version"] == __version__
    assert (document["leader"], document["nodes"], document["deployments"]) == (None, [], {})
    shown = run("status", "--once", *where)
    assert (shown.code, shown.err) == (0, "")
    assert "no orchestrator leads" in shown.out
    assert "no node is online" in shown.out
