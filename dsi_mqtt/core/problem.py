"""A placement problem in arrays: what the search reads.

Times are integral nanoseconds in float64, and so is the score: seconds times 10⁹, rounded piece by
piece. Sums of them are exact in any order up to 104 days, so equal scores are equal, infinity is
at hand, and no bound needs a tolerance.

Latency of a trip through the chain, for links that form a star (each node has one to its home
broker):

    leave(n, bytes)  = rtt_n / 2 + bytes / up_n
    arrive(n, bytes) = rtt_n / 2 + bytes / down_n
    hop(a, b, bytes) = leave(a, bytes) + arrive(b, bytes) + HOP_S, or 0 when a is b
    trip = hop(door, first, input)
         + Σ (SEGMENT_S + Σ unit seconds)           each segment
         + Σ hop(segment, next, boundary)           with what its codec makes of the bytes
         + hop(last, door, result)

A request makes its trips one after the other; its input reaches the door once, and its answer
leaves it once:

    latency = arrive(door, input) + HOP_S + Σ trips + leave(door, result) + HOP_S
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsi_mqtt.core.codecs import Coding
from dsi_mqtt.core.memory import Memory
from dsi_mqtt.core.profile import NodeView
from dsi_mqtt.core.rules import Rules

# A message through the broker beyond rtt and rate: encoding, the broker itself, decoding.
HOP_S: Final = 0.5e-3
# A segment beyond its units: one more call of the engine and its queue.
SEGMENT_S: Final = 0.3e-3
# Error of codecs and exposure are shares of one; as whole numbers they add up exactly.
SHARE: Final = 1e9

# Of each segment (node, stop, coding of the hop there); one at least.
Chain = Sequence[tuple[int, int, int]]
Nanoseconds = NDArray[np.float64]
Flags = NDArray[np.bool_]
Cuts = NDArray[np.intp]

# By node, units that it goes on holding.
Held = Mapping[str, Collection[int]]


def nanoseconds(seconds: float) -> float:
    return float(np.rint(seconds * 1e9))


HOP_NS: Final = nanoseconds(HOP_S)
SEGMENT_NS: Final = nanoseconds(SEGMENT_S)


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Something that adds up along a chain: the score, the time of a trip, the error of codecs.

    compute[cut, node]: of the units before `cut`. segment: of each segment besides.
    leave, arrive[coding, cut, node]: of what crosses `cut` out of and into the node.
    hop[coding]: of each hop besides. access[node]: of input and answer, with this node as door.
    """

    compute: Nanoseconds
    segment: float
    leave: Nanoseconds
    arrive: Nanoseconds
    hop: Nanoseconds
    access: Nanoseconds

    def segment_of(self, node: int, start: int, stop: int) -> float:
        return float(self.compute[stop, node] - self.compute[start, node] + self.segment)

    def hop_of(self, source: int, target: int, cut: int, coding: int = 0) -> float:
        if source == target:
            return 0.0
        crossing = self.leave[coding, cut, source] + self.arrive[coding, cut, target]
        return float(crossing + self.hop[coding])

    def along(self, door: int, steps: Chain) -> float:
        """Of a whole chain."""
        return self.between(steps) + self.around(door, steps)

    def between(self, steps: Chain) -> float:
        """Of a chain's segments and the hops between them."""
        at, cut, _ = steps[0]
        total = self.segment_of(at, 0, cut)
        for node, stop, coding in steps[1:]:
            total += self.hop_of(at, node, cut, coding) + self.segment_of(node, cut, stop)
            at, cut = node, stop
        return total

    def around(self, door: int, steps: Chain) -> float:
        """Of what this door adds."""
        first, (last, end, _) = steps[0][0], steps[-1]
        hops = self.hop_of(door, first, 0) + self.hop_of(last, door, end)
        return float(self.access[door]) + hops

    def only(self, nodes: Sequence[int]) -> Sums:
        """With these nodes alone."""
        return Sums(
            self.compute[:, nodes],
            self.segment,
            self.leave[..., nodes],
            self.arrive[..., nodes],
            self.hop,
            self.access[nodes],
        )

    def written(self, ways: Sequence[int]) -> Sums:
        """With these codings alone."""
        if len(ways) == len(self.hop):
            return self
        chosen = list(ways)

        def of(part: Nanoseconds) -> Nanoseconds:
            return part[: len(chosen)] if _is_nothing(part) else part[chosen]

        return replace(self, leave=of(self.leave), arrive=of(self.arrive), hop=self.hop[chosen])

    def scaled(self, factor: float) -> Sums:
        if factor == 1:
            return self

        def rounded(part: Nanoseconds) -> Nanoseconds:
            times: Nanoseconds = factor * part
            return np.rint(times, out=times)

        return Sums(
            rounded(self.compute),
            float(np.rint(factor * self.segment)),
            rounded(self.leave),
            rounded(self.arrive),
            rounded(self.hop),
            rounded(self.access),
        )

    def charged(self, rate: float) -> Sums:
        """At `rate` for each, every part rounded down."""
        units = np.diff(self.compute, axis=0, prepend=0.0)
        return Sums(
            np.cumsum(np.floor(rate * units), axis=0),
            float(np.floor(rate * self.segment)),
            _floored(rate, self.leave),
            _floored(rate, self.arrive),
            np.floor(rate * self.hop),
            np.floor(rate * self.access),
        )

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.compute + other.compute,
            self.segment + other.segment,
            _added(self.leave, other.leave),
            _added(self.arrive, other.arrive),
            self.hop + other.hop,
            self.access + other.access,
        )


