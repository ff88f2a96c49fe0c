"""Who leads: one orchestrator at a time, by the broker's own word.

The leader's connection has a fixed client id, so that a broker ends the older of two. Tables are
published only over that connection, and it is never opened again by itself: who lost it reads
first whether another leads. A term is above everything that was ever published, so that a late
table of an older leader changes nothing.

    observing ──(no leader, its will, or three beats missed)──► taking
    taking ──(connected)──► settling ──(own record read back, nobody newer)──► leading
    taking, settling, leading ──(connection lost, or a newer leader seen)──► observing

The newest leader counts: what an older one still says, its will above all, changes nothing. Who
lost the connection tries again sooner than who gave way, or two could hinder each other for ever.
So they could where beats take longer than the patience there is with them: who took the lead while
another had it, and finds that out, takes twice as long the next time.

What ended the leader's connection may have cut off the observing one, which does not know it yet:
then another leads meanwhile, unheard. So who has lost the lead takes it only when something has
come over that connection since, or when it has stood for longer than a dead one does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from dsi_mqtt.core.node import Leader
from dsi_mqtt.core.table import TERM_MAX, Stamp

BEAT_S: Final = 1.0
MISSED_BEATS: Final = 3
# By how much more patient whoever was hasty becomes at most, and for how long that is remembered.
SLOWER_MAX: Final = 8
CALM_S: Final = 300.0
SETTLE_S: Final = 0.3
LOST_S: Final = 1.0  # before another try, after the connection was lost
GAVE_WAY_S: Final = 2.0  # … and after somebody newer was seen
# By when a connection has ended that nothing comes over any more, be it an answer to a ping.
DEAD_S: Final = 10.0
GONE: Final = 0  # the beat of a leader that has left

State = Literal["observing", "taking", "settling", "leading"]


@dataclass(frozen=True, slots=True)
class TakeLead:
    """Open the leader's connection; answer with LeadTaken or LeadLost."""

    term: int
    nonce: str


@dataclass(frozen=True, slots=True)
class DropLead:
    """Close the leader's connection."""


@dataclass(frozen=True, slots=True)
class PublishLeader:
    leader: Leader


LeadershipEffect = TakeLead | DropLead | PublishLeader


