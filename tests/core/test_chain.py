"""A whole chain on virtual time, under faults: what holds at every step, and when they end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.core.attempts import POISON_AT, Attempts
from dsi_mqtt.core.request import Reply
from tests.core.build import NAME
from tests.core.harness import Node, Site, expected
from tests.core.harness_broker import Delivery, SimClient
from tests.thoroughness import examples

# --- what holds at every step -----------------------------------------------------------------


def check_step(site: Site, node: Node) -> None:
    """The door's window, suspects alone, and the credit of every edge."""
    worker = node.machine
    for door in worker._doors.values():
        assert isinstance(door._runs, Attempts)
        running = list(door._runs._running.values())
        assert len(running) <= site.window, "more attempts in the chain than the window allows"
        assert len(running) == 1 or not any(r.suspect for r in running), "a suspect had company"
        assert all((r.attempt is None) == (r.state == "recording") for r in running)
    for key, edge in worker._relay._edges._outgoing.items():
        receiver = next((n for n in site.alive() if n.incarnation == key.receiver), None)
        if receiver is None or receiver.machine._holdings.table(NAME, key.stamp) is None:
            continue  # its end of the edge is gone
        incoming = receiver.machine._relay._edges._incoming.get(key)
        consumed = incoming._consumed if incoming else (0, 0)
        assert edge._sent[0] >= consumed[0], "more was consumed than was sent"
        messages = edge._sent[1] - consumed[1]
        nbytes = edge._sent[0] - consumed[0]
        assert messages <= edge._window[1], "more activations on an edge than its window"
        assert nbytes <= edge._window[0] or messages == 1, "more bytes on an edge than its window"


# --- what holds when all is quiet -------------------------------------------------------------


def check_rest(site: Site) -> None:
    """No machine keeps anything of requests, attempts or tables that are over."""
    serve = site.serving
    assert serve is not None
    assert serve.door is not None
    for node in site.alive():
        worker = node.machine
        keeps_door = (node.name, node.incarnation) == (serve.door.node, serve.door.incarnation)
        assert list(worker._doors) == ([NAME] if keeps_door else [])
        for door in worker._doors.values():
            assert door.idle
            assert not door._by_key
            assert isinstance(door._runs, Attempts)
            assert not len(door._runs._line)
            assert not door._hand_over.leaves_any
            assert not door._suspects.any
        relay = worker._relay
        assert not relay._jobs._live
        assert not relay._by_number
        assert not relay._computing
        assert not any(relay._queues.values())
        model = worker._holdings._models[NAME]
        assert set(model.tables) == {serve.stamp}, f"{node.name} keeps old tables"
        assert {key.stamp for key in relay._edges._outgoing} <= {serve.stamp}
        assert {key.stamp for key in relay._edges._incoming} <= {serve.stamp}
        assert not any(edge._waiting for edge in relay._edges._outgoing.values())
        wanted = {
            unit
            for segment in serve.segments
            if (node.name, worker.incarnation) in segment.holders()
            for unit in range(*segment.units)
        }
        assert model.loaded == node.engine == wanted, f"{node.name} holds other units than wanted"
    assert not site.broker.queue
    assert not site.broker.unacknowledged
    assert not site.broker.records
    assert site.broker.holder is site.nodes[serve.door.node]


def check_answers(site: Site) -> None:
    """One answer for each input: the right result, or the error that it deserves.

    What is alone in the chain at three deaths cannot be told from a poisonous input.
    """
    for outcome in site.client.outcomes.values():
        assert len(outcome.results) + len(outcome.errors) == 1, f"{outcome} has no single answer"
        if outcome.results:
            assert outcome.results == [expected(outcome.text)]
        else:
            raises = "raise" in outcome.text
            assert outcome.errors == (["model_failed"] if raises else ["poison"]), f"{outcome}"
            innocent = not raises and "poison" not in outcome.text
            deaths = site.alone.ended_in_death(outcome.text)
            assert not innocent or deaths >= POISON_AT, f"{outcome}, {deaths} deaths alone"
    for text, results in site.client.plain.items():
        assert set(results) <= {expected(text)}
    failed = [text for text, results in site.client.plain.items() if not results]
    assert site.client.plain_errors == ["poison"] * len(failed)
    assert all(site.alone.ended_in_death(text) >= POISON_AT for text in failed), failed


