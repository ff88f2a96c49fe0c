"""One orchestrator leads at a time, whatever the broker and the network do."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.core.leadership import (
    BEAT_S,
    CALM_S,
    DEAD_S,
    GAVE_WAY_S,
    GONE,
    LOST_S,
    MISSED_BEATS,
    SETTLE_S,
    DropLead,
    Leadership,
    LeadershipEffect,
    PublishLeader,
    TakeLead,
)
from dsi_mqtt.core.node import Leader
from dsi_mqtt.core.table import Stamp
from tests.thoroughness import examples

UNIX_S = 1_700_000_000


def observing(nonce: str = "a", now: float = 0.0) -> Leadership:
    machine = Leadership(nonce)
    machine.observing_since(now)
    return machine


def leading(nonce: str = "a") -> Leadership:
    """Leads from 1.0 on, with the term UNIX_S."""
    machine = observing(nonce)
    assert machine.tick(SETTLE_S, UNIX_S) == [TakeLead(UNIX_S, nonce)]
    (published,) = machine.lead_taken(SETTLE_S)
    assert isinstance(published, PublishLeader)
    machine.leader_seen(published.leader, SETTLE_S)
    machine.tick(1.0, UNIX_S)
    assert machine.leading
    return machine


def taking(effects: list[LeadershipEffect]) -> bool:
    return any(isinstance(effect, TakeLead) for effect in effects)


def test_the_first_one_takes_the_lead_settles_and_beats() -> None:
    machine = observing()
    assert machine.tick(SETTLE_S / 2, UNIX_S) == []
    assert machine.tick(SETTLE_S, UNIX_S) == [TakeLead(UNIX_S, "a")]
    assert machine.tick(SETTLE_S + 5, UNIX_S) == []  # until its connection is there
    published = machine.lead_taken(6.0)
    assert published == [PublishLeader(Leader(UNIX_S, "a", 1))]
    machine.leader_seen(Leader(UNIX_S, "a", 1), 6.1)
    assert machine.tick(6.0 + SETTLE_S / 2, UNIX_S) == []
    assert machine.state == "settling"
    assert machine.tick(6.0 + SETTLE_S, UNIX_S) == [PublishLeader(Leader(UNIX_S, "a", 2))]
    assert machine.leading
    assert machine.tick(6.1 + SETTLE_S, UNIX_S) == []
    assert machine.tick(6.0 + SETTLE_S + BEAT_S, UNIX_S) == [PublishLeader(Leader(UNIX_S, "a", 3))]


def test_nobody_leads_who_does_not_read_its_own_record_back() -> None:
    machine = observing()
    machine.tick(SETTLE_S, UNIX_S)
    machine.lead_taken(1.0)
    assert machine.tick(60.0, UNIX_S) == []
    assert not machine.leading


def test_nothing_is_taken_before_the_observing_connection_is_there() -> None:
    machine = Leadership("a")
    assert machine.tick(100.0, UNIX_S) == []
    machine.observing_since(100.0)
    machine.connection_lost()
    assert machine.tick(200.0, UNIX_S) == []


def test_a_living_leader_is_left_alone_until_three_beats_are_missed() -> None:
    machine = observing()
    machine.leader_seen(Leader(UNIX_S + 5, "z", 7), 0.1)
    for beat in range(20):
        assert machine.tick(beat * BEAT_S, UNIX_S) == []
        machine.leader_seen(Leader(UNIX_S + 5, "z", 8 + beat), beat * BEAT_S)
    silent = 19 * BEAT_S + MISSED_BEATS * BEAT_S
    assert machine.tick(silent - 0.01, UNIX_S) == []
    assert machine.tick(silent, UNIX_S) == [TakeLead(UNIX_S + 6, "a")]


def test_a_will_or_a_farewell_is_taken_at_its_word() -> None:
    machine = observing()
    machine.leader_seen(Leader(UNIX_S, "z", 7), 5.0)
    machine.leader_seen(Leader(UNIX_S, "z", GONE), 5.1)
    assert taking(machine.tick(5.1, UNIX_S))


def test_the_will_of_an_older_leader_says_nothing_about_the_present_one() -> None:
    machine = observing()
    machine.leader_seen(Leader(UNIX_S + 1, "y", 1), 5.0)
    machine.leader_seen(Leader(UNIX_S, "z", GONE), 5.1)
    assert machine.tick(5.2, UNIX_S) == []


def test_beats_of_an_older_leader_do_not_keep_the_newest_alive() -> None:
    machine = observing()
    machine.leader_seen(Leader(UNIX_S + 1, "y", 1), 1.0)
    machine.leader_seen(Leader(UNIX_S, "z", 99), 3.9)
    assert machine.tick(4.0, UNIX_S) == [TakeLead(UNIX_S + 2, "a")]


@pytest.mark.parametrize(
    ("record", "tables", "unix_s", "term"),
    [(5, 3, 4, 6), (3, 5, 4, 6), (3, 4, 50, 50), (0, 0, 9, 9)],
)
def test_a_term_is_above_all_that_was_ever_published(
    record: int, tables: int, unix_s: int, term: int
) -> None:
    machine = observing()
    machine.leader_seen(Leader(record, "z", GONE), 0.0)
    machine.term_seen(Stamp(tables, "y", 12), 0.0)
    assert machine.tick(1.0, unix_s) == [TakeLead(term, "a")]


def test_after_a_broker_forgot_everything_the_term_still_grows() -> None:
    machine = leading()
    assert machine.lead_lost(2.0) == []
    machine.connection_lost()
    machine.observing_since(3.0)
    (take,) = machine.tick(3.0 + SETTLE_S, 17)  # and the clock was set back
    assert take == TakeLead(UNIX_S + 1, "a")


def test_a_lost_lead_is_not_taken_again_at_once() -> None:
    machine = leading()
    machine.lead_lost(2.0)
    machine.word(2.1)
    assert not machine.leading
    assert machine.tick(2.0 + LOST_S - 0.01, UNIX_S) == []
    assert taking(machine.tick(2.0 + LOST_S, UNIX_S))


def test_a_lost_lead_is_not_taken_again_by_one_that_may_be_deaf() -> None:
    """What ended the one connection may have cut off the other, and another leads, unheard."""
    machine = leading()
    machine.lead_lost(2.0)
    assert machine.tick(2.0 + DEAD_S - 0.1, UNIX_S) == []
    machine.connection_lost()
    machine.connected()
    machine.leader_seen(Leader(UNIX_S + 7, "b", 4), 2.0 + DEAD_S)
    machine.observing_since(2.0 + DEAD_S)
    assert machine.tick(3.0 + DEAD_S, UNIX_S) == []
    (take,) = machine.tick(3.0 + DEAD_S + BEAT_S * MISSED_BEATS, UNIX_S)
    assert take == TakeLead(UNIX_S + 8, "a")


def test_where_nobody_speaks_at_all_a_connection_that_stands_is_believed() -> None:
    machine = leading()
    machine.lead_lost(2.0)
    assert taking(machine.tick(2.0 + DEAD_S, UNIX_S))


@pytest.mark.parametrize("newer", [Leader(UNIX_S + 1, "0", 1), Leader(UNIX_S, "b", 1)])
def test_a_newer_leader_ends_the_own_lead(newer: Leader) -> None:
    machine = leading()
    assert machine.leader_seen(newer, 2.0) == [DropLead()]
    assert not machine.leading
    assert machine.tick(2.0 + GAVE_WAY_S, UNIX_S) == []  # while the other lives


@pytest.mark.parametrize("older", [Leader(UNIX_S - 1, "z", 9), Leader(UNIX_S, "0", 9)])
def test_an_older_leader_does_not(older: Leader) -> None:
    machine = leading()
    assert machine.leader_seen(older, 2.0) == []
    assert machine.leading


def test_a_newer_table_ends_the_own_lead_and_is_overtaken() -> None:
    machine = leading()
    assert machine.term_seen(Stamp(UNIX_S, "a", 99), 2.0) == []
    assert machine.term_seen(Stamp(UNIX_S + 7, "z", 1), 2.0) == [DropLead()]
    (take,) = machine.tick(2.0 + GAVE_WAY_S, UNIX_S)
    assert take == TakeLead(UNIX_S + 8, "a")


def test_a_connection_that_comes_too_late_is_dropped() -> None:
    machine = observing()
    machine.tick(SETTLE_S, UNIX_S)
    assert machine.leader_seen(Leader(UNIX_S + 1, "z", 1), 0.5) == [DropLead()]
    assert machine.lead_taken(0.6) == [DropLead()]


def test_losing_what_was_not_had_is_nothing() -> None:
    machine = observing()
    assert machine.lead_lost(1.0) == []
    assert taking(machine.tick(1.0, UNIX_S))


# --- several, over a broker -------------------------------------------------------------------

LATENCY_S = 0.2
TICK_S = 0.05


@dataclass
class Contender:
    """One orchestrator with its two connections, as the shell would keep them."""

    machine: Leadership
    phase: float
    inbox: list[tuple[float, Leader]] = field(default_factory=list)
    due: list[tuple[float, str, int]] = field(default_factory=list)
    observing: bool = False
    connections: int = 0


class Broker:
    """Retains the leader's record; the newest connection with the leader's id ends the older."""

    def __init__(self, nonces: list[str], random: Random, latency_s: float = LATENCY_S) -> None:
        self.random = random
        self.latency_s = latency_s
        self.contenders = [Contender(Leadership(n), random.random() * TICK_S) for n in nonces]
        self.retained: Leader | None = None
        self.holder: tuple[Contender, Leader] | None = None
        self.now = 0.0

    def latency(self) -> float:
        return self.random.random() * self.latency_s

    def publish(self, leader: Leader) -> None:
        self.retained = leader
        for contender in self.contenders:
            self.deliver(contender, leader)

    def deliver(self, contender: Contender, leader: Leader) -> None:
        """In order, as on one connection."""
        last = contender.inbox[-1][0] if contender.inbox else 0.0
        contender.inbox.append((max(last, self.now + self.latency()), leader))

    def release(self, *, will: bool) -> None:
        """The holder's connection ends: its will is published, and it notices a little later."""
        if self.holder is None:
            return
        contender, record = self.holder
        self.holder = None
        if will:
            self.publish(Leader(record.term, record.nonce, GONE))
        contender.due.append((self.now + self.latency(), "lost", contender.connections))

    def perform(self, contender: Contender, effects: list[LeadershipEffect]) -> None:
        for effect in effects:
            if isinstance(effect, TakeLead):
                contender.connections += 1
                contender.due.append((self.now + self.latency(), "taken", contender.connections))
            elif isinstance(effect, DropLead):
                contender.connections += 1
                if self.holder is not None and self.holder[0] is contender:
                    record = self.holder[1]
                    self.holder = None
                    self.publish(Leader(record.term, record.nonce, GONE))
            elif self.holder is not None and self.holder[0] is contender:
                self.publish(effect.leader)

    def happen(self, contender: Contender, what: str, connection: int) -> None:
        if what == "observing":
            contender.observing = True
            if self.retained is not None:
                self.deliver(contender, self.retained)
            contender.machine.observing_since(self.now)
        elif connection != contender.connections:
            pass  # of a connection that was closed meanwhile
        elif what == "taken":
            self.release(will=True)
            machine = contender.machine
            self.holder = (contender, Leader(machine.term, machine.nonce, GONE))
            self.perform(contender, machine.lead_taken(self.now))
        else:
            self.perform(contender, contender.machine.lead_lost(self.now))

    def step(self) -> None:
        self.now += TICK_S
        for contender in self.contenders:
            for due in [d for d in contender.due if d[0] <= self.now]:
                contender.due.remove(due)
                self.happen(contender, due[1], due[2])
            while contender.inbox and contender.inbox[0][0] <= self.now:
                leader = contender.inbox.pop(0)[1]
                self.perform(contender, contender.machine.leader_seen(leader, self.now))
            self.perform(contender, contender.machine.tick(self.now, UNIX_S))

    def leaders(self) -> list[Leadership]:
        return [c.machine for c in self.contenders if c.machine.leading]

    def crash(self, *, forgets: bool) -> None:
        """Killed and started again: every connection ends, no will is sent."""
        self.release(will=False)
        if forgets:
            self.retained = None
        for contender in self.contenders:
            contender.inbox.clear()
            contender.machine.connection_lost()
            contender.due.append((self.now + 0.5 + self.latency(), "observing", 0))


