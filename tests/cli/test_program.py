"""What a person sees when something is wrong: one sentence, a documented exit code, no traceback.

The program runs within the test's process; `tests/e2e/test_commands.py` runs it as one of its own.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dsi_mqtt import __version__, errors
from dsi_mqtt.cli import program as program_module
from dsi_mqtt.cli.common import control_connection
from dsi_mqtt.cli.program import program
from dsi_mqtt.cli.up import run_folder
from dsi_mqtt.errors import MESSAGE_MAX, DsiError
from dsi_mqtt.transport.base import Message
from dsi_mqtt.wire.topics import Topics

DOCS = Path(__file__).parents[2] / "docs"
DEPLOYMENT = """
schema: dsi.deployment/1
name: echo
model: {tier: fake}
"""


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: str
    err: str

    def sentence(self) -> str:
        """The one line on standard error."""
        assert self.out == ""
        assert "Traceback" not in self.err
        (line,) = self.err.splitlines()
        begin = "dsi-mqtt: "
        assert line.startswith(begin)
        assert len(line) - len(begin) <= MESSAGE_MAX
        return line.removeprefix(begin)


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["dsi-mqtt", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            program()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def nowhere() -> Iterator[str]:
    """An address at which nothing answers: bound, so that nobody else takes it, and not heard."""
    with closing(socket.socket()) as unheard:
        unheard.bind(("127.0.0.1", 0))
        yield f"mqtt://127.0.0.1:{unheard.getsockname()[1]}"


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A broker that answers every CONNECT with `answer` and hangs up."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_exit_codes_are_those_documented() -> None:
    operations = (DOCS / "operations.md").read_text()
    table = operations.partition("## Exit codes")[2].partition("\n## ")[0]
    documented = [int(code) for code in re.findall(r"^\| (\d+) \| \S", table, re.MULTILINE)]
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    raised = {kind.exit_code for kind in kinds if issubclass(kind, DsiError)}
    ends = {0, 2, program_module.FAULT, program_module.INTERRUPTED}  # no error, or none of ours
    assert documented == sorted(raised | ends)


def test_the_version(run: Run) -> None:
    assert run("--version") == Ended(0, f"{__version__}\n", "")


@pytest.mark.parametrize("group", [(), ("bench",)])
def test_nothing_asked_for_shows_the_help(run: Run, group: tuple[str, ...]) -> None:
    ended = run(*group)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("Usage: dsi-mqtt")


def test_summaries_are_not_cut_at_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    summaries = run("--help").out.partition("Commands:")[2]
    assert summaries.count("\n") > 10
    assert "..." not in summaries


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["fly"], "No such command 'fly'; see `dsi-mqtt --help`"),
        (["status", "--onse"], "No such option: --onse"),
        (["infer"], "Missing argument 'name'; see `dsi-mqtt infer --help`"),
        (["worker", "--threads", "0"], "Invalid value for '--threads'"),
        (["broker", "--port", "70000"], "Invalid value for '--port'"),
        (["up", "x.yaml", "--data-port", "-1"], "Invalid value for '--data-port'"),
        (["demo", "--inputs", "none"], "Invalid value for '--inputs'"),
        (["x" * 300], "No such command"),
    ],
)
def test_a_wrong_command_line(run: Run, arguments: list[str], sentence: str) -> None:
    ended = run(*arguments)
    assert ended.code == 2
    assert ended.sentence().startswith(sentence)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["up", "/no/such.yaml"], "/no/such.yaml: no such file"),
        (["deploy", "/no/such.yaml"], "/no/such.yaml: no such file"),
        (["deploy", "/"], "/: cannot be read"),
        (["infer", "x"], "inputs: nothing to send"),
        (["infer", "x", "--parse", "{"], "inputs: --parse was given, but this is no JSON"),
        (["infer", "x", "--file", "/no/such.jpg"], "/no/such.jpg: cannot be read"),
        (["infer", "a b", "x"], "name: 'a b' is no name"),
        (["undeploy", "a/b"], "name: 'a/b' is no name"),
        (["drain", "+"], "node: '+' is no name"),
        (["worker", "--name", "a b"], "--name: 'a b' is no name"),
        (["worker", "--zone", ""], "--zone: '' is no name"),
        (["worker", "--memory-cap", "much"], "--memory-cap: 'much' is no size"),
        (["worker", "--memory-cap", "0"], "--memory-cap: '0' is no size"),
        (["demo", "--memory-cap", "nan"], "--memory-cap: 'nan' is no size"),
        (["demo", "--kill", "town"], "--kill: 'town' is no gateway"),
        (["status", "--broker", "somewhere"], "broker URL 'somewhere' does not begin with mqtt://"),
        (["infer", "x", "y", "--broker", "http://here"], "broker URL 'http://here'"),
        (["worker", "--broker", "mqtt://127.0.0.1:x"], "broker URL 'mqtt://127.0.0.1:x'"),
        (["status", "--broker", "mqtt://u:secret@h"], "the broker URL holds a user name or pass"),
        (["worker", "--broker", "mqtt://u:secret@h"], "the broker URL holds a user name or pass"),
        (["worker", "--data-broker", "mqtt://u@h"], "the broker URL holds a user name or pass"),
        (["orchestrator", "--broker", "u:secret@h"], "the broker URL holds a user name or pass"),
        (["infer", "x", "y", "--broker", "mqtt://u:secret@h"], "the broker URL holds a user name"),
        (["doctor", "--broker", "mqtt://u:secret@h"], "the broker URL holds a user name or pass"),
        (["status", "--root", "a/#"], "topic root 'a/#' must be plain levels"),
        (["generate", "a b", "x"], "name: 'a b' is no name"),
        (["gateway", "--bind", "here"], "--bind: 'here' is no IP address"),
        (["gateway", "--bind", "0.0.0.0"], "--bind 0.0.0.0 would let anybody in"),
        (["gateway", "--keys", "/no/such"], "/no/such: cannot be read"),
        (["broker", "--bind", "here"], "broker control: bind 'here' is no IP address"),
        (["broker", "--bind", "0.0.0.0"], "broker control: bind 0.0.0.0 would let anybody in"),
    ],
)
def test_a_wrong_file_option_or_name(run: Run, arguments: list[str], sentence: str) -> None:
    ended = run(*arguments)
    assert ended.code == 3
    assert ended.sentence().startswith(sentence)
    assert "secret" not in ended.err


@pytest.mark.parametrize("command", ["up", "deploy"])
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ("a: [", "not valid YAML in line"),
        ("just text", "expected fields like `name: …`"),
        (DEPLOYMENT.replace("/1", "/9"), "schema: 'dsi.deployment/9' is not supported"),
        (DEPLOYMENT.replace("name: echo", "nmae: echo"), "nmae: is no field here"),
        (DEPLOYMENT + "generation: {context: 9}\n", "generation: has no effect without kind"),
        (DEPLOYMENT + "sla: {deadline_ms: -1}\n", "sla.deadline_ms: -1.0 must be greater than 0"),
        (DEPLOYMENT.replace("fake", "layer"), "model.path: is missing"),
        (f"{DEPLOYMENT}---{DEPLOYMENT}", "two deployments have the same name"),
        ("schema: dsi.nodes/1\nnodes: []\n", "holds no deployment"),
    ],
)
def test_a_broken_deployment_file(
    run: Run, tmp_path: Path, command: str, text: str, sentence: str
) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    ended = run(command, file)
    assert ended.code == 3
    assert "broken.yaml" in ended.sentence()
    assert sentence in ended.sentence()


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"], ["status", "--json"], ["worker"], ["orchestrator"], ["drain", "x"],
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


def test_check_shows_the_units(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "echo.yaml"
    file.write_text(DEPLOYMENT)
    ended = run("deploy", file, "--check")
    assert (ended.code, ended.err) == (0, "")
    assert re.search(r"^0 +prelude +1\.00 MiB +64 B", ended.out, re.MULTILINE)
    assert ended.out.endswith("echo can be deployed\n")


@pytest.mark.parametrize(
    ("rule", "code", "sentence"),
    [
        ('privacy: {units: {"0:9": [city]}}', 3, "0:9"),
        ('policy: {pin: {"7:8": city}}', 3, "7:8"),
        ("model: {tier: fake, options: {refuse: a second tensor crosses}}", 4, "a second tensor"),
        ("model: {tier: fake, options: {untis: 3}}", 3, "model.options has unknown untis"),
        ("model: {tier: layer, path: ./nothing}", 4, "nothing"),
    ],
)
def test_check_refuses(run: Run, tmp_path: Path, rule: str, code: int, sentence: str) -> None:
    file = tmp_path / "echo.yaml"
    model = "" if rule.startswith("model") else "model: {tier: fake}\n"
    file.write_text(f"schema: dsi.deployment/1\nname: echo\n{model}{rule}\n")
    ended = run("deploy", file, "--check")
    assert ended.code == code
    assert sentence in ended.sentence()


def test_check_names_a_tensor_that_is_missing(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    config = {"model_type": "bert", "architectures": ["BertModel"], "vocab_size": 9,
              "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1,
              "intermediate_size": 4, "max_position_embeddings": 64}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    weights = {"embeddings.word_embeddings.weight": np.zeros((9, 4), np.float32)}
    save_file(weights, folder / "model.safetensors")
    file = tmp_path / "echo.yaml"
    file.write_text(DEPLOYMENT.replace("tier: fake", "path: ./model, tier: layer"))
    ended = run("deploy", file, "--check")
    assert ended.code == 4
    assert re.search(r"misses|missing|lacks", ended.sentence())
    assert "embeddings." in ended.sentence()


FACTORY = """
import torch
from torch import nn

