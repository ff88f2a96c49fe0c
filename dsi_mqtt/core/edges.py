"""Credits: how much may be on an edge between two segments.

A broker acknowledges what it drops, so nobody may send what the receiver has not made room for.
Credit is cumulative: a grant says how many bytes and activations the sender may have sent since
the edge began, so a lost or repeated grant does no harm. An edge is keyed by both incarnations
and the table's stamp; it begins with the window that the table's hop names.

Messages of one sender keep their order. So when a probe, or an activation, arrives that says "I
had sent N", all of N that has not arrived never will: the receiver counts it as consumed, and the
window reopens. What comes after it was counted (a repetition) is not counted again.

An activation larger than the window passes alone: when all that was sent before it is consumed.

    sender    sent ≤ granted, or one alone     blocked ─► probes every 0.5 s, at once after a loss
    receiver  granted = consumed + window      told when half a window is free, when probed, and
                                               every second while the edge is in use
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from dsi_mqtt.core.effects import Effects, Transmit
from dsi_mqtt.core.message import Activation, Credit, EdgeMark, Header
from dsi_mqtt.core.table import Hop, Stamp, Table

PROBE_S: Final = 0.5
REPEAT_S: Final = 1.0
IDLE_S: Final = 10.0
# Probes without an answer, after which a receiver may be dead for all that is known here.
UNANSWERED_MAX: Final = 4


class EdgeKey(NamedTuple):
    deployment: str
    stamp: Stamp
    source: str
    target: str
    sender: str
    receiver: str


@dataclass(slots=True)
class _Waiting:
    activation: Activation
    deadline: float


class OutgoingEdge:
    """The sender's side of one edge."""

    def __init__(self, key: EdgeKey, node: str, hop: Hop) -> None:
        self.key = key
        self._node = node
        self._window = (hop.credit_bytes, hop.credit_messages)
        self._granted = self._window
        self._sent = (0, 0)
        self._waiting: deque[_Waiting] = deque()
        self._next_probe: float | None = None
        self._unanswered = 0

    @property
    def is_silent(self) -> bool:
        """Whether the receiver, asked for credit, has not answered for a while."""
        return self._unanswered >= UNANSWERED_MAX

    def strand(self) -> list[Activation]:
        """Gives up what still waits for credit, and returns it."""
        stranded = [w.activation for w in self._waiting]
        self._waiting.clear()
        return stranded

    def send(self, activation: Activation, deadline: float, now: float) -> Effects:
        """Sends, or keeps until credit comes. Order is kept."""
        self._waiting.append(_Waiting(activation, deadline))
        return self._flush(now)

    def grant(self, credit: Credit, now: float) -> Effects:
        self._granted = (
            max(self._granted[0], credit.nbytes),
            max(self._granted[1], credit.messages),
        )
        self._unanswered = 0
        return self._flush(now)

    def holds(self, try_key: tuple[bytes, int]) -> bool:
        """Whether this attempt still waits here for credit."""
        return any(w.activation.header.try_key == try_key for w in self._waiting)

    def forget(self, try_key: tuple[bytes, int], now: float) -> Effects:
        """Drops an attempt if it still waits; what waited behind it may fit."""
        self._waiting = deque(w for w in self._waiting if w.activation.header.try_key != try_key)
        return self._flush(now)

    def reconnected(self, now: float) -> Effects:
        """A grant may have been lost with the connection: who is blocked asks at once."""
        if not self._waiting:
            return []
        self._next_probe = now + PROBE_S
        self._unanswered += 1
        return [self.probe(bytes(16), 0)]

    def tick(self, now: float) -> tuple[Effects, list[Activation]]:
        """Probes when blocked; also returns what waited past its deadline."""
        late = [w.activation for w in self._waiting if w.deadline <= now]
        effects: Effects = []
        if late:
            self._waiting = deque(w for w in self._waiting if w.deadline > now)
            effects += self._flush(now)
        if self._next_probe is not None and self._next_probe <= now:
            effects += self.reconnected(now)
        return effects, late

    def next_tick(self) -> float:
        """The earliest time at which a tick does anything, unless an event comes before."""
        probe = math.inf if self._next_probe is None else self._next_probe
        return min([probe, *(waiting.deadline for waiting in self._waiting)])

    def probe(self, request: bytes, attempt: int) -> Transmit:
        """Asks for a fresh grant and, with a request, whether that attempt is alive."""
        key = self.key
        return Transmit(
            self._node,
            Activation(
                Header(
                    "credit",
                    key.deployment,
                    key.stamp,
                    key.source,
                    key.target,
                    request,
                    attempt,
                    credit=Credit(key.sender, key.receiver, *self._sent, probe=True),
                )
            ),
        )

    def _flush(self, now: float) -> Effects:
        effects: Effects = []
        while self._waiting and self._fits(self._waiting[0].activation.nbytes):
            first = self._waiting.popleft()
            activation = first.activation
            self._sent = (self._sent[0] + activation.nbytes, self._sent[1] + 1)
            header = activation.header.on_edge(
                EdgeMark(self.key.sender, self.key.receiver, *self._sent),
                budget_ms=max(0, int((first.deadline - now) * 1000)),
            )
            effects.append(Transmit(self._node, Activation(header, activation.tensors)))
        if not self._waiting:
            self._next_probe, self._unanswered = None, 0
        elif self._next_probe is None:
            self._next_probe = now + PROBE_S
        return effects

    def _fits(self, nbytes: int) -> bool:
        if self._sent[1] + 1 > self._granted[1]:
            return False
        if self._sent[0] + nbytes <= self._granted[0]:
            return True
        # An activation larger than the window passes alone, or it would wait for ever.
        return self._sent[0] == self._granted[0] - self._window[0]