@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=4, unique=True),
    st.integers(0, 2**32),
    st.lists(
        st.tuples(st.integers(20, 200), st.sampled_from(["crash", "forget", "cut", "nothing"])),
        max_size=4,
    ),
)
@settings(max_examples=examples(150))
def test_several_agree_on_one_and_never_lead_together_for_long(
    nonces: list[str], seed: int, faults: list[tuple[int, str]]
) -> None:
    broker = Broker(nonces, Random(seed))
    for contender in broker.contenders:
        contender.due.append((broker.latency(), "observing", 0))
    both_since = None
    for steps, fault in [*faults, (300, "nothing")]:
        for _ in range(steps):
            broker.step()
            both_since = (both_since or broker.now) if len(broker.leaders()) > 1 else None
            # One who was displaced hears of it within a latency, and so does everybody.
            assert both_since is None or broker.now - both_since <= SETTLE_S + LATENCY_S
        if fault in ("crash", "forget"):
            broker.crash(forgets=fault == "forget")
        elif fault == "cut":
            broker.release(will=True)
    (leader,) = broker.leaders()
    assert broker.retained is not None
    assert (broker.retained.term, broker.retained.nonce) == (leader.term, leader.nonce)


@given(st.integers(0, 2**32), st.lists(st.integers(5, 60), min_size=1, max_size=8))
@settings(max_examples=examples(60))
def test_each_leader_is_above_all_before_it(seed: int, gaps: list[int]) -> None:
    broker = Broker(["a", "b"], Random(seed))
    for contender in broker.contenders:
        contender.due.append((broker.latency(), "observing", 0))
    led: list[tuple[int, str]] = []
    for gap in gaps:
        before = {machine.nonce for machine in broker.leaders()}
        for _ in range(gap):
            broker.step()
            began = [m for m in broker.leaders() if m.nonce not in before]
            led += [(machine.term, machine.nonce) for machine in began]
            before = {machine.nonce for machine in broker.leaders()}
        broker.release(will=True)
    assert led == sorted(set(led))