class Leadership:
    """State machine. `nonce` tells this orchestrator apart, and is fresh for every process."""

    def __init__(self, nonce: str) -> None:
        self.nonce = nonce
        self.state: State = "observing"
        self.term = 0
        self._highest = 0
        self._record: Leader | None = None
        self._heard = 0.0
        self._connected = False
        self._due = 0.0
        self._beat = GONE
        self._read_back = False
        self._newest: Leader | None = None  # of all that were ever seen alive
        self._before: Leader | None = None  # the same, when the observing connection came
        self._found: Leader | None = None  # what the broker has said on that connection
        self._slower = 1
        self._hasty_at = -math.inf
        # Above which term a living leader shows that the lead was taken from it; of this nonce.
        self._taken_above: tuple[int, str | None] | None = None
        self._lost: int | None = None  # the term that was ended by the broker, until one is heard
        self._word_at = -math.inf  # something came over the observing connection
        self._lost_at = -math.inf

    @property
    def leading(self) -> bool:
        return self.state == "leading"

    def term_seen(self, stamp: Stamp, now: float) -> list[LeadershipEffect]:
        """A table's or a node's stamp; a term beyond `TERM_MAX` is nobody's, and is not outdone."""
        if stamp.term >= TERM_MAX:
            return []
        self._highest = max(self._highest, stamp.term)
        if self.state != "observing" and stamp[:2] > (self.term, self.nonce):
            return self._step_down(now)
        return []

    def connected(self) -> None:
        """The observing connection is (again) there; what is retained is about to arrive."""
        self._before, self._found = self._newest, None

    def observing_since(self, now: float) -> None:
        """All that was retained has arrived; nothing is concluded from silence before."""
        self._connected = True
        self._heard = self._word_at = now
        self._due = max(self._due, now + SETTLE_S)

    def word(self, now: float) -> None:
        """Something has come over the observing connection, whoever said it."""
        self._word_at = now

    def connection_lost(self) -> None:
        """Without it nobody can tell who leads."""
        self._connected = False

    @property
    def forgotten(self) -> bool:
        """Whether the broker has lost the leader's record, or has fallen back to an older one."""
        if self._before is None:
            return False
        return self._found is None or _order(self._found) < _order(self._before)

    @property
    def others_led(self) -> bool:
        """Whether somebody else may have led while the observing connection was away."""
        return self._found is not None and self._found.nonce != self.nonce

    def leader_seen(self, leader: Leader, now: float) -> list[LeadershipEffect]:
        """A leader's beat, its will (beat `GONE`), or the echo of one's own."""
        self.word(now)
        if leader.term >= TERM_MAX:
            return []
        self._found = leader
        if self._newest is None or _order(leader) > _order(self._newest):
            self._newest = leader
        who, record = (leader.term, leader.nonce), self._record
        self._highest = max(self._highest, leader.term)
        if record is not None and who < (record.term, record.nonce):
            return []
        if leader.nonce == self.nonce:
            self._record = None  # nobody came after
            self._read_back = self._read_back or leader.term == self.term
            return []
        self._record, self._heard, self._lost = leader, now, None
        self._learns(leader, now)
        newer = who > (self.term, self.nonce) and leader.beat != GONE
        return self._step_down(now) if newer and self.state != "observing" else []

    def lead_taken(self, now: float) -> list[LeadershipEffect]:
        if self.state != "taking":
            return [DropLead()]
        self.state, self._due = "settling", now + SETTLE_S
        self._beat, self._read_back = GONE + 1, False
        return [PublishLeader(Leader(self.term, self.nonce, self._beat))]

    def lead_lost(self, now: float) -> list[LeadershipEffect]:
        if self.state == "observing":
            return []
        if self.state != "taking":
            self._lost, self._lost_at = self.term, now
        self.state = "observing"
        self._heard = now
        self._due = now + LOST_S * self._slower
        return []

    def tick(self, now: float, unix_s: int) -> list[LeadershipEffect]:
        """unix_s: wall clock, only a lower bound for a term after a broker forgot everything."""
        if self.state == "observing":
            return self._maybe_take(now, unix_s)
        if self.state == "settling" and self._read_back and self._due <= now:
            self.state, self._due = "leading", now
        if self.state == "leading" and self._due <= now:
            self._due = now + BEAT_S
            self._beat += 1
            return [PublishLeader(Leader(self.term, self.nonce, self._beat))]
        return []

    def _maybe_take(self, now: float, unix_s: int) -> list[LeadershipEffect]:
        if not self._connected or now < self._due or self._may_be_deaf(now):
            return []
        record = self._record
        living = record is not None and record.beat != GONE
        if now - self._hasty_at > CALM_S:
            self._slower = 1
        if living and now - self._heard < BEAT_S * MISSED_BEATS * self._slower:
            return []
        self._taken_above = None if self._lost is None else (self._lost, None)
        if record is not None and living:
            self._taken_above = (record.term, record.nonce)
        self.state = "taking"
        self.term = max(self._highest + 1, unix_s)
        return [TakeLead(self.term, self.nonce)]

    def _may_be_deaf(self, now: float) -> bool:
        """Whether the observing connection may have ended with the leader's."""
        return self._word_at < self._lost_at and now < self._lost_at + DEAD_S

    def _learns(self, leader: Leader, now: float) -> None:
        """Whether it led, or takes the lead back, where it was taken for gone."""
        if self._taken_above is None or leader.beat == GONE:
            return
        above, nonce = self._taken_above
        if leader.term > above and nonce in (None, leader.nonce):
            self._taken_above = None
            self._slower = min(2 * self._slower, SLOWER_MAX)
            self._hasty_at = now

    def _step_down(self, now: float) -> list[LeadershipEffect]:
        self.state = "observing"
        self._heard = now
        self._due = now + GAVE_WAY_S
        return [DropLead()]


def _order(leader: Leader) -> tuple[int, str, float]:
    """Records of one leader are ordered by their beats; its farewell is the last."""
    return leader.term, leader.nonce, float("inf") if leader.beat == GONE else leader.beat
