"""From a deployment, its model and the nodes to the arrays that the search reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dsi_mqtt.core.aim import ONE_PASS, Aim, Texts, Trip
from dsi_mqtt.core.codecs import RAW, Codec, Coding, codecs_for, codings
from dsi_mqtt.core.deployment import Deployment, Prices
from dsi_mqtt.core.memory import Memory
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.passage import Crossing, Links, Passage, unbeaten, useful_of
from dsi_mqtt.core.problem import (
    HOP_NS,
    SEGMENT_NS,
    SHARE,
    Budget,
    Demands,
    Flags,
    Held,
    Nanoseconds,
    Problem,
    Sums,
    Use,
    reach,
    twins,
)
from dsi_mqtt.core.profile import NodeView
from dsi_mqtt.core.rules import Rules
from dsi_mqtt.core.schedule import BATCH_MAX
from dsi_mqtt.core.sizes import GIB
from dsi_mqtt.errors import ConfigError

# What texts that are served in turns take longer, load/(1 - load) of the busiest station's time, is
# about what this share of them would wait in a queue: within a fifth for loads of 0.3 to 0.9.
CROWD: Final = 0.8
HOUR_S: Final = 3600.0
AT_REST: Final = Aim()
# What latency weighs where it is not asked for: of equal placements the faster.
EQUALS: Final = 1e-5


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a placement besides the rules.

    codecs: that hops may use, `raw` among them. error_max, exposure_max: what may add up along the
    chain; None: anything. trip_max_s: by phase, what a step may take, and a prompt until its first
    token. texts: what generations are like; None: answers are given in one pass.
    width_max: sessions that one of their steps may carry. busy: trips by which stations are kept
    busy, of the same phases; empty: by `trips`. So texts are planned: what a step takes for one
    session is mostly reading weights, which serves many as well, so that only what wide steps take
    keeps a station busy. door: the only node that may be it; empty: any that rules allow.
    """

    aim: Aim = AT_REST
    trips: tuple[Trip, ...] = ONE_PASS
    codecs: tuple[Codec, ...] = (RAW,)
    error_max: float | None = None
    exposure_max: float | None = None
    prices: Prices = field(default_factory=Prices)
    trip_max_s: tuple[tuple[str, float], ...] = ()
    texts: Texts | None = None
    width_max: int = 1
    busy: tuple[Trip, ...] = ()
    door: str = ""

    def wider(self, width: int) -> Question:
        """Of texts, with steps of decoding that carry so many sessions; of others the same."""
        if self.texts is None:
            return self
        return replace(self, trips=self.texts.trips(width), busy=self.texts.trips(self.width_max))

    def as_wide(self, width: int) -> Question:
        """The same where stations are kept busy by the very same steps."""
        return replace(self.wider(width), busy=())

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
    texts: Texts | None = None,
) -> Question:
    """What a deployment that serves asks for: its target is a wish.

    rate_per_s: of requests that come, where they are more than was expected. measured: by codec,
    errors on the deployment's samples. texts: what comes, where it is known; else it is as the
    deployment's reference text.
    """
    limit, aim = deployment.privacy.max_exposure, Aim.of(deployment)
    codecs, error_max = codecs_for(deployment, measured or {})
    asked = Question(
        replace(aim, rate_per_s=max(aim.rate_per_s, rate_per_s)),
        codecs=codecs,
        error_max=error_max,
        exposure_max=limit if limit < 1 else None,
        prices=deployment.prices,
    )
    if deployment.kind == "one-pass":
        return asked
    crowded = replace(asked.aim, share=CROWD)
    width_max = min(BATCH_MAX, deployment.limits.sessions_max)
    texts = texts or Texts.of(deployment)
    return replace(asked, aim=crowded, texts=texts, width_max=width_max).wider(1)


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
    allowed = np.empty((units, len(known)), np.bool_)
    for alike in rules.alike():
        allowed[alike.start : alike.stop] = rules.may_compute(alike.start, known)
    memory = Memory.of(graph, known, held, allowed)
    furthest, given = reach(rules, allowed, memory)
    arrays = _Arrays.of(graph, known, question, every=every)
    latency, demands = arrays.latency(), arrays.busier().demands()
    bytes_at = arrays.crossing(arrays.each()).figures[0]
    score = latency.scaled(question.aim.latency or EQUALS)
    if question.aim.exposure:
        score += arrays.exposure(rules).scaled(question.aim.exposure)
    if question.aim.cost:
        score += arrays.money(demands, bytes_at).scaled(question.aim.cost)
    trusted = rules.trusted(known)
    doors = [
        trusts and n.node not in rules.forbidden and question.door in ("", n.node)
        for n, trusts in zip(known, trusted, strict=True)
    ]
    return Problem(
        nodes=known,
        units=units,
        doors=tuple(i for i, may in enumerate(doors) if may),
        max_segments=rules.max_segments,
        given=given,
        codings=arrays.codings,
        lightest=arrays.lightest,
        quickest=arrays.quickest,
        quicker=arrays.quicker,
        bytes_at=bytes_at,
        allowed=allowed,
        reach=furthest,
        twins=twins(known, doors, allowed, held),
        memory=memory,
        score=score,
        fees=np.rint(question.aim.cost * arrays.fees() * 1e9),
        latency=latency,
        budgets=arrays.budgets(rules),
        demands=demands,
    )


