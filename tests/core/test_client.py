"""Inputs kept until they are answered, generations cancelled until that is known."""

from __future__ import annotations

from itertools import count

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dsi_mqtt.core.client import (
    CANCEL_EVERY_S,
    CANCEL_FOR_S,
    RESEND_MAX_S,
    Abandon,
    ClientEffect,
    ClientEffects,
    PendingInputs,
    SendAlive,
    SendCancel,
    SendInput,
)

A, B = b"a" * 16, b"b" * 16
LATER = 1000.0


def until(pending: PendingInputs, start: float, seconds: float) -> list[tuple[float, ClientEffect]]:
    """What follows, and when, if nothing happens but time, looked at every tenth."""
    found = []
    for tenth in range(round(seconds * 10) + 1):
        now = start + tenth / 10
        found += [(round(now, 1), effect) for effect in pending.tick(now)]
    return found


def generating(deadline: float = LATER) -> PendingInputs:
    pending = PendingInputs()
    pending.connected(0.0)
    assert pending.submitted(A, deadline, 0.0, generates="chat") == [SendInput(A)]
    return pending


def test_an_input_goes_out_again_at_growing_intervals_until_it_is_answered() -> None:
    pending = PendingInputs()
    pending.connected(0.0)
    pending.submitted(A, LATER, 0.0)
    times = [now for now, effect in until(pending, 0.0, 60.0) if effect == SendInput(A)]
    assert times == [2.0, 6.0, 14.0, 29.0, 44.0, 59.0]
    assert pending.answered(A)
    assert until(pending, 60.0, 60.0) == []
    assert not pending.answered(A)
    assert (pending.resent, pending.repeated_answers) == (6, 1)


def test_while_tokens_come_the_input_is_not_sent_again() -> None:
    pending = generating()
    sent = []
    for second in range(1, 30):
        pending.heard(A, float(second))
        sent += [e for _, e in until(pending, float(second), 0.9) if e == SendInput(A)]
    assert sent == []
    assert (31.0, SendInput(A)) in until(pending, 30.0, 2.0)


def test_a_running_generation_says_every_second_that_its_device_lives() -> None:
    pending = generating()
    pending.submitted(B, LATER, 0.0, generates="story")
    alive = [(now, e) for now, e in until(pending, 0.1, 3.0) if isinstance(e, SendAlive)]
    wanted = [SendAlive("chat"), SendAlive("story")]
    assert alive == [(now, e) for now in (1.0, 2.0, 3.0) for e in wanted]
    pending.answered(A)
    assert SendAlive("chat") not in [effect for _, effect in until(pending, 3.2, 2.0)]
    pending.disconnected()
    assert until(pending, 6.0, 2.0) == []
    assert SendAlive("story") in pending.connected(9.0)


def test_an_input_of_one_pass_is_not_told_alive_nor_cancelled() -> None:
    pending = PendingInputs()
    pending.connected(0.0)
    pending.submitted(A, 3.0, 0.0)
    pending.submitted(B, LATER, 0.0)
    assert pending.left(B, 0.5) == []
    assert until(pending, 0.5, 5.0) == [(2.0, SendInput(A)), (3.0, Abandon(A))]


def test_a_cancel_is_sent_again_until_it_is_answered() -> None:
    pending = generating()
    cancel = SendCancel(A, "chat")
    assert pending.left(A, 0.5) == [cancel]
    assert until(pending, 0.6, 2.0) == [(1.5, cancel), (2.5, cancel)]
    assert not pending.answered(A)  # nobody waits for it
    assert until(pending, 3.0, 2.0) == []
    assert pending.repeated_answers == 0


def test_a_cancel_that_nobody_answers_ends() -> None:
    pending = generating()
    pending.left(A, 0.0)
    times = [now for now, _ in until(pending, 0.1, 60.0)]
    assert times
    assert max(times) < CANCEL_FOR_S


def test_a_cancel_waits_for_a_connection() -> None:
    pending = generating()
    pending.disconnected()
    assert pending.left(A, 0.0) == []
    assert until(pending, 0.1, 3.0) == []
    assert pending.connected(4.0) == [SendCancel(A, "chat")]


