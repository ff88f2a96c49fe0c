"""What a node that was away concludes from what the broker retains by now, and what not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsi_mqtt.core import effects as fx
from dsi_mqtt.core import events as ev
from dsi_mqtt.core.effects import Effects
from dsi_mqtt.core.withdrawals import Withdrawals
from tests.core.build import NAME, A, B, document, make_spec, make_status, make_table
from tests.core.test_worker import Node, of

SPEC = make_spec(deadline_ms=4000.0)
PART_HERE = make_table((A, (0, 3)), (B, (3, 6)), door=A)


def comes_back(node: Node, *retained: ev.Event) -> Effects:
    effects = node.on(ev.ControlReconnected())
    for event in retained:
        effects += node.on(event)
    return effects + node.on(ev.RetainedRead())


ITSELF = ev.StatusArrived(make_status(A))
WILL = ev.StatusArrived(make_status(A, "offline"))


@pytest.mark.parametrize("own", [ITSELF, WILL], ids=["status", "will"])
def test_what_was_withdrawn_while_a_node_was_away_is_let_go(own: ev.Event) -> None:
    node = Node().opened(PART_HERE)
    assert node.worker.status().holdings
    effects = comes_back(node, own)
    assert fx.CloseIngress(NAME, forget=True) in effects
    assert of(effects, fx.CloseModel) == [fx.CloseModel(NAME)]
    status = node.worker.status()
    assert (status.holdings, status.models, status.doors) == ((), (), ())


@pytest.mark.parametrize(
    "retained",
    [(), (ev.StatusArrived(make_status(("a", "a0"))),)],
    ids=["nothing", "an earlier life's status"],
)
def test_a_broker_that_has_forgotten_withdraws_nothing(retained: tuple[ev.Event, ...]) -> None:
    node = Node().opened(PART_HERE)
    assert not of(comes_back(node, *retained), fx.CloseModel)
    assert node.worker.status().holdings


def test_what_is_still_retained_stays() -> None:
    node = Node().opened(PART_HERE)
    table = ev.TableArrived(NAME, document(PART_HERE))
    assert not of(comes_back(node, ITSELF, ev.SpecArrived(SPEC), table), fx.CloseIngress)
    assert node.worker.status().holdings


def test_weights_wait_for_the_leader_while_the_table_is_retained() -> None:
    """No orchestrator was there to take the chain out of service."""
    node = Node().opened(PART_HERE)
    effects = comes_back(node, ITSELF, ev.TableArrived(NAME, document(PART_HERE)))
    assert fx.CloseIngress(NAME, forget=True) in effects
    assert node.worker.status().holdings
    over = make_table(epoch=2, door=None)
    node.serve(replace(over, state="unavailable", segments=(), hops=(), model=None))
    status = node.worker.status()
    assert (status.holdings, status.models) == ((), ())


def test_it_can_be_deployed_again() -> None:
    node = Node().opened(PART_HERE)
    comes_back(node, ITSELF)
    assert of(node.on(ev.SpecArrived(SPEC)), fx.OpenModel)
    assert of(node.serve(replace(PART_HERE, epoch=2)), fx.OpenIngress)


def test_words_behind_what_was_retained_conclude_nothing() -> None:
    withdrawals = Withdrawals("a1")
    withdrawals.heard(make_status(A))
    assert withdrawals.read((NAME,)) == {}
    withdrawals.connected()
    assert withdrawals.read((NAME,)) == {}
    withdrawals.heard(make_status(A))
    assert withdrawals.read((NAME,)) == {}
