"""What a node's link to its home broker carries: from what passes anyway, and from probes.

* **Round trip**: the median of the quicker half of the last beats (`core/probes.py`).
* **Up**, from traffic: a socket that is full takes as fast as the link carries, so bytes between
  two moments at which it took some again. And what fits into buffers has left when a beat that was
  sent right behind it is back (`core/passing.py`). From probes: what an acknowledged message to
  nobody takes.
* **Down**, from traffic: a message that came in pieces, by what lay between them. Chunks of one
  activation, which were sent behind each other, come no faster than the link carries: a lower
  bound, for the sender may be what is slow. And a beat that comes late while others' bytes come has
  waited behind them: they are what the link carries. From probes: what a message to oneself takes,
  less its way up.

A probe is held against the beat that was sent just before it: what held up both says nothing of
the link. As messages keep their order, only what came between the two can have held up the one
alone, so that a link need not be idle to be probed. Larger probes say more than smaller ones, which
noise moves further: the first of twice the size begins the level anew. A probe that is there as
soon as a beat, but for noise, has shown a lower bound as well. Lower bounds only ever raise a
figure; those below 100 Mbit/s, which is what is assumed of a link that nobody has measured, are not
told. Nothing is told of the first few samples, of which one may be an accident.

A link that is silent may be slow, or dead. What is concluded while nothing comes is told, and
stands when something comes; where the connection ends first it was dead, which is no rate.
"""

from __future__ import annotations

import math
from typing import Final

from dsi_mqtt.core.beats import LATE_S, RESOLUTION_S, Beats
from dsi_mqtt.core.node import LinkSample
from dsi_mqtt.core.passing import PASSING_BYTES, QUIET_S, Marks, Passed
from dsi_mqtt.core.probes import AT_ONCE_S, NEAR_S, Probe, Probes
from dsi_mqtt.core.sizes import KIB, MIB
from dsi_mqtt.core.way import Way

# Buffers are emptied to somewhere below a quarter of this before they take more.
FULL_BYTES: Final = MIB
FULL_S: Final = 0.005
TRAIN_S: Final = 0.02
LATE_BYTES: Final = 32 * KIB
SILENT_S: Final = 1.5
# An acknowledgement, with what TCP and IP put around it.
ACKNOWLEDGED_BYTES: Final = 60

_COUNTED: Final = 64
_TRAINS_MAX: Final = 64
_FRESH_S: Final = 5.0


