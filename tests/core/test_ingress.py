"""The right to an ingress: who may take the session, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.core.effects import CloseIngress, EchoNonce, Effects, OpenAnswers, OpenIngress
from dsi_mqtt.core.ingress import CALM_S, HAND_OVER_S, PROVE_S, Ingress
from dsi_mqtt.core.table import DoorPlace
from tests.core.build import NAME
from tests.thoroughness import examples

DOOR = DoorPlace("a", "a1", "mqtt://broker", "session", 4)
OPEN = [OpenIngress(NAME, DOOR, 8, 1000)]
ECHO = [EchoNonce(NAME)]
CLOSE = [CloseIngress(NAME, forget=False)]


def ingress() -> Ingress:
    return Ingress(NAME, 8, 1000)


def opened() -> Ingress:
    held = ingress()
    assert held.named(DOOR, 0.0) == OPEN
    assert held.opened() == []
    assert held.is_open
    return held


def test_lost_it_comes_back_only_after_the_nonce() -> None:
    held = opened()
    assert held.lost(1.0) == ECHO
    assert not held.is_open
    assert held.named(DOOR, 1.1) == []
    assert held.held_elsewhere(held=False, now=1.2) == []
    assert held.tick(1.3) == []
    assert held.nonce_returned() == OPEN
    assert held.nonce_returned() == [], "one nonce, one connection"


def test_an_ingress_that_nobody_lets_go_of_is_taken_at_once() -> None:
    """A frozen door holds its connection, and says nothing."""
    orphaned = replace(DOOR, orphaned=True)
    held = ingress()
    assert held.held_elsewhere(held=True, now=0.0) == []
    assert held.named(orphaned, 0.0) == [OpenIngress(NAME, orphaned, 8, 1000)]
    waits = ingress()
    assert waits.held_elsewhere(held=True, now=0.0) == []
    assert waits.named(DOOR, 0.0) == [OpenAnswers(NAME, DOOR)]
    assert waits.tick(HAND_OVER_S) == OPEN


def test_an_unanswered_nonce_is_sent_again() -> None:
    held = opened()
    held.lost(1.0)
    assert held.tick(1.0 + PROVE_S) == ECHO
    assert held.tick(1.1 + PROVE_S) == []
    assert held.tick(1.0 + 2 * PROVE_S) == ECHO


def test_a_broker_that_refuses_is_not_asked_in_a_loop() -> None:
    held = ingress()
    held.named(DOOR, 0.0)
    assert held.lost(0.0) == [], "it never had it: no nonce at once"
    assert held.tick(PROVE_S / 2) == []
    assert held.tick(PROVE_S) == ECHO
    assert held.nonce_returned() == OPEN
    assert held.lost(PROVE_S) == []


def test_a_hand_over_waits_for_the_other_door() -> None:
    held = ingress()
    held.held_elsewhere(held=True, now=0.0)
    assert held.named(DOOR, 0.0) == [OpenAnswers(NAME, DOOR)], "what is passed on is answered"
    assert held.named(DOOR, 0.1) == []
    assert held.tick(HAND_OVER_S / 2) == []
    assert held.held_elsewhere(held=False, now=HAND_OVER_S / 2) == OPEN


def test_a_door_that_does_not_let_go_is_not_waited_for_for_ever() -> None:
    held = ingress()
    held.held_elsewhere(held=True, now=0.0)
    held.named(DOOR, 0.0)
    assert held.tick(HAND_OVER_S) == OPEN


def test_named_no_more_it_closes_and_a_late_opening_is_closed_too() -> None:
    held = ingress()
    held.named(DOOR, 0.0)
    assert held.not_named(forget=False) == CLOSE
    assert held.opened() == CLOSE
    assert not held.is_open


def test_undeployed_the_session_is_ended() -> None:
    assert opened().not_named(forget=True) == [CloseIngress(NAME, forget=True)]


def test_a_door_that_finishes_keeps_its_connection_and_does_not_come_back_for_it() -> None:
    held = opened()
    held.finishing()
    assert held.is_open
    assert held.lost(1.0) == []
    assert held.nonce_returned() == []
    assert held.tick(100.0) == []


def test_a_door_that_finishes_while_proving_gives_up() -> None:
    held = opened()
    held.lost(1.0)
    held.finishing()
    assert held.nonce_returned() == []
    assert held.tick(100.0) == []


def test_another_session_or_broker_is_opened_instead_and_a_window_changes_nothing() -> None:
    held = opened()
    assert held.named(replace(DOOR, window=9), 1.0) == []
    moved = replace(DOOR, session="other")
    former = CloseIngress(NAME, forget=True)
    assert held.named(moved, 2.0) == [former, OpenIngress(NAME, moved, 8, 1000)]
    assert not held.is_open


def test_the_former_session_is_ended_once_also_while_none_is_open() -> None:
    """It would get every input too, and nobody would read them."""
    held, moved = opened(), replace(DOOR, session="other")
    held.lost(1.0)
    assert held.named(moved, 2.0) == [CloseIngress(NAME, forget=True)]
    assert held.named(moved, 2.1) == []
    assert held.nonce_returned() == [OpenIngress(NAME, moved, 8, 1000)]


def act(held: Ingress, event: str, now: float) -> Effects:
    if event == "finishing":
        held.finishing()
        return []
    acts: dict[str, Callable[[], Effects]] = {
        "named": lambda: held.named(DOOR, now),
        "gone": lambda: held.not_named(forget=False),
        "elsewhere": lambda: held.held_elsewhere(held=True, now=now),
        "free": lambda: held.held_elsewhere(held=False, now=now),
        "opened": held.opened,
        "lost": lambda: held.lost(now),
        "nonce": held.nonce_returned,
        "wait": lambda: held.tick(now),
    }
    return acts[event]()


EVENTS = ["named", "finishing", "gone", "elsewhere", "free", "opened", "lost", "nonce", "wait"]


@settings(max_examples=examples(300))
@given(st.lists(st.sampled_from(EVENTS), max_size=40))
def test_after_a_loss_nothing_is_opened_without_a_nonce(events: list[str]) -> None:
    held, proven = ingress(), True
    for step, event in enumerate(events):
        had, named = held.is_connected, held._door is not None
        effects = act(held, event, step * 0.3)
        if event == "lost" and had and named:
            proven = False
        if event in ("nonce", "gone", "finishing"):
            proven = True  # proven anew, or given up: a new right begins with a new name
        if any(isinstance(effect, OpenIngress) for effect in effects):
            assert proven
            assert held._door is not None


def test_one_that_is_to_hold_more_is_opened_anew_when_no_answer_is_on_its_way() -> None:
    held = opened()
    held.holds(8, 1.0)
    assert held.anew(1.0, calm=True) == []
    held.holds(16, 1.0)
    assert held.anew(1.0, calm=False) == []
    assert held.next_tick() < 1.0
    assert held.anew(2.0, calm=True) == [OpenIngress(NAME, DOOR, 16, 1000)]
    assert held.anew(3.0, calm=True) == []
    held.holds(32, 3.0)
    assert held.anew(3.0 + CALM_S, calm=False) == [OpenIngress(NAME, DOOR, 32, 1000)]


def test_one_that_is_not_connected_holds_as_many_as_it_is_told_when_it_is() -> None:
    held = Ingress(NAME, 8, 1000)
    held.holds(16, 0.0)
    assert held.anew(CALM_S, calm=True) == []
    assert held.named(replace(DOOR, orphaned=True), 0.0) == [
        OpenIngress(NAME, replace(DOOR, orphaned=True), 16, 1000)
    ]
