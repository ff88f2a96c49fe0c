"""Several deployments on the same nodes: nothing is given twice, nobody is told too much."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from dsi_mqtt.core.deployment import Deployment, Privacy, Sla
from dsi_mqtt.core.formulation import question_of
from dsi_mqtt.core.infeasible import Infeasible
from dsi_mqtt.core.joint import Answer, Wish, left, together
from dsi_mqtt.core.model import ModelGraph, ModelSpec, Unit
from dsi_mqtt.core.plan import Chain, Plan, plan, promised
from dsi_mqtt.core.profile import Link, NodeView
from dsi_mqtt.core.sharing import DIFFERENCE, FULL, Sharing
from tests.thoroughness import examples

MIB = 1 << 20


@dataclass(frozen=True)
class Machine:
    """speed: a unit of 10 ms takes 10 / speed."""

    name: str
    room: int
    speed: float
    link: Link = field(default_factory=Link)
    zone: str = "edge"

    def view(self, graph: ModelGraph) -> NodeView:
        times = tuple(unit.flops / self.speed for unit in graph.units)
        return NodeView(self.name, "", self.zone, self.room * MIB, times, self.link)


def wish(
    name: str, machines: list[Machine], *, rate_per_s: float, units: int = 3, zone: str = ""
) -> Wish:
    """Units of 10 ms and 1 MiB, 16 KiB between them; in a zone, where one is given."""
    graph = ModelGraph(
        f"sha256:{name}", "fake", tuple(Unit(f"u{i}", MIB, 0.01, 1 << 14) for i in range(units))
    )
    privacy = Privacy(units={f"0:{units}": (zone,)}) if zone else Privacy()
    deployment = Deployment(
        name, ModelSpec(tier="fake"), sla=Sla(rate_per_s=rate_per_s), privacy=privacy
    )
    nodes = tuple(machine.view(graph) for machine in machines)
    return Wish(deployment, graph, nodes, question_of(deployment))


def score(wishes: list[Wish], answers: tuple[Answer, ...]) -> float:
    return sum(
        answer.score_s(asked.question.aim)
        for asked, answer in zip(wishes, answers, strict=True)
        if isinstance(answer, Plan)
    )


def used(asked: Wish, answer: Answer) -> dict[str, int]:
    assert isinstance(answer, Plan)
    return {
        node: sum(
            part.units.stop - part.units.start for part in answer.segments if part.node == node
        )
        for node in {part.node for part in answer.segments}
    }


MACHINES = st.lists(
    st.builds(
        Machine,
        st.just(""),
        st.integers(0, 6),
        st.sampled_from([0.5, 1.0, 2.0]),
        st.sampled_from([Link(), Link(20.0, 20.0, 8.0)]),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=examples(12))
@given(MACHINES, st.lists(st.sampled_from([0.1, 5.0, 15.0]), min_size=1, max_size=3))
def test_nothing_is_given_twice_and_each_is_told_what_it_gets_beside_the_others(
    drawn: list[Machine], rates: list[float]
) -> None:
    machines = [replace(machine, name=f"n{i}") for i, machine in enumerate(drawn)]
    wishes = [wish(f"d{i}", machines, rate_per_s=rate) for i, rate in enumerate(rates)]
    found = together(wishes)
    event(f"{sum(isinstance(a, Plan) for a in found.answers)} of {len(rates)} are placed")
    for machine in machines:
        given_units = sum(
            used(asked, answer).get(machine.name, 0)
            for asked, answer in zip(wishes, found.answers, strict=True)
            if isinstance(answer, Plan)
        )
        assert given_units <= machine.room
    for i, answer in enumerate(found.answers):
        beside = left(wishes, found.answers, i)
        best = plan(beside.deployment, beside.graph, beside.nodes, question=beside.question)
        if isinstance(answer, Infeasible):
            assert isinstance(best, Infeasible)
            continue
        told = again(beside, answer)
        assert told.wait_s == pytest.approx(answer.wait_s, rel=1e-4)
        assert isinstance(best, Plan)
        aim = beside.question.aim
        rests = best.score_s(aim) >= answer.score_s(aim) * (1 - 1e-6)
        event("nobody gains by moving" if rests else "it did not come to rest")
        assert rests or len(rates) > 1


def again(beside: Wish, answer: Plan) -> Plan:
    """What the answer promises on what the others leave in the end."""
    chain = Chain(
        answer.door,
        tuple((part.units, part.node) for part in answer.segments),
        tuple(dict(hop.codecs) for hop in answer.hops[1:-1]),
    )
    told = promised(beside.deployment, beside.graph, beside.nodes, chain, question=beside.question)
    assert told is not None
    return told


@settings(max_examples=examples(5))
@given(MACHINES, st.lists(st.sampled_from([0.1, 5.0]), min_size=2, max_size=3))
def test_it_is_no_worse_than_whoever_comes_first_gets_all(
    drawn: list[Machine], rates: list[float]
) -> None:
    machines = [replace(machine, name=f"n{i}") for i, machine in enumerate(drawn)]
    wishes = [wish(f"d{i}", machines, rate_per_s=rate) for i, rate in enumerate(rates)]
    found = together(wishes)
    refused = sum(isinstance(answer, Infeasible) for answer in found.answers)
    for order in itertools.permutations(range(len(wishes))):
        answers: list[Answer | None] = [None] * len(wishes)
        for index in order:
            asked = left(wishes, answers, index)
            answers[index] = plan(
                asked.deployment, asked.graph, asked.nodes, question=asked.question
            )
        assert refused <= sum(isinstance(answer, Infeasible) for answer in answers)


def test_a_deployment_goes_to_the_slower_node_where_the_other_is_needed_more() -> None:
    """Both like the fast node best; one of them may be nowhere else."""
    machines = [Machine("fast", 3, 2.0, zone="plant"), Machine("slow", 3, 1.0)]
    wishes = [
        wish("free", machines, rate_per_s=0.1),
        wish("bound", machines, rate_per_s=0.1, zone="plant"),
    ]
    found = together(wishes)
    free, bound = found.answers
    assert isinstance(free, Plan)
    assert isinstance(bound, Plan)
    assert (set(free.nodes), set(bound.nodes)) == ({"slow"}, {"fast"})
    assert 0 < found.bound < 1


def test_two_that_would_fill_one_node_share_two() -> None:
    machines = [Machine("a", 6, 1.0), Machine("b", 6, 1.0)]
    wishes = [wish("one", machines, rate_per_s=20.0), wish("two", machines, rate_per_s=20.0)]
    answers = together(wishes).answers
    busy = [0.0, 0.0]
    for asked, answer in zip(wishes, answers, strict=True):
        assert isinstance(answer, Plan)
        for node, (work, _, _) in answer.shares(asked.question.aim.rate_per_s).items():
            busy["ab".index(node)] += work
    assert max(busy) < 1
    assert busy == pytest.approx([0.6, 0.6], abs=0.15)


def test_alone_a_deployment_gets_what_it_would_get_anyway() -> None:
    asked = wish("one", [Machine("a", 3, 1.0), Machine("b", 2, 2.0)], rate_per_s=1.0)
    found = together([asked])
    (answer,) = found.answers
    alone = plan(asked.deployment, asked.graph, asked.nodes, question=asked.question)
    assert isinstance(answer, Plan)
    assert isinstance(alone, Plan)
    assert (answer.door, answer.segments) == (alone.door, alone.segments)
    assert answer.wait_s == alone.wait_s
    assert found.bound == pytest.approx(0.0, abs=1e-9)


# --- what is taken ----------------------------------------------------------------------------


def test_others_are_told_of_what_matters_to_them() -> None:
    sharing = Sharing()
    sharing.takes("a", {"n": (0.5, 0.0, 0.0)})
    assert sharing.news() == {"a"}
    sharing.takes("a", {"n": (0.5 + DIFFERENCE / 2, 0.0, 0.0)})
    assert sharing.news() == set()
    sharing.takes("a", {})
    assert sharing.news() == {"a"}
    assert sharing.beside("b") == {}


def test_a_drift_in_small_steps_is_told_as_well() -> None:
    sharing = Sharing()
    sharing.takes("a", {"n": (0.2, 0.0, 0.0)})
    assert sharing.news() == {"a"}
    told = []
    for step in range(6):
        sharing.takes("a", {"n": (0.26 + 0.06 * step, 0.0, 0.0)})
        told.append(bool(sharing.news()))
    assert told == [False, True, False, True, False, True]


def test_a_node_that_others_fill_is_slow_and_not_gone() -> None:
    sharing = Sharing()
    sharing.takes("a", {"n": (0.7, 0.2, 0.1)})
    sharing.takes("b", {"n": (0.7, 0.2, 0.0)})
    assert sharing.beside("c") == {"n": (FULL, 0.4, 0.1)}
    assert sharing.beside("a") == {"n": (0.7, 0.2, 0.0)}


def test_what_others_take_makes_a_node_slower() -> None:
    asked = wish("one", [Machine("a", 3, 1.0), Machine("b", 3, 0.9)], rate_per_s=1.0)
    first = plan(asked.deployment, asked.graph, asked.nodes, question=asked.question)
    assert isinstance(first, Plan)
    assert first.nodes == {"a"}
    taken = tuple(
        replace(node, taken=(0.8, 0.0, 0.0) if node.node == "a" else (0.0, 0.0, 0.0))
        for node in asked.nodes
    )
    second = plan(asked.deployment, asked.graph, taken, question=asked.question)
    assert isinstance(second, Plan)
    assert second.nodes == {"b"}
    assert first.shares(5.0)["a"][0] == pytest.approx(5 * (0.03 + 0.0003))
