"""From a deployment, its model and the nodes to the arrays that the search reads."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dsi_mqtt.core.aim import ONE_PASS, ONE_STEP, Aim, Trip
from dsi_mqtt.core.codecs import RAW, Codec, Coding, codecs_for, codings
from dsi_mqtt.core.deployment import Deployment, Prices
from dsi_mqtt.core.memory import Memory
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.problem import (
    HOP_NS,
    SEGMENT_NS,
    Budget,
    Demands,
    Flags,
    Held,
    Nanoseconds,
    Problem,
    Sums,
    reach,
    twins,
)
from dsi_mqtt.core.profile import NodeView
from dsi_mqtt.core.rules import Rules
from dsi_mqtt.core.sizes import GIB
from dsi_mqtt.errors import ConfigError

HOUR_S: Final = 3600.0
# Error of codecs and exposure are shares of one; as whole numbers they add up exactly.
SHARE: Final = 1e9
AT_REST: Final = Aim()
# What latency weighs where it is not asked for: of equal placements the faster.
EQUALS: Final = 1e-5


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a placement besides the rules.

    codecs: that hops may use, `raw` among them. error_max, exposure_max: what may add up along the
    chain; None: anything. trip_max_s: by phase, what one trip may take. door: the only node that
    may be it; empty: any that rules allow.
    """

    aim: Aim = AT_REST
    trips: tuple[Trip, ...] = ONE_PASS
    codecs: tuple[Codec, ...] = (RAW,)
    error_max: float | None = None
    exposure_max: float | None = None
    prices: Prices = field(default_factory=Prices)
    trip_max_s: tuple[tuple[str, float], ...] = ()
    door: str = ""

    @property
    def plain(self) -> bool:
        """Whether nothing but the rules can make it impossible."""
        return self == self.without_limits()

    def without_limits(self) -> Question:
        at_rest = replace(self.aim, rate_per_s=0.0, latency_max_s=None)
        return replace(self, aim=at_rest, error_max=None, exposure_max=None, trip_max_s=(), door="")


def question_of(
    deployment: Deployment,
    rate_per_s: float = 0.0,
    measured: Mapping[str, float] | None = None,
) -> Question:
    """What a deployment that serves asks for: its target is a wish.

    rate_per_s: of requests that come, where they are more than was expected. measured: by codec,
    errors on the deployment's samples.

    Of a generation that is the time of one step of decoding, at rest: what a load of several texts
    means for each step is not part of the model.
    """
    limit, weights = deployment.privacy.max_exposure, deployment.objective
    exposure_max = limit if limit < 1 else None
    codecs, error_max = codecs_for(deployment, measured or {})
    if deployment.kind == "generation":
        aim = Aim(latency=weights.latency, exposure=weights.exposure)
        return Question(aim, ONE_STEP, codecs, error_max, exposure_max)
    aim = Aim.of(deployment)
    return Question(
        replace(aim, rate_per_s=max(aim.rate_per_s, rate_per_s)),
        codecs=codecs,
        error_max=error_max,
        exposure_max=exposure_max,
        prices=deployment.prices,
    )


def formulate(
    graph: ModelGraph,
    rules: Rules,
    nodes: Sequence[NodeView],
    held: Held,
    question: Question,
    *,
    every: bool = False,
) -> Problem:
    """The problem of placing `graph` on `nodes`; unusable ones are left out.

    held: by node, units it goes on holding while it takes up its part of the plan. every: ways to
    write on a hop that are no part of a best placement stay in it.
    """
    known = tuple(sorted((n for n in nodes if n.usable), key=lambda node: node.node))
    units = len(graph.units)
    allowed = np.array(rules.able(known), np.bool_).reshape(units, len(known))
    memory = Memory.of(graph, known, held, allowed)
    furthest, given = reach(rules, allowed, memory)
    arrays = _Arrays.of(graph, known, question, every=every)
    latency, demands = arrays.latency(), arrays.demands()
    score = latency.scaled(question.aim.latency or EQUALS)
    if question.aim.exposure:
        score += arrays.exposure(rules).scaled(question.aim.exposure)
    if question.aim.cost:
        score += arrays.money(demands).scaled(question.aim.cost)
    trusted = rules.trusted(known)
    return Problem(
        nodes=known,
        units=units,
        doors=tuple(
            i
            for i, node in enumerate(known)
            if trusted[i] and node.node not in rules.forbidden and question.door in ("", node.node)
        ),
        max_segments=rules.max_segments,
        given=given,
        codings=arrays.codings,
        bytes_at=arrays.bytes_at(),
        allowed=allowed,
        reach=furthest,
        twins=twins(rules, known, allowed, held, question.door),
        memory=memory,
        score=score,
        fees=np.rint(question.aim.cost * arrays.fees() * 1e9),
        latency=latency,
        budgets=arrays.budgets(rules),
        demands=demands,
    )


