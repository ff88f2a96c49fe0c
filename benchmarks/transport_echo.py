"""Echo over a broker of its own: what the two kinds of connection cost, on both event loops.

    python benchmarks/transport_echo.py [--repeats 5] [--json]

Ping publishes at QoS 0, pong publishes the same back, ping waits for it before the next: one
payload outstanding, large ones in chunks. A figure is half of the round trip in µs, the median
of the repeats' medians; repeats of the variants alternate. See METHODOLOGY.md for what such a
figure depends on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from typing import Final, NamedTuple

from dsi_mqtt.transport.base import Connection, ConnectOptions, Message
from dsi_mqtt.transport.loop import run
from dsi_mqtt.transport.mosquitto import MosquittoProcess, data_settings
from dsi_mqtt.transport.mqtt import MqttTransport

KIB: Final = 1024
MIB: Final = 1024 * 1024
WARM_UP: Final = 0.1  # of the round trips, thrown away


class Case(NamedTuple):
    nbytes: int
    chunk_bytes: int
    round_trips: int


class Variant(NamedTuple):
    kind: str  # control, data
    loop: str  # asyncio, uvloop


CASES: Final = (
    Case(KIB, MIB, 2000),
    Case(64 * KIB, MIB, 1000),
    Case(MIB, 128 * KIB, 200),
    Case(MIB, 256 * KIB, 200),
    Case(MIB, 512 * KIB, 200),
    Case(MIB, MIB, 100),
    Case(8 * MIB, 128 * KIB, 30),
    Case(8 * MIB, 256 * KIB, 30),
    Case(8 * MIB, 512 * KIB, 30),
)
VARIANTS: Final = tuple(
    Variant(kind, loop) for kind in ("control", "data") for loop in ("asyncio", "uvloop")
)


async def connect(kind: str, url: str) -> Connection:
    transport, options = MqttTransport(), ConnectOptions()
    return await (
        transport.control(url, options) if kind == "control" else transport.data(url, options)
    )


async def pong(kind: str, url: str) -> None:
    connection = await connect(kind, url)
    await connection.subscribe("ping")
    print("ready", flush=True)
    async for message in connection.messages():
        if not message.payload:
            break
        await connection.publish(Message("pong", message.payload))
    await connection.close()


async def ping(kind: str, url: str) -> None:
    """Prints the median of each case, in µs, as a list."""
    connection = await connect(kind, url)
    await connection.subscribe("pong")
    medians = [await measured(connection, case) for case in CASES]
    await connection.publish(Message("ping"))
    await connection.close()
    print(json.dumps(medians))


async def measured(connection: Connection, case: Case) -> float:
    whole = memoryview(bytes(range(256)) * (case.nbytes // 256))
    chunks = [
        Message("ping", whole[start : start + case.chunk_bytes])
        for start in range(0, case.nbytes, case.chunk_bytes)
    ]
    samples: list[float] = []
    for _ in range(case.round_trips):
        began = time.perf_counter()
        for chunk in chunks:
            await connection.publish(chunk)
        for _ in chunks:
            await anext(connection.messages())
        samples.append((time.perf_counter() - began) / 2 * 1e6)
    return statistics.median(samples[int(WARM_UP * len(samples)) :])


def measure(variant: Variant, url: str) -> list[float]:
    this = [sys.executable, __file__, "--url", url, "--kind", variant.kind, "--loop", variant.loop]
    ask_pong, ask_ping = [*this, "--role", "pong"], [*this, "--role", "ping"]
    with subprocess.Popen(ask_pong, stdout=subprocess.PIPE, text=True) as echo:  # noqa: S603 - us
        if echo.stdout is None or echo.stdout.readline().strip() != "ready":
            raise SystemExit("pong did not start")
        answer = subprocess.run(ask_ping, stdout=subprocess.PIPE, check=True)  # noqa: S603 - us
    medians: list[float] = json.loads(answer.stdout)
    return medians


async def measure_all(repeats: int) -> dict[Variant, list[list[float]]]:
    results: dict[Variant, list[list[float]]] = {variant: [] for variant in VARIANTS}
    async with MosquittoProcess(replace(data_settings(), max_packet_size=16 * MIB)) as broker:
        for _ in range(repeats):
            for variant in VARIANTS:
                results[variant].append(measure(variant, broker.url))
    return results


def table(results: dict[Variant, list[list[float]]]) -> str:
    heads = [f"{v.kind}, {v.loop}" for v in VARIANTS]
    lines = ["| payload, chunk | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    for index, case in enumerate(CASES):
        cells = []
        for variant in VARIANTS:
            medians = [repeat[index] for repeat in results[variant]]
            cells.append(
                f"{statistics.median(medians):,.0f} ({min(medians):,.0f}-{max(medians):,.0f})"
            )
        chunk = f" in {case.chunk_bytes // KIB} KB" if case.chunk_bytes < case.nbytes else ""
        lines.append(f"| {case.nbytes // KIB} KB{chunk} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--role", choices=["all", "ping", "pong"], default="all")
    parser.add_argument("--kind", choices=["control", "data"], default="data")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="uvloop")
    parser.add_argument("--url", default="")
    asked = parser.parse_args()
    if asked.role != "all":
        role = ping if asked.role == "ping" else pong
        (run if asked.loop == "uvloop" else asyncio.run)(role(asked.kind, asked.url))
        return
    results = asyncio.run(measure_all(asked.repeats))
    if asked.json:
        rows = [
            {**variant._asdict(), **case._asdict(), "medians_us": [r[index] for r in repeats]}
            for variant, repeats in results.items()
            for index, case in enumerate(CASES)
        ]
        print(json.dumps({"machine": platform.platform(), "rows": rows}))
    else:
        print(table(results))


if __name__ == "__main__":
    main()