def totals(site: Site) -> tuple[int, int, int]:
    """Retries, errors and repetitions, over all doors there are."""
    loads = [load for node in site.alive() for load in node.machine.door_loads()]
    return (
        sum(load.retried for load in loads),
        sum(load.errors for load in loads),
        sum(load.duplicates for load in loads),
    )


def come_to_rest(site: Site) -> None:
    assert site.run_until(lambda: site.client.settled, 130.0), "an input was never answered"
    site.run(15.0)
    # Deaths late in a run can still be followed by a change of table.
    assert site.run_until(lambda: site.document is not None and not site.document.prepare, 10.0)
    site.run(15.0)


# --- no faults --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_without_faults_nothing_is_retried_and_nothing_fails(seed: int) -> None:
    site = Site(seed)
    site.check = check_step
    for number in range(40):
        site.client.submit("large" if number % 10 == 9 else "input")
        site.client.submit_plain()
        site.run(site.rng.uniform(0.05, 0.35))
    come_to_rest(site)
    check_answers(site)
    check_rest(site)
    assert totals(site) == (0, 0, 0)
    assert site.client.pending.resent == 0
    assert all(len(results) == 1 for results in site.client.plain.values())


# --- faults -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """At `at` seconds into the run; `node` picks one of those alive."""

    kind: str
    at: float
    node: int = 0


def kill(site: Site, fault: Fault, *, will: bool) -> None:
    alive = site.alive()
    if len(alive) > 1:
        node = alive[fault.node % len(alive)]
        node.kill(will=will)
        site.after(0.2 + (fault.node % 7) * 0.5, node.start)


def kill_door(site: Site, fault: Fault) -> None:
    holder = site.broker.holder
    if holder is not None and len(site.alive()) > 1:
        holder.kill(will=bool(fault.node % 2))
        site.after(1.0, holder.start)


def move(site: Site, _fault: Fault) -> None:
    site.maker.moving = True


def cut_data(site: Site, fault: Fault) -> None:
    site.nodes[f"n{fault.node % len(site.nodes)}"].cut_data(0.1 + (fault.node % 5) * 0.2)


def disturb(site: Site, fault: Fault) -> None:
    """For a second, links lose a fifth and repeat a fifth of the activations."""
    site.loss = site.repetition = 0.2

    def calm() -> None:
        site.loss = site.repetition = 0.0

    site.after(1.0, calm)


FAULTS: dict[str, Callable[[Site, Fault], None]] = {
    "kill with will": lambda site, fault: kill(site, fault, will=True),
    "kill in silence": lambda site, fault: kill(site, fault, will=False),
    "kill the door": kill_door,
    "move": move,
    "cut data": cut_data,
    "cut ingress": lambda site, _fault: site.broker.cut(),
    "disturb links": disturb,
    "forget ingress": lambda site, _fault: site.broker.forget(),
    "poison": lambda site, _fault: site.client.submit("poison"),
    "raise": lambda site, _fault: site.client.submit("raise"),
}


def play(seed: int, faults: list[Fault], *, plain: bool) -> Site:
    """Load for ten seconds with faults in it, then quiet."""
    site = Site(seed)
    site.check = check_step
    for fault in faults:
        site.after(fault.at, lambda fault=fault: FAULTS[fault.kind](site, fault))  # type: ignore[misc]
    for _ in range(40):
        site.client.submit("input")
        if plain:
            site.client.submit_plain()
        site.run(site.rng.uniform(0.0, 0.5))
    come_to_rest(site)
    return site


