"""Gathers what this machine is and has; changes nothing."""

from __future__ import annotations

import ctypes
import socket
import time
from importlib import metadata
from typing import Final

import psutil

from dsi_mqtt.core.checkup import MachineFacts, PortHolder
from dsi_mqtt.errors import MachineError
from dsi_mqtt.transport.mosquitto import find_mosquitto, mosquitto_version

PACKAGES: Final = (
    "aiomqtt",
    "mqtt5",
    "msgspec",
    "numpy",
    "paho-mqtt",
    "psutil",
    "pydantic",
    "PyYAML",
    "xxhash",
    "uvloop",
    "torch",
    "transformers",
)
# adjtimex(2): with no mode set it only reads; its result is the clock's state.
_TIMEX_BYTES: Final = 512
_TIME_ERROR: Final = 5


def machine_facts() -> MachineFacts:
    return MachineFacts(
        memory_available=psutil.virtual_memory().available,
        clock_unix_s=time.time(),
        clock_synchronised=_clock_synchronised(),
        packages={name: _version(name) for name in PACKAGES},
        mosquitto=_mosquitto(),
    )


def is_local(host: str) -> bool:
    """Whether a host name is this machine's. False when it cannot be resolved."""
    own = {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(str(entry[4][0]) in own for entry in found)


def port_holder(port: int) -> PortHolder | None:
    """Who listens on a TCP port of this machine, whatever the address; None: nobody."""
    for connection in psutil.net_connections(kind="tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr[1:2] == (port,):
            return PortHolder(_process_name(connection.pid), connection.pid)
    return None


def _process_name(pid: int | None) -> str:
    try:
        return "another user's program" if pid is None else str(psutil.Process(pid).name())
    except psutil.Error:
        return "a program that has just ended"


def _clock_synchronised() -> bool | None:
    try:
        state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _mosquitto() -> str | None:
    try:
        return mosquitto_version(find_mosquitto())
    except MachineError:
        return None