class IncomingEdge:
    """The receiver's side of one edge."""

    def __init__(self, key: EdgeKey, node: str, hop: Hop) -> None:
        self.key = key
        self._node = node
        self._window = (hop.credit_bytes, hop.credit_messages)
        self._received = (0, 0)
        self._consumed = (0, 0)
        self._told = (0, 0)
        self._next_repeat = 0.0
        self._active_until = 0.0

    def arrived(self, mark: EdgeMark, nbytes: int, now: float) -> bool:
        """An activation came; what the sender had sent before it and is missing is lost.

        False: it was counted before, as received or as lost, and takes no room now.
        """
        self._active_until = now + IDLE_S
        if mark.sent_messages <= self._received[1]:
            return False
        self._close_gap(mark.sent_bytes - nbytes, mark.sent_messages - 1)
        self._received = (mark.sent_bytes, mark.sent_messages)
        return True

    def finished(self, nbytes: int, now: float) -> Effects:
        """Room for an activation is free again; grants when half a window is."""
        self._consumed = (self._consumed[0] + nbytes, self._consumed[1] + 1)
        fresh = (self._consumed[0] - self._told[0], self._consumed[1] - self._told[1])
        if fresh[0] * 2 >= self._window[0] or fresh[1] * 2 >= self._window[1]:
            return [self._grant(now)]
        return []

    def probed(self, credit: Credit, now: float) -> Effects:
        self._close_gap(credit.nbytes, credit.messages)
        self._active_until = now + IDLE_S
        return [self._grant(now)]

    def reconnected(self, now: float) -> Effects:
        """A grant may have been lost with the connection: it is repeated while in use."""
        return [self._grant(now)] if now <= self._active_until else []

    def tick(self, now: float) -> Effects:
        """Repeats the grant from time to time: one at QoS 0 may have been lost."""
        return self.reconnected(now) if now >= self._next_repeat else []

    def next_tick(self, now: float) -> float:
        """The earliest time at which a tick does anything, unless an event comes before."""
        used = max(self._next_repeat, now) <= self._active_until
        return self._next_repeat if used else math.inf

    def _close_gap(self, sent_bytes: int, sent_messages: int) -> None:
        lost = (
            max(0, sent_bytes - self._received[0]),
            max(0, sent_messages - self._received[1]),
        )
        self._received = (self._received[0] + lost[0], self._received[1] + lost[1])
        self._consumed = (self._consumed[0] + lost[0], self._consumed[1] + lost[1])

    def _grant(self, now: float) -> Transmit:
        self._told = self._consumed
        self._next_repeat = now + REPEAT_S
        key = self.key
        granted = (self._consumed[0] + self._window[0], self._consumed[1] + self._window[1])
        return Transmit(
            self._node,
            Activation(
                Header(
                    "credit",
                    key.deployment,
                    key.stamp,
                    key.target,
                    key.source,
                    credit=Credit(key.sender, key.receiver, *granted),
                )
            ),
        )


