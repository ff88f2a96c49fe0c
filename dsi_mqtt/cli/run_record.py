"""What every machine-readable output says of the run that made it."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import psutil


def run_record(command: str, *, seed: int | None = None) -> dict[str, Any]:
    """`version, command, seed, started_at, host`. Call it when the run starts.

    host.memory_bytes: all of this machine's; host.torch: None where it is not installed.
    """
    return {
        "version": metadata.version("dsi-mqtt"),
        "command": command,
        "seed": seed,
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
            "python": platform.python_version(),
            "torch": _torch(),
        },
    }


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as lines:  # noqa: PTH123 - the kernel's, read line by line
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() == "model name":
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _torch() -> str | None:
    # Asked of the installer's records: importing torch takes seconds.
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None
