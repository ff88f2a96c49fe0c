"""The route table: who serves what, as one document that is published retained.

A document holds the table that *serves* and the one that is *prepared*, so that no reader ever
sees half a change. Tables are ordered by their stamp (term, leader, epoch), which only grows:
a reader adopts a document when it is newer than the newest it has seen, and retained state that
fell back after a broker's crash changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from dsi_mqtt.core.deployment import FALLBACK_MARK
from dsi_mqtt.core.model import Tier, UnitRange

SCHEMA: Final = 1
# A term is about the seconds since 1970, and an epoch counts tables: what is beyond is nobody's.
# Takes are made of epochs, and pass on the wire below 2^53 (`core.generations`).
TERM_MAX: Final = 2**39
EPOCH_MAX: Final = 2**32
DOOR: Final = "door"

TableState = Literal["preparing", "serving", "draining", "fallback", "unavailable"]
TransferMode = Literal["copy", "recompute"]


class Stamp(NamedTuple):
    """Version of a table. Compared as a tuple; the leader's nonce breaks ties of term."""

    term: int
    leader: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ModelRef:
    """fallback: it is not the deployment's own, but what serves while that cannot."""

    digest: str
    units: int
    tier: Tier
    fallback: bool = False


@dataclass(frozen=True, slots=True)
class DoorPlace:
    """Where the door is: the node that owns the ingress. What that node does is `core.door`.

    ingress: URL of the broker that devices publish to; session: client id of the durable MQTT
    session, a secret of the eligible nodes; window: attempts in the chain at once. orphaned: the
    door before it is gone, so that nobody lets go of the ingress.
    """

    node: str
    incarnation: str
    ingress: str
    session: str
    window: int
    orphaned: bool = False


@dataclass(frozen=True, slots=True)
class Replica:
    node: str
    incarnation: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Standby:
    node: str
    incarnation: str
    level: Literal["warm", "cold"] = "warm"


# Multiples of the golden section fall into the widest gap between those before.
_TURN: Final = 2**32
_GOLDEN: Final = 2_654_435_769


@dataclass(frozen=True, slots=True)
class Segment:
    id: str
    units: UnitRange
    dtype: str
    replicas: tuple[Replica, ...]
    standbys: tuple[Standby, ...] = ()

    def replica(self, lane: int) -> Replica:
        """The one that serves this lane. Lanes that follow each other are spread by the weights as
        evenly as can be, and everybody spreads them alike.
        """
        if len(self.replicas) == 1:
            return self.replicas[0]
        at = lane * _GOLDEN % _TURN / _TURN * sum(replica.weight for replica in self.replicas)
        for replica in self.replicas:
            at -= replica.weight
            if at < 0:
                return replica
        return self.replicas[-1]

    def holders(self) -> tuple[tuple[str, str], ...]:
        """(node, incarnation) of those who compute it, then of its stand-bys."""
        computing = ((replica.node, replica.incarnation) for replica in self.replicas)
        return (*computing, *((standby.node, standby.incarnation) for standby in self.standbys))


@dataclass(frozen=True, slots=True)
class Hop:
    """One edge of the chain; `source` and `target` are segment ids (`from`, `to` on the wire).

    codec: by phase (request, prefill, decode), else raw; see `core.encoding`. credit_bytes and
    credit_messages: the window of activations, as they are encoded, that may be on this edge,
    granted from the start.
    """

    source: str
    target: str
    codec: dict[str, str]
    credit_bytes: int
    credit_messages: int


@dataclass(frozen=True, slots=True)
class BrokerUrls:
    control: str
    data: str


@dataclass(frozen=True, slots=True)
class TransferEnd:
    epoch: int
    segment: str


