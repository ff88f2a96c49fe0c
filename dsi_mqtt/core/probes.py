"""When a node may probe its link, and with how much: a budget that no run of events can break.

Three kinds of messages go over the data broker. A *beat* twice a second, some bytes to oneself,
says how far the broker is and that the way there and back is whole. A *round* is a larger one: what
it takes longer than a beat, it needs for going up and coming down. An *up* goes to a topic that
nobody has subscribed to, so that its acknowledgement alone comes back: what that takes longer, it
needs for going up. Rounds and ups take turns.

    any second of probes <= the least of 64 KB and 1 % of what the link has been proven to carry
    in a second; where that is less, 256 bytes, or two probes without payload; and two marks

A link is proven to carry what a round has shown in the last 10 s. So a probe begins small, and the
next is twice as large only when the last one was at once there: one way in a hundredth of a second.
None is sent while the socket is full or while another is out. One that meets other traffic has cost
its part of the budget and says nothing. Then beats go right behind the traffic, as far as there is
room for them (`core/passing.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from dsi_mqtt.core.window import Window

BYTES_MAX: Final = 64_000
SHARE: Final = 0.01
BYTES_MIN: Final = 256
PROVEN_S: Final = 10.0
# One way within this: then so many bytes are no more than `SHARE` of a second of the link.
AT_ONCE_S: Final = SHARE * 1.0
# What TCP sends without waiting for word from the other end (10 segments, RFC 6928): beyond that a
# far peer is waited for, and a probe would measure distance.
FLIGHT_BYTES: Final = 14_000
NEAR_S: Final = 0.002

_START: Final = 128
_OVERDUE_S: Final = 10.0

Kind = Literal["beat", "round", "up"]


@dataclass(frozen=True, slots=True)
class Probe:
    """nbytes: all that it takes in one direction. carried: of other traffic, before it was sent."""

    number: int
    kind: Kind
    nbytes: int
    sent_at: float
    carried: int


class Probes:
    """State machine; `now` never goes back. overhead: bytes of a probe without payload."""

    def __init__(self, overhead: int) -> None:
        self._overhead = overhead
        self._least = max(BYTES_MIN, 2 * overhead)
        self._number = 0
        self._size = _START
        self._next: Kind = "round"
        self._out: dict[int, Probe] = {}
        self._spent = Window(1.0)
        self._carried = 0
        self._turned_at = -math.inf
        self._besides = Window(1.0)
        self._proven: list[tuple[float, float]] = []
        self.acknowledges = True

    # --- what is told -------------------------------------------------------------------------

    def carried(self, nbytes: int) -> None:
        """Other traffic, in either direction."""
        self._carried += nbytes

    def proven(self, byte_s: float, now: float) -> None:
        """Both directions have carried so much in a second."""
        self._proven.append((now, byte_s))

    def at_most(self, byte_s: float) -> None:
        """One direction carries no more in a second, whatever was proven before."""
        self._proven = [(at, min(rate, byte_s)) for at, rate in self._proven]

    def back(self, number: int) -> tuple[Probe, bool] | None:
        """The probe that came back, and whether it was alone on the link; None: not known."""
        probe = self._out.pop(number, None)
        if probe is None:
            return None
        return probe, self._carried - probe.carried <= probe.nbytes // 4

    def oldest_beat(self) -> Probe | None:
        """Of those that are not back yet."""
        beats = (probe for probe in self._out.values() if probe.kind == "beat")
        return min(beats, key=lambda probe: probe.number, default=None)

    def took(self, probe: Probe, one_way_s: float) -> None:
        """How long it was on its way more than a beat."""
        if one_way_s <= AT_ONCE_S:
            self._size = max(self._size, min(2 * probe.nbytes, BYTES_MAX))
        else:
            self._size = max(_START, probe.nbytes // 2)

    def lost(self) -> None:
        """The connection has ended, and what was out with it."""
        self._out.clear()

    # --- what may be sent ---------------------------------------------------------------------

    def limit(self, now: float) -> int:
        """Bytes of probes within a second."""
        self._proven = [(at, rate) for at, rate in self._proven if at > now - PROVEN_S]
        rate = max((rate for _, rate in self._proven), default=0.0)
        return min(BYTES_MAX, max(self._least, int(SHARE * rate)))

    def due(self, now: float, *, far: bool, full: bool) -> tuple[Probe, ...]:
        """What to send now. far: beyond `NEAR_S`. full: the socket takes no more at present.

        Asked twice in a second; where that has no room for two turns, there is one.
        """
        self._out = {n: p for n, p in self._out.items() if p.sent_at > now - _OVERDUE_S}
        least = min(max(_START, self._overhead), self._size)
        half = self.limit(now) // 2 - self._overhead
        if half < least and now < self._turned_at + 1.0:
            return ()
        self._turned_at = now
        sent = [self._send("beat", self._overhead, now)]
        waits = any(probe.kind != "beat" for probe in self._out.values())
        if not (full or waits):
            free = self.limit(now) - self._spent.total(now)
            size = min(self._size, free, FLIGHT_BYTES if far else BYTES_MAX)
            size = min(size, half) if half >= least else size
            if size >= least:
                sent.append(self._send(self._turn(), size, now))
        return tuple(probe for probe in sent if probe is not None)

    def mark(self, now: float) -> Probe | None:
        """A beat besides, to go right behind a message, where the next one has room as well; and
        two a second where it has none, of which the second tells what passed between the two: else
        nothing might ever be proven.
        """
        if self._spent.total(now) + 2 * self._overhead <= self.limit(now):
            return self._send("beat", self._overhead, now)
        if self._besides.total(now) > self._overhead:
            return None
        self._besides.add(self._overhead, now)
        return self._sent("beat", self._overhead, now)

    def _send(self, kind: Kind, nbytes: int, now: float) -> Probe | None:
        nbytes = max(nbytes, self._overhead)
        if self._spent.total(now) + nbytes > self.limit(now):
            return None
        self._spent.add(nbytes, now)
        return self._sent(kind, nbytes, now)

    def _sent(self, kind: Kind, nbytes: int, now: float) -> Probe:
        self._number += 1
        probe = Probe(self._number, kind, nbytes, now, self._carried)
        self._out[probe.number] = probe
        return probe

    def _turn(self) -> Kind:
        kind = self._next
        self._next = "up" if kind == "round" and self.acknowledges else "round"
        return kind
