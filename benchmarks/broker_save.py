"""What saving at every change costs: time to a PUBACK against what the broker has stored.

A control broker keeps inputs for a door that is away; meanwhile another client publishes small
retained messages, one at a time, and waits for each PUBACK. Figures: broker/README.md.

    .venv/bin/python benchmarks/broker_save.py [MIB ...]
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from dataclasses import replace

from aiomqtt import Client

from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.transport.mosquitto import MosquittoProcess, control_settings

INPUT_BYTES = MIB // 8
SAMPLES = 100


async def leave_a_session(port: int) -> None:
    """A durable MQTT session that subscribes to all inputs and goes away."""
    async with Client("127.0.0.1", port, identifier="door", clean_session=False) as door:
        await door.subscribe("in/#", qos=1)


async def puback_ms(stored_mib: int) -> list[float]:
    settings = replace(control_settings(), max_queued_bytes=1024 * MIB)
    async with MosquittoProcess(settings) as broker:
        await leave_a_session(broker.port)
        async with Client("127.0.0.1", broker.port) as client:
            for _ in range(stored_mib * MIB // INPUT_BYTES):
                await client.publish("in/device", os.urandom(INPUT_BYTES), qos=1, timeout=60)
            samples = []
            for _ in range(SAMPLES):
                start = time.perf_counter()
                await client.publish("status", bytes(1000), qos=1, retain=True, timeout=60)
                samples.append(1000 * (time.perf_counter() - start))
            return sorted(samples)


async def main(sizes: list[int]) -> None:
    for stored_mib in sizes:
        samples = await puback_ms(stored_mib)
        median, p99 = statistics.median(samples), samples[round(0.99 * len(samples)) - 1]
        print(f"{stored_mib:4d} MiB stored: PUBACK median {median:.1f} ms, p99 {p99:.1f} ms")


if __name__ == "__main__":
    asyncio.run(main([int(size) for size in sys.argv[1:]] or [0, 1, 8, 32]))