class Edges:
    """All edges that begin or end at one node. `table` finds a table this node still knows."""

    def __init__(self, incarnation: str, table: Callable[[str, Stamp], Table | None]) -> None:
        self._me = incarnation
        self._table = table
        self._outgoing: dict[EdgeKey, OutgoingEdge] = {}
        self._incoming: dict[EdgeKey, IncomingEdge] = {}

    def __len__(self) -> int:
        return len(self._outgoing) + len(self._incoming)

    def outgoing(self, header: Header) -> OutgoingEdge | None:
        """The edge for an activation with this header; None where its table has no such hop."""
        table = self._table(header.deployment, header.stamp)
        segment = table.segment(header.target) if table else None
        hop = table.hop(header.source, header.target) if table else None
        if segment is None or hop is None:
            return None
        receiver = segment.replica(header.lane)
        key = _edge_key(header, self._me, receiver.incarnation)
        edge = self._outgoing.get(key)
        if edge is None:
            edge = self._outgoing[key] = OutgoingEdge(key, receiver.node, hop)
        return edge

    def incoming(self, header: Header, sender: str) -> IncomingEdge | None:
        """The edge this header came over; None from a door, or where the table names no such."""
        key = _edge_key(header, sender, self._me)
        edge = self._incoming.get(key)
        if edge is None:
            table = self._table(header.deployment, header.stamp)
            hop = table.hop(header.source, header.target) if table else None
            source = table.segment(header.source) if table else None
            replicas = source.replicas if source else ()
            node = next((r.node for r in replicas if r.incarnation == sender), None)
            if hop is None or node is None:
                return None
            edge = self._incoming[key] = IncomingEdge(key, node, hop)
        return edge

    def granted(self, header: Header, credit: Credit, now: float) -> Effects:
        """A grant goes against the stream: its source is the edge's target."""
        against = replace(header, source=header.target, target=header.source)
        edge = self._outgoing.get(_edge_key(against, credit.sender, credit.receiver))
        return edge.grant(credit, now) if edge else []

    def reconnected(self, now: float) -> Effects:
        effects: Effects = []
        for outgoing in self._outgoing.values():
            effects += outgoing.reconnected(now)
        for incoming in self._incoming.values():
            effects += incoming.reconnected(now)
        return effects

    def tick(self, now: float) -> tuple[Effects, list[Activation]]:
        """Probes and repeated grants; also returns what waited past its deadline."""
        effects: Effects = []
        late: list[Activation] = []
        for outgoing in self._outgoing.values():
            probes, too_late = outgoing.tick(now)
            effects += probes
            late += too_late
        for incoming in self._incoming.values():
            effects += incoming.tick(now)
        return effects, late

    def next_tick(self, now: float) -> float:
        """The earliest time at which a tick does anything, unless an event comes before."""
        if not all(map(self._known, (*self._outgoing, *self._incoming))):
            return -math.inf
        due = [edge.next_tick() for edge in self._outgoing.values()]
        due += [edge.next_tick(now) for edge in self._incoming.values()]
        return min(due, default=math.inf)

    def forget_gone(self) -> list[Activation]:
        """Forgets the edges of tables this node no longer knows; returns what waited there."""
        gone = [k for k in (*self._outgoing, *self._incoming) if not self._known(k)]
        stranded: list[Activation] = []
        for key in gone:
            self._incoming.pop(key, None)
            outgoing = self._outgoing.pop(key, None)
            if outgoing is not None:
                stranded += outgoing.strand()
        return stranded

    def _known(self, key: EdgeKey) -> bool:
        return self._table(key.deployment, key.stamp) is not None


def _edge_key(header: Header, sender: str, receiver: str) -> EdgeKey:
    return EdgeKey(header.deployment, header.stamp, header.source, header.target, sender, receiver)