@dataclass(frozen=True, slots=True)
class _Arrays:
    """codecs[coding, trip]: which of the question's codecs. lightest, quickest, quicker: as in
    `Problem`.
    """

    graph: ModelGraph
    nodes: tuple[NodeView, ...]
    question: Question
    links: Links
    codings: tuple[Coding, ...]
    codecs: NDArray[np.intp]
    passages: tuple[Passage, ...]
    lightest: tuple[int, ...]
    quickest: tuple[int, ...]
    quicker: Flags

    @classmethod
    def of(
        cls, graph: ModelGraph, nodes: tuple[NodeView, ...], question: Question, *, every: bool
    ) -> _Arrays:
        known, links = question.codecs, Links.of(nodes)
        passages = tuple(Passage.of(graph, nodes, trip, known) for trip in question.trips)
        ways = codings(known, question.trips)
        numbers = {codec.name: number for number, codec in enumerate(known)}
        codecs = np.array([[numbers[codec.name] for codec in way.codecs] for way in ways], np.intp)
        better = [passage.better(links) for passage in passages]
        loads, error_max = question.aim.loads, question.error_max
        quicker, lighter = (_of_all(codecs, flags) for flags in zip(*better, strict=True))
        wins = lighter if loads else quicker
        useful = list(range(len(ways))) if every else useful_of(ways, wins, error_max)
        ways, codecs = tuple(ways[way] for way in useful), codecs[useful]
        quicker, wins = (flags[np.ix_(useful, useful)] for flags in (quicker, wins))
        lightest = quickest = tuple(range(len(ways)))
        if not every:
            lightest, quickest = tuple(unbeaten(wins)), tuple(unbeaten(quicker))
        return cls(
            graph, nodes, question, links, ways, codecs, passages, lightest, quickest, quicker
        )

    def crossing(self, counts: Sequence[float]) -> Crossing:
        """By coding, of so many of each of the trips."""
        parts = [
            count * passage.crossing.written(codecs).figures
            for count, passage, codecs in zip(counts, self.passages, self.codecs.T, strict=True)
        ]
        return Crossing(sum(parts[1:], start=parts[0]))

    def each(self) -> list[float]:
        """Of each of the trips, how many one request stands for."""
        return [passage.trip.each for passage in self.passages]

    def trip(self, number: int) -> Sums:
        """The time of one trip, in ns."""
        crossing = self.crossing([float(i == number) for i in range(len(self.passages))])
        return Sums(
            compute=_cumulated(np.rint(self.passages[number].seconds * 1e9)),
            segment=SEGMENT_NS,
            leave=crossing.leave(self.links),
            arrive=crossing.arrive(self.links),
            hop=np.full(len(self.codings), HOP_NS),
            access=np.zeros(len(self.nodes)),
        )

    def latency(self) -> Sums:
        """Of a whole request: its input comes once, its answer begins to leave once."""
        counts = [float(passage.trip.count) for passage in self.passages]
        compute = [p.trip.count * np.rint(p.seconds * 1e9) for p in self.passages]
        crossing, trips = self.crossing(counts), sum(counts)
        once = self.passages[0].crossing.written(0)
        access = once.arrive(self.links)[0] + once.leave(self.links)[-1] + 2 * HOP_NS
        return Sums(
            compute=_cumulated(np.sum(compute, axis=0)),
            segment=trips * SEGMENT_NS,
            leave=crossing.leave(self.links, trips),
            arrive=crossing.arrive(self.links, trips),
            hop=np.full(len(self.codings), trips * HOP_NS),
            access=access,
        )

    def busier(self) -> _Arrays:
        """The same with the trips that keep stations busy."""
        if not self.question.busy:
            return self
        question = replace(self.question, trips=self.question.busy, busy=())
        passages = tuple(
            Passage.of(self.graph, self.nodes, trip, question.codecs) for trip in question.trips
        )
        return replace(self, question=question, passages=passages)

    def demands(self) -> Demands:
        """Of all trips of a request, stretched by what others take of each station."""
        free = np.array([[1 - share for share in node.taken] for node in self.nodes])
        work, out, back = free.reshape(len(self.nodes), 3).T
        compute = [np.rint(p.trip.each * np.rint(p.seconds * 1e9 / work)) for p in self.passages]
        links, (sizes, writes, reads) = self.links, self.crossing(self.each()).figures
        up, down = links.up * out, links.down * back
        plain = 8e3 * self.passages[0].crossing.figures[0, 0]

        def station(use: Use) -> Nanoseconds:
            total: Nanoseconds
            match use:
                case "sends":
                    total = 8e3 * sizes[..., None] / up
                case "gets":
                    total = 8e3 * sizes[..., None] / down
                case "encode":
                    total = writes[..., None] * (links.pace / work)
                case "decode":
                    total = reads[..., None] * (links.pace / work)
            return np.rint(total, out=total)

        return Demands(
            compute=_cumulated(np.sum(compute, axis=0)),
            segment=float(np.rint(SEGMENT_NS * sum(self.each()))),
            access_gets=np.rint(plain[0] / down),
            access_sends=np.rint(plain[-1] / up),
            hops=station,
        )

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

    def money(self, demands: Demands, bytes_at: NDArray[np.float64]) -> Sums:
        """Money an hour, times 10⁹: for bytes that leave nodes, and for energy of computing."""
        rate, prices = self.question.aim.rate_per_s, self.question.prices
        gib = np.array([price_of(prices.gib, node, "prices.gib") for node in self.nodes])
        each_byte = rate * HOUR_S / GIB * gib
        leave = bytes_at[..., None] * each_byte
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
                if trip.phase != phase:
                    continue
                limit, sums, field = np.rint(limit_s * 1e9), self.trip(i), "sla.token_ms"
                if phase == "prefill":
                    sums, field = sums.scaled(trip.count), "sla.first_token_ms"
                    sums = replace(sums, access=self.latency().access)
                found.append(Budget(field, sums, limit))
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
    price = _price(prices, node.price)
    if price is None:
        raise ConfigError(
            f"{field}: has no price for {node.price!r}, the class of node {node.node}; "
            "add it, or a default"
        )
    return price


def unpriced(prices: Prices, price: str) -> str:
    """Why a node of this class cannot be planned with, as in "node a {unpriced}"; "": it can."""
    for name, given in (("prices.node_hour", prices.node_hour), ("prices.gib", prices.gib)):
        if _price(given, price) is None:
            return f"is online, but {name} has no price for {price!r}, its class"
    return ""


def _price(prices: dict[str, float], price: str) -> float | None:
    return prices.get(price, prices.get("default")) if prices else 0.0


def _of_all(codecs: NDArray[np.intp], better: Sequence[Flags]) -> Flags:
    """[coding, coding]: on every trip, the codecs [coding, trip] of the first are better.

    better: by trip, [codec, codec].
    """
    trips = [flags[np.ix_(of, of)] for flags, of in zip(better, codecs.T, strict=True)]
    return np.asarray(np.logical_and.reduce(trips))


def _cumulated(values: Nanoseconds) -> Nanoseconds:
    sums = np.zeros((len(values) + 1, values.shape[1]))
    np.cumsum(values, axis=0, out=sums[1:])
    return sums
