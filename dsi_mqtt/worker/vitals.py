"""What a node measures of itself: hardware once, load all the time."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import numpy as np
import psutil
from threadpoolctl import threadpool_limits

from dsi_mqtt.core.node import Capabilities
from dsi_mqtt.core.sizes import GIB, KIB, MIB

MEMORY_SHARE: Final = 0.7
_SIDE: Final = 256
_TRIES: Final = 40


def measure_capabilities(threads: int, weight_cap: int | None) -> Capabilities:
    """Takes about a tenth of a second.

    weight_cap: bytes of weights this node may hold; None takes a share of the free memory.
    """
    memory = psutil.virtual_memory()
    cap = weight_cap if weight_cap is not None else int(memory.available * MEMORY_SHARE)
    return Capabilities(
        cores=os.cpu_count() or 1,
        threads=threads,
        weight_bytes=cap,
        memory_bytes=memory.total,
        gflops=_gflops(threads),
        memory_gib_s=_memory_gib_s(),
        machine=platform.machine(),
        versions={
            "python": platform.python_version(),
            "dsi-mqtt": _version("dsi-mqtt"),
            "torch": _version("torch"),
            "transformers": _version("transformers"),
        },
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _gflops(threads: int) -> float:
    """Of a float32 matrix product on `threads`, the best of many: what disturbs it, such as other
    nodes that start on the same machine, only makes it slower.
    """
    a = np.ones((_SIDE, _SIDE), np.float32)
    with threadpool_limits(threads):
        seconds = min(_timed(lambda: a @ a) for _ in range(_TRIES))
    return float(2 * _SIDE**3 / seconds / 1e9)


def _memory_gib_s() -> float:
    data = np.zeros(16 * MIB // 4, np.float32)
    seconds = min(_timed(data.sum) for _ in range(_TRIES))
    return float(data.nbytes / seconds / GIB)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return max(time.perf_counter() - started, 1e-9)


class Vitals:
    """Load of this process and machine."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        psutil.cpu_percent()

    def cpu(self) -> float:
        """Share of all cores in use since the last call, 0 to 1."""
        return float(psutil.cpu_percent()) / 100

    def rss_bytes(self) -> int:
        return int(self._process.memory_info().rss)

    def memory_free_bytes(self) -> int:
        return int(psutil.virtual_memory().available)


def peak_rss_bytes() -> int:
    """The most memory this process ever held (VmHWM)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * KIB
