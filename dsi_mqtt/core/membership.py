"""Which nodes live: what they say, how long they have been silent, and when not to conclude.

A will is a hint: a broker that stops cleanly sends everybody's, one that is killed sends none.
So a will counts after a moment in which the node does not speak again, silence counts after
several beats, and nothing counts for a while after one's own connection was away.

Silence of everybody is one's own deafness: a node is silent only as long as others, or one's own
messages, are heard. Of a time in which nobody is heard, however long, one second counts. Of one in
which oneself was busy nothing does at first, for what was said meanwhile has yet to be read; that
takes a quarter of the time, and who is silent behind it was so all the while.

An incarnation that was replaced does not come back by its status alone, whatever a broker that lost
its newest state may still retain: it has to be heard by its telemetry, which nobody retains, while
nobody else bears the name. Else one stray status under the name of a node would shut that node out
for as long as it lives.

How long silence lasts before it counts depends on the node: five times the longest pause among its
last words. So whoever speaks often and evenly is missed soon, and on a machine that is starved,
where words come as they may, as late as whoever speaks seldom. When somebody was missed too soon,
and speaks again before that, nobody is missed sooner for the next five minutes.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

from dsi_mqtt.core.node import NodeStatus, Telemetry

WILL_CONFIRMED_S: Final = 0.25
# Silence that counts, while others were heard: of so many words that a node usually says, at least
# and at most.
WORDS: Final = 5
SILENT_LEAST_S: Final = 1.5
SILENT_S: Final = 2.5
# Of how many pauses the longest counts; before, nobody is known.
PAUSES: Final = 24
# Beats of the leader, which it hears itself, come no more often.
DEAF_S: Final = 1.0
# Seconds of what came while oneself was busy that are read in one.
READ_RATE: Final = 4.0
# For how long it is remembered that somebody was missed too soon.
CALM_S: Final = 300.0
GRACE_S: Final = 4.0
# What is remembered of who was replaced: names, and incarnations of each; then the oldest go.
NAMES_MAX: Final = 16_384
FORMER_MAX: Final = 64


@dataclass(slots=True)
class _Voice:
    """How evenly an incarnation speaks. heard, last: when it spoke last, by the clocks `_listened`
    and `_passed`. pauses: the newest between two words, without what oneself was busy.
    """

    incarnation: str
    heard: float
    last: float
    pauses: deque[float] = field(default_factory=lambda: deque(maxlen=PAUSES))

    @property
    def patience_s(self) -> float:
        if len(self.pauses) < PAUSES:
            return SILENT_S
        return min(max(WORDS * max(self.pauses), SILENT_LEAST_S), SILENT_S)

    def spoke(self, listened: float, passed: float) -> None:
        self.pauses.append(listened - self.heard)
        self.heard, self.last = listened, passed


@dataclass(slots=True)
class _Member:
    status: NodeStatus
    voice: _Voice
    since: float
    telemetry: Telemetry | None = None
    will_at: float | None = None


class _Former:
    """Incarnations of one name that were replaced. claim: what one of them has said since."""

    def __init__(self) -> None:
        self._incarnations: OrderedDict[str, None] = OrderedDict()
        self.claim: NodeStatus | None = None

    def __contains__(self, incarnation: str) -> bool:
        return incarnation in self._incarnations

    def add(self, incarnation: str) -> None:
        self._incarnations[incarnation] = None
        if len(self._incarnations) > FORMER_MAX:
            self._incarnations.popitem(last=False)

    def lives(self, incarnation: str) -> NodeStatus | None:
        """It was heard: what it claims to be, if it has said so; it is none of them any more."""
        claim = self.claim
        if claim is None or claim.incarnation != incarnation:
            return None
        self.claim = None
        self._incarnations.pop(incarnation, None)
        return claim


class Membership:
    """What is known of all nodes. `connected` and `disconnected` are the observer's own link."""

    def __init__(self) -> None:
        self._members: dict[str, _Member] = {}
        self._former: OrderedDict[str, _Former] = OrderedDict()
        self._missed: dict[str, _Voice] = {}  # of those who were silent for too long
        self._hasty_until = -math.inf
        self._connected_at: float | None = None
        self._heard = 0.0
        # Seconds in which somebody was heard, with those in which oneself was busy, and without.
        self._passed = self._listened = 0.0
        self._busy_s = 0.0  # since somebody was heard last
        self._unread_s = 0.0  # of what came while oneself was busy

    def connected(self, now: float) -> None:
        self._connected_at = self._heard = now
        self._busy_s = 0.0
        for member in self._members.values():
            member.voice.heard, member.voice.last = self._listened, self._passed
            member.will_at = None

    def disconnected(self) -> None:
        self._connected_at = None

    def settled(self, now: float) -> bool:
        """Whether everybody has had the time to speak since the own connection is there."""
        return self.connected_s(now) >= GRACE_S

    def connected_s(self, now: float) -> float:
        """Seconds since the own connection is there; 0 without one."""
        return 0.0 if self._connected_at is None else now - self._connected_at

    def heard(self, now: float) -> None:
        """Something came in over the own connection, whoever said it."""
        passed = max(0.0, now - self._heard)
        listened = max(0.0, passed - self._busy_s)
        self._passed += min(passed, DEAF_S)
        self._listened += min(listened, DEAF_S)
        self._unread_s = max(0.0, self._unread_s - READ_RATE * listened) + self._busy_s
        self._heard, self._busy_s = now, 0.0

    def _silent_s(self, voice: _Voice) -> float:
        """For how long it has not spoken, as far as what came has been read."""
        return self._passed - voice.last - self._unread_s

    def was_busy(self, seconds: float) -> None:
        """Whoever listens thought about something else for so long, and heard nobody."""
        self._busy_s += seconds

    def status_arrived(self, status: NodeStatus, now: float) -> bool:
        """Returns whether anything that plans depend on has changed."""
        self.heard(now)
        former = self._former.get(status.node)
        member = self._members.get(status.node)
        if former is not None and status.incarnation in former:
            former.claim = status if status.state != "offline" else None
            return False
        if status.state == "offline":
            if member is not None and member.status.incarnation == status.incarnation:
                member.will_at = now
            return False
        if member is None or member.status.incarnation != status.incarnation:
            if member is not None:
                self._replaced(member.status)
            self._members[status.node] = _Member(status, self._voice_of(status, now), now)
            return True
        changed = _planning_part(member.status) != _planning_part(status)
        revived = member.will_at is not None
        member.status, member.will_at = status, None
        member.voice.spoke(self._listened, self._passed)
        return changed or revived

    def _voice_of(self, status: NodeStatus, now: float) -> _Voice:
        """Of a node that was not there; known, where it was missed as this incarnation."""
        missed = self._missed.pop(status.node, None)
        if missed is None or missed.incarnation != status.incarnation:
            return _Voice(status.incarnation, self._listened, self._passed)
        if self._silent_s(missed) <= SILENT_S:
            self._hasty_until = now + CALM_S
        missed.heard, missed.last = self._listened, self._passed
        return missed

    def beat_arrived(self, node: str, incarnation: str, now: float) -> None:
        """It says no more than that it lives."""
        self.heard(now)
        member = self._members.get(node)
        if member is not None and member.status.incarnation == incarnation:
            member.voice.spoke(self._listened, self._passed)

    def returned(self, telemetry: Telemetry) -> NodeStatus | None:
        """The status of a node that was taken for replaced and is heard after all, while nobody
        bears its name: to be told to `status_arrived`.
        """
        former = self._former.get(telemetry.node)
        if former is None or telemetry.node in self._members:
            return None
        return former.lives(telemetry.incarnation)

    def telemetry_arrived(self, telemetry: Telemetry, now: float) -> bool:
        """Returns whether it is of a node that is known."""
        self.heard(now)
        member = self._members.get(telemetry.node)
        if member is None or member.status.incarnation != telemetry.incarnation:
            return False
        member.telemetry = telemetry
        member.voice.spoke(self._listened, self._passed)
        return True

    def _replaced(self, status: NodeStatus) -> None:
        former = self._former.pop(status.node, None) or _Former()
        former.add(status.incarnation)
        self._former[status.node] = former
        if len(self._former) > NAMES_MAX:
            self._former.popitem(last=False)

    def tick(self, now: float) -> list[NodeStatus]:
        """Forgets the dead and returns their last status."""
        if not self.settled(now):
            return []
        dead = []
        for node, member in list(self._members.items()):
            by_will = member.will_at is not None and now - member.will_at >= WILL_CONFIRMED_S
            silent = self._is_silent(member.voice, now)
            if silent:
                self._missed[node] = member.voice
            if by_will or silent:
                del self._members[node]
                dead.append(member.status)
        return dead

    def _is_silent(self, voice: _Voice, now: float) -> bool:
        silent_s = self._silent_s(voice)
        if silent_s <= SILENT_LEAST_S:
            return False
        return silent_s > (SILENT_S if now < self._hasty_until else voice.patience_s)

    def alive(self, node: str, incarnation: str) -> bool:
        member = self._members.get(node)
        return member is not None and member.status.incarnation == incarnation

    def status(self, node: str) -> NodeStatus | None:
        member = self._members.get(node)
        return member.status if member else None

    def reports(self) -> list[tuple[NodeStatus, Telemetry | None]]:
        """Every living node, by name."""
        return [(m.status, m.telemetry) for _, m in sorted(self._members.items())]

    def newest_since(self, now: float) -> float:
        """Seconds since the newest node arrived."""
        return min((now - m.since for m in self._members.values()), default=float("inf"))


def _planning_part(status: NodeStatus) -> object:
    told = status.state, status.zone, status.spare, status.upkeep
    return *told, status.capabilities, status.models
