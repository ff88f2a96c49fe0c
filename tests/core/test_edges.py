"""Credits of one edge: never exceeded, never lost for ever."""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.core.edges import IDLE_S, PROBE_S, REPEAT_S, EdgeKey, IncomingEdge, OutgoingEdge
from dsi_mqtt.core.effects import Effects, Transmit
from dsi_mqtt.core.message import Activation, Credit, EdgeMark, Header
from dsi_mqtt.core.table import Hop, Stamp
from tests.core.build import NAME, make_table, make_work
from tests.thoroughness import examples

WINDOW = (1000, 4)
HOP = Hop("s0", "s1", {"request": "raw"}, *WINDOW)
KEY = EdgeKey(NAME, Stamp(1, "leader", 1), "s0", "s1", "a1", "b1")
LATER = 1e9


def work(number: int, nbytes: int = 100) -> Activation:
    return make_work(make_table(), "s1", number, source="s0", nbytes=nbytes)


def sent(effects: Effects) -> list[Header]:
    """Headers of what went out; a shell is asked for nothing but transmissions."""
    headers = []
    for effect in effects:
        assert isinstance(effect, Transmit)
        headers.append(effect.activation.header)
    return headers


def grant(nbytes: int, messages: int) -> Credit:
    return Credit("a1", "b1", nbytes, messages)


def mark(header: Header) -> EdgeMark:
    assert header.edge is not None
    return header.edge


def credit_of(header: Header) -> Credit:
    assert header.credit is not None
    return header.credit


# --- the sender's side ------------------------------------------------------------------------


def test_the_window_counts_activations_and_the_rest_waits_in_order() -> None:
    edge = OutgoingEdge(KEY, "b", HOP)
    out = [h for n in range(6) for h in sent(edge.send(work(n), LATER, 0.0))]
    assert [mark(h).sent_messages for h in out] == [1, 2, 3, 4]
    more = sent(edge.grant(grant(10_000, 6), 0.0))
    assert [h.request for h in more] == [work(4).header.request, work(5).header.request]


def test_the_window_counts_bytes() -> None:
    edge = OutgoingEdge(KEY, "b", HOP)
    assert len(sent(edge.send(work(1, 600), LATER, 0.0))) == 1
    assert not edge.send(work(2, 600), LATER, 0.0)
    assert len(sent(edge.grant(grant(1600, 100), 0.0))) == 1


def test_an_activation_larger_than_the_window_passes_alone() -> None:
    edge = OutgoingEdge(KEY, "b", HOP)
    edge.send(work(1, 100), LATER, 0.0)
    assert not edge.send(work(2, 5000), LATER, 0.0), "it went beside another"
    assert len(sent(edge.grant(grant(1100, 5), 0.0))) == 1
    assert not edge.send(work(3, 100), LATER, 0.0), "another went beside it"
    assert len(sent(edge.grant(grant(6100, 6), 0.0))) == 1


def test_an_old_grant_takes_nothing_back() -> None:
    edge = OutgoingEdge(KEY, "b", HOP)
    edge.grant(grant(3000, 9), 0.0)
    edge.grant(grant(1000, 4), 0.0)
    assert sum(len(sent(edge.send(work(n), LATER, 0.0))) for n in range(12)) == 9


def test_time_spent_waiting_is_taken_off_the_budget() -> None:
    edge = OutgoingEdge(KEY, "b", HOP)
    edge.send(work(1, 1000), 5.0, 0.0)
    edge.send(work(2, 1000), 5.0, 0.0)
    (header,) = sent(edge.grant(grant(2000, 8), 2.0))
    assert header.budget_ms == 3000


def test_who_is_blocked_probes_with_what_was_sent() -> None:
    edge = OutgoingEdge(KEY, "b", HOP)
    edge.send(work(1, 1000), LATER, 0.0)
    assert edge.tick(10.0) == ([], []), "not blocked, nothing to ask"
    edge.send(work(2, 1000), LATER, 10.0)
    assert edge.tick(10.0 + PROBE_S / 2) == ([], [])
    (first,) = sent(edge.tick(10.0 + PROBE_S)[0])
    assert first.credit == Credit("a1", "b1", 1000, 1, probe=True)
    assert not edge.tick(10.0 + PROBE_S * 1.5)[0]
    assert len(edge.tick(10.0 + PROBE_S * 2)[0]) == 1


def test_a_blocked_sender_asks_at_once_when_its_connection_is_back() -> None:
    edge = OutgoingEdge(KEY, "b", HOP)
    assert not edge.reconnected(0.0)
    edge.send(work(1, 1000), LATER, 0.0)
    edge.send(work(2, 1000), LATER, 0.0)
    assert credit_of(sent(edge.reconnected(0.1))[0]).probe


def test_what_waits_past_its_deadline_is_given_up_and_makes_way() -> None:
    edge = OutgoingEdge(KEY, "b", HOP)
    edge.send(work(1, 900), LATER, 0.0)
    edge.send(work(2, 500), 1.0, 0.0)
    edge.send(work(3, 100), LATER, 0.0)
    effects, late = edge.tick(1.0)
    assert [a.header.request for a in late] == [work(2).header.request]
    assert work(3).header.request in [h.request for h in sent(effects)]


def test_a_forgotten_attempt_makes_way_for_those_behind_it() -> None:
    edge = OutgoingEdge(KEY, "b", HOP)
    edge.send(work(1, 900), LATER, 0.0)
    edge.send(work(2, 500), LATER, 0.0)
    edge.send(work(3, 100), LATER, 0.0)
    assert edge.holds(work(2).header.try_key)
    out = sent(edge.forget(work(2).header.try_key, 0.0))
    assert [h.request for h in out] == [work(3).header.request]
    assert not edge.holds(work(2).header.try_key)
    assert not edge.tick(LATER - 1)[0], "nothing waits, yet it probes"


