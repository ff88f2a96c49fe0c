"""From a deployment, its model and the nodes to the arrays that the search reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dsi_mqtt.core.aim import ONE_PASS, ONE_STEP, Aim, Trip
from dsi_mqtt.core.codecs import COSINE, RAW, Codec, Coding, codings, known_for
from dsi_mqtt.core.deployment import Deployment, Prices
from dsi_mqtt.core.memory import Memory
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.problem import (
    HOP_NS,
    SEGMENT_NS,
    Budget,
    Demands,
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
    chain; None: anything. trip_max_s: by phase, what one trip may take.
    """

    aim: Aim = AT_REST
    trips: tuple[Trip, ...] = ONE_PASS
    codecs: tuple[Codec, ...] = (RAW,)
    error_max: float | None = None
    exposure_max: float | None = None
    prices: Prices = field(default_factory=Prices)
    trip_max_s: tuple[tuple[str, float], ...] = ()

    @property
    def plain(self) -> bool:
        """Whether nothing but the rules can make it impossible."""
        return self == self.without_limits()

    def without_limits(self) -> Question:
        at_rest = replace(self.aim, rate_per_s=0.0, latency_max_s=None)
        return replace(self, aim=at_rest, error_max=None, exposure_max=None, trip_max_s=())


def question_of(deployment: Deployment, rate_per_s: float = 0.0) -> Question:
    """What a deployment that serves asks for: its target is a wish.

    rate_per_s: of requests that come, where they are more than was expected.
    Of a generation that is the time of one step of decoding, at rest: what a load of several texts
    means for each step is not part of the model.
    """
    limit, weights = deployment.privacy.max_exposure, deployment.objective
    exposure_max = limit if limit < 1 else None
    codecs, error_max = _codecs_of(deployment)
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


def _codecs_of(deployment: Deployment) -> tuple[tuple[Codec, ...], float | None]:
    """Those that hops may use, and what their errors may add up to.

    What a codec does to a model's perplexity is known of no model before it was measured, so that a
    deployment which limits that goes raw.
    """
    allowed, asked = deployment.codecs.allow, deployment.codecs.error
    if asked is not None and asked.metric != COSINE:
        return (RAW,), None
    error_max = 1 - asked.min if asked is not None and asked.min is not None else None
    return known_for(deployment.model.dtype, allowed), error_max


def formulate(
    graph: ModelGraph, rules: Rules, nodes: Sequence[NodeView], held: Held, question: Question
) -> Problem:
    """The problem of placing `graph` on `nodes`; unusable ones are left out.

    held: by node, units it goes on holding while it takes up its part of the plan.
    """
    known = tuple(sorted((n for n in nodes if n.usable), key=lambda node: node.node))
    units = len(graph.units)
    rows = [rules.may_compute(unit, known) for unit in range(units)]
    allowed = np.array(rows, np.bool_).reshape(units, len(known))
    memory = Memory.of(graph, known, held, allowed)
    furthest, given = reach(rules, allowed, memory)
    arrays = _Arrays(graph, known, question, codings(question.codecs, question.trips))
    trips = [arrays.trip(i) for i in range(len(question.trips))]
    latency = arrays.latency(trips)
    demands = arrays.demands()
    score = latency.scaled(question.aim.latency or EQUALS)
    if question.aim.exposure:
        score += arrays.exposure(rules).scaled(question.aim.exposure)
    if question.aim.cost:
        score += arrays.money(demands).scaled(question.aim.cost)
    return Problem(
        nodes=known,
        units=units,
        doors=tuple(i for i, node in enumerate(known) if rules.may_be_door(node)),
        max_segments=rules.max_segments,
        given=given,
        codings=arrays.codings,
        bytes_at=arrays.bytes_at(),
        allowed=allowed,
        reach=furthest,
        twins=twins(rules, known, allowed, held),
        memory=memory,
        score=score,
        fees=np.rint(question.aim.cost * arrays.fees() * 1e9),
        latency=latency,
        budgets=arrays.budgets(rules, trips),
        demands=demands,
    )


