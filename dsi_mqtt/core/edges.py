"""Credits: how much may be on an edge between two segments.

A broker acknowledges what it drops, so nobody may send what the receiver has not made room for.
Credit is cumulative: a grant says how many bytes and activations the sender may have sent since
the edge began, so a lost or repeated grant does no harm. An edge is keyed by both incarnations
and the table's stamp; it begins with the window that the table's hop names.

Messages of one sender keep their order. So when a probe arrives that says "I had sent N", all of
N that has not arrived never will: the receiver counts it as consumed, and the window reopens.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from dsi_mqtt.core.effects import Effects, Transmit
from dsi_mqtt.core.message import Activation, Credit, EdgeMark, Header
from dsi_mqtt.core.table import Hop, Stamp

PROBE_S: Final = 0.5
REPEAT_S: Final = 1.0
IDLE_S: Final = 10.0


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

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def send(self, activation: Activation, deadline: float, now: float) -> Effects:
        """Sends, or keeps until credit comes. Order is kept."""
        self._waiting.append(_Waiting(activation, deadline))
        effects = self._flush()
        if self._waiting and self._next_probe is None:
            self._next_probe = now + PROBE_S
        return effects

    def grant(self, credit: Credit) -> Effects:
        self._granted = (
            max(self._granted[0], credit.nbytes),
            max(self._granted[1], credit.messages),
        )
        effects = self._flush()
        if not self._waiting:
            self._next_probe = None
        return effects

    def forget(self, try_key: tuple[bytes, int]) -> bool:
        """Drops an attempt that still waits; False when it has been sent."""
        kept = [w for w in self._waiting if w.activation.header.try_key != try_key]
        found = len(kept) < len(self._waiting)
        self._waiting = deque(kept)
        return found

    def tick(self, now: float) -> tuple[Effects, list[Activation]]:
        """Probes when blocked; also returns what waited past its deadline."""
        late = [w.activation for w in self._waiting if w.deadline <= now]
        if late:
            self._waiting = deque(w for w in self._waiting if w.deadline > now)
        if not self._waiting:
            self._next_probe = None
            return [], late
        if self._next_probe is None or now < self._next_probe:
            return [], late
        self._next_probe = now + PROBE_S
        return [self.probe(bytes(16), 0)], late

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

    def _flush(self) -> Effects:
        effects: Effects = []
        while self._waiting and self._fits(self._waiting[0].activation.nbytes):
            activation = self._waiting.popleft().activation
            self._sent = (self._sent[0] + activation.nbytes, self._sent[1] + 1)
            mark = EdgeMark(self.key.sender, self.key.receiver, *self._sent)
            header = replace(activation.header, edge=mark)
            effects.append(Transmit(self._node, Activation(header, activation.tensors)))
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

    def arrived(self, mark: EdgeMark, nbytes: int, now: float) -> None:
        """An activation came; what the sender had sent before it and is missing is lost."""
        self._close_gap(mark.sent_bytes - nbytes, mark.sent_messages - 1)
        self._received = (mark.sent_bytes, mark.sent_messages)
        self._active_until = now + IDLE_S

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

    def tick(self, now: float) -> Effects:
        """Repeats the grant while the edge is in use: a QoS 0 grant may have been lost."""
        if now < self._next_repeat or now > self._active_until:
            return []
        return [self._grant(now)]

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
