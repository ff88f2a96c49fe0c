"""A Mosquitto of one's own, as a child process that cannot outlive its parent."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, Self

import psutil

from dsi_mqtt.errors import ConfigError, MachineError, PortInUseError
from dsi_mqtt.transport.broker_settings import (
    BrokerSettings,
    control_settings,
    data_settings,
    render,
)

if TYPE_CHECKING:
    from types import TracebackType

__all__ = [
    "BrokerSettings",
    "MosquittoProcess",
    "control_settings",
    "data_settings",
    "find_mosquitto",
    "mosquitto_version",
    "render",
]

# Mosquitto's own name for it, in the folder of its persistence.
_DATABASE: Final = "mosquitto.db"

# Where distributions put a daemon that an ordinary user's PATH does not name.
_SYSTEM_FOLDERS: Final = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/sbin")

# Runs before Mosquitto in the same process: the kernel is asked to kill it when the thread that
# started it ends, however that happens. Done here and not in a `preexec_fn`, which may deadlock
# in a program with threads. The check of the parent closes the gap before the request.
_LAUNCHER: Final = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the program that started this broker has ended")
os.execv(sys.argv[2], sys.argv[2:])
"""

# An MQTT 5 CONNECT with clean start, keep-alive 5 s, no properties and no client id; DISCONNECT.
_CONNECT: Final = bytes.fromhex("10 0d 0004 4d515454 05 02 0005 00 0000")
_DISCONNECT: Final = bytes.fromhex("e0 00")
_CONNACK: Final = 0x20

_START_TIMEOUT_S: Final = 10.0
_STOP_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.01
# A port found free may be taken by another program before Mosquitto listens on it.
_FREE_PORT_ATTEMPTS: Final = 5