@dataclass(frozen=True, slots=True)
class _Passage:
    """One trip, whichever codec is used. sizes[codec, cut]: bytes that cross.

    seconds[unit, node]. up, down[codec, cut, node]: ns on the links; encode, decode: of codecs,
    whose work is none at both ends.
    """

    trip: Trip
    sizes: NDArray[np.float64]
    seconds: NDArray[np.float64]
    up: Nanoseconds
    down: Nanoseconds
    encode: Nanoseconds
    decode: Nanoseconds

    @classmethod
    def of(
        cls, graph: ModelGraph, nodes: Sequence[NodeView], trip: Trip, codecs: Sequence[Codec]
    ) -> _Passage:
        units = len(graph.units)
        plain = np.zeros(units + 1)
        plain[1:-1] = [graph.boundary_bytes(cut) * trip.rows for cut in range(1, units)]
        ratios, writes, reads = np.array([(c.ratio, c.encode_s, c.decode_s) for c in codecs]).T
        writing, reading = np.array([(c.encode_call_s, c.decode_call_s) for c in codecs]).T
        sizes = np.rint(ratios[:, None] * plain)
        sizes[:, 0], sizes[:, -1] = graph.input_bytes * trip.rows, graph.result_bytes
        rows = [node.seconds(trip.phase, trip.rows) for node in nodes]
        paces = np.array([node.codec_pace for node in nodes])
        whole = plain[None, :, None] / GIB * paces * 1e9
        calls = (plain > 0)[None, :, None] * paces * 1e9
        up, down = _transfers(nodes, sizes)
        return cls(
            trip=trip,
            sizes=sizes,
            seconds=np.array(rows).reshape(len(nodes), units).T,
            up=up,
            down=down,
            encode=writes[:, None, None] * whole + writing[:, None, None] * calls,
            decode=reads[:, None, None] * whole + reading[:, None, None] * calls,
        )

    def crossing(self, nodes: Sequence[NodeView]) -> tuple[Nanoseconds, Nanoseconds]:
        """[codec, cut, node]: what leaving and arriving take."""
        half = np.array([node.link.rtt_ms for node in nodes]) * 0.5e6
        return np.rint(half + self.up + self.encode), np.rint(half + self.down + self.decode)

    def better(self, crossing: tuple[Nanoseconds, Nanoseconds], *, loads: bool) -> Flags:
        """[codec, codec]: the first is on no node and at no cut worse than the second.

        loads: that includes how long each station is busy.
        """
        stations = (self.up, self.down, self.encode, self.decode) if loads else ()
        arrays = (self.sizes, *crossing, *stations)
        count = len(self.sizes)
        better = np.ones((count, count), np.bool_)
        for one, other in itertools.permutations(range(count), 2):
            better[one, other] = all((array[one] <= array[other]).all() for array in arrays)
        return better


def _useful(
    ways: Sequence[Coding],
    codecs: NDArray[np.intp],
    better: Sequence[Flags],
    error_max: float | None,
) -> list[int]:
    """Numbers of the codings that can be part of a best placement, the plain one among them.

    One is of no use if its error alone is too much, or another one is nowhere worse.
    """
    errors = np.array([np.rint(way.error * SHARE) for way in ways])
    limit = np.inf if error_max is None else np.rint(error_max * SHARE)
    wins = np.ones((len(ways), len(ways)), np.bool_)
    for chosen, matrix in zip(codecs.T, better, strict=True):
        wins &= matrix[np.ix_(chosen, chosen)]
    if error_max is not None:
        wins &= errors[:, None] <= errors
    wins &= ~wins.T | np.tri(len(ways), dtype=np.bool_).T  # of equal ones the first
    np.fill_diagonal(wins, val=False)
    kept = ~wins.any(axis=0) & (errors <= limit)
    kept[0] = True
    return np.flatnonzero(kept).tolist()


