"""The broker process: a real Mosquitto starts, crashes, comes back and never stays behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import aiomqtt
import psutil
import pytest

from dsi_mqtt.errors import ConfigError, MachineError
from dsi_mqtt.transport import mosquitto as module
from dsi_mqtt.transport.mosquitto import (
    BrokerSettings,
    MosquittoProcess,
    control_settings,
    data_settings,
    find_mosquitto,
    mosquitto_version,
)

StartMosquitto = Callable[[BrokerSettings], Awaitable[MosquittoProcess]]

pytestmark = pytest.mark.e2e


async def publish_retained(broker: MosquittoProcess, payload: bytes) -> None:
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        await client.publish("state", payload, qos=1, retain=True)


async def retained(broker: MosquittoProcess) -> bytes | None:
    """What the broker kept of "state". A marker published after the subscription ends the wait."""
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        await client.subscribe([("state", 0), ("marker", 0)])
        await client.publish("marker", b"")
        async for message in client.messages:
            if message.topic.matches("marker"):
                return None
            assert isinstance(message.payload, bytes)
            return message.payload
    raise AssertionError("the broker closed the connection")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the broker and the kernel have no event for us
            await asyncio.sleep(0.005)


async def test_it_serves_where_its_url_says(mosquitto: StartMosquitto) -> None:
    broker = await mosquitto(data_settings())
    assert broker.url == f"mqtt://127.0.0.1:{broker.port}"
    assert broker.version == mosquitto_version(find_mosquitto())
    assert broker.pid is not None
    assert psutil.Process(broker.pid).name() == "mosquitto"
    await publish_retained(broker, b"here")
    assert await retained(broker) == b"here"


@pytest.mark.parametrize("settings", [control_settings(), data_settings()])
async def test_this_version_accepts_every_directive(
    mosquitto: StartMosquitto, settings: BrokerSettings
) -> None:
    broker = await mosquitto(settings)
    complaints = [line for line in broker.log().splitlines() if "root" not in line]
    assert complaints == []


async def test_control_state_survives_a_crash(mosquitto: StartMosquitto, tmp_path: Path) -> None:
    broker = await mosquitto(control_settings(persistence_location=tmp_path))
    port = broker.port
    await publish_retained(broker, b"epoch 7")
    database = tmp_path / "mosquitto.db"
    await until(lambda: database.exists() and b"epoch 7" in database.read_bytes())

    await broker.kill()
    assert broker.pid is None
    await broker.start()

    assert broker.port == port
    assert await retained(broker) == b"epoch 7"


async def test_data_state_ends_with_the_process(mosquitto: StartMosquitto) -> None:
    broker = await mosquitto(data_settings())
    await publish_retained(broker, b"gone")
    await broker.restart()
    assert await retained(broker) is None


async def test_a_clean_restart_keeps_port_and_state(mosquitto: StartMosquitto) -> None:
    broker = await mosquitto(control_settings())
    before = broker.pid, broker.port
    await publish_retained(broker, b"kept")
    await broker.restart()
    assert broker.port == before[1]
    assert broker.pid != before[0]
    assert await retained(broker) == b"kept"


async def test_starting_twice_starts_one(mosquitto: StartMosquitto) -> None:
    broker = await mosquitto(data_settings())
    pid = broker.pid
    await broker.start()
    assert broker.pid == pid


async def test_stop_leaves_nothing_behind() -> None:
    broker = MosquittoProcess(control_settings())
    await broker.start()
    pid, folder = broker.pid, Path(_option(broker, "-c")).parent
    assert folder.is_dir()
    await broker.stop()
    await broker.stop()
    assert broker.pid is None
    assert pid is not None
    assert not psutil.pid_exists(pid)
    assert not folder.exists()


async def test_a_folder_that_was_given_stays(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "broker"
    async with MosquittoProcess(control_settings(), folder=folder) as broker:
        await publish_retained(broker, b"kept")
    assert (folder / "mosquitto.db").exists()
    async with MosquittoProcess(control_settings(), folder=folder) as broker:
        assert await retained(broker) == b"kept"


async def test_a_port_in_use_names_port_and_option() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        broker = MosquittoProcess(data_settings(port=port), port_option="--data-port")
        with pytest.raises(MachineError, match=rf"port {port} .* choose another --data-port"):
            await broker.start()
        assert broker.pid is None


@pytest.mark.parametrize("bind", ["192.0.2.7", "2001:db8::7"])  # for documentation, nobody's
@pytest.mark.parametrize("port", [0, 1883])
async def test_an_address_of_another_machine_is_no_port_in_use(bind: str, port: int) -> None:
    settings = replace(data_settings(port=port), bind=bind, open_to_network=True)
    with pytest.raises(ConfigError) as refused:
        await MosquittoProcess(settings).start()
    said = str(refused.value)
    assert said.startswith(f"broker data: bind {bind} is no address of this machine")
    assert "127.0.0.1" in said


async def test_a_port_that_the_system_withholds_is_no_port_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_self: socket.socket, address: tuple[str, int]) -> None:
        if address[1]:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(MachineError, match=r"port 80 on 127\.0\.0\.1 is the system's to give"):
        await MosquittoProcess(data_settings(port=80)).start()


async def test_a_fresh_broker_has_forgotten_and_then_remembers(tmp_path: Path) -> None:
    async with MosquittoProcess(control_settings(), folder=tmp_path) as broker:
        await publish_retained(broker, b"old")
    async with MosquittoProcess(control_settings(), folder=tmp_path, fresh=True) as broker:
        assert await retained(broker) is None
        await publish_retained(broker, b"new")
        await broker.restart()
        assert await retained(broker) == b"new"


async def test_a_fresh_broker_that_finds_its_port_in_use_forgets_nothing(tmp_path: Path) -> None:
    async with MosquittoProcess(control_settings(), folder=tmp_path) as broker:
        await publish_retained(broker, b"kept")
        database = tmp_path / "mosquitto.db"
        await until(lambda: database.exists() and b"kept" in database.read_bytes())
        other = MosquittoProcess(control_settings(port=broker.port), folder=tmp_path, fresh=True)
        with pytest.raises(MachineError, match="in use"):
            await other.start()
        assert b"kept" in database.read_bytes()


async def test_another_brokers_answer_is_not_taken_for_its_own(
    mosquitto: StartMosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port is lost between the check and Mosquitto's own attempt to listen."""
    first = await mosquitto(data_settings())
    monkeypatch.setattr(module, "_can_listen", lambda _bind, _port: True)
    with pytest.raises(MachineError, match=f"port {first.port} on 127.0.0.1 is in use"):
        await MosquittoProcess(data_settings(port=first.port)).start()