def test_what_was_never_sent_needs_no_cancel() -> None:
    pending = PendingInputs()
    assert pending.submitted(A, LATER, 0.0, generates="chat") == []
    assert pending.left(A, 0.1) == []
    assert pending.connected(0.2) == []


def test_a_generation_that_takes_too_long_is_cancelled() -> None:
    pending = generating(deadline=1.0)
    assert pending.tick(1.0)[:2] == [Abandon(A), SendCancel(A, "chat")]


class Delivery(RuleBasedStateMachine):
    """Whatever happens, what is open goes out often enough, and what has ended is silent."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = PendingInputs()
        self.ids = count(1)
        self.now = 0.0
        self.up = False
        self.open: dict[bytes, tuple[float, str | None]] = {}
        self.leaving: dict[bytes, float] = {}
        self.sent: dict[bytes, float] = {}
        self.cancels: dict[bytes, float] = {}

    def act(self, effects: ClientEffects) -> None:
        for effect in effects:
            assert self.up or isinstance(effect, Abandon)
            if isinstance(effect, SendInput):
                assert effect.id in self.open
                self.sent[effect.id] = self.now
            elif isinstance(effect, Abandon):
                deadline, generates = self.open.pop(effect.id)
                assert deadline <= self.now
                self.leave(effect.id, generates)
            elif isinstance(effect, SendCancel):
                assert effect.id in self.leaving
                self.cancels[effect.id] = self.now
            else:
                assert effect.deployment in {generates for _, generates in self.open.values()}

    def leave(self, id_: bytes, generates: str | None) -> None:
        if generates is not None and id_ in self.sent:
            self.leaving[id_] = self.now + CANCEL_FOR_S
            self.cancels[id_] = self.now

    @initialize(up=st.booleans())
    def begin(self, up: bool) -> None:
        if up:
            self.connect()

    @rule(generates=st.sampled_from([None, "chat"]), seconds=st.floats(0.5, 60.0))
    def submit(self, generates: str | None, seconds: float) -> None:
        id_ = next(self.ids).to_bytes(16)
        self.open[id_] = self.now + seconds, generates
        self.act(self.machine.submitted(id_, self.now + seconds, self.now, generates=generates))

    @precondition(lambda self: not self.up)
    @rule()
    def connect(self) -> None:
        self.up = True
        self.act(self.machine.connected(self.now))

    @precondition(lambda self: self.up)
    @rule()
    def disconnect(self) -> None:
        self.up = False
        self.machine.disconnected()

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.open)))
        del self.open[id_]
        assert self.machine.answered(id_)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.open)))
        _, generates = self.open.pop(id_)
        self.leave(id_, generates)
        self.act(self.machine.left(id_, self.now))

    @precondition(lambda self: self.leaving)
    @rule(data=st.data())
    def answer_cancel(self, data: st.DataObject) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.leaving)))
        del self.leaving[id_]
        assert not self.machine.answered(id_)

    @rule(tenths=st.integers(1, 50))
    def wait(self, tenths: int) -> None:
        for _ in range(tenths):
            self.now += 0.1
            self.leaving = {i: until for i, until in self.leaving.items() if until > self.now}
            self.act(self.machine.tick(self.now))

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert len(self.machine) == len(self.open)
        if self.up:
            assert all(self.now - self.sent[id_] <= RESEND_MAX_S + 0.2 for id_ in self.open)
            assert all(self.now - self.cancels[id_] <= CANCEL_EVERY_S + 0.2 for id_ in self.leaving)


TestDelivery = Delivery.TestCase


def test_a_tick_before_its_time_does_nothing() -> None:
    inputs = PendingInputs()
    inputs.connected(0.0)
    inputs.submitted(b"a", 9.0, 0.0)
    inputs.submitted(b"b", 30.0, 0.0, generates="chat")
    inputs.left(b"b", 0.5)
    slept = 0
    for now in (i * 0.25 for i in range(80)):
        asleep = now < inputs.next_tick()
        assert not (inputs.tick(now) and asleep)
        slept += asleep
    assert slept > 60
    assert inputs.next_tick() == float("inf")
