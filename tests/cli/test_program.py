"""What a person sees when something is wrong: one sentence, a documented exit code, no traceback.

The program runs within the test's process; `tests/e2e/test_commands.py` runs it as one of its own.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dsi_mqtt import __version__, errors
from dsi_mqtt.cli import INTERRUPTED
from dsi_mqtt.cli import program as program_module
from dsi_mqtt.errors import DsiError
from tests.cli.running import DEPLOYMENT, Ended, Run

DOCS = Path(__file__).parents[2] / "docs"


def test_exit_codes_are_those_documented() -> None:
    operations = (DOCS / "operations.md").read_text()
    table = operations.partition("## Exit codes")[2].partition("\n## ")[0]
    documented = [int(code) for code in re.findall(r"^\| (\d+) \| \S", table, re.MULTILINE)]
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    raised = {kind.exit_code for kind in kinds if issubclass(kind, DsiError)}
    ends = {0, 2, program_module.FAULT, INTERRUPTED}  # no error, or none of ours
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
        (["infer", "x", "--parse", "{"], "inputs: --parse was given, but input 1 is no JSON"),
        (["infer", "x", "--file", "/no/such.jpg"], "/no/such.jpg: cannot be read"),
        (["infer", "x", "--parse", "[" * 100_000], "inputs: --parse was given, but input 1"),
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


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("model: {tier: layer, path: ./none}\n", "model.path: "),
        ("model: {tier: fake}\nfallback: {model: ./tiny}\n", "fallback.model: "),
    ],
)
def test_up_starts_nothing_where_a_model_is_missing(
    run: Run, tmp_path: Path, more: str, sentence: str
) -> None:
    file = tmp_path / "echo.yaml"
    file.write_text(f"schema: dsi.deployment/1\nname: echo\n{more}")
    ended = run("up", file, "--port", 0)
    assert ended.code in (3, 4)
    assert ended.sentence().startswith(sentence)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("command", [["broker"], ["up"]])
def test_a_state_that_cannot_be_a_folder(run: Run, tmp_path: Path, command: list[str]) -> None:
    file = tmp_path / "echo.yaml"
    file.write_text(DEPLOYMENT)
    given = [file] if command == ["up"] else []
    ended = run(*command, *given, "--port", 0, "--state", file / "below")
    assert ended.code == 3
    assert ended.sentence().startswith("--state: ")


def test_no_port_is_behind_the_last(run: Run) -> None:
    ended = run("broker", "--port", 65535)
    assert ended.code == 3
    assert ended.sentence() == "--data-port: there is none behind 65535; give one"


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
        (OSError(errno.ENOSPC, "No space left on device"), 6, "no space is left where something"),
        (
            ExceptionGroup("tasks", [OSError(errno.EMFILE, "Too many open files", "/x/log")]),
            6,
            "/x/log: this process may not open as many files as it needs; raise the limit: ulimit",
        ),
        (MemoryError(), 6, "this machine has not as much memory as this takes"),
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


def test_advice_is_a_line_of_its_own(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        error = errors.InfeasibleError("chat serves nothing now: " + "why " * 60)
        error.add_note("deploy the former file again")
        raise error

    monkeypatch.setattr(program_module, "app", fail)
    sentence, note = run().err.splitlines()
    assert sentence.startswith("dsi-mqtt: chat serves nothing now: why why")
    assert note == "note: deploy the former file again"


def test_an_interrupt_and_a_reader_that_left_say_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(program_module, "app", interrupted)
    assert run() == Ended(130, "", "")


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_a_reader_that_left_is_no_fault(argument: str) -> None:
    """As of `dsi-mqtt … | head`: typer ends a program with 1 for that, and Python with 120."""
    reads, writes = os.pipe()
    os.close(reads)
    ended = subprocess.run(
        [sys.executable, "-m", "dsi_mqtt.cli", argument],
        stdout=writes,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writes)
    assert (ended.returncode, ended.stderr) == (0, b"")