async def test_a_free_port_that_was_lost_is_replaced(
    mosquitto: StartMosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await mosquitto(data_settings())
    free = module._free_port
    candidates = iter([first.port])
    monkeypatch.setattr(module, "_free_port", lambda bind: next(candidates, None) or free(bind))
    second = await mosquitto(data_settings())
    assert second.port != first.port


async def test_refused_settings_give_the_brokers_reason() -> None:
    broker = MosquittoProcess(replace(data_settings(), max_packet_size=7))
    with pytest.raises(MachineError, match=r"refuses to be data: .*max_packet_size"):
        await broker.start()
    assert broker.pid is None


async def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = """
import asyncio, sys
from pathlib import Path
from dsi_mqtt.transport.mosquitto import MosquittoProcess, data_settings
async def main():
    broker = MosquittoProcess(data_settings(), folder=Path(sys.argv[1]))
    await broker.start()
    print(broker.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
    parent = subprocess.Popen(  # noqa: ASYNC220 - killed below, whatever its loop does
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        broker = psutil.Process(int(parent.stdout.readline()))
        assert broker.name() == "mosquitto"
        parent.kill()
    # The orphan belongs to init: an unreaped zombie is as dead as a vanished process.
    await until(lambda: not broker.is_running() or broker.status() == psutil.STATUS_ZOMBIE)


async def test_ctrl_c_in_the_terminal_does_not_reach_it(mosquitto: StartMosquitto) -> None:
    broker = await mosquitto(data_settings())
    assert broker.pid is not None
    assert os.getpgid(broker.pid) != os.getpgid(0)


async def test_a_stopped_broker_that_does_not_listen_to_reason_is_killed(
    mosquitto: StartMosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STOP_TIMEOUT_S", 0.05)
    broker = await mosquitto(data_settings())
    assert broker.pid is not None
    frozen = psutil.Process(broker.pid)
    frozen.send_signal(signal.SIGSTOP)
    await broker.stop()
    assert not frozen.is_running()


def test_mosquitto_is_found_outside_an_ordinary_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "mosquitto"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(module, "_SYSTEM_FOLDERS", (str(tmp_path),))
    assert find_mosquitto() == program


def test_a_missing_mosquitto_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(module, "_SYSTEM_FOLDERS", ())
    with pytest.raises(MachineError, match="apt-get install mosquitto"):
        find_mosquitto()


def test_another_program_is_not_taken_for_mosquitto() -> None:
    with pytest.raises(MachineError, match="does not answer like Mosquitto"):
        mosquitto_version(Path("/bin/true"))


def _option(broker: MosquittoProcess, name: str) -> str:
    command = psutil.Process(broker.pid).cmdline()
    return command[command.index(name) + 1]