def _is_nothing(part: Nanoseconds) -> bool:
    """Whether it is one 0 in the place of many."""
    return not any(part.strides) and not (part.size and part.flat[0])


def _added(one: Nanoseconds, other: Nanoseconds) -> Nanoseconds:
    if _is_nothing(other):
        return one
    return other if _is_nothing(one) else one + other


def _floored(rate: float, part: Nanoseconds) -> Nanoseconds:
    return part if _is_nothing(part) else np.floor(rate * part)


@dataclass(frozen=True, slots=True, eq=False)
class Budget:
    """A sum that must stay within `limit`. field: of the deployment that says so."""

    field: str
    sums: Sums
    limit: float


class Duty(NamedTuple):
    """Nanoseconds that one request keeps a node, its uplink and its downlink busy."""

    work: float = 0.0
    sends: float = 0.0
    gets: float = 0.0

    def plus(self, work: float = 0.0, sends: float = 0.0, gets: float = 0.0) -> Duty:
        return Duty(self.work + work, self.sends + sends, self.gets + gets)


# What a hop keeps busy: uplink and downlink, and the processors at both ends.
Use = Literal["sends", "gets", "encode", "decode"]


@dataclass(frozen=True, slots=True, eq=False)
class Demands:
    """Of one request on the stations, in ns: compute as in `Sums`, work of codecs with it.

    access_gets, access_sends[node]: input and answer at the door. hops: [coding, cut, node] by use,
    which is looked at only where demands matter.
    """

    compute: Nanoseconds
    segment: float
    access_gets: Nanoseconds
    access_sends: Nanoseconds
    hops: Callable[[Use], Nanoseconds]
    _known: dict[Use, Nanoseconds] = field(default_factory=dict)

    @property
    def sends(self) -> Nanoseconds:
        return self._of("sends")

    @property
    def gets(self) -> Nanoseconds:
        return self._of("gets")

    @property
    def encode(self) -> Nanoseconds:
        return self._of("encode")

    @property
    def decode(self) -> Nanoseconds:
        return self._of("decode")

    def _of(self, use: Use) -> Nanoseconds:
        if use not in self._known:
            self._known[use] = self.hops(use)
        return self._known[use]

    def only(self, nodes: Sequence[int]) -> Demands:
        """With these nodes alone."""
        return Demands(
            self.compute[:, nodes],
            self.segment,
            self.access_gets[nodes],
            self.access_sends[nodes],
            lambda use: self._of(use)[..., nodes],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Nodes are numbered in the order of their names, cuts from 0 to the number of units.

    doors: nodes that may be the door.
    codings: ways to write on a hop; the first is plain, and what goes to and from the door has it.
    lightest: those that matter where no budget has a price; others are on no node and at no cut
        quicker, and keep no station busy for less. quickest: where stations have no price either.
    quicker[coding, coding]: the first is nowhere slower than the second, and keeps no link busy for
        longer.
    bytes_at[coding, cut]: that cross the cut for one request.
    allowed[unit, node]: privacy, pins and the split let the node compute the unit.
    reach[cut, node]: up to where the node, holding nothing else of this plan, may be given one
        segment that begins at `cut`. given[start, stop]: segments that the split by hand allows.
    twins[node]: nodes with the same number cannot be told apart but by name.
    score: what is minimised, but for what the busiest station adds. fees[node]: score of using the
        node at all. latency: of a request that waits for none.
    cap: of what any station may be kept busy by one request, in ns.
    """

    nodes: tuple[NodeView, ...]
    units: int
    doors: tuple[int, ...]
    max_segments: int
    given: Flags | None
    codings: tuple[Coding, ...]
    lightest: tuple[int, ...]
    quickest: tuple[int, ...]
    quicker: Flags
    bytes_at: NDArray[np.float64]
    allowed: Flags
    reach: Cuts
    twins: tuple[int, ...]
    memory: Memory
    score: Sums
    fees: Nanoseconds
    latency: Sums
    budgets: tuple[Budget, ...]
    demands: Demands
    cap: float = np.inf

    @property
    def segments_bounded(self) -> bool:
        """Whether `max_segments` can exclude anything."""
        return self.max_segments < self.units and self.given is None

    @property
    def by_hand(self) -> bool:
        """The cuts are given, and neighbours may share a node."""
        return self.given is not None

    def stops(self, cut: int, most: int | None = None) -> Flags:
        """[stop - cut - 1, node]: segments that may begin at `cut`. most: units they may have."""
        end = self.units if most is None else cut + most
        stops: Flags = np.arange(cut + 1, end + 1)[:, None] <= self.reach[cut]
        if self.given is not None:
            stops &= self.given[cut, cut + 1 : end + 1, None]
        return stops

    def capped(self, cap: float) -> Problem:
        """The same, with no station kept busy for longer than `cap`."""
        if not np.isfinite(cap):
            return replace(self, cap=cap)
        demands, score = self.demands, self.score
        limits = demands.compute[:-1] + (cap - demands.segment)
        last = np.minimum(self.reach, last_within(demands.compute, limits))
        if max(demands.sends.max(initial=0.0), demands.gets.max(initial=0.0)) > cap:
            leave = np.where(demands.sends <= cap, score.leave, np.inf)
            arrive = np.where(demands.gets <= cap, score.arrive, np.inf)
            score = replace(score, leave=leave, arrive=arrive)
        return replace(self, cap=cap, reach=last, score=score)

    def only(self, nodes: Sequence[int]) -> Problem:
        """The same with these nodes alone, in this order."""
        if len(nodes) == len(self.nodes):
            return self
        places = {node: place for place, node in enumerate(nodes)}
        return replace(
            self,
            nodes=tuple(self.nodes[node] for node in nodes),
            doors=tuple(places[door] for door in self.doors if door in places),
            allowed=self.allowed[:, nodes],
            reach=self.reach[:, nodes],
            twins=tuple(self.twins[node] for node in nodes),
            memory=self.memory.only(nodes),
            score=self.score.only(nodes),
            fees=self.fees[nodes],
            latency=self.latency.only(nodes),
            budgets=tuple(
                Budget(budget.field, budget.sums.only(nodes), budget.limit)
                for budget in self.budgets
            ),
            demands=self.demands.only(nodes),
        )

    def alone(self, sums: Sums, fees: Nanoseconds | float = 0.0) -> tuple[float, int, int] | None:
        """The least of `sums` and fees with everything in one segment: with which door, and where;
        None: nowhere.
        """
        end = self.units
        able = np.flatnonzero(self.reach[0] >= end) if end else np.empty(0, np.intp)
        doors = np.array(self.doors, np.intp)
        if not len(able) or not len(doors) or (self.given is not None and not self.given[0, end]):
            return None
        there = sums.leave[0, 0][doors, None] + sums.arrive[0, 0][None, able]
        back = sums.leave[0, end][None, able] + sums.arrive[0, end][doors, None]
        each = np.broadcast_to(fees, len(self.nodes))
        hops = there + back + 2 * sums.hop[0] + each[doors, None]
        hops = np.where(doors[:, None] == able[None, :], 0.0, hops)
        totals = hops + sums.access[doors][:, None] + (sums.compute[end] + each)[able]
        door, node = np.unravel_index(int(totals.argmin()), totals.shape)
        return float(totals[door, node]) + sums.segment, int(doors[door]), int(able[node])


def last_within(before: Nanoseconds, limits: Nanoseconds) -> Cuts:
    """[…, node]: the last cut before which there is no more than the limit […, node]; 0: none is.

    before[cut, node]: of all units before it. It is looked for by halves, for all at once.
    """
    cuts, nodes = before.shape
    rows = 1 << (cuts - 1).bit_length()
    padded = np.full((rows, nodes), np.inf)
    padded[:cuts] = before
    flat = padded.reshape(-1)
    at: Cuts = np.broadcast_to(np.arange(nodes), limits.shape).copy()
    while rows > 1:
        rows //= 2
        at += (nodes * rows) * (flat[nodes * rows :].take(at) <= limits)
    found: Cuts = at // nodes
    return found


def reach(rules: Rules, allowed: Flags, memory: Memory) -> tuple[Cuts, Flags | None]:
    """What `Problem.reach` and `Problem.given` hold."""
    units = len(allowed)
    closed = np.where(allowed, units, np.arange(units)[:, None])
    furthest = np.minimum(np.minimum.accumulate(closed[::-1])[::-1], memory.reaches)
    if not rules.parts:
        return furthest, None
    given = np.zeros((units, units + 1), np.bool_)
    for part in rules.parts:
        given[part.units] = True
    return furthest, given


def twins(
    nodes: Sequence[NodeView], doors: Sequence[bool], allowed: Flags, held: Held
) -> tuple[int, ...]:
    """By node: the number of those that differ from it by name alone.

    doors[node]: whether it may be one.
    """
    plain = [(node.weight_bytes, node.link.up_mbit_s, node.unit_s[:1]) for node in nodes]
    alike = Counter(plain)
    numbers: dict[object, int] = {}
    found = []
    for i, (node, key) in enumerate(zip(nodes, plain, strict=True)):
        if alike[key] == 1:  # there is no need to look at each of its units
            found.append(numbers.setdefault(i, len(numbers)))
            continue
        figures = node.link, node.price, node.watts, node.taken, node.codec_pace, doors[i]
        kept = frozenset(held.get(node.node, ()))
        times = node.unit_s, node.prefill_s, node.batched
        more = key, figures, times, allowed[:, i].tobytes(), kept
        found.append(numbers.setdefault(more, len(numbers)))
    return tuple(found)