# --- the receiver's side ----------------------------------------------------------------------


def arrive(edge: IncomingEdge, number: int, nbytes: int = 100, now: float = 0.0) -> bool:
    """The `number`th activation, all of one size."""
    return edge.arrived(EdgeMark("a1", "b1", number * nbytes, number), nbytes, now)


def test_a_grant_goes_out_when_half_a_window_is_free() -> None:
    edge = IncomingEdge(KEY, "a", HOP)
    for number in (1, 2):
        arrive(edge, number)
    assert not edge.finished(100, 0.0)
    (header,) = sent(edge.finished(100, 0.0))
    assert header.credit == grant(1200, 6)
    assert (header.source, header.target) == ("s1", "s0")


def test_a_probe_closes_the_gap_that_a_loss_left() -> None:
    edge = IncomingEdge(KEY, "a", HOP)
    arrive(edge, 1)
    (header,) = sent(edge.probed(Credit("a1", "b1", 400, 4, probe=True), 0.0))
    assert header.credit == grant(1300, 7), "three were lost, one is still held"


def test_an_activation_closes_the_gap_before_it() -> None:
    edge = IncomingEdge(KEY, "a", HOP)
    arrive(edge, 1)
    arrive(edge, 4)
    (header,) = sent(edge.finished(100, 0.0))
    assert header.credit == grant(1300, 7)


def test_a_repetition_takes_no_room_and_frees_none() -> None:
    edge = IncomingEdge(KEY, "a", HOP)
    assert arrive(edge, 1)
    assert arrive(edge, 3)
    assert not arrive(edge, 3), "counted twice"
    assert not arrive(edge, 2), "it was counted as lost"
    (header,) = sent(edge.probed(Credit("a1", "b1", 300, 3, probe=True), 0.0))
    assert header.credit == grant(1100, 5)


def test_grants_are_repeated_while_the_edge_is_in_use_and_after_a_reconnection() -> None:
    edge = IncomingEdge(KEY, "a", HOP)
    arrive(edge, 1, now=0.0)
    times = [t / 10 for t in range(1, int(IDLE_S * 20)) if edge.tick(t / 10)]
    assert len(times) >= int(IDLE_S / REPEAT_S) - 1
    assert max(times) <= IDLE_S
    assert edge.reconnected(1.0)
    assert not edge.reconnected(IDLE_S + 0.1)


# --- both sides, with what lies between, which loses -----------------------------

steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 1500)),
        st.tuples(
            st.sampled_from(["carry", "lose", "repeat", "finish", "answer", "drop"]), st.just(0)
        ),
        st.tuples(st.just("wait"), st.integers(1, 20)),
    ),
    max_size=80,
)


class EdgeEnds:
    """Two edges and what is between them: ordered, lossy, repeating."""

    def __init__(self) -> None:
        self.out = OutgoingEdge(KEY, "b", HOP)
        self.into = IncomingEdge(KEY, "a", HOP)
        self.now = 0.0
        self.there: deque[Activation] = deque()
        self.back: deque[Header] = deque()
        self.held: deque[int] = deque()
        self.last: Activation | None = None
        self.numbers = 0
        self.delivered: list[bytes] = []

    def forth(self, effects: Effects) -> None:
        for effect in effects:
            assert isinstance(effect, Transmit)
            self.there.append(effect.activation)

    def send(self, nbytes: int) -> None:
        self.numbers += 1
        self.forth(self.out.send(work(self.numbers, nbytes), LATER, self.now))

    def carry(self, activation: Activation) -> None:
        header = activation.header
        if header.credit is not None:
            self.back.extend(sent(self.into.probed(header.credit, self.now)))
        elif self.into.arrived(mark(header), activation.nbytes, self.now):
            self.held.append(activation.nbytes)
            self.delivered.append(header.request)
            self.last = activation
        in_use = sum(self.held)
        assert len(self.held) <= WINDOW[1], "more activations held than granted"
        assert in_use <= WINDOW[0] or len(self.held) == 1, "more bytes held than granted"

    def step(self, what: str, number: int) -> None:
        if what == "send":
            self.send(number)
        elif what == "carry" and self.there:
            self.carry(self.there.popleft())
        elif what == "lose" and self.there:
            self.there.popleft()
        elif what == "repeat" and self.last is not None:
            self.carry(self.last)
        elif what == "finish" and self.held:
            self.back.extend(sent(self.into.finished(self.held.popleft(), self.now)))
        elif what == "answer" and self.back:
            self.forth(self.out.grant(credit_of(self.back.popleft()), self.now))
        elif what == "drop" and self.back:
            self.back.popleft()
        elif what == "wait":
            self.now += number / 10
            self.forth(self.out.tick(self.now)[0])
            self.back.extend(sent(self.into.tick(self.now)))


@settings(max_examples=examples(200))
@given(steps)
def test_credits_are_never_exceeded_and_no_loss_blocks_an_edge_for_ever(
    schedule: list[tuple[str, int]],
) -> None:
    ends = EdgeEnds()
    for what, number in schedule:
        ends.step(what, number)
    ends.send(10)
    for _ in range(40 + 4 * len(schedule)):
        for what in ("carry", "finish", "answer"):
            ends.step(what, 0)
        ends.step("wait", 3)
    assert ends.delivered[-1] == work(ends.numbers).header.request, "the edge is blocked"
    assert not ends.there
    assert ends.delivered == sorted(set(ends.delivered)), "repeated, or out of order"
