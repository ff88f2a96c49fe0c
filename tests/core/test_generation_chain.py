"""Generations on a whole chain on virtual time, under faults."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.core import events as ev
from dsi_mqtt.core.activation import TOKENS, Row, Tensor
from dsi_mqtt.core.door import Door
from dsi_mqtt.core.generations import Generations
from dsi_mqtt.core.message import Activation, Header
from dsi_mqtt.core.model import Vocabulary
from dsi_mqtt.core.room import SESSIONS_HELD
from dsi_mqtt.core.table import DOOR
from dsi_mqtt.core.two_models import TwoModels
from tests.core.build import NAME
from tests.core.harness import Node, Site
from tests.core.harness_generation import (
    GENERATION,
    GeneratingClient,
    GeneratingNode,
    generating_site,
)
from tests.core.test_chain import FAULTS, Fault
from tests.thoroughness import examples

# Prompts of so many words, and the position that ends a node: in the first piece of the prompt,
# in its second, at a later token.
POISONS = ((3, 1), (300, 280), (20, 23))


def poison(site: Site, fault: Fault) -> None:
    words, at = POISONS[fault.node % len(POISONS)]
    client = client_of(site)
    seed = site.rng.randrange(1000)
    id_ = client.ask("bad " * words, max_tokens=30, seed=seed)
    client.deadly[id_] = at


GENERATION_FAULTS = {**FAULTS, "poison": poison}
del GENERATION_FAULTS["raise"]


def client_of(site: Site) -> GeneratingClient:
    assert isinstance(site.client, GeneratingClient)
    return site.client


def own_runs(door: Door) -> Generations:
    assert isinstance(door._runs, TwoModels)
    return door._runs.own


def check_step(site: Site, node: Node) -> None:
    for door in node.machine._doors.values():
        runs = own_runs(door)
        assert len(runs._schedule.running) <= GENERATION.sessions_max
        stepping = [s for step in runs._steps for s in step.sessions]
        assert len(stepping) == len(set(stepping)), "a session is in two steps"
        if any(s.request.suspect for s in stepping):
            assert len(runs._steps) == 1, "a suspect had company"
            assert len(stepping) == 1, "a suspect had company in its step"
        assert all(s.state == "ready" for s in runs._schedule.due)


def come_to_rest(site: Site) -> None:
    assert site.run_until(lambda: site.client.settled, 130.0), "an input was never answered"
    site.run(15.0)
    assert site.run_until(lambda: site.document is not None and not site.document.prepare, 10.0)
    site.run(15.0)


def check_rest(site: Site, *, remembers: bool = True) -> None:
    """Nothing is kept of sessions that are over, on any node.

    remembers: the broker forgot no input. One that it forgot is counted until `dedupe_s` is over,
    for nobody can tell whether its device repeats it.
    """
    for node in site.alive():
        assert isinstance(node, GeneratingNode)
        assert not node.sessions, f"{node.name} keeps caches"
        assert not node.texts
        relay = node.machine._relay
        assert not relay._jobs._live
        assert not any(relay.sessions().values())
        for door in node.machine._doors.values():
            runs = own_runs(door)
            assert door.idle
            assert not runs._sessions
            assert not len(runs._schedule)
            assert not runs._schedule.due
            assert not len(runs._steps)
            assert not (remembers and door._suspects.any)
    assert not site.broker.queue
    assert not site.broker.unacknowledged
    assert not (remembers and site.broker.records)


def play(seed: int, faults: list[Fault], inputs: int = 12) -> Site:
    site = generating_site(seed)
    site.check = check_step
    for fault in faults:
        site.after(fault.at, lambda fault=fault: GENERATION_FAULTS[fault.kind](site, fault))  # type: ignore[misc]
    client = client_of(site)
    for number in range(inputs):
        words = site.rng.choice([1, 3, 20, 300])
        client.ask(f"w{number} " * words, max_tokens=site.rng.randint(1, 30))
        site.run(site.rng.uniform(0.0, 1.0))
    come_to_rest(site)
    return site


@pytest.mark.parametrize("seed", range(5))
def test_without_faults_texts_are_those_of_one_engine_and_nothing_is_retried(seed: int) -> None:
    site = play(seed, [])
    client_of(site).check()
    check_rest(site)
    loads = [load for node in site.alive() for load in node.machine.door_loads()]
    assert sum(load.retried + load.errors + load.duplicates for load in loads) == 0
    assert all(len(told) <= 1 for told in client_of(site).tellings.values())


@settings(max_examples=examples(25))
@given(
    seed=st.integers(0, 2**32),
    faults=st.lists(
        st.builds(
            Fault,
            kind=st.sampled_from(sorted(GENERATION_FAULTS)),
            at=st.floats(0.0, 9.0),
            node=st.integers(0, 99),
        ),
        max_size=8,
    ),
)
def test_every_generation_ends_with_its_text_and_no_cache_is_left(
    seed: int, faults: list[Fault]
) -> None:
    site = play(seed, faults)
    errors = frozenset({"unavailable"}) if site.deaths >= 3 else frozenset[str]()
    client_of(site).check(errors=errors)
    check_rest(site, remembers=all(fault.kind != "forget ingress" for fault in faults))


def forge(site: Site, number: int) -> None:
    """Anybody may publish a step of a session that no door has."""
    serve = site.serving
    assert serve is not None
    first = serve.segments[0]
    tokens = np.arange(200, dtype="<i8")[None] % 16
    header = Header(
        "prefill",
        NAME,
        serve.stamp,
        DOOR,
        first.id,
        number.to_bytes(16, "big"),
        1,
        door="nobody",
        rows=(Row(f"{serve.door.incarnation if serve.door else ''}.{10**9 + number}", 0, 200),),
        sampling=(None,),
    )
    forged = Activation(header, (Tensor(TOKENS, "int64", tokens.shape, tokens.tobytes()),))
    site._deliver(first.replicas[0].node, forged)


@pytest.mark.parametrize("seed", range(3))
def test_steps_that_no_door_has_sent_fill_no_node_and_end_no_text(seed: int) -> None:
    site = generating_site(seed)
    site.check = check_step
    client = client_of(site)
    for number in range(20):
        client.ask(f"w{number} " * 20, max_tokens=30)
    site.run(0.5)
    most = 2 * SESSIONS_HELD * GENERATION.sessions_max
    for number in range(100):
        forge(site, number)
        site.run(0.03)
        for node in site.alive():
            assert isinstance(node, GeneratingNode)
            assert len(node.sessions) <= most
    come_to_rest(site)
    client.check()
    check_rest(site)


@pytest.mark.parametrize("beside", [0, 3])
@pytest.mark.parametrize("place", range(len(POISONS)))
def test_a_poisonous_generation_ends_few_nodes_wherever_it_is_deadly(
    place: int, beside: int
) -> None:
    """Three, one where it had company, and one where its door dies of a token it has yet to draw.

    Such a token may never come, for the text may end before.
    """
    ended = []
    for seed in range(examples(6)):
        site = generating_site(seed)
        site.check = check_step
        client = client_of(site)
        for _ in range(beside):
            client.ask("w1", max_tokens=30)
        poison(site, Fault("poison", 0.0, place))
        for _ in range(beside):
            client.ask("w2", max_tokens=30)
        (outcome,) = (client.outcomes[id_] for id_ in client.deadly)
        assert site.run_until(lambda outcome=outcome: outcome.settled, 130.0)  # type: ignore[misc]
        assert site.deaths <= 5
        ended += outcome.errors
        come_to_rest(site)
        client.check()
        check_rest(site)
    assert "poison" in ended


@pytest.mark.parametrize("seed", range(3))
def test_a_planned_move_changes_no_text(seed: int) -> None:
    site = play(seed, [Fault("move", at) for at in (1.0, 3.0, 5.0)])
    client_of(site).check()
    check_rest(site)


class EndlessNode(GeneratingNode):
    """Its model knows no end of a text."""

    def _opened(self, name: str) -> None:
        vocabulary = Vocabulary(GENERATION.context, 16)
        graph = replace(self.models[name].graph, digest="m1", vocabulary=vocabulary)
        self.handle(ev.ModelOpened(name, graph))


def test_all_segments_compute_at_once() -> None:
    """Steps cost each node by their rows: tokens come at 0.9 of what the busiest could do."""
    site = Site(4, node=EndlessNode, client=GeneratingClient)
    cost_s = 0.02
    while len(parts_by_node(site)) < 3:
        site.maker.moving = True
        site.run(2.0)
    for node in site.alive():
        assert isinstance(node, GeneratingNode)
        node.slow_s = cost_s
    client = client_of(site)
    asked = [client.ask("w1", max_tokens=390, temperature=0) for _ in range(5)]
    site.run(5.0)
    before = sum(map(len, (heard(client, id_) for id_ in asked)))
    site.run(20.0)
    made = sum(map(len, (heard(client, id_) for id_ in asked))) - before
    slowest_s = cost_s * max(parts_by_node(site).values())
    assert not site.client.settled, "a text ended while it was measured"
    assert made >= 0.9 * 20.0 / slowest_s


def parts_by_node(site: Site) -> dict[str, int]:
    """How many segments each node of the serving table computes."""
    parts: dict[str, int] = {}
    for segment in site.serving.segments if site.serving else ():
        node = segment.replicas[0].node
        parts[node] = parts.get(node, 0) + 1
    return parts


def heard(client: GeneratingClient, id_: bytes) -> set[int]:
    """Numbers of the tokens that have come."""
    return {index for told in client.tellings[id_].values() for index in told}
