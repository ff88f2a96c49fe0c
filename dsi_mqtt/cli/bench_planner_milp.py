"""The best placement as a mixed-integer linear programme, solved by HiGHS (through scipy).

Nothing here comes from the planner: where units are, which hops are made and what each costs is
written down once more, as linear sums over 0/1 variables. The wait under load is no linear sum of
anything. It is 0 up to a load and convex beyond, so two programmes are solved, the second with
tangents that are added until the solution lies on the curve.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from dsi_mqtt.cli.bench_planner_brute import GIB, HOP_S, SEGMENT_S, Solution
from dsi_mqtt.cli.bench_planner_cases import Instance
from dsi_mqtt.core.codecs import RAW, Codec
from dsi_mqtt.core.deployment import parse_units
from dsi_mqtt.core.queueing import waiting_s

# How far below the curve of waits a solution may lie, as a share: the solver's sums are rounded.
_CLOSE: Final = 1e-5
_TANGENTS: Final = 200
_STEP: Final = 1e-6
# The load up to which waits are told: beyond it slopes are too steep for the solver.
_FULL: Final = 0.999
# Draws what costs nothing to its least value, so that tangents are where they are needed.
_DRAW: Final = 1e-5

# Coefficients by number of the variable.
Row = defaultdict[int, float]


def solve(case: Instance) -> Solution | None:
    """The least objective, or None where no placement satisfies everything."""
    rate, share = case.question.aim.rate_per_s, case.question.aim.share
    if not rate:
        return _Programme(case).solve(0.0, math.inf, waits=False)
    kink = (1 - share) / rate
    idle = _Programme(case).solve(0.0, kink, waits=False)
    busy = _Programme(case).solve(kink, _FULL / rate, waits=True)
    found = [solution for solution in (idle, busy) if solution is not None]
    return min(found, key=lambda solution: solution.value, default=None)


@dataclass
class _Programme:
    case: Instance
    names: dict[object, int] = field(default_factory=dict)
    limits: list[tuple[Row, float, float]] = field(default_factory=list)

    def var(self, *name: object) -> int:
        return self.names.setdefault(name, len(self.names))

    def require(self, row: Row, low: float, high: float) -> None:
        self.limits.append((row, low, high))

    def solve(self, least: float, most: float, *, waits: bool) -> Solution | None:
        """The best whose busiest station is busy for between `least` and `most` seconds."""
        self._places()
        self._hops()
        latency, money, busy = self._sums()
        demand, wait = self.var("demand"), self.var("wait")
        for row in busy.values():
            self.require(_plus(row, {demand: -1.0}), -math.inf, 0.0)
        self._limits(latency, wait)
        aim = self.case.question.aim
        cost: Row = defaultdict(float)
        for row, weight in ((latency, aim.latency), (money, aim.cost)):
            for number, value in row.items():
                cost[number] += weight * value
        cost[wait] += aim.latency
        cost[demand] += aim.busiest
        drawn = _plus(cost, {wait: _DRAW, demand: _DRAW})
        waits = waits and bool(aim.latency or aim.latency_max_s is not None)
        for _ in range(_TANGENTS):
            values = self._optimum(drawn, {demand: (least, most)})
            if values is None:
                return None
            missing = self._tangent(values[demand], values[wait]) if waits else None
            if missing is None:
                return self._solution(values, cost)
            self.require(missing, 0.0, math.inf)
        raise RuntimeError("the tangents did not close in on the curve of waits")

    def _tangent(self, demand: float, wait: float) -> Row | None:
        """A wait of at least that of `demand` and its slope on; None where the solution obeys."""
        aim = self.case.question.aim
        true = waiting_s(aim.rate_per_s, demand, aim.share)
        if wait >= true * (1 - _CLOSE) - _CLOSE / 1000:
            return None
        step = _STEP * demand
        slope = (true - waiting_s(aim.rate_per_s, demand - step, aim.share)) / step
        row: Row = defaultdict(float, {self.var("wait"): 1.0, self.var("demand"): -slope})
        # A row has no constant: one variable is always 1.
        row[self.var("one")] = slope * demand - true
        return row

    def _places(self) -> None:
        case = self.case
        units, nodes = len(case.graph.units), case.nodes
        for unit in range(units):
            self.require(_ones(self.var("on", unit, i) for i in range(len(nodes))), 1, 1)
        self.require(_ones(self.var("door", i) for i in range(len(nodes))), 1, 1)
        for i, node in enumerate(nodes):
            weights: Row = defaultdict(float)
            for unit in range(units):
                on = self.var("on", unit, i)
                weights[on] = case.graph.units[unit].weight_bytes / 2**20
                if not self._allowed(unit, node.zone):
                    self.require(_ones([on]), 0, 0)
                self.require(_plus(_ones([self.var("used", i)]), {on: -1.0}), 0, math.inf)
            self.require(weights, 0, node.weight_bytes / 2**20)
            door = self.var("door", i)
            if not (self._allowed(0, node.zone) and self._allowed(units - 1, node.zone)):
                self.require(_ones([door]), 0, 0)
            self.require(_plus(_ones([self.var("used", i)]), {door: -1.0}), 0, math.inf)

    def _hops(self) -> None:
        """Each cut is either stayed at or hopped over, from one node to another, in one way."""
        case = self.case
        units, count = len(case.graph.units), range(len(case.nodes))
        for cut in range(units + 1):
            ways = self._ways() if 0 < cut < units else [()]
            for a in count:
                before = self.var("door", a) if cut == 0 else self.var("on", cut - 1, a)
                after = self.var("door", a) if cut == units else self.var("on", cut, a)
                stay = self.var("stay", cut, a)
                leaves = [self.var("hop", cut, a, b, w) for b in count if b != a for w in ways]
                comes = [self.var("hop", cut, b, a, w) for b in count if b != a for w in ways]
                self.require(_plus(_ones([stay, *leaves]), {before: -1.0}), 0, 0)
                self.require(_plus(_ones([stay, *comes]), {after: -1.0}), 0, 0)
        if case.deployment.policy.max_segments is not None:
            inner = [n for name, n in self.names.items() if self._inner(name)]
            self.require(_ones(inner), 0, case.deployment.policy.max_segments - 1)

    def _inner(self, name: object) -> bool:
        return isinstance(name, tuple) and name[0] == "hop" and 0 < name[1] < self._units

    @property
    def _units(self) -> int:
        return len(self.case.graph.units)

    def _ways(self) -> list[tuple[Codec, ...]]:
        trips = len(self.case.question.trips)
        return list(itertools.product(self.case.question.codecs, repeat=trips))

    def _allowed(self, unit: int, zone: str) -> bool:
        rules = self.case.deployment.privacy.units.items()
        return all(zone in zones for text, zones in rules if unit in parse_units(text, ""))

    def _sums(self) -> tuple[Row, Row, dict[tuple[str, int], Row]]:
        """Latency, money an hour, and seconds by station, as sums over the variables."""
        case, asked = self.case, self.case.question
        latency: Row = defaultdict(float)
        money: Row = defaultdict(float)
        busy: dict[tuple[str, int], Row] = defaultdict(lambda: defaultdict(float))
        passes = sum(trip.count for trip in asked.trips)
        for i, node in enumerate(case.nodes):
            free = [1 - taken for taken in node.taken]
            for unit in range(self._units):
                on = self.var("on", unit, i)
                seconds = sum(t.count * node.seconds(t.phase, t.rows)[unit] for t in asked.trips)
                latency[on] += seconds
                busy["work", i][on] += seconds / free[0]
                watts = node.watts[1] - node.watts[0]
                money[on] += asked.aim.rate_per_s * seconds * watts / 1000 * asked.prices.kwh
            for begins in self._begins(i):
                latency[begins] += SEGMENT_S * passes
                busy["work", i][begins] += SEGMENT_S * passes
            money[self.var("used", i)] += asked.prices.node_hour.get(node.price, 0.0)
            money[self.var("used", i)] += node.watts[0] / 1000 * asked.prices.kwh
            self._access(i, latency, money, busy)
        for name, number in list(self.names.items()):
            if isinstance(name, tuple) and name[0] == "hop":
                self._hop(name, number, latency, money, busy)
        return latency, money, busy

    def _begins(self, node: int) -> list[int]:
        """Variables that are 1 for each segment that begins on the node."""
        first = self.var("on", 0, node)
        hops = [n for name, n in self.names.items() if self._inner(name) and name[3] == node]  # type: ignore[index]  # such names are tuples
        return [first, *hops]

    def _access(self, i: int, latency: Row, money: Row, busy: dict[tuple[str, int], Row]) -> None:
        case, node, door = self.case, self.case.nodes[i], self.var("door", i)
        once = case.graph.input_bytes * case.question.trips[0].rows
        down = once * 8 / node.link.down_mbit_s / 1e6
        up = case.graph.result_bytes * 8 / node.link.up_mbit_s / 1e6
        latency[door] += down + up + node.link.rtt_ms / 1000 + 2 * HOP_S
        busy["down", i][door] += down / (1 - node.taken[2])
        busy["up", i][door] += up / (1 - node.taken[1])
        money[door] += self._traffic(i, case.graph.result_bytes)

    def _traffic(self, i: int, nbytes: float) -> float:
        node, asked = self.case.nodes[i], self.case.question
        price = asked.prices.gib.get(node.price, 0.0)
        return asked.aim.rate_per_s * 3600 * nbytes / GIB * price

    def _hop(
        self,
        name: tuple[object, ...],
        number: int,
        latency: Row,
        money: Row,
        busy: dict[tuple[str, int], Row],
    ) -> None:
        _, cut, a, b, way = name
        assert isinstance(cut, int) and isinstance(a, int) and isinstance(b, int)  # noqa: S101, PT018 - so they are named
        source, target = self.case.nodes[a], self.case.nodes[b]
        for number_of, trip in enumerate(self.case.question.trips):
            codec = way[number_of] if way else RAW  # type: ignore[index]  # a tuple of codecs
            plain = self._plain(cut, trip.rows)
            nbytes = round(plain * codec.bits / 32)
            writes = codec.encode_s * plain / GIB * source.codec_pace
            reads = codec.decode_s * plain / GIB * target.codec_pace
            up = nbytes * 8 / source.link.up_mbit_s / 1e6
            down = nbytes * 8 / target.link.down_mbit_s / 1e6
            ways = writes + up + (source.link.rtt_ms + target.link.rtt_ms) / 2000 + HOP_S
            latency[number] += trip.count * (ways + down + reads)
            busy["work", a][number] += trip.count * writes / (1 - source.taken[0])
            busy["work", b][number] += trip.count * reads / (1 - target.taken[0])
            busy["up", a][number] += trip.count * up / (1 - source.taken[1])
            busy["down", b][number] += trip.count * down / (1 - target.taken[2])
            money[number] += trip.count * self._traffic(a, nbytes)

    def _plain(self, cut: int, rows: int) -> float:
        graph = self.case.graph
        if cut == 0:
            return graph.input_bytes * rows
        if cut == self._units:
            return graph.result_bytes
        return graph.units[cut - 1].output_bytes * rows

    def _limits(self, latency: Row, wait: int) -> None:
        asked = self.case.question
        if asked.aim.latency_max_s is not None:
            self.require(_plus(latency, {wait: 1.0}), -math.inf, asked.aim.latency_max_s)
        if asked.error_max is not None:
            errors: Row = defaultdict(float)
            for name, number in self.names.items():
                if self._inner(name):
                    errors[number] = max(codec.error for codec in name[4]) * 1000  # type: ignore[index]  # such names are tuples
            self.require(errors, -math.inf, asked.error_max * 1000 + 1e-9)
        if asked.exposure_max is not None:
            outside: Row = defaultdict(float)
            for i, node in enumerate(self.case.nodes):
                if not (self._allowed(0, node.zone) and self._allowed(self._units - 1, node.zone)):
                    for unit in range(self._units):
                        outside[self.var("on", unit, i)] = 1 / self._units
            self.require(outside, -math.inf, asked.exposure_max + 1e-9)

    def _optimum(
        self, cost: Row, between: dict[int, tuple[float, float]]
    ) -> dict[int, float] | None:
        one = self.var("one")
        size = len(self.names)
        objective = np.zeros(size)
        objective[list(cost)] = list(cost.values())
        low, high = np.zeros(size), np.ones(size)
        low[one] = 1.0
        high[self.var("wait")] = np.inf
        for number, (least, most) in between.items():
            low[number], high[number] = least, most
        integral = np.ones(size)
        integral[[self.var("wait"), self.var("demand"), one]] = 0
        rows, columns, values = [], [], []
        for i, (row, _, _) in enumerate(self.limits):
            rows += [i] * len(row)
            columns += list(row)
            values += list(row.values())
        matrix = csr_array((values, (rows, columns)), shape=(len(self.limits), size))
        limits = LinearConstraint(
            matrix, [limit[1] for limit in self.limits], [limit[2] for limit in self.limits]
        )
        found = milp(
            objective,
            integrality=integral,
            bounds=Bounds(low, high),
            constraints=limits,
            options={"mip_rel_gap": 0.0, "presolve": True},
        )
        return None if found.x is None else dict(enumerate(found.x.tolist()))

    def _solution(self, values: dict[int, float], cost: Row) -> Solution:
        hops = [name for name, n in self.names.items() if self._inner(name) and values[n] > 0.5]  # noqa: PLR2004 - of 0 and 1
        coded = any(codec.name != "raw" for hop in hops for codec in hop[4])  # type: ignore[index]  # such names are tuples
        return Solution(sum(cost[n] * values[n] for n in cost), len(hops) + 1, coded)


def _ones(numbers: object) -> Row:
    return defaultdict(float, dict.fromkeys(numbers, 1.0))  # type: ignore[call-overload]  # any iterable


def _plus(row: Row, more: dict[int, float]) -> Row:
    total: Row = defaultdict(float, row)
    for number, value in more.items():
        total[number] += value
    return total
