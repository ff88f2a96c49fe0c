"""A deployment with a fallback on a whole chain on virtual time, under faults.

Tables of its own model and of the fallback follow each other at random, whether the one before is
intact or not, which is more than an orchestrator would do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.core.deployment import FALLBACK_MARK, Deployment, Fallback
from dsi_mqtt.core.generation import Partial
from dsi_mqtt.core.request import Reply
from dsi_mqtt.core.table import ModelRef, Table
from dsi_mqtt.core.two_models import TwoModels
from dsi_mqtt.engine.fake import FakeEngine
from tests.core.build import NAME, make_table
from tests.core.harness import Node, Site
from tests.core.harness_generation import (
    GENERATION,
    SPEC,
    GeneratingClient,
    GeneratingNode,
    expected_tokens,
    opened,
)
from tests.core.harness_maker import TableMaker
from tests.core.test_chain import FAULTS, Fault
from tests.thoroughness import examples

OTHER = NAME + FALLBACK_MARK
SMALL_UNITS = 2
FAULT_KINDS = sorted(FAULTS.keys() - {"raise", "poison"})


class TwoModelNode(GeneratingNode):
    def spec(self) -> Deployment:
        return replace(SPEC, fallback=Fallback("/tiny"))

    def engines(self) -> dict[str, FakeEngine]:
        return {NAME: opened(), OTHER: opened(units=SMALL_UNITS)}


class TwoModelMaker(TableMaker):
    """Every other table, about, is of the fallback."""

    def _draw(self) -> Table:
        drawn = super()._draw()
        if self._rng.random() < 0.5:
            return drawn
        member = self._member(self._rng.choice(sorted(self.alive)))
        small = make_table((member, (0, SMALL_UNITS)), epoch=drawn.epoch, digest="m2")
        model = ModelRef("m2", SMALL_UNITS, "fake", fallback=True)
        return replace(small, model=model, door=drawn.door)

    def _serving(self, table: Table) -> Table:
        return replace(table, state="fallback" if table.is_fallback else "serving")


class TwoModelClient(GeneratingClient):
    """by_fallback: whether the answer to an input is of the fallback; marks: of what takes are."""

    def __init__(self, site: Site) -> None:
        self.by_fallback: dict[bytes, bool] = {}
        self.marks: dict[tuple[bytes, int], bool] = {}
        super().__init__(site)

    def hear(self, id_: bytes | None, partial: Partial) -> None:
        assert id_ is not None
        mark = self.marks.setdefault((id_, partial.take), partial.fallback)
        assert mark == partial.fallback, "a telling went over to the other model"
        super().hear(id_, partial)

    def receive(self, reply: Reply) -> None:
        if reply.correlation is not None and reply.completion is not None:
            take, fallback = reply.completion.take, reply.completion.fallback
            assert self.marks.get((reply.correlation, take), fallback) == fallback
            if self.outcomes[reply.correlation].results == []:
                self.by_fallback[reply.correlation] = fallback
        super().receive(reply)

    def expected(self, id_: bytes, asked: dict[str, Any]) -> tuple[int, ...]:
        if not self.by_fallback[id_]:
            return super().expected(id_, asked)
        return expected_tokens(asked["prompt"], asked["seed"], asked["max_tokens"], SMALL_UNITS)


def client_of(site: Site) -> TwoModelClient:
    assert isinstance(site.client, TwoModelClient)
    return site.client


def check_step(site: Site, node: Node) -> None:
    for door in node.machine._doors.values():
        runs = door._runs
        assert isinstance(runs, TwoModels)
        assert not runs.own._sessions.keys() & runs.other._sessions.keys()
        for each, fallback in ((runs.own, False), (runs.other, True)):
            assert all(step.table.is_fallback == fallback for step in each._steps)
            assert len(each._schedule.running) <= GENERATION.sessions_max


def check_rest(site: Site) -> None:
    """Nothing is kept of sessions or tables that are over, of neither model."""
    serve = site.serving
    assert serve is not None
    for node in site.alive():
        assert isinstance(node, GeneratingNode)
        assert not node.sessions, f"{node.name} keeps caches"
        assert not node.texts
        for door in node.machine._doors.values():
            runs = door._runs
            assert isinstance(runs, TwoModels)
            assert door.idle
            assert door.oldest() == serve.stamp
            for each in (runs.own, runs.other):
                assert not each._sessions
                assert not len(each._steps)
        for model in node.machine._holdings._models.values():
            assert set(model.tables) <= {serve.stamp}, f"{node.name} keeps old tables"
    assert not site.broker.queue
    assert not site.broker.unacknowledged


def play(seed: int, faults: list[Fault], moves: int = 6, inputs: int = 12) -> Site:
    site = Site(seed, node=TwoModelNode, client=TwoModelClient, maker=TwoModelMaker)
    site.maker._rng.seed(seed)
    site.check = check_step
    for _ in range(moves):
        site.after(site.rng.uniform(0.0, 9.0), lambda: setattr(site.maker, "moving", True))
    for fault in faults:
        site.after(fault.at, lambda fault=fault: FAULTS[fault.kind](site, fault))  # type: ignore[misc]
    client = client_of(site)
    for number in range(inputs):
        words = site.rng.choice([1, 3, 20, 300])
        stream = site.rng.random() < 0.5
        client.ask(f"w{number} " * words, max_tokens=site.rng.randint(1, 30), stream=stream)
        site.run(site.rng.uniform(0.0, 1.0))
    assert site.run_until(lambda: site.client.settled, 130.0), "an input was never answered"
    site.run(15.0)
    assert site.run_until(lambda: site.document is not None and not site.document.prepare, 10.0)
    site.run(15.0)
    return site


@settings(max_examples=examples(15))
@given(
    seed=st.integers(0, 2**32),
    faults=st.lists(
        st.builds(
            Fault,
            kind=st.sampled_from(FAULT_KINDS),
            at=st.floats(0.0, 9.0),
            node=st.integers(0, 99),
        ),
        max_size=5,
    ),
)
def test_every_text_is_all_of_one_model_and_says_of_which(seed: int, faults: list[Fault]) -> None:
    site = play(seed, faults)
    client_of(site).check(errors=frozenset({"unavailable"}))
    check_rest(site)


@pytest.mark.parametrize("seed", [0, 1, 3, 4])  # both models answer in each
def test_without_faults_only_texts_that_were_told_in_part_are_given_up(seed: int) -> None:
    site = play(seed, [])
    client = client_of(site)
    client.check(errors=frozenset({"unavailable"}))
    check_rest(site)
    for id_, outcome in client.outcomes.items():
        assert not outcome.errors or any(client.tellings[id_].values()), outcome
    assert set(client.by_fallback.values()) == {False, True}