@dataclass(frozen=True, slots=True)
class _Arrays:
    graph: ModelGraph
    nodes: tuple[NodeView, ...]
    question: Question
    codings: tuple[Coding, ...]

    def sizes(self, trip: int) -> NDArray[np.float64]:
        """[coding, cut]: bytes that cross for one such trip."""
        rows, graph = self.question.trips[trip].rows, self.graph
        inner = np.array([graph.boundary_bytes(cut) for cut in range(1, len(graph.units))])
        sizes = np.empty((len(self.codings), len(graph.units) + 1))
        ratios = np.array([coding.codecs[trip].ratio for coding in self.codings])
        sizes[:, 1:-1] = np.rint(ratios[:, None] * inner * rows)
        sizes[:, 0], sizes[:, -1] = graph.input_bytes * rows, graph.result_bytes
        return sizes

    def bytes_at(self) -> NDArray[np.float64]:
        counts = [trip.count for trip in self.question.trips]
        return sum(
            (count * self.sizes(i) for i, count in enumerate(counts)),
            np.zeros((len(self.codings), len(self.graph.units) + 1)),
        )

    def seconds(self, trip: int) -> NDArray[np.float64]:
        """[unit, node]."""
        wanted = self.question.trips[trip]
        rows = [node.seconds(wanted.phase, wanted.rows) for node in self.nodes]
        return np.array(rows).reshape(len(self.nodes), len(self.graph.units)).T

    def coding_s(self, trip: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """[coding, cut, node]: to encode and to decode what crosses; 0 at both ends."""
        plain = self.sizes(trip)[0].copy()
        plain[0] = plain[-1] = 0.0
        paces = np.array([node.codec_pace for node in self.nodes])
        whole = plain[None, :, None] / GIB * paces[None, None, :]
        used = [coding.codecs[trip] for coding in self.codings]
        encode = np.array([codec.encode_s for codec in used])[:, None, None] * whole
        decode = np.array([codec.decode_s for codec in used])[:, None, None] * whole
        return encode, decode

    def transfers(self, sizes: NDArray[np.float64]) -> tuple[Nanoseconds, Nanoseconds]:
        """[..., cut, node]: ns on the uplink and on the downlink. One Mbit/s is one bit per µs."""
        up = np.array([node.link.up_mbit_s for node in self.nodes])
        down = np.array([node.link.down_mbit_s for node in self.nodes])
        return sizes[..., None] * 8e3 / up, sizes[..., None] * 8e3 / down

    def trip(self, trip: int) -> Sums:
        """The time of one trip, in ns."""
        up, down = self.transfers(self.sizes(trip))
        encode, decode = self.coding_s(trip)
        half = np.array([node.link.rtt_ms for node in self.nodes]) * 0.5e6
        return Sums(
            compute=_cumulated(np.rint(self.seconds(trip) * 1e9)),
            segment=SEGMENT_NS,
            leave=np.rint(half + up + encode * 1e9),
            arrive=np.rint(half + down + decode * 1e9),
            hop=np.full(len(self.codings), HOP_NS),
            access=np.zeros(len(self.nodes)),
        )

    def latency(self, trips: Sequence[Sums]) -> Sums:
        """Of a whole request: its input comes once, its answer begins to leave once."""
        counts = [trip.count for trip in self.question.trips]
        total = trips[0].scaled(counts[0])
        for count, trip in zip(counts[1:], trips[1:], strict=True):
            total += trip.scaled(count)
        access = trips[0].arrive[0, 0] + trips[0].leave[0, -1] + 2 * HOP_NS
        return Sums(total.compute, total.segment, total.leave, total.arrive, total.hop, access)

    def demands(self) -> Demands:
        """Of all trips of a request, stretched by what others take of each station."""
        free = np.array([[1 - share for share in node.taken] for node in self.nodes])
        free = free.reshape(len(self.nodes), 3)
        counts = [trip.count for trip in self.question.trips]
        shape = (len(self.codings), len(self.graph.units) + 1, len(self.nodes))
        sends, gets, encode, decode = (np.zeros(shape) for _ in range(4))
        compute = np.zeros(shape[1:])
        for i, count in enumerate(counts):
            up, down = self.transfers(self.sizes(i))
            writes, reads = self.coding_s(i)
            sends += count * up / free[:, 1]
            gets += count * down / free[:, 2]
            encode += count * writes * 1e9 / free[:, 0]
            decode += count * reads * 1e9 / free[:, 0]
            compute += count * _cumulated(np.rint(self.seconds(i) * 1e9 / free[:, 0]))
        once_in, once_out = self.transfers(self.sizes(0)[0])
        return Demands(
            compute=compute,
            segment=SEGMENT_NS * sum(counts),
            sends=np.rint(sends),
            gets=np.rint(gets),
            encode=np.rint(encode),
            decode=np.rint(decode),
            access_gets=np.rint(once_out[0] / free[:, 2]),
            access_sends=np.rint(once_in[-1] / free[:, 1]),
        )

    def exposure(self, rules: Rules) -> Sums:
        """Share of the units that are computed outside of the trusted zones."""
        outside = np.array([not rules.trusts(node) for node in self.nodes])
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

    def budgets(self, rules: Rules, trips: Sequence[Sums]) -> tuple[Budget, ...]:
        asked, found = self.question, []
        if asked.error_max is not None:
            found.append(Budget("codecs.error", self.error(), np.rint(asked.error_max * SHARE)))
        if asked.exposure_max is not None:
            limit = np.rint(asked.exposure_max * SHARE)
            found.append(Budget("privacy.max_exposure", self.exposure(rules), limit))
        for phase, limit_s in asked.trip_max_s:
            for trip, sums in zip(asked.trips, trips, strict=True):
                if trip.phase == phase:
                    field = "sla.first_token_ms" if phase == "prefill" else "sla.token_ms"
                    found.append(Budget(field, sums, np.rint(limit_s * 1e9)))
        return tuple(found)

    def _sums(self, compute: Nanoseconds, *, hop: Nanoseconds | None = None) -> Sums:
        nothing = np.zeros((len(self.codings), len(self.graph.units) + 1, len(self.nodes)))
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
