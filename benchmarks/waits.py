"""What the forecast of waits is worth: beside queues that are played through.

    python benchmarks/waits.py

Chains of 2 to 8 stations with constant service of 0.1 to 1 s, arrivals at random. For each load
of the busiest station: the forecast 95th percentile of latency over the played one, less one.
"""

from __future__ import annotations

import argparse
import heapq
import random
from statistics import median

from dsi_mqtt.core.queueing import waiting_s

SHARE = 0.95


def played_s(route: list[int], services: list[float], rate: float, requests: int) -> float:
    """The percentile of latency. route: the station of each service in turn."""
    draw, now = random.Random(1), 0.0  # noqa: S311 - of a simulation
    waiting: list[tuple[float, int, int, float]] = []
    for number in range(requests):
        now += draw.expovariate(rate)
        waiting.append((now, number, 0, now))
    free = dict.fromkeys(route, 0.0)
    latencies = []
    while waiting:
        at, number, stage, came = heapq.heappop(waiting)
        if stage == len(route):
            latencies.append(at - came)
            continue
        station = route[stage]
        free[station] = max(at, free[station]) + services[stage]
        heapq.heappush(waiting, (free[station], number, stage + 1, came))
    return sorted(latencies)[int(SHARE * requests)]


def error(route: list[int], services: list[float], load: float, requests: int) -> float:
    demands = dict.fromkeys(route, 0.0)
    for station, service in zip(route, services, strict=True):
        demands[station] += service
    busiest = max(demands.values())
    forecast = sum(services) + waiting_s(load / busiest, busiest, SHARE)
    return forecast / played_s(route, services, load / busiest, requests) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chains", type=int, default=12)
    parser.add_argument("--requests", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=5)
    asked = parser.parse_args()
    draw = random.Random(asked.seed)  # noqa: S311 - of a simulation
    print("load | each station once: largest | first and last on one node: median, least, most")
    for load in (0.3, 0.6, 0.8, 0.9):
        once, twice = [], []
        for _ in range(asked.chains):
            services = [draw.uniform(0.1, 1.0) for _ in range(draw.randint(2, 8))]
            route = list(range(len(services)))
            once.append(error(route, services, load, asked.requests))
            twice.append(error([*route[:-1], 0], services, load, asked.requests))
        told = (max(map(abs, once)), median(twice), min(twice), max(twice))
        print(f"{load:4} | {told[0]:6.1%} | {told[1]:+6.1%} {told[2]:+6.1%} {told[3]:+6.1%}")


if __name__ == "__main__":
    main()