@dataclass(frozen=True, slots=True)
class Transfer:
    """Units that other nodes compute than before, and how these come to the caches of sessions."""

    units: UnitRange
    source: TransferEnd
    target: TransferEnd
    mode: TransferMode


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the planner expects.

    p50_ms: latency of a request that waits for no other. p95_ms: that 95 % stay within when
    requests come at random, as many as the deployment expects. rate_per_s: the most that can be
    served for long. Of generations both times are those until the first token; token_p50_ms,
    token_p95_ms: from one token to the next.
    """

    p50_ms: float
    p95_ms: float
    rate_per_s: float
    token_p50_ms: float | None = None
    token_p95_ms: float | None = None


class Gone(NamedTuple):
    """An incarnation that is dead, or silent."""

    node: str
    incarnation: str


@dataclass(frozen=True, slots=True)
class Table:
    """gone: those on whom what served before depended, and who were dead or
    silent when this was published.
    """

    deployment: str
    term: int
    leader: str
    epoch: int
    state: TableState
    reason: str | None
    decision: str
    model: ModelRef | None
    door: DoorPlace | None
    segments: tuple[Segment, ...] = ()
    hops: tuple[Hop, ...] = ()
    brokers: dict[str, BrokerUrls] = field(default_factory=dict)
    transfers: tuple[Transfer, ...] = ()
    forecast: Forecast | None = None
    gone: tuple[Gone, ...] = ()

    @property
    def serves(self) -> bool:
        """Whether requests run on it, on the deployment's own model or on its fallback."""
        return self.state in ("serving", "fallback")

    @property
    def is_fallback(self) -> bool:
        """Whether it is of the deployment's fallback, also while it is prepared."""
        return self.model is not None and self.model.fallback

    @property
    def model_name(self) -> str:
        """What nodes call its model, in what they say to each other as well."""
        return self.deployment + FALLBACK_MARK if self.is_fallback else self.deployment

    @property
    def stamp(self) -> Stamp:
        return Stamp(self.term, self.leader, self.epoch)

    @property
    def keeper(self) -> tuple[str, str] | None:
        """(node, incarnation) that has the door."""
        return None if self.door is None else (self.door.node, self.door.incarnation)

    def segment(self, segment_id: str) -> Segment | None:
        return next((s for s in self.segments if s.id == segment_id), None)

    def hop(self, source: str, target: str) -> Hop | None:
        return next((h for h in self.hops if (h.source, h.target) == (source, target)), None)

    def way(self, lane: int) -> tuple[Replica, ...]:
        """Who serves this lane where there is a choice."""
        return tuple(s.replica(lane) for s in self.segments if len(s.replicas) > 1)

    def after(self, segment_id: str) -> Segment | None:
        """The segment behind `segment_id` (the first behind the door); None at the end."""
        if segment_id == DOOR:
            return self.segments[0] if self.segments else None
        ids = [s.id for s in self.segments]
        index = ids.index(segment_id) + 1
        return self.segments[index] if index < len(ids) else None

    def members(self) -> frozenset[tuple[str, str]]:
        """(node, incarnation) of everyone on whom the chain depends."""
        named = {(r.node, r.incarnation) for s in self.segments for r in s.replicas}
        return frozenset(named if self.keeper is None else {*named, self.keeper})

    def leaves(self, before: Table) -> bool:
        """Whether somebody on whom an older table depends has no part in this one."""
        return before.stamp < self.stamp and not before.members() <= self.named()

    def lost(self, before: Table, members: Collection[tuple[str, str]] = ()) -> bool:
        """Whether some of `members`, or anybody on whom an older table depends, is gone."""
        depends = members or before.members()
        return before.stamp < self.stamp and not set(self.gone).isdisjoint(depends)

    def named(self) -> frozenset[tuple[str, str]]:
        """The same with stand-bys: everyone this table gives anything to hold."""
        return self.members().union(*(segment.holders() for segment in self.segments))


@dataclass(frozen=True, slots=True)
class TableDocument:
    """What is retained on `deploy/{d}/table`.

    Invariant: `prepare`, where there is one, has a higher stamp than `serve`. Giving up a
    prepared table therefore publishes `serve` again under a new epoch; so does every other
    `refused`.

    refused: why the deployment cannot be placed as it is now, while `serve` is from before that
    change and serves on.
    """

    serve: Table | None
    prepare: Table | None = None
    refused: str | None = None
    schema: int = SCHEMA

    @property
    def order(self) -> tuple[Stamp, Stamp]:
        """Sort key of documents: the newest stamp in it, then the one that serves."""
        none = Stamp(0, "", 0)
        serve = self.serve.stamp if self.serve else none
        prepare = self.prepare.stamp if self.prepare else none
        return max(serve, prepare), serve

    def tables(self) -> tuple[Table, ...]:
        return tuple(table for table in (self.serve, self.prepare) if table is not None)