def find_mosquitto() -> Path:
    """The broker's program. Raises MachineError when there is none."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS))
    found = shutil.which("mosquitto", path=path)
    if found is None:
        raise MachineError(
            "the broker program `mosquitto` is missing; install it: apt-get install mosquitto"
        )
    return Path(found)


def mosquitto_version(program: Path) -> str:
    """For example "2.0.11". Raises MachineError when the program does not say."""
    # `-h` is the one question every version answers; its exit status differs between them.
    answer = subprocess.run(  # noqa: S603 - a program of this machine, given by the caller
        [program, "-h"], capture_output=True, text=True, check=False, timeout=_START_TIMEOUT_S
    )
    match = re.search(r"mosquitto version (\S+)", answer.stdout + answer.stderr)
    if match is None:
        raise MachineError(f"{program} does not answer like Mosquitto; reinstall it")
    return match[1]


class _PortTakenError(Exception):
    """Somebody else listens where this broker should."""


class MosquittoProcess:
    """A running Mosquitto, as an async context manager.

    The broker ends with the thread that called `start`, even when that thread is killed: start
    it from the event loop's own thread. Its port stays the same from the first start on.

    settings: `user` and the place of the database are filled in.
    folder: for configuration, database and log; a temporary one when None, removed by `stop`.
    port_option: the option a person would change when the port is in use, named in that error.
    fresh: whether the database of earlier runs is removed before the first start.

    Raises from `start` MachineError: no Mosquitto, port in use, settings that it refuses; and
    ConfigError: an address to listen on that this machine does not have.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        folder: Path | None = None,
        port_option: str = "port",
        fresh: bool = False,
    ) -> None:
        self._settings = settings
        self._temporary = folder is None
        self._folder = folder
        self._port_option = port_option
        self._fresh = fresh
        self._process: subprocess.Popen[bytes] | None = None
        self._version = ""
        self._log_start = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def settings(self) -> BrokerSettings:
        """As running: with the port that was taken."""
        return self._settings

    @property
    def url(self) -> str:
        return self._settings.url

    @property
    def port(self) -> int:
        """0 before the first start on a free port."""
        return self._settings.port

    @property
    def version(self) -> str:
        """Empty before the first start."""
        return self._version

    @property
    def pid(self) -> int | None:
        """None while it does not run."""
        if self._process is None or self._process.poll() is not None:
            return None
        return self._process.pid

    def log(self) -> str:
        """What the broker has written since its first start; empty after `stop`."""
        path = self._folder and self._folder / "mosquitto.log"
        return path.read_text(errors="replace") if path and path.exists() else ""

    async def start(self) -> None:
        """Returns when the broker has accepted a client. While it runs, does nothing."""
        if self.pid is not None:
            return
        program = find_mosquitto()
        self._version = mosquitto_version(program)
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="dsi-broker-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            await self._start_somewhere(program, self._folder)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Ends the broker cleanly: it saves its state and publishes every will."""
        await self._end(signal.SIGTERM)
        if self._temporary and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    async def kill(self) -> None:
        """Ends the broker as a crash would: nothing more is saved, no will is published."""
        await self._end(signal.SIGKILL)

    async def restart(self) -> None:
        """A clean end and a new start, on the same port with the same database."""
        await self._end(signal.SIGTERM)
        await self.start()

    async def _start_somewhere(self, program: Path, folder: Path) -> None:
        wanted, bind = self._settings.port, self._settings.bind
        _check_bind(self._settings)
        for port in [wanted] if wanted else [_free_port(bind) for _ in range(_FREE_PORT_ATTEMPTS)]:
            with contextlib.suppress(_PortTakenError):
                await self._start_on(port, program, folder)
                return
        if wanted:
            raise PortInUseError(
                f"port {wanted} on {bind} is in use by another program; end it or choose another "
                f"{self._port_option}"
            )
        raise MachineError(
            f"no port on {bind} stays free long enough for the broker; set {self._port_option}"
        )

    async def _start_on(self, port: int, program: Path, folder: Path) -> None:
        # Root's broker stays root: a change of user would also cancel the request to be killed.
        user = "root" if os.geteuid() == 0 else None
        settings = replace(self._settings, port=port, user=user)
        if settings.persistence and settings.persistence_location is None:
            settings = replace(settings, persistence_location=folder)
        if not _can_listen(settings.bind, port):
            raise _PortTakenError
        if self._fresh:  # not before the port is free: another broker may run on that database
            self._fresh = False
            (settings.persistence_location or folder).joinpath(_DATABASE).unlink(missing_ok=True)
        config = folder / "mosquitto.conf"
        config.write_text(render(settings))
        self._log_start = len(self.log())
        with (folder / "mosquitto.log").open("ab") as log:
            self._process = _launch(program, config, log.fileno())
        await self._until_ready(self._process, settings)
        self._settings = settings

    async def _until_ready(
        self, process: subprocess.Popen[bytes], settings: BrokerSettings
    ) -> None:
        """Waits until this very process listens, and until it answers a CONNECT."""
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                while not _listens(process.pid, settings.port):
                    if process.poll() is not None:
                        self._raise_refusal(process, settings)
                    await asyncio.sleep(_POLL_S)
                await _greet(settings.reachable_host, settings.port)
        except (TimeoutError, OSError) as error:
            raise MachineError(
                f"mosquitto {self._version} on port {settings.port} gave no answer in "
                f"{_START_TIMEOUT_S:.0f} s ({str(error) or 'timeout'}); is this machine overloaded?"
            ) from error

    def _raise_refusal(
        self, process: subprocess.Popen[bytes], settings: BrokerSettings
    ) -> NoReturn:
        log = self.log()[self._log_start :]
        if "Address already in use" in log:
            raise _PortTakenError
        # The first complaint has the reason, later ones where it was found.
        complaint = re.search(r"^(?:\d+: )?(.*Error.*|the program.*)$", log, re.MULTILINE)
        reason = complaint[1] if complaint else f"status {process.returncode}"
        raise MachineError(f"mosquitto {self._version} refuses to be {settings.name}: {reason}")

    async def _end(self, request: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(request)
        try:
            await asyncio.to_thread(process.wait, _STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)


def _launch(program: Path, config: Path, log: int) -> subprocess.Popen[bytes]:
    launcher = (sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()))
    # A session of its own: Ctrl-C in a terminal reaches the program that owns the broker, which
    # ends it when it is done with it.
    return subprocess.Popen(  # noqa: S603 - a fixed command
        [*launcher, str(program), "-c", str(config)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def _free_port(bind: str) -> int:
    with socket.socket(_family(bind), socket.SOCK_STREAM) as probe:
        probe.bind((bind, 0))
        port: int = probe.getsockname()[1]
        return port


def _check_bind(settings: BrokerSettings) -> None:
    """Raises ConfigError where the address is none of this machine's."""
    try:
        with socket.socket(_family(settings.bind), socket.SOCK_STREAM) as probe:
            probe.bind((settings.bind, 0))
    except OSError as error:
        own = [a.address for addresses in psutil.net_if_addrs().values() for a in addresses]
        there = ", ".join(address for address in own if _is_plain_ip(address))
        raise ConfigError(
            f"broker {settings.name}: bind {settings.bind} is no address of this machine "
            f"({error.strerror}); it has {there}"
        ) from None


def _is_plain_ip(address: str) -> bool:
    """Whether one can listen there by the address alone: a link-local one needs its interface."""
    try:
        return not ipaddress.ip_address(address).is_link_local
    except ValueError:  # a hardware address
        return False


def _can_listen(bind: str, port: int) -> bool:
    """Whether nobody else does. Raises MachineError where the system forbids this port."""
    with socket.socket(_family(bind), socket.SOCK_STREAM) as probe:
        # As Mosquitto does: connections of an earlier broker in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind, port))
        except PermissionError:
            raise MachineError(
                f"port {port} on {bind} is the system's to give; choose one from 1024 on"
            ) from None
        except OSError:
            return False
        return True


def _family(bind: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in bind else socket.AF_INET


def _listens(pid: int, port: int) -> bool:
    """Whether this process, and no other broker, listens on the port."""
    try:
        connections = psutil.Process(pid).net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)


async def _greet(host: str, port: int) -> None:
    """Connects as a client. Raises OSError when the answer is no CONNACK of success."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(_CONNECT)
        # Fixed header (two bytes: the properties are few), flags, reason.
        answer = await reader.readexactly(4)
        if answer[0] != _CONNACK or answer[3] != 0:
            raise OSError(f"CONNECT was answered {answer.hex()}")
        writer.write(_DISCONNECT)
        await writer.drain()
    except asyncio.IncompleteReadError as error:
        raise OSError("the connection was closed") from error
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