faults_of_any_kind = st.lists(
    st.builds(
        Fault,
        kind=st.sampled_from(sorted(FAULTS)),
        at=st.floats(0.0, 9.0),
        node=st.integers(0, 99),
    ),
    max_size=8,
)


@settings(max_examples=examples(60))
@given(seed=st.integers(0, 2**32), faults=faults_of_any_kind)
def test_every_input_gets_its_one_answer_and_nothing_is_left_over(
    seed: int, faults: list[Fault]
) -> None:
    # A plain client publishes once: it has its answer only while the broker remembers.
    site = play(seed, faults, plain=all(fault.kind != "forget ingress" for fault in faults))
    check_answers(site)
    check_rest(site)


@pytest.mark.parametrize("seed", range(3))
def test_planned_moves_lose_nothing_and_repeat_nothing(seed: int) -> None:
    site = play(seed, [Fault("move", at) for at in (1.0, 4.0, 7.0)], plain=True)
    check_answers(site)
    check_rest(site)
    assert totals(site)[:2] == (0, 0)
    assert site.broker.take_overs == 0
    assert all(len(results) == 1 for results in site.client.plain.values())


@pytest.mark.parametrize("will", [True, False])
def test_a_node_that_dies_in_the_chain_costs_time_and_no_input(will: bool) -> None:
    for seed in range(4):
        site = Site(seed)
        site.check = check_step
        serve = site.serving
        assert serve is not None
        assert serve.door is not None
        named = {replica.node for part in serve.segments for replica in part.replicas}
        victims = sorted(named - {serve.door.node})
        for _ in range(10):
            site.client.submit("input")
            site.client.submit_plain()
        site.run(0.05)
        for victim in victims:
            site.nodes[victim].kill(will=will)
        come_to_rest(site)
        check_answers(site)


@pytest.mark.parametrize("beside", [0, 3])
def test_a_poisonous_input_ends_three_nodes_or_one_more_that_was_not_counted(beside: int) -> None:
    """The first death may be beside others, or the door's before it was a suspect."""
    for seed in range(5):
        site = Site(seed)
        site.check = check_step
        for text in ("input",) * beside + ("poison",) + ("input",) * beside:
            site.client.submit(text)
        come_to_rest(site)
        check_answers(site)
        check_rest(site)
        assert site.deaths in (3, 4)


class Listener(SimClient):
    """Hears answers to copies as well."""

    def __init__(self, site: Site) -> None:
        self.heard: list[tuple[bytes | None, str]] = []
        super().__init__(site)

    def receive(self, reply: Reply) -> None:
        self.heard.append((reply.correlation, reply.failure.code if reply.failure else "ok"))
        super().receive(reply)


@pytest.mark.parametrize("seed", range(5))
def test_a_copy_of_a_poisonous_input_ends_nobody_after_its_door_has_died(seed: int) -> None:
    site = Site(seed, client=Listener)
    site.check = check_step
    assert isinstance(site.client, Listener)
    site.client.submit("poison")
    assert site.run_until(lambda: site.client.settled, 60.0)
    ((id_, outcome),) = site.client.outcomes.items()
    assert site.serving is not None
    assert site.serving.door is not None
    site.nodes[site.serving.door.node].kill(will=bool(seed % 2))
    deaths = site.deaths
    for _ in range(2):
        site.broker.publish(Delivery(id_, outcome.text))
        site.run(8.0)
    assert site.client.heard == [(id_, "poison")] * 3
    assert site.deaths == deaths
    site.run(20.0)
    assert not site.broker.records, "a verdict is retained for ever"


def test_two_doors_do_not_take_the_ingress_from_each_other() -> None:
    """The old door is cut off while the new one waits for it: it does not come back for it."""
    for seed in range(5):
        site = Site(seed)
        site.check = check_step
        for _ in range(10):
            site.client.submit("input")
        for _ in range(5):
            site.maker.moving = True
            site.run(0.3)
            site.broker.cut()
            site.run(1.0)
        come_to_rest(site)
        check_answers(site)
        assert site.broker.take_overs == 0
