"""`scripts/setup` where things are missing: what it asks apt for, and what it says where it cannot.

It runs whole, in a copy of the checkout's skeleton, and sees only commands that a test gives it:
those of the shell it is written in, and stand-ins that record how they were called.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
DAEMONS = "/usr/sbin:/usr/local/sbin"
SYSTEMD = "/run/systemd/system"
SHELL = ("bash", "cat", "dirname", "env", "mktemp", "rm", "tail", "true")

# Answers for every command of a stand-in: a name that `fails` names ends with 1.
STAND_IN = """#!/bin/bash
echo "${0##*/} $*" >>"$CALLS"
case " $FAILS " in *" ${0##*/} $1 "* | *" ${0##*/} "*) echo "E: ${0##*/} says no"; exit 1 ;; esac
[ "${0##*/}" != id ] || echo "$USER_ID"
[ "${0##*/}" != sudo ] || { while [[ $1 == -* ]]; do shift; done; exec "$@"; }
if [ "${0##*/} $*" = "python3 -m venv --clear .venv" ]; then
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python
fi
if [[ $1 == -c && $2 == *ensurepip* && -n $NO_VENV ]]; then exit 1; fi
[[ $1 != -c || $2 != *python3-venv* ]] || echo python3-venv
"""


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: str
    err: str
    calls: list[str]

    def of(self, command: str) -> list[str]:
        """How `command` was called."""
        begin = f"{command} "
        return [call.removeprefix(begin) for call in self.calls if call.startswith(begin)]

    def installed(self) -> list[str]:
        """The packages asked of apt, a line each time."""
        asked = [call for call in self.of("apt-get") if " install " in call]
        return [call.rpartition("--no-install-recommends ")[2] for call in asked]


class Machine:
    """A machine with a Python and nothing else. `has` more commands; `lacks` apt, or rights."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "bin"
        self._path.mkdir()
        self.checkout = folder / "checkout"
        (self.checkout / "scripts").mkdir(parents=True)
        script = (CHECKOUT / "scripts" / "setup").read_text()
        for place, instead in ((DAEMONS, folder / "sbin"), (SYSTEMD, folder / "systemd")):
            assert script.count(place) == 1
            script = script.replace(place, str(instead))
        (self.checkout / "scripts" / "setup").write_text(script)
        for command in (*SHELL, "mkdir", "cp"):
            found = shutil.which(command)
            assert found is not None
            (self._path / command).symlink_to(found)
        self.has("python3", "apt-get", "id")

    def has(self, *commands: str) -> None:
        for command in commands:
            (self._path / command).write_text(STAND_IN)
            (self._path / command).chmod(0o755)

    def lacks(self, command: str) -> None:
        (self._path / command).unlink()

    def setup(
        self, *, user: int = 0, fails: tuple[str, ...] = (), venv: bool = True, **more: str
    ) -> Ended:
        calls = self._folder / "calls"
        calls.write_text("")
        environment = {
            "PATH": str(self._path),
            "CALLS": str(calls),
            "USER_ID": str(user),
            "FAILS": " ".join(fails),
            "NO_VENV": "" if venv else "yes",
            **more,
        }
        ended = subprocess.run(
            [self._path / "bash", self.checkout / "scripts" / "setup"],
            env=environment, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        return Ended(ended.returncode, ended.stdout, ended.stderr, calls.read_text().splitlines())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


EVERYTHING = ["mosquitto", "mosquitto-clients", "gcc libc6-dev libmosquitto-dev"]


def test_on_a_bare_machine_apt_is_asked_for_all_of_it_without_a_question(machine: Machine) -> None:
    ended = machine.setup()
    assert (ended.code, ended.err) == (0, "")
    assert ended.installed() == EVERYTHING
    assert all(" install -y --no-install-recommends " in call for call in ended.of("apt-get"))
    assert (machine.checkout / ".venv" / "bin" / "python").exists()
    ours, model = ended.of("python")
    assert "--constraint constraints.txt --editable .[node,gateway,evaluate,dev]" in ours
    assert "--require-hashes --requirement requirements/demo-model.txt" in model


def test_where_all_is_there_apt_is_not_touched(machine: Machine) -> None:
    machine.has("mosquitto", "mosquitto_rr", "cc")
    ended = machine.setup()
    assert (ended.code, ended.err) == (0, "")
    assert ended.of("apt-get") == []
    lines = ended.out.splitlines()
    assert len(lines) == 6
    for begins, ends in zip(lines[::2], lines[1::2], strict=True):  # each is named when it begins
        assert begins.endswith(" …")
        assert ends.startswith(f"{begins.removesuffix(' …')}: done in ")


def test_a_mosquitto_outside_the_path_is_found(machine: Machine, tmp_path: Path) -> None:
    machine.has("mosquitto_rr", "cc", "mosquitto")
    (tmp_path / "sbin").mkdir()
    shutil.move(tmp_path / "bin" / "mosquitto", tmp_path / "sbin" / "mosquitto")
    assert machine.setup().of("apt-get") == []


def test_the_service_that_comes_with_mosquitto_leaves_its_port_to_us(
    machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "systemd").mkdir()
    machine.has("systemctl")
    assert machine.setup().of("systemctl") == ["disable --now mosquitto"]
    machine.has("mosquitto")  # somebody's own: it is left alone
    assert machine.setup().of("systemctl") == []


def test_old_lists_of_packages_are_fetched_and_the_install_tried_again(machine: Machine) -> None:
    machine.has("mosquitto_rr", "cc")
    ended = machine.setup(fails=("apt-get",))
    asked = [call.split()[2] for call in ended.of("apt-get")]
    assert ended.code == 1
    assert asked == ["install", "update"]
    assert "E: apt-get says no" in ended.err
    last = ended.err.splitlines()[-1]
    assert last == (
        "setup: system packages mosquitto: failed, see above; "
        "run make setup again when that is mended"
    )


def test_with_sudo_that_asks_nothing_an_ordinary_user_installs(machine: Machine) -> None:
    machine.has("sudo")
    ended = machine.setup(user=1000)
    assert (ended.code, ended.err) == (0, "")
    assert ended.installed() == EVERYTHING
    assert all(call.startswith("-n ") for call in ended.of("sudo"))


@pytest.mark.parametrize("why", ["no apt", "no sudo", "sudo wants a password"])
def test_where_apt_is_impossible_one_sentence_says_what_to_install(
    machine: Machine, why: str
) -> None:
    if why == "no apt":
        machine.lacks("apt-get")
    if why == "sudo wants a password":
        machine.has("sudo")
    ended = machine.setup(user=1000, fails=("sudo",), venv=False)
    assert ended.code == 1
    assert ended.err == (
        "setup: missing: mosquitto python3-venv; install first "
        "(Debian, Ubuntu: sudo apt-get install mosquitto python3-venv)\n"
    )
    assert ended.of("apt-get") == []
    assert not (machine.checkout / ".venv").exists()


def test_what_the_demo_does_without_is_only_noted(machine: Machine) -> None:
    machine.has("mosquitto")
    machine.lacks("apt-get")
    ended = machine.setup()
    assert (ended.code, ended.err) == (0, "")
    notes = [line for line in ended.out.splitlines() if "note" in line]
    assert notes == [
        "setup: note: without mosquitto-clients there is no mosquitto_pub for examples and tests",
        "setup: note: without gcc libc6-dev libmosquitto-dev there is no C baseline for benchmarks",
    ]


def test_without_a_python_that_is_new_enough_it_says_how_to_name_one(machine: Machine) -> None:
    ended = machine.setup(fails=("python3",))
    assert ended.code == 1
    assert ended.err.startswith(
        "setup: no Python 3.11 or later; install it, or name it: make setup"
    )


def test_an_index_for_torch_reaches_pip(machine: Machine) -> None:
    machine.has("mosquitto", "mosquitto_rr", "cc")
    ended = machine.setup(TORCH_INDEX="https://example.org/cpu")
    with_index = [call for call in ended.of("python") if "--extra-index-url" in call]
    assert len(with_index) == 1
    assert "--extra-index-url https://example.org/cpu --constraint constraints.txt" in with_index[0]