def _transfers(
    nodes: Sequence[NodeView], sizes: NDArray[np.float64]
) -> tuple[Nanoseconds, Nanoseconds]:
    """[..., cut, node]: ns on the uplink and on the downlink. One Mbit/s is one bit per µs."""
    up = np.array([node.link.up_mbit_s for node in nodes])
    down = np.array([node.link.down_mbit_s for node in nodes])
    return sizes[..., None] * 8e3 / up, sizes[..., None] * 8e3 / down


@dataclass(frozen=True, slots=True)
class _Arrays:
    """codecs[coding, trip]: which of the question's codecs. crossings: by trip."""

    graph: ModelGraph
    nodes: tuple[NodeView, ...]
    question: Question
    codings: tuple[Coding, ...]
    codecs: NDArray[np.intp]
    passages: tuple[_Passage, ...]
    crossings: tuple[tuple[Nanoseconds, Nanoseconds], ...]

    @classmethod
    def of(
        cls, graph: ModelGraph, nodes: tuple[NodeView, ...], question: Question, *, every: bool
    ) -> _Arrays:
        known = question.codecs
        passages = tuple(_Passage.of(graph, nodes, trip, known) for trip in question.trips)
        crossings = tuple(passage.crossing(nodes) for passage in passages)
        ways = codings(known, question.trips)
        codecs = np.array([[known.index(codec) for codec in way.codecs] for way in ways], np.intp)
        loads = question.aim.loads
        better = [
            p.better(times, loads=loads) for p, times in zip(passages, crossings, strict=True)
        ]
        useful = list(range(len(ways)))
        if not every:
            useful = _useful(ways, codecs, better, question.error_max)
        ways = tuple(ways[i] for i in useful)
        return cls(graph, nodes, question, ways, codecs[useful], passages, crossings)

    def bytes_at(self) -> NDArray[np.float64]:
        total = np.zeros((len(self.codings), len(self.graph.units) + 1))
        for i, passage in enumerate(self.passages):
            total += passage.trip.count * passage.sizes[self.codecs[:, i]]
        return total

    def trip(self, number: int) -> Sums:
        """The time of one trip, in ns."""
        leave, arrive = self.crossings[number]
        return Sums(
            compute=_cumulated(np.rint(self.passages[number].seconds * 1e9)),
            segment=SEGMENT_NS,
            leave=leave[self.codecs[:, number]],
            arrive=arrive[self.codecs[:, number]],
            hop=np.full(len(self.codings), HOP_NS),
            access=np.zeros(len(self.nodes)),
        )

    def latency(self) -> Sums:
        """Of a whole request: its input comes once, its answer begins to leave once."""
        first, *others = (
            self.trip(i).scaled(passage.trip.count) for i, passage in enumerate(self.passages)
        )
        total = sum(others, first)
        leave, arrive = self.crossings[0]
        access = arrive[0, 0] + leave[0, -1] + 2 * HOP_NS
        return Sums(total.compute, total.segment, total.leave, total.arrive, total.hop, access)

    def demands(self) -> Demands:
        """Of all trips of a request, stretched by what others take of each station."""
        free = np.array([[1 - share for share in node.taken] for node in self.nodes])
        work, out, back = free.reshape(len(self.nodes), 3).T
        compute = np.zeros((len(self.graph.units) + 1, len(self.nodes)))
        for passage in self.passages:
            each = np.rint(passage.seconds * 1e9 / work)
            compute += passage.trip.count * _cumulated(each)
        once_in, once_out = _transfers(self.nodes, self.passages[0].sizes[0])
        return Demands(
            compute=compute,
            segment=SEGMENT_NS * sum(passage.trip.count for passage in self.passages),
            sends=self._stretched([passage.up for passage in self.passages], out),
            gets=self._stretched([passage.down for passage in self.passages], back),
            encode=self._stretched([passage.encode for passage in self.passages], work),
            decode=self._stretched([passage.decode for passage in self.passages], work),
            access_gets=np.rint(once_out[0] / back),
            access_sends=np.rint(once_in[-1] / out),
        )

    def _stretched(self, parts: Sequence[Nanoseconds], free: NDArray[np.float64]) -> Nanoseconds:
        """[coding, cut, node]: of all trips, of which each has a part [codec, cut, node]."""
        total = np.zeros((len(self.codings), *parts[0].shape[1:]))
        for i, (passage, part) in enumerate(zip(self.passages, parts, strict=True)):
            total += (passage.trip.count * part / free)[self.codecs[:, i]]
        return np.rint(total)

    def exposure(self, rules: Rules) -> Sums:
        """Share of the units that are computed outside of the trusted zones."""
        outside = ~np.array(rules.trusted(self.nodes), np.bool_)
        units = len(self.graph.units)
        each = np.where(outside, np.rint(SHARE / units), 0.0)
        return self._sums(_cumulated(np.tile(each, (units, 1))))

    def error(self) -> Sums:
        """What codecs add to the error."""
        each = np.array([np.rint(coding.error * SHARE) for coding in self.codings])
        return self._sums(np.zeros((len(self.graph.units) + 1, len(self.nodes))), hop=each)

    def money(self, demands: Demands) -> Sums:
        """Money an hour, times 10⁹: for bytes that leave nodes, and for energy of computing."""
        rate, prices = self.question.aim.rate_per_s, self.question.prices
        gib = np.array([price_of(prices.gib, node, "prices.gib") for node in self.nodes])
        each_byte = rate * HOUR_S / GIB * gib
        leave = self.bytes_at()[..., None] * each_byte
        watts = np.array([max(0.0, node.watts[1] - node.watts[0]) for node in self.nodes])
        each_ns = rate / 1e9 * watts / 1000 * prices.kwh
        alone = 1 - np.array([node.taken[0] for node in self.nodes])
        sums = self._sums(demands.compute * alone * each_ns * 1e9)
        answer = self.graph.result_bytes * each_byte
        return Sums(
            np.rint(sums.compute),
            0.0,
            np.rint(leave * 1e9),
            sums.arrive,
            sums.hop,
            np.rint(answer * 1e9),
        )

    def fees(self) -> NDArray[np.float64]:
        """[node]: money an hour for using it at all: its price, and its energy when idle."""
        prices = self.question.prices
        rents = [price_of(prices.node_hour, node, "prices.node_hour") for node in self.nodes]
        idle = [node.watts[0] / 1000 * prices.kwh for node in self.nodes]
        fees: NDArray[np.float64] = np.array(rents) + np.array(idle)
        return fees

    def budgets(self, rules: Rules) -> tuple[Budget, ...]:
        asked, found = self.question, []
        if asked.error_max is not None:
            found.append(Budget("codecs.error", self.error(), np.rint(asked.error_max * SHARE)))
        if asked.exposure_max is not None:
            limit = np.rint(asked.exposure_max * SHARE)
            found.append(Budget("privacy.max_exposure", self.exposure(rules), limit))
        for phase, limit_s in asked.trip_max_s:
            for i, trip in enumerate(asked.trips):
                if trip.phase == phase:
                    field = "sla.first_token_ms" if phase == "prefill" else "sla.token_ms"
                    found.append(Budget(field, self.trip(i), np.rint(limit_s * 1e9)))
        return tuple(found)

    def _sums(self, compute: Nanoseconds, *, hop: Nanoseconds | None = None) -> Sums:
        shape = (len(self.codings), len(self.graph.units) + 1, len(self.nodes))
        nothing = np.broadcast_to(0.0, shape)
        each = np.zeros(len(self.codings)) if hop is None else hop
        return Sums(compute, 0.0, nothing, nothing, each, np.zeros(len(self.nodes)))


def price_of(prices: dict[str, float], node: NodeView, field: str) -> float:
    """What the file says for this node's class of price, or for `default`; 0 if it has no prices.

    Raises ConfigError when it has prices, but none for this class.
    """
    if not prices:
        return 0.0
    price = prices.get(node.price, prices.get("default"))
    if price is None:
        raise ConfigError(
            f"{field}: has no price for {node.price!r}, the class of node {node.node}; "
            "add it, or a default"
        )
    return price


def _cumulated(values: Nanoseconds) -> Nanoseconds:
    sums = np.zeros((len(values) + 1, values.shape[1]))
    np.cumsum(values, axis=0, out=sums[1:])
    return sums
