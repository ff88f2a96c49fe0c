"""The best placement by trying all: every cut, node, codec and door. Its sums are its own."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from dsi_mqtt.cli.bench_planner_cases import Instance
from dsi_mqtt.core.codecs import RAW, Codec
from dsi_mqtt.core.deployment import parse_units
from dsi_mqtt.core.profile import NodeView
from dsi_mqtt.core.queueing import waiting_s

HOP_S, SEGMENT_S = 0.5e-3, 0.3e-3
GIB = 1 << 30


@dataclass(frozen=True)
class Solution:
    """value: the objective. segments: how many; coded: whether a hop is not raw."""

    value: float
    segments: int
    coded: bool


# One segment: first unit, unit behind its last, node, codec by trip of what enters it.
Part = tuple[int, int, NodeView, tuple[Codec, ...]]


def solve(case: Instance) -> Solution | None:
    """The least objective, or None where no placement satisfies everything."""
    best: Solution | None = None
    for parts in _chains(case, 0, []):
        for door in case.nodes:
            if not _may_be_door(case, door):
                continue
            value = _value(case, door, parts)
            if value is not None and (best is None or value < best.value):
                coded = any(codec.name != "raw" for *_, way in parts for codec in way)
                best = Solution(value, len(parts), coded)
    return best


def _chains(case: Instance, start: int, parts: list[Part]) -> Iterator[list[Part]]:
    units = len(case.graph.units)
    if start == units:
        yield parts
        return
    most = case.deployment.policy.max_segments
    if most is not None and len(parts) == most:
        return
    ways = _ways(case) if parts else [tuple(RAW for _ in case.question.trips)]
    for stop in range(start + 1, units + 1):
        for node in case.nodes:
            if parts and parts[-1][2] is node:
                continue
            if not all(_may_compute(case, node, unit) for unit in range(start, stop)):
                continue
            if not _has_room(case, node, [*parts, (start, stop, node, ())]):
                continue
            for way in ways:
                yield from _chains(case, stop, [*parts, (start, stop, node, way)])


def _ways(case: Instance) -> list[tuple[Codec, ...]]:
    ways: list[tuple[Codec, ...]] = [()]
    for _ in case.question.trips:
        ways = [(*way, codec) for way in ways for codec in case.question.codecs]
    return ways


def _zones(case: Instance, unit: int) -> list[tuple[str, ...]]:
    rules = case.deployment.privacy.units.items()
    return [zones for text, zones in rules if unit in parse_units(text, "")]


def _may_compute(case: Instance, node: NodeView, unit: int) -> bool:
    return all(node.zone in zones for zones in _zones(case, unit))


def _may_be_door(case: Instance, node: NodeView) -> bool:
    last = len(case.graph.units) - 1
    return _may_compute(case, node, 0) and _may_compute(case, node, last)


def _has_room(case: Instance, node: NodeView, parts: list[Part]) -> bool:
    units = [u for a, b, other, _ in parts if other is node for u in range(a, b)]
    return sum(case.graph.units[u].weight_bytes for u in units) <= node.weight_bytes


def _value(case: Instance, door: NodeView, parts: list[Part]) -> float | None:
    asked, aim = case.question, case.question.aim
    if asked.error_max is not None:
        error = sum(max(codec.error for codec in way) for *_, way in parts[1:])
        if error > asked.error_max + 1e-12:
            return None
    if asked.exposure_max is not None:
        outside = sum(b - a for a, b, node, _ in parts if not _may_be_door(case, node))
        if outside / len(case.graph.units) > asked.exposure_max + 1e-12:
            return None
    tally = _Tally(case)
    latency = tally.request(door, parts)
    demand = max(tally.busy.values())
    wait = waiting_s(aim.rate_per_s, demand, aim.share) if aim.rate_per_s else 0.0
    if math.isinf(wait):
        return None
    if aim.latency_max_s is not None and latency + wait > aim.latency_max_s + 1e-9:
        return None
    value = aim.latency * (latency + wait) + aim.busiest * demand
    return value + aim.cost * tally.money(door, parts)


class _Tally:
    """Adds up one request, hop by hop. busy: seconds by (station, node)."""

    def __init__(self, case: Instance) -> None:
        self.case = case
        self.busy: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.left: defaultdict[str, float] = defaultdict(float)
        self.computed: defaultdict[str, float] = defaultdict(float)

    def request(self, door: NodeView, parts: list[Part]) -> float:
        graph, trips = self.case.graph, self.case.question.trips
        first = graph.input_bytes * trips[0].rows
        latency = (
            self._arrives(door, first) + HOP_S + self._leaves(door, graph.result_bytes) + HOP_S
        )
        for number, trip in enumerate(trips):
            for _ in range(trip.count):
                at, nbytes, codec = door, graph.input_bytes * trip.rows, RAW
                for start, stop, node, way in parts:
                    codec = way[number] if start else RAW
                    latency += self._hop(at, node, nbytes, codec)
                    seconds = sum(node.seconds(trip.phase, trip.rows)[start:stop])
                    self._work(node, seconds)
                    self.computed[node.node] += seconds
                    self.busy["work", node.node] += SEGMENT_S
                    latency += seconds + SEGMENT_S
                    at, nbytes = node, graph.units[stop - 1].output_bytes * trip.rows
                latency += self._hop(at, door, graph.result_bytes, RAW)
        return latency

    def _hop(self, source: NodeView, target: NodeView, nbytes: float, codec: Codec) -> float:
        if source is target:
            return 0.0
        coded = round(nbytes * codec.bits / 32)
        writes = codec.encode_s * nbytes / GIB * source.codec_pace
        reads = codec.decode_s * nbytes / GIB * target.codec_pace
        self._work(source, writes)
        self._work(target, reads)
        return writes + self._leaves(source, coded) + HOP_S + self._arrives(target, coded) + reads

    def _leaves(self, node: NodeView, nbytes: float) -> float:
        self.left[node.node] += round(nbytes)
        seconds = nbytes * 8 / node.link.up_mbit_s / 1e6
        self.busy["up", node.node] += seconds / (1 - node.taken[1])
        return seconds + node.link.rtt_ms / 2e3

    def _arrives(self, node: NodeView, nbytes: float) -> float:
        seconds = nbytes * 8 / node.link.down_mbit_s / 1e6
        self.busy["down", node.node] += seconds / (1 - node.taken[2])
        return seconds + node.link.rtt_ms / 2e3

    def _work(self, node: NodeView, seconds: float) -> None:
        self.busy["work", node.node] += seconds / (1 - node.taken[0])

    def money(self, door: NodeView, parts: list[Part]) -> float:
        """An hour."""
        prices, rate = self.case.question.prices, self.case.question.aim.rate_per_s
        total = 0.0
        for node in {n.node: n for n in (door, *(node for _, _, node, _ in parts))}.values():
            idle, busy = node.watts
            total += prices.node_hour.get(node.price, 0.0) + idle / 1000 * prices.kwh
            total += rate * 3600 * self.left[node.node] / GIB * prices.gib.get(node.price, 0.0)
            total += rate * self.computed[node.node] * (busy - idle) / 1000 * prices.kwh
        return total