@pytest.mark.parametrize("nonces", [["a", "b"], ["b", "a"], ["a", "b", "c"], ["c", "b", "a"]])
@pytest.mark.parametrize("delay", [0.0, 0.3, 0.5, 0.99])
def test_those_who_start_together_do_not_hinder_each_other_for_ever(
    nonces: list[str], delay: float
) -> None:
    class Even(Random):
        """All delays are the same, so that chance separates nobody."""

        def random(self) -> float:
            return delay

    broker = Broker(nonces, Even())
    for contender in broker.contenders:
        contender.due.append((broker.latency(), "observing", 0))
    for _ in range(int(10 / TICK_S)):
        broker.step()
    assert len(broker.leaders()) == 1


@pytest.mark.parametrize("least", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_where_beats_come_later_than_a_leader_is_waited_for_the_lead_comes_to_rest(
    least: float, seed: int
) -> None:
    class Slow(Random):
        """At least this share of the longest delay there is."""

        def random(self) -> float:
            return least + (1 - least) * super().random()

    broker = Broker(["a", "b"], Slow(seed), latency_s=1.5 * BEAT_S * MISSED_BEATS)
    for contender in broker.contenders:
        contender.due.append((broker.latency(), "observing", 0))
    terms: set[int] = set()
    for step in range(int(CALM_S / TICK_S)):
        broker.step()
        if step > CALM_S / TICK_S / 3:
            terms |= {machine.term for machine in broker.leaders()}
    assert len(terms) <= 2  # a late beat may still be later than all before


def test_who_was_taken_for_gone_in_vain_is_waited_for_twice_as_long_for_a_while() -> None:
    machine = observing()
    machine.leader_seen(Leader(5, "other", 1), 1.0)
    assert taking(machine.tick(1.0 + BEAT_S * MISSED_BEATS, UNIX_S))
    machine.leader_seen(Leader(UNIX_S + 1, "other", 2), 5.0)  # it has taken the lead back
    assert not taking(machine.tick(5.0 + BEAT_S * MISSED_BEATS, UNIX_S))
    late = 5.0 + CALM_S + 1
    machine.leader_seen(Leader(UNIX_S + 1, "other", 90), late)
    assert taking(machine.tick(late + BEAT_S * MISSED_BEATS, UNIX_S))


def test_another_that_leads_was_not_doubted() -> None:
    machine = observing()
    machine.leader_seen(Leader(5, "other", 1), 1.0)
    assert taking(machine.tick(1.0 + BEAT_S * MISSED_BEATS, UNIX_S))
    machine.leader_seen(Leader(UNIX_S + 1, "third", 1), 5.0)
    assert taking(machine.tick(5.0 + BEAT_S * MISSED_BEATS, UNIX_S))
