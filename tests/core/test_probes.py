"""The budget of probes holds over any run, and probes grow only where they are at once there."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsi_mqtt.core.probes import BYTES_MAX, BYTES_MIN, FLIGHT_BYTES, SHARE, Probe, Probes

OVERHEAD = 90


@dataclass
class Link:
    """Carries `byte_s` each way, at a distance of `base_s` there and back."""

    byte_s: float
    base_s: float = 0.001
    probes: Probes = field(default_factory=lambda: Probes(OVERHEAD))
    sent: list[Probe] = field(default_factory=list)
    now: float = 0.0

    def turn(self, after_s: float = 1.0, *, full: bool = False, far: bool = False) -> list[Probe]:
        self.now += after_s
        due = list(self.probes.due(self.now, far=far, full=full))
        self.sent += due
        return due

    def answer(self, probe: Probe) -> None:
        known = self.probes.back(probe.number)
        if known is None or probe.kind == "beat":
            return
        one_way = probe.nbytes / self.byte_s
        self.probes.took(probe, one_way)
        if probe.kind == "round":
            self.probes.proven(1 / (2 * one_way / probe.nbytes), self.now)

    def run(self, turns: int, every_s: float = 1.0) -> None:
        for _ in range(turns):
            for probe in self.turn(every_s):
                self.answer(probe)

    def worst_second(self) -> int:
        """Bytes of probes in the fullest half-open second."""
        return max(
            sum(p.nbytes for p in self.sent if first.sent_at <= p.sent_at < first.sent_at + 1.0)
            for first in self.sent
        )


WHAT = st.tuples(
    st.floats(0.0, 2.0),  # seconds later
    st.sampled_from(["turn", "answer", "traffic", "full", "fall", "mark"]),
    st.floats(1e3, 1e10),  # what the link carries from now on
)


@given(st.lists(WHAT, max_size=60), st.integers(20, 300))
def test_no_second_of_any_run_has_more_probes_than_the_budget(
    run: list[tuple[float, str, float]], overhead: int
) -> None:
    link, best = Link(1e6, probes=Probes(overhead)), 0.0
    for after_s, what, byte_s in run:
        link.byte_s, best = byte_s, max(best, byte_s)
        if what == "traffic":
            link.probes.carried(int(byte_s))
        elif what == "mark":
            link.now += after_s
            mark = link.probes.mark(link.now)
            link.sent += [mark] if mark is not None else []
        elif what == "fall":
            link.probes.at_most(byte_s)
        elif what == "answer":
            for probe in link.sent:
                link.answer(probe)
        else:
            link.turn(after_s, full=what == "full")
    if link.sent:
        least = max(BYTES_MIN, 2 * overhead)
        assert link.worst_second() <= min(BYTES_MAX, max(least, SHARE * best)) + 2 * overhead


def test_on_a_quiet_link_probes_grow_to_a_hundredth_of_it() -> None:
    link = Link(1e6)
    link.run(40)
    largest = max(probe.nbytes for probe in link.sent)
    assert SHARE * 1e6 / 5 <= largest <= SHARE * 1e6
    fast = Link(1e9)
    fast.run(40)
    assert max(probe.nbytes for probe in fast.sent) > BYTES_MAX / 3


def test_they_do_not_grow_while_they_are_not_at_once_there() -> None:
    link = Link(2e4)  # a slow one: 128 bytes are all that a second may have beside the beat
    link.run(40)
    assert max(probe.nbytes for probe in link.sent) <= BYTES_MIN
    assert {probe.kind for probe in link.sent} == {"beat", "round", "up"}


def test_rounds_and_ups_take_turns_unless_the_broker_refuses_ups() -> None:
    link = Link(1e9)
    link.run(6)
    large = [probe.kind for probe in link.sent if probe.kind != "beat"]
    assert large == ["round", "up"] * 3
    link.probes.acknowledges = False
    link.sent.clear()
    link.run(4)
    assert {probe.kind for probe in link.sent} <= {"beat", "round"}


def kinds(probes: list[Probe]) -> list[str]:
    return [probe.kind for probe in probes]


def test_none_but_beats_go_while_the_link_is_full_or_probed() -> None:
    link = Link(1e6)
    link.run(20)
    assert kinds(link.turn(full=True)) == ["beat"]
    probe = link.turn()
    assert len(probe) == 2
    assert kinds(link.turn()) == ["beat"]  # the one before is still out
    link.answer(probe[1])
    assert len(link.turn()) == 2


def test_what_met_other_traffic_is_told_from_what_was_alone() -> None:
    link = Link(1e6)
    link.run(20)
    (_, alone) = link.turn()
    assert link.probes.back(alone.number) == (alone, True)
    (_, met) = link.turn()
    link.probes.carried(met.nbytes)
    assert link.probes.back(met.number) == (met, False)
    assert link.probes.back(met.number) is None


@pytest.mark.parametrize(("byte_s", "turns"), [(2e4, 1), (1e6, 2)])
def test_as_many_turns_as_a_second_has_room_for(byte_s: float, turns: int) -> None:
    """None has beats alone, for which there would be room more often."""
    link = Link(byte_s)
    link.run(40, every_s=0.5)
    link.sent.clear()
    link.run(40, every_s=0.5)
    assert kinds(link.sent).count("beat") == 20 * turns
    assert kinds(link.sent).count("round") == kinds(link.sent).count("up") == 10 * turns


def test_where_there_is_no_room_two_marks_a_second_go_all_the_same() -> None:
    """Else what passes such a link would never be known, and so nothing be proven."""
    link = Link(1e4)
    link.run(20)
    while link.probes.mark(link.now) is not None:
        pass
    link.now += 0.9
    link.turn(0.0)
    assert link.probes.mark(link.now) is None
    later = [link.probes.mark(link.now + 0.1) is not None for _ in range(5)]
    assert later[:2] == [True, True]
    assert not later[-1]


def test_a_mark_leaves_room_for_the_next_beat() -> None:
    link = Link(1e4)
    link.run(20)
    link.now += 0.5
    while (mark := link.probes.mark(link.now)) is not None:
        link.sent.append(mark)
    assert link.probes.limit(link.now) == BYTES_MIN
    link.now += 0.4
    assert kinds(link.turn(0.1))[0] == "beat"


def test_a_far_broker_is_not_probed_beyond_what_goes_without_waiting() -> None:
    link = Link(1e9)
    link.run(40)
    (_, probe) = link.turn(far=True)
    assert probe.nbytes == FLIGHT_BYTES


def test_what_was_proven_long_ago_does_not_count() -> None:
    link = Link(1e9)
    link.run(40)
    assert link.probes.limit(link.now) == BYTES_MAX
    assert link.probes.limit(link.now + 11) == BYTES_MIN


def test_names_that_are_longer_than_a_small_probe_keep_none_from_being_sent() -> None:
    link = Link(1e6, probes=Probes(200))
    link.run(40)
    assert {probe.kind for probe in link.sent} == {"beat", "round", "up"}
    assert max(probe.nbytes for probe in link.sent) >= SHARE * 1e6 / 5
