"""The run behind `dsi-mqtt bench hop`: ours and the C baseline in turn, over one broker.

Both sides are a pair of programs with one command line: `pong` says "ready" and echoes, `ping`
prints its samples as JSON. benchmarks/METHODOLOGY.md says what is equal and what is not.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from dsi_mqtt.cli import bench_hop_echo
from dsi_mqtt.cli.bench_hop_baseline import NAME
from dsi_mqtt.cli.bench_hop_echo import PING, PONG, READY
from dsi_mqtt.cli.bench_statistics import Ratio, Spread, ratio, spread
from dsi_mqtt.cli.child import check_ended, program
from dsi_mqtt.core.sizes import KIB, MIB
from dsi_mqtt.errors import DsiError
from dsi_mqtt.transport.mosquitto import MosquittoProcess, data_settings

SCHEMA: Final = "dsi.bench.hop/1"
SIZES: Final = (KIB, 16 * KIB, 64 * KIB, MIB, 8 * MIB)
REPEATS: Final = 5

_MESSAGES_MAX: Final = 2000
_MESSAGES_MIN: Final = 30
_BYTES_A_REPEAT: Final = 128 * MIB
_WARMUP_SHARE: Final = 10
# What topic and properties add to a message at most.
_PACKET_EXTRA: Final = 4 * KIB
_REPEAT_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class HopPlan:
    """What is measured.

    messages: of a repeat, beside its warm-up; None lets each size have a number of its own.
    """

    sizes: tuple[int, ...] = SIZES
    repeats: int = REPEATS
    messages: int | None = None
    qos: int = 0

    def messages_of(self, nbytes: int) -> int:
        if self.messages is not None:
            return self.messages
        return max(_MESSAGES_MIN, min(_MESSAGES_MAX, _BYTES_A_REPEAT // nbytes))

    @property
    def steps(self) -> int:
        """Pairs of repeats, ours and the baseline's."""
        return len(self.sizes) * self.repeats


@dataclass(slots=True)
class HopRow:
    """Half round trips of one size in µs, a list for each repeat; neighbours share an index."""

    nbytes: int
    messages: int
    ours: list[list[float]] = field(default_factory=list)
    baseline: list[list[float]] = field(default_factory=list)

    @property
    def ratio(self) -> Ratio:
        return ratio(self.ours, self.baseline)

    @property
    def ours_us(self) -> Spread:
        return spread(self.ours)

    @property
    def baseline_us(self) -> Spread:
        return spread(self.baseline)


@dataclass(slots=True)
class HopReport:
    broker_version: str
    baseline_version: str
    rows: list[HopRow]


async def measure(
    plan: HopPlan, baseline: Path, *, progressed: Callable[[HopRow], None]
) -> HopReport:
    """Runs all of `plan`; `progressed` is called after each pair of repeats.

    Raises DsiError: an echo was not what was sent or stayed away; MachineError: no broker.
    """
    ours = (sys.executable, "-m", bench_hop_echo.__name__)
    settings = data_settings()
    largest = max(plan.sizes) + _PACKET_EXTRA  # the baseline sends each as one message
    settings = replace(settings, max_packet_size=max(settings.max_packet_size, largest))
    report = HopReport("", "", [])
    async with MosquittoProcess(settings) as broker:
        report.broker_version = broker.version
        for nbytes in plan.sizes:
            row = HopRow(nbytes, plan.messages_of(nbytes))
            report.rows.append(row)
            for _ in range(plan.repeats):
                told = _arguments(broker.port, plan.qos, row)
                row.ours.append((await _echo("ours", ours, told))["samples_us"])
                answer = await _echo(NAME, (str(baseline),), told)
                row.baseline.append(answer["samples_us"])
                report.baseline_version = answer["version"]
                progressed(row)
    return report


def _arguments(port: int, qos: int, row: HopRow) -> tuple[str, ...]:
    given = {
        "port": port,
        "qos": qos,
        "bytes": row.nbytes,
        "messages": row.messages,
        "warmup": max(1, row.messages // _WARMUP_SHARE),
    }
    return (
        "--samples",
        *(part for name, value in given.items() for part in (f"--{name}", str(value))),
    )


async def _echo(side: str, command: tuple[str, ...], told: tuple[str, ...]) -> dict[str, Any]:
    """What ping prints, while a pong of the same program answers it."""
    try:
        async with (
            asyncio.timeout(_REPEAT_TIMEOUT_S),
            program(*command, PONG, *told) as pong,
        ):
            await _until_ready(side, pong)
            async with program(*command, PING, *told) as ping:
                output, complaint = await ping.communicate()
                check_ended(f"bench hop: {side}", ping, complaint)
            _, complaint = await pong.communicate()
            check_ended(f"bench hop: {side}", pong, complaint)
    except TimeoutError:
        raise DsiError(
            f"bench hop: {side} did not finish a repeat in {_REPEAT_TIMEOUT_S:.0f} s; "
            "is this machine overloaded?"
        ) from None
    answer: dict[str, Any] = json.loads(output)
    return answer


async def _until_ready(side: str, pong: Process) -> None:
    if pong.stdout is None:
        raise RuntimeError("pong has no output to read")
    if (await pong.stdout.readline()).decode().strip() != READY:
        _, complaint = await pong.communicate()
        check_ended(f"bench hop: {side}", pong, complaint)
        raise DsiError(f"bench hop: {side} ended before it was ready")


def document(record: dict[str, Any], plan: HopPlan, report: HopReport | None) -> dict[str, Any]:
    """The JSON object; without a report it says that there was no baseline."""
    return {
        "schema": SCHEMA,
        **record,
        "qos": plan.qos,
        "credits": True,
        "checksum": "xxh3_64",
        "pattern": "echo_half_round_trip",
        "broker": None
        if report is None
        else {"name": "mosquitto", "version": report.broker_version},
        "baseline": {
            "name": NAME,
            "version": None if report is None else report.baseline_version,
            "available": report is not None,
        },
        "rows": [] if report is None else [_row(row) for row in report.rows],
    }


def _row(row: HopRow) -> dict[str, Any]:
    found = row.ratio
    return {
        "bytes": row.nbytes,
        "messages": row.messages,
        "repeats": len(row.ours),
        "ours_us": _rounded(row.ours_us),
        "baseline_us": _rounded(row.baseline_us),
        "ratio": round(found.median, 3),
        "ratio_min": round(found.least, 3),
        "ratio_max": round(found.most, 3),
    }


def _rounded(found: Spread) -> dict[str, float]:
    return {name: round(value, 1) for name, value in asdict(found).items()}
