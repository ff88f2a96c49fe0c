"""What a node says of its link: from probes, from what passes anyway, and what it does not say."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.link import ACKNOWLEDGED_BYTES, FULL_BYTES, LinkMeter
from dsi_mqtt.core.node import LinkSample
from dsi_mqtt.core.probes import BYTES_MAX, Probe
from dsi_mqtt.core.way import BYTES_PER_MBIT

CHUNK = 256 * 1024


@dataclass
class Link:
    """A link on virtual time: rates in Mbit/s, times in s. noise: at most that share more time."""

    up: float
    down: float
    rtt: float = 0.002
    noise: float = 0.0
    acknowledges: bool = True
    meter: LinkMeter = field(default_factory=LinkMeter)
    now: float = 0.0
    every_s: float = 1.0
    seen: list[LinkSample] = field(default_factory=list)
    _random: random.Random = field(default_factory=lambda: random.Random(7))

    def run(self, seconds: int) -> LinkSample:
        for _ in range(round(seconds / self.every_s)):
            for probe in self.meter.due(self.now):
                up, down = self.spent(probe.nbytes, self.up), self.spent(probe.nbytes, self.down)
                short = self.spent(ACKNOWLEDGED_BYTES, self.down)
                if probe.kind == "up" and not self.acknowledges:
                    self.meter.unacknowledged()
                    continue
                way = self.rtt + up + (short if probe.kind == "up" else down)
                self.meter.back(probe.number, self.now + way)
            self.now += self.every_s
            self.seen.append(self.meter.sample(self.now))
        return self.seen[-1]

    def spent(self, nbytes: int, mbit_s: float) -> float:
        return nbytes / (mbit_s * BYTES_PER_MBIT) * (1 + self.noise * self._random.uniform(-1, 1))


def test_both_directions_are_told_apart() -> None:
    sample = Link(up=8.0, down=40.0).run(90)
    assert sample.up_mbit_s == pytest.approx(8.0, rel=0.1)
    assert sample.down_mbit_s == pytest.approx(40.0, rel=0.2)
    assert sample.rtt_ms == pytest.approx(2.0, rel=0.2)
    assert sample.up_age_s is not None
    assert sample.up_age_s <= 3.0


def test_where_nobody_acknowledges_both_directions_get_the_same() -> None:
    sample = Link(up=20.0, down=20.0, acknowledges=False).run(30)
    assert sample.up_mbit_s == sample.down_mbit_s == pytest.approx(20.0, rel=0.1)


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize(("every_s", "within_s"), [(1.0, 6), (0.5, 3)])
def test_a_fall_to_a_tenth_is_followed_within_seconds(
    way: str, every_s: float, within_s: int
) -> None:
    link = Link(up=40.0, down=40.0, noise=0.3, every_s=every_s)
    link.run(30)
    setattr(link, way, 4.0)
    sample = link.run(within_s)
    assert getattr(sample, f"{way}_mbit_s") == pytest.approx(4.0, rel=0.5)


def test_noise_of_a_third_is_not_chased() -> None:
    link = Link(up=30.0, down=30.0, noise=0.3)
    link.run(30)
    del link.seen[:]
    link.run(300)
    for name in ("up_mbit_s", "down_mbit_s"):
        told = [getattr(sample, name) for sample in link.seen]
        assert max(told) / min(told) < 1.4


def test_of_a_link_that_is_faster_than_can_be_resolved_a_lower_bound_is_told() -> None:
    sample = Link(up=1e6, down=1e6).run(30)
    assert sample.up_mbit_s is not None
    assert 100 <= sample.up_mbit_s <= BYTES_MAX / 0.0002 / BYTES_PER_MBIT


def test_what_no_probe_could_resolve_is_not_told_as_a_slow_link() -> None:
    """The way takes now 1 ms and now 50, whatever is sent: that says nothing of its width."""
    meter = LinkMeter()
    for now in range(100):
        for probe in meter.due(float(now)):
            late = 0.02 if probe.kind != "beat" else 0.05 * (now % 2)
            meter.back(probe.number, now + 0.001 + late)
    assert meter.sample(100.0).up_mbit_s is None
    assert meter.sample(100.0).down_mbit_s is None


def test_an_accident_at_the_start_is_not_told() -> None:
    """A probe of a few bytes that a busy machine held up for long would else be a slow link."""
    link = Link(up=1000.0, down=1000.0, rtt=0.0005)
    for probe in link.meter.due(-1.0):
        link.meter.back(probe.number, -1.0 + (0.0005 if probe.kind == "beat" else 0.08))
    link.run(40)
    told = [rate for seen in link.seen for rate in (seen.up_mbit_s, seen.down_mbit_s)]
    assert min(rate for rate in told if rate is not None) >= 100


# --- traffic ----------------------------------------------------------------------------------


def test_a_socket_that_is_full_tells_the_way_up() -> None:
    meter, now = LinkMeter(), 0.0
    for _ in range(8):
        for _ in range(4):
            meter.wrote(CHUNK)
        now += 4 * CHUNK / (16 * BYTES_PER_MBIT)
        meter.took(now)
    assert meter.sample(now).up_mbit_s == pytest.approx(16.0)
    assert meter.sample(now).down_mbit_s is None


def test_what_fits_into_buffers_says_nothing_of_the_way_up() -> None:
    meter = LinkMeter()
    for _ in range(50):
        meter.wrote(FULL_BYTES - 1)
        meter.emptied()
    meter.took(1.0)  # full once, and never again within the same transfer
    meter.wrote(100 * FULL_BYTES)
    meter.emptied()
    meter.took(2.0)
    assert meter.sample(3.0) == LinkSample()


def arrive(meter: LinkMeter, mbit_s: float, now: float, chunks: int = 4) -> float:
    for index in range(chunks):
        meter.arrived(CHUNK, now, train="a", goes_on=index < chunks - 1)
        now += CHUNK / (mbit_s * BYTES_PER_MBIT)
    return now


def test_chunks_behind_each_other_are_a_lower_bound_of_the_way_down() -> None:
    meter = LinkMeter()
    now = arrive(meter, 60.0, 0.0)
    assert meter.sample(now).down_mbit_s is None  # the sender may have been what was slow
    for _ in range(4):
        now = arrive(meter, 200.0, now)
    assert meter.sample(now).down_mbit_s == pytest.approx(200.0)
    for _ in range(20):
        now = arrive(meter, 10.0, now)
    assert meter.sample(now).down_mbit_s == pytest.approx(200.0)
    for _ in range(5):
        now = arrive(meter, 900.0, now, chunks=16)
    assert meter.sample(now).down_mbit_s == pytest.approx(900.0)


def test_a_beat_that_waited_behind_what_came_tells_the_way_down() -> None:
    link = Link(up=40.0, down=40.0)
    link.run(30)
    meter, now = link.meter, link.now
    for _ in range(3):
        (beat, *_) = meter.due(now)
        for _ in range(8):
            meter.arrived(62_500, now, train="b", goes_on=False)
        meter.back(beat.number, now + 1.0)
        now += 1.0
    assert meter.sample(now).down_mbit_s == pytest.approx(4.0, rel=0.1)
    assert meter.sample(now).up_mbit_s == pytest.approx(40.0, rel=0.2)
    assert meter.sample(now).rtt_ms == pytest.approx(2.0, rel=0.2)  # the way is no longer


def met(link: Link, between: int, seconds: float) -> LinkSample:
    """Ten probes, before each of which so many bytes of others came, behind its beat."""
    meter = link.meter
    for turn in range(10):
        for probe in meter.due(link.now + turn):
            if probe.kind == "beat":
                meter.back(probe.number, link.now + turn + 0.002)
            else:
                meter.arrived(between, link.now + turn + seconds, train="b", goes_on=False)
                meter.back(probe.number, link.now + turn + seconds)
    link.now += 10
    return meter.sample(link.now)


def test_a_probe_that_came_behind_other_traffic_as_expected_changes_nothing() -> None:
    link = Link(up=40.0, down=40.0)
    before = link.run(30)
    after = met(link, 200_000, 0.05)
    assert (after.up_mbit_s, after.down_mbit_s) == (before.up_mbit_s, before.down_mbit_s)


def test_a_probe_that_came_much_later_than_others_explain_tells_a_slow_link() -> None:
    """Which way is slow it cannot tell."""
    link = Link(up=40.0, down=40.0)
    link.run(30)
    after = met(link, 200_000, 0.5)
    assert (after.up_mbit_s or 0) < 8.0
    assert (after.down_mbit_s or 0) < 8.0


def test_a_probe_whose_beat_has_waited_for_others_says_nothing() -> None:
    """Both are there at once then, whatever the way up takes."""
    link = Link(up=12.0, down=12.0)
    before = link.run(30)
    meter = link.meter
    for turn in range(20):
        at = link.now + turn
        probes = meter.due(at)
        meter.arrived(25_000, at + 0.06, train="b", goes_on=False)
        for place, probe in enumerate(probes):
            meter.back(probe.number, at + 0.06 + 0.0001 * place)
    after = meter.sample(link.now + 20)
    assert (after.up_mbit_s, after.down_mbit_s) == (before.up_mbit_s, before.down_mbit_s)


def passes(link: Link, sent: int, received: int, seconds: int, *, back: bool) -> LinkSample:
    """For so long, so much passes in a second, and each beat takes one, or none comes back."""
    meter = link.meter
    for _ in range(seconds):
        beats = [probe for probe in meter.due(link.now) if probe.kind == "beat"]
        link.now += 1.0
        meter.wrote(sent)
        meter.arrived(received, link.now, train="b", goes_on=False)
        for beat in beats if back else ():
            meter.back(beat.number, link.now)
    return meter.sample(link.now)


@pytest.mark.parametrize("back", [True, False])
@pytest.mark.parametrize(
    ("sent", "received", "up", "down"),
    [
        (0, 500_000, 40.0, 4.0),
        (500_000, 0, 4.0, 40.0),
        (250_000, 250_000, 4.0, 4.0),
    ],
)
def test_beats_that_wait_behind_other_bytes_tell_what_the_link_carries(
    sent: int, received: int, up: float, down: float, *, back: bool
) -> None:
    link = Link(up=40.0, down=40.0)
    link.run(30)
    sample = passes(link, sent, received, 4, back=back)
    assert sample.up_mbit_s == pytest.approx(up, rel=0.3)
    assert sample.down_mbit_s == pytest.approx(down, rel=0.3)


def test_beats_that_come_late_as_expected_change_nothing() -> None:
    """Of 40 Mbit/s each way a second has room for 4 MB each way, and no more."""
    link = Link(up=40.0, down=40.0)
    before = link.run(30)
    after = passes(link, 2_400_000, 2_400_000, 10, back=True)
    assert (after.up_mbit_s, after.down_mbit_s) == (before.up_mbit_s, before.down_mbit_s)


def test_what_was_out_when_the_connection_ended_is_forgotten() -> None:
    link = Link(up=40.0, down=40.0)
    link.run(3)
    (beat, *_) = link.meter.due(link.now)
    link.meter.lost()
    age = link.meter.age_s(link.now)
    link.meter.back(beat.number, link.now + 100)
    assert link.meter.age_s(link.now) == age


def falls_silent(link: Link, *, written: int, arriving: tuple[int, float]) -> None:
    """For three seconds nothing comes any more; `arriving` of a message had."""
    link.meter.due(link.now)
    link.meter.wrote(written)
    for tenth in range(1, 31):
        nbytes, since_s = arriving
        come = (nbytes, since_s + tenth / 10) if nbytes else (0, 0.0)
        link.meter.watch(link.now + tenth / 10, come)
    link.now += 3.0


@pytest.mark.parametrize(
    ("written", "arriving"), [(0, (0, 0.0)), (200_000, (0, 0.0)), (0, (2_000, 0.05))]
)
def test_a_silence_in_which_the_connection_ends_is_no_rate(
    written: int, arriving: tuple[int, float]
) -> None:
    """Behind a half-open link: it was dead, and will be as wide as before when it is back."""
    link = Link(up=20.0, down=20.0)
    before = link.run(30)
    falls_silent(link, written=written, arriving=arriving)
    silent = link.meter.sample(link.now)
    assert min(silent.up_mbit_s or 0, silent.down_mbit_s or 0) < 2.0, (
        "as slow as it seems, till then"
    )
    link.meter.lost()
    after = link.meter.sample(link.now)
    assert (after.up_mbit_s, after.down_mbit_s) == (before.up_mbit_s, before.down_mbit_s)


def test_who_is_back_at_the_other_broker_does_not_tell_of_a_silence_that_goes_on() -> None:
    """A half-open link ends both connections, one a little before the other."""
    link = Link(up=20.0, down=20.0)
    before = link.run(30)
    falls_silent(link, written=0, arriving=(0, 0.0))
    link.meter.was_dead()
    for tenth in range(1, 31):
        link.meter.watch(link.now + tenth / 10)
    told = link.meter.sample(link.now + 3.0)
    assert told.up_mbit_s == pytest.approx(before.up_mbit_s, rel=0.1)
    assert told.down_mbit_s == pytest.approx(before.down_mbit_s, rel=0.1)


def test_a_silence_in_which_something_comes_was_a_slow_link() -> None:
    link = Link(up=20.0, down=20.0)
    link.run(30)
    falls_silent(link, written=200_000, arriving=(0, 0.0))
    silent = link.meter.sample(link.now)
    link.meter.arrived(100, link.now, train="b", goes_on=False)
    link.meter.lost()
    assert link.meter.sample(link.now).up_mbit_s == silent.up_mbit_s


def test_a_link_that_was_silent_for_a_while_is_soon_known_again() -> None:
    """Nothing passed for three seconds, and then it goes on: a false rate of one way must not make
    one of the other.
    """
    link = Link(up=20.0, down=20.0, noise=0.1, every_s=0.5, meter=LinkMeter(150))
    link.run(30)
    falls_silent(link, written=0, arriving=(0, 0.0))
    for number in range(1_000):
        link.meter.back(number, link.now)
    after = link.run(8)
    assert min(after.up_mbit_s or 0, after.down_mbit_s or 0) > 5.0


ACTIVATION = 80_000
FAR_S = 0.08


def chains(link: Link, seconds: int, *, marks: bool = True, pieces: bool = True) -> LinkSample:
    """Three activations a second come and leave, far from the broker. `Link.rtt` goes besides."""
    meter = link.meter
    for number in range(3 * seconds):
        now = link.now + number / 3
        meter.wrote(ACTIVATION)
        mark = meter.behind(ACTIVATION, now, now) if marks else None
        if mark is not None:
            meter.back(mark.number, now + link.rtt + link.spent(ACTIVATION, link.up))
        now += 0.2
        spread = (ACTIVATION - 14_000, link.spent(ACTIVATION - 14_000, link.down))
        meter.arrived(
            ACTIVATION, now, train="c", goes_on=False, pieces=spread if pieces else (0, 0.0)
        )
    link.now += seconds
    return meter.sample(link.now)


def test_a_link_that_activations_pass_is_known_by_them_without_a_probe() -> None:
    """It falls to a tenth in the midst of them, where probes would meet traffic."""
    link = Link(up=20.0, down=20.0, rtt=FAR_S, noise=0.2)
    link.run(30)
    link.up = link.down = 2.0
    sample = chains(link, 3)
    assert sample.up_mbit_s == pytest.approx(2.0, rel=0.5)
    assert sample.down_mbit_s == pytest.approx(2.0, rel=0.6)
    assert sample.rtt_ms == pytest.approx(FAR_S * 1e3, rel=0.2)
    link.up = link.down = 20.0
    assert (chains(link, 4).up_mbit_s or 0) > 5.0


def test_what_tcp_may_have_waited_for_is_not_taken_for_a_slow_link() -> None:
    """A round trip more than the link needs: 80 kB in 112 ms would be 5.7 Mbit/s."""
    link = Link(up=20.0, down=20.0, rtt=FAR_S)
    before = link.run(30)
    for number in range(30):
        now = link.now + number / 3
        link.meter.wrote(ACTIVATION)
        mark = link.meter.behind(ACTIVATION, now, now)
        if mark is not None:
            link.meter.back(mark.number, now + 2 * FAR_S + link.spent(ACTIVATION, link.up))
    assert link.meter.sample(link.now + 10).up_mbit_s == before.up_mbit_s


def test_a_mark_that_is_long_out_tells_before_it_is_back() -> None:
    link = Link(up=20.0, down=20.0, rtt=FAR_S)
    link.run(30)
    meter, now = link.meter, link.now
    meter.wrote(ACTIVATION)
    assert meter.behind(ACTIVATION, now, now) is not None
    for tenth in range(1, 20):
        meter.watch(now + tenth / 10)
    told = meter.sample(now + 2.0).up_mbit_s
    assert told is not None
    assert told < 2.0


def test_a_message_that_hardly_comes_tells_before_it_is_there() -> None:
    link = Link(up=20.0, down=20.0, rtt=FAR_S)
    before = link.run(30)
    for tenth in range(1, 20):
        seconds = tenth / 10
        link.meter.watch(link.now + seconds, (int(0.2 * BYTES_PER_MBIT * seconds), seconds))
    told = link.meter.sample(link.now + 2.0)
    assert told.down_mbit_s == pytest.approx(0.2, rel=0.1)
    assert told.up_mbit_s == before.up_mbit_s


def test_a_long_message_that_comes_as_expected_says_nothing() -> None:
    link = Link(up=20.0, down=20.0, rtt=FAR_S)
    before = link.run(30)
    for tenth in range(1, 20):
        seconds = tenth / 10
        link.meter.watch(link.now + seconds, (int(15 * BYTES_PER_MBIT * seconds), seconds))
    assert link.meter.sample(link.now).down_mbit_s == before.down_mbit_s


def test_small_messages_have_no_marks() -> None:
    link = Link(up=20.0, down=20.0)
    link.run(10)
    assert link.meter.behind(1_000, link.now, link.now) is None


@pytest.mark.parametrize("mbit_s", [0.02, 0.05, 0.2])
def test_a_link_that_is_hardly_there_is_not_taken_for_a_wide_one(mbit_s: float) -> None:
    """There a beat, which goes both ways, takes longer than a probe that goes up alone."""
    sample = Link(up=mbit_s, down=mbit_s, rtt=FAR_S, meter=LinkMeter(110)).run(60)
    assert sample.up_mbit_s is not None
    assert sample.up_mbit_s < 4 * mbit_s


# --- a link that others use -------------------------------------------------------------------


@dataclass
class Shared:
    """Both directions keep their order, and messages of `nbytes` come and leave `rate` times a
    second; `small` ones besides, of which nothing is known but that they pass. late_s: by which the
    machine is late on the mean to see what has come.
    """

    up: float
    down: float
    nbytes: int
    rate: float
    small: float
    seed: int
    late_s: float = 0.0005
    meter: LinkMeter = field(default_factory=lambda: LinkMeter(114))
    now: float = 0.0
    told: list[LinkSample] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._free = [0.0, 0.0]
        self._seen_at = 0.0
        self._at(self._random.random() / 2, self._probe)
        self._at(self._random.random() / 2, self._tell)
        for nbytes, rate in ((self.nbytes, self.rate), (600, self.small)):
            if rate:
                self._at(self._random.expovariate(rate), partial(self._comes, nbytes, rate))

    def run(self, seconds: float) -> LinkSample:
        until = self.now + seconds
        while self._events[0][0] <= until:
            self.now, _, happens = heapq.heappop(self._events)
            happens()
        self.now = until
        return self.told[-1]

    def _at(self, time: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), happens))

    def _passes(self, way: int, nbytes: int) -> tuple[float, float]:
        """When it has begun to pass, and when it is there."""
        begins = max(self.now, self._free[way])
        self._free[way] = begins + nbytes / ((self.up, self.down)[way] * BYTES_PER_MBIT)
        return begins + 0.001, self._free[way] + 0.001

    def _sees(self, time: float, happens: Callable[[], None]) -> None:
        late_s = self._random.expovariate(1 / self.late_s)
        self._seen_at = max(self._seen_at + 1e-6, time + late_s)
        self._at(self._seen_at, happens)

    def _probe(self) -> None:
        for probe in self.meter.due(self.now):
            self._sends(probe)
        self._at(self.now + 0.5, self._probe)

    def _tell(self) -> None:
        self.meter.watch(self.now)
        self.told.append(self.meter.sample(self.now))
        self._at(self.now + 0.5, self._tell)

    def _sends(self, probe: Probe) -> None:
        self._at(self._passes(0, probe.nbytes)[1], partial(self._returns, probe))

    def _returns(self, probe: Probe) -> None:
        nbytes = ACKNOWLEDGED_BYTES if probe.kind == "up" else probe.nbytes
        self._sees(self._passes(1, nbytes)[1], lambda: self.meter.back(probe.number, self.now))

    def _comes(self, nbytes: int, rate: float) -> None:
        self._at(self.now + self._random.expovariate(rate), partial(self._comes, nbytes, rate))
        first = min(1448, nbytes)
        begins, there = self._passes(1, nbytes)
        pieces = nbytes - first, (there - begins) * (nbytes - first) / nbytes
        self._sees(there, partial(self._came, nbytes, pieces))

    def _came(self, nbytes: int, pieces: tuple[int, float]) -> None:
        self.meter.arrived(nbytes, self.now, train="a", goes_on=False, pieces=pieces)
        self._at(self.now + 0.002, partial(self._leaves, nbytes))

    def _leaves(self, nbytes: int) -> None:
        self.meter.wrote(nbytes)
        self._passes(0, nbytes)
        mark = self.meter.behind(nbytes, self.now, self.now)
        if mark is not None:
            self._sends(mark)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("nbytes", "rate", "small"),
    [
        (0, 0.0, 60.0),
        (8_192, 2.0, 0.0),
        (8_192, 10.0, 0.0),
        (8_192, 10.0, 60.0),
        (48_000, 2.0, 0.0),
    ],
)
def test_a_link_that_is_never_idle_is_known_and_its_fall_to_a_tenth_noticed(
    nbytes: int, rate: float, small: float, seed: int
) -> None:
    """No probe is ever alone on it. Which of the ways has fallen, it may not be able to tell."""
    link = Shared(20.0, 20.0, nbytes, rate, small, seed)
    before = link.run(40)
    assert 10.0 < (before.up_mbit_s or 0) < 40.0
    assert 10.0 < (before.down_mbit_s or 0) < 40.0
    link.up = link.down = 2.0
    after = link.run(3.0)
    assert min(after.up_mbit_s or 20, after.down_mbit_s or 20) < 6.0


def test_of_a_fall_that_is_seen_in_spite_of_noise_it_is_told_how_far_it_goes() -> None:
    link = Shared(10.0, 10.0, 8_192, 10.0, 60.0, seed=1, late_s=0.008)
    assert link.run(40).down_mbit_s is not None
    link.up = link.down = 1.0
    after = link.run(3.0)
    assert min(after.up_mbit_s or 100, after.down_mbit_s or 100) < 3.0


def test_what_is_usual_is_not_what_a_link_has_fallen_to() -> None:
    link = Link(up=40.0, down=40.0)
    before = link.run(120)
    link.up = link.down = 4.0
    after = link.run(60)
    assert (after.up_mbit_s or 40) < 10.0
    assert after.up_usual_mbit_s == pytest.approx(before.up_mbit_s, rel=0.3)
    assert after.down_usual_mbit_s == pytest.approx(before.down_mbit_s, rel=0.3)
    later = link.run(600)
    assert (later.up_usual_mbit_s or 40) < 10.0


def test_a_mark_that_never_came_back_in_time_is_not_waited_for() -> None:
    """Beats that are sent while one is out would say nothing of the round trip for ever."""
    link = Link(up=20.0, down=20.0)
    link.run(30)
    mark = link.meter.behind(ACTIVATION, link.now, link.now)
    assert mark is not None
    link.run(12)
    link.meter.back(mark.number, link.now)
    link.rtt = 0.05
    assert link.run(8).rtt_ms == pytest.approx(50.0, rel=0.1)


# --- the budget, as a whole -------------------------------------------------------------------

WHAT = st.tuples(
    st.floats(0.0, 3.0),
    st.sampled_from(
        ["due", "back", "arrived", "wrote", "sent", "pieces", "full", "lost", "refused"]
    ),
    st.floats(0.0, 1.0),
)


def passes_by(meter: LinkMeter, what: str, share: float, now: float) -> list[Probe]:
    """Traffic; what is to be sent behind it."""
    if what == "arrived":
        meter.arrived(int(share * CHUNK), now, train="t", goes_on=share > 0.5)
    elif what == "pieces":
        pieces = int(share * CHUNK), share
        meter.arrived(CHUNK, now, train="p", goes_on=False, pieces=pieces)
    elif what == "wrote":
        meter.wrote(int(share * 9 * CHUNK))
        meter.took(now)
    elif what == "sent":
        meter.wrote(CHUNK)
        mark = meter.behind(CHUNK, now - share, now)
        return [mark] if mark is not None else []
    return []


@given(st.lists(WHAT, max_size=80))
def test_whatever_happens_no_second_has_more_probes_than_the_budget_and_all_figures_are_sound(
    run: list[tuple[float, str, float]],
) -> None:
    meter, now = LinkMeter(), 0.0
    sent: list[Probe] = []
    for after_s, what, share in run:
        now += after_s
        if what in ("due", "full"):
            sent += meter.due(now, full=what == "full")
        elif what == "back" and sent:
            meter.back(sent[int(share * (len(sent) - 1))].number, now)
        elif what == "lost":
            meter.lost()
        elif what == "refused":
            meter.unacknowledged()
        sent += passes_by(meter, what, share, now)
        told = meter.sample(now)
        for figure in (told.rtt_ms, told.up_mbit_s, told.down_mbit_s, told.up_age_s):
            assert figure is None or 0 <= figure < 1e12
    for first in sent:
        begin = first.sent_at
        second = [probe.nbytes for probe in sent if begin <= probe.sent_at < begin + 1.0]
        assert sum(second) <= BYTES_MAX + 2 * 64  # and two marks