class LinkMeter:
    """State machine; `now` in seconds of a monotonic clock. overhead: of a probe, in bytes."""

    def __init__(self, overhead: int = 64) -> None:
        self._overhead = overhead
        self._probes = Probes(overhead)
        self._beats = Beats()
        self._up, self._down = Way(self._probes), Way(self._probes)
        self._missed = (0, 0.0)  # the beat that was last counted as late, and for how long
        self._up_probe: tuple[float, float] | None = None  # when, and seconds a byte
        self._back_at: float | None = None
        self._written = self._received = 0
        self._counts: dict[int, tuple[int, int]] = {}  # of a probe: written, received before it
        self._full_since: tuple[float, int] | None = None
        self._trains: dict[str, tuple[float, int]] = {}
        self._marks = Marks()
        self._waiting: set[int] = set()  # beats that were sent while a mark was out
        self._came_at = -math.inf  # the last message that came in pieces
        self._seen_s = 0.0  # for how long the one that is coming had come when it last counted
        # Both ways before the first conclusion from a silence that has not ended.
        self._before_silence: tuple[Way, Way] | None = None

    # --- what is known ------------------------------------------------------------------------

    def sample(self, now: float) -> LinkSample:
        return LinkSample(
            self._beats.rtt_ms,
            self._up.mbit_s,
            self._down.mbit_s,
            None if self._up.at is None else now - self._up.at,
            None if self._down.at is None else now - self._down.at,
            self._up.usual_mbit_s,
            self._down.usual_mbit_s,
        )

    def age_s(self, now: float) -> float | None:
        """Since a message to oneself came back; None before the first."""
        return None if self._back_at is None else now - self._back_at

    # --- traffic ------------------------------------------------------------------------------

    def wrote(self, nbytes: int) -> None:
        """Bytes were given to the socket."""
        self._written += nbytes
        self._probes.carried(nbytes)

    def took(self, now: float) -> None:
        """The socket was full, and takes bytes again."""
        if self._full_since is not None:
            since, written = self._full_since
            nbytes, seconds = self._written - written, now - since
            if nbytes < FULL_BYTES:
                return
            if seconds >= FULL_S:
                self._up.carries(nbytes / seconds, now)
        self._full_since = now, self._written

    def emptied(self) -> None:
        """All there was to send has been given to the socket: it need not be full any more."""
        self._full_since = None

    def behind(self, nbytes: int, began: float, now: float) -> Probe | None:
        """A message of so many bytes was written: a beat to be sent right behind it, or None.

        began: when its first bytes were.
        """
        if nbytes < PASSING_BYTES:
            return None
        mark = self._probes.mark(now)
        self._marks.sent(None if mark is None else mark.number, nbytes, began, now)
        if mark is not None:
            self._counts[mark.number] = self._written - nbytes, self._received
            self._counts.pop(mark.number - _COUNTED, None)
        return mark

    def arrived(
        self,
        nbytes: int,
        now: float,
        *,
        train: str,
        goes_on: bool,
        pieces: tuple[int, float] = (0, 0.0),
    ) -> None:
        """A message came. goes_on: the next one of this train was sent right behind it.

        pieces: bytes that came behind its first piece, and how much later the last of them.
        """
        self._before_silence = None
        self._received += nbytes
        self._probes.carried(nbytes)
        self._came_in(*pieces, now)
        began = self._trains.pop(train, None)
        if goes_on:
            if len(self._trains) >= _TRAINS_MAX:
                self._trains.clear()
            self._trains[train] = began or (now, self._received)
        elif began is not None and now - began[0] >= TRAIN_S:
            nbytes = self._received - began[1]
            self._down.carries_at_least(nbytes / (now - began[0]), now)

    def watch(self, now: float, arriving: tuple[int, float] = (0, 0.0)) -> None:
        """Looks whether something is late; as often as somebody wants to know.

        arriving: of a message that is there in part, the bytes behind its first piece, and for how
        many seconds they have been coming.
        """
        self._still_comes(*arriving, now)
        beat = self._probes.oldest_beat()
        if beat is None:
            return
        age = now - beat.sent_at
        counted = self._missed[1] if self._missed[0] == beat.number else 0.0
        if not self._beats.is_late(age) or age < 2 * counted:
            return  # of one beat only a wait that has doubled says something new
        written, received = self._counts.get(beat.number, (self._written, self._received))
        written, received = self._written - written, self._received - received
        if written + received >= LATE_BYTES:
            self._missed = beat.number, age
            self._in_silence()
            self._waited(age, written, received, now)
        elif age >= SILENT_S:
            # Hardly anything comes; what was written may still lie in buffers.
            self._missed = beat.number, age
            self._in_silence()
            rate = max(received, beat.nbytes) / age
            self._up.carries(rate, now)
            self._down.carries(rate, now)

    # --- probes -------------------------------------------------------------------------------

    def due(
        self, now: float, *, full: bool = False, arriving: tuple[int, float] = (0, 0.0)
    ) -> tuple[Probe, ...]:
        """Probes to send now. full: the socket takes nothing at present. arriving: see `watch`."""
        self.watch(now, arriving)
        probes = self._probes.due(now, far=self._beats.quickest > NEAR_S, full=full)
        for probe in probes:
            self._counts[probe.number] = self._written, self._received
            self._counts.pop(probe.number - _COUNTED, None)
            self._waiting.discard(probe.number - _COUNTED)
            if self._marks:
                self._waiting.add(probe.number)
        return probes

    def back(self, number: int, now: float) -> None:
        """A beat or a round came back, or an up was acknowledged."""
        self._before_silence = None
        written, received = self._counts.pop(number, (0, 0))
        known = self._probes.back(number)
        if known is None:
            self._marks.forget(number)
            return
        probe, alone = known
        self._back_at = now
        seconds = now - probe.sent_at
        if probe.number in self._marks:
            self._marked(probe.number, self._received - received, now)
        elif probe.kind == "beat":
            met = self._received - received
            self._beats.back(probe.sent_at, seconds, self._received, met)
            waits = probe.number in self._waiting and seconds > self._beats.quickest
            self._beat(seconds, self._written - written, met, now, waits=waits)
        elif self._beats.known:
            between = self._beats.between(probe, self._received)
            if alone or between is not None:
                self._went(probe, seconds, between or 0, now)

    def was_dead(self) -> None:
        """A connection has ended, of this node to whatever broker: a silence was no slow link."""
        if self._before_silence is not None:
            self._up, self._down = self._before_silence
            self._before_silence = None

    def unacknowledged(self) -> None:
        """This broker does not let a node publish to nobody: there are rounds alone."""
        self._probes.acknowledges = False

    def lost(self) -> None:
        """The connection has ended."""
        self.was_dead()
        self._probes.lost()
        self._counts.clear()
        self._trains.clear()
        self._marks.lost()
        self._full_since = None

    # --- parts --------------------------------------------------------------------------------

    def _beat(
        self, seconds: float, written: int, received: int, now: float, *, waits: bool
    ) -> None:
        """waits: behind what has a mark of its own, so that it says nothing of the way."""
        if self._beats.is_late(seconds) and written + received >= LATE_BYTES:
            self._waited(seconds, written, received, now)
        elif not waits:
            self._beats.counts(seconds)

    def _marked(self, number: int, received: int, now: float) -> None:
        """What was sent right before this beat has left."""
        usual = self._beats.usual
        passed = self._marks.back(number, now, usual)
        if passed is None or not self._beats.known:
            return
        if received > passed.nbytes // 4:  # behind which the beat may have waited on its way back
            if passed.seconds >= LATE_S:
                self._both_took(passed.seconds, passed.nbytes, received, now)
            return
        self._up.passed(passed, usual, self._beats.noise, now)
        self._prove(now)

    def _came_in(self, nbytes: int, seconds: float, now: float) -> None:
        if nbytes < PASSING_BYTES or not self._beats.any:
            return
        warm, self._came_at = now - self._came_at < QUIET_S, now
        passed, noise = Passed(nbytes, seconds, warm), max(TRAIN_S, self._beats.noise)
        self._down.passed(passed, self._beats.usual, noise, now)
        self._prove(now)

    def _still_comes(self, nbytes: int, seconds: float, now: float) -> None:
        """Of one message only a wait that has doubled says something new."""
        if not seconds:
            self._seen_s = 0.0
        elif self._beats.is_late(seconds) and seconds >= 2 * self._seen_s:
            self._seen_s = seconds
            nbytes = max(1, nbytes)
            if seconds > 2 * self._down.seconds(nbytes):
                self._in_silence()
                self._down.carries(nbytes / seconds, now)

    def _in_silence(self) -> None:
        """What is concluded now may turn out to be nothing."""
        if self._before_silence is None:
            self._before_silence = self._up.kept(), self._down.kept()

    def _prove(self, now: float) -> None:
        least = min(self._up.shown(now), self._down.shown(now))
        if least > 0:
            self._probes.proven(least, now)

    def _waited(self, seconds: float, written: int, received: int, now: float) -> None:
        """A beat has waited behind others' bytes for so long: that is what they need."""
        if written <= received // 4:
            self._down.carries(received / seconds, now)
        elif received <= written // 4:
            self._up.carries(written / seconds, now)
        else:
            self._both_took(seconds, written, received, now)

    def _both_took(self, seconds: float, written: int, received: int, now: float) -> None:
        """Which way is slow it cannot tell, so that both are as much slower than was thought."""
        expected = self._up.seconds(written) + self._down.seconds(received)
        if seconds >= 2 * expected:
            self._up.slowed(expected / seconds, now)
            self._down.slowed(expected / seconds, now)

    def _went(self, probe: Probe, seconds: float, between: int, now: float) -> None:
        """A probe took so long in all. between: as `_between`."""
        beside_s, is_up = self._beats.beside(probe), probe.kind == "up"
        more = seconds - beside_s
        if is_up:
            # Its acknowledgement is shorter than a beat, which on a slow way down is a difference:
            # at most that share of what the beat took, or a false rate of the one way would make
            # one of the other, and that the next.
            shorter = max(0, self._overhead - ACKNOWLEDGED_BYTES)
            more += min(self._down.seconds(shorter), beside_s * shorter / self._overhead)
        else:
            # Beside the quickest beat, so that noise proves too little and not too much.
            took = max(seconds - self._beats.quickest, RESOLUTION_S)
            self._probes.proven(probe.nbytes / took, now)
        extra, alone = max(0.0, more), between <= probe.nbytes // 4
        one_way = extra if is_up else extra / 2
        if alone or one_way <= AT_ONCE_S:
            self._probes.took(probe, one_way)
        if not alone:
            comes = ACKNOWLEDGED_BYTES if is_up else probe.nbytes
            self._both_took(extra, probe.nbytes, between + comes, now)
        elif is_up:
            self._went_up(probe, extra, now)
        else:
            self._went_round(probe, extra, now)

    def _went_up(self, probe: Probe, extra: float, now: float) -> None:
        self._up_probe = now, extra / self._more(probe)
        self._saw(self._up, probe, extra, now)

    def _went_round(self, probe: Probe, extra: float, now: float) -> None:
        if self._up_probe is None or self._up_probe[0] <= now - _FRESH_S:
            # One end alone cannot tell the directions apart.
            self._saw(self._up, probe, extra / 2, now)
            self._saw(self._down, probe, extra / 2, now)
            return
        more = self._more(probe)
        up_s = self._up.spends(self._up_probe[1]) * more
        down_s = self._down.expects(more)
        if (
            extra > 0
            and down_s is not None
            and abs(math.log(extra / (up_s + down_s))) <= self._up.noise
        ):
            # As expected, but for noise, which a difference of the two would make larger.
            self._saw(self._down, probe, down_s * extra / (up_s + down_s), now)
        else:
            left = max(0.0, extra - up_s)
            self._saw(self._down, probe, left, now, unsure_s=up_s * self._up.noise)

    def _more(self, probe: Probe) -> int:
        """Bytes that it has more than the beat beside which it is held."""
        return max(1, probe.nbytes - self._overhead)

    def _saw(
        self, way: Way, probe: Probe, seconds: float, now: float, *, unsure_s: float = 0.0
    ) -> None:
        """seconds: more than the beat. unsure_s: by how much they may be wrong, besides what beats
        differ by.
        """
        noise, more = max(self._beats.noise, unsure_s), self._more(probe)
        if seconds <= noise:
            way.carries_at_least(more / noise, now, probe.nbytes)
        else:
            way.carries(more / seconds, now, probe.nbytes)