def build(seed=None):
    if seed is not None:
        torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
"""


def test_check_refuses_weights_of_chance(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "own_by_chance.py").write_text(FACTORY)
    file = tmp_path / "echo.yaml"
    own = "tier: sequential, factory: 'own_by_chance:build'"
    file.write_text(DEPLOYMENT.replace("tier: fake", own))
    ended = run("deploy", file, "--check")
    assert ended.code == 4
    assert ended.sentence().startswith(
        "model.factory own_by_chance:build makes other weights at each call"
    )
    assert "torch.manual_seed" in ended.sentence()
    assert "model.path" in ended.sentence()
    file.write_text(DEPLOYMENT.replace("tier: fake", f"{own}, options: {{seed: 7}}"))
    seeded = run("deploy", file, "--check")
    assert (seeded.code, seeded.err) == (0, "")
    assert seeded.out.endswith("echo can be deployed\n")


@pytest.mark.parametrize(
    ("raised", "code", "sentence"),
    [
        (
            ZeroDivisionError("by zero"),
            70,
            "this should not happen (-v shows where): ZeroDivisionError: by zero",
        ),
        (ExceptionGroup("tasks", [errors.MachineError("no room; make some")]), 6, "no room"),
        (
            RuntimeError("long " * 100),
            70,
            "this should not happen (-v shows where): RuntimeError: long",
        ),
    ],
)
def test_whatever_is_raised_is_one_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch, raised: Exception, code: int, sentence: str
) -> None:
    def fail(**_: object) -> None:
        raise raised

    monkeypatch.setattr(program_module, "app", fail)
    ended = run()
    assert ended.code == code
    assert ended.sentence().startswith(sentence)


def test_an_interrupt_and_a_reader_that_left_say_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(program_module, "app", interrupted)
    assert run() == Ended(130, "", "")
