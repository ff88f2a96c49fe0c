"""What a shaped link is worth: its rate and its round trip, beside what it was told.

    python benchmarks/shaping.py

For each rate and round trip: the median of 50 small messages there and back over the echo of a
server on this machine, and what 3 s of bytes up take, over what they should.
"""

from __future__ import annotations

import asyncio
import time
from statistics import median

from dsi_mqtt.shaping.link import ShapedLink
from dsi_mqtt.sim.links import Figures
from dsi_mqtt.transport.address import parse_broker_url
from dsi_mqtt.transport.loop import run

SMALL = b"?" * 50
SECONDS = 3


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echoes small messages; tells the end of what is larger."""
    while True:
        first = await reader.read(1)
        if first == SMALL[:1]:
            writer.write(first + await reader.readexactly(len(SMALL) - 1))
        elif first:
            await reader.readuntil(b"!")
            writer.write(b"!")
        else:
            break
    writer.close()


async def measure(url: str, figures: Figures) -> tuple[float, float]:
    """Round trip in ms, and the rate over what it was told."""
    async with ShapedLink(figures) as link:
        address = parse_broker_url(await link.to(url))
        reader, writer = await asyncio.open_connection(*address)
        trips = []
        for _ in range(50):
            started = time.perf_counter()
            writer.write(SMALL)
            await reader.readexactly(len(SMALL))
            trips.append((time.perf_counter() - started) * 1e3)
        rtt_ms = median(trips)
        started = time.perf_counter()
        writer.write(bytes(int(figures.up_mbit_s * 1e6 / 8 * SECONDS)) + b"!")
        await reader.readexactly(1)
        took = time.perf_counter() - started - rtt_ms / 1e3
        writer.close()
        await writer.wait_closed()
    return rtt_ms, SECONDS / took


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 28)
    url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    print("Mbit/s | rtt, ms | measured rtt, ms | measured rate, of that told")
    for mbit_s in (1, 10, 100):
        for rtt_ms in (2, 10, 50):
            found, rate = await measure(url, Figures(mbit_s, mbit_s, rtt_ms))
            print(f"{mbit_s:6} | {rtt_ms:7} | {found:16.2f} | {rate:.3f}")
    server.close()


if __name__ == "__main__":
    run(main())
