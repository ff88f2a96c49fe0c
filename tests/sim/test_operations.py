"""A simulated site whose brokers go and come, whose nodes are drained, whose deployments change."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.core.deployment import Deployment, Fallback
from dsi_mqtt.core.draft import places
from dsi_mqtt.core.table import Stamp, TableDocument
from dsi_mqtt.sim.journal import Journal
from dsi_mqtt.sim.scenario import BrokerName, Fault, Operation, Requests, Scenario
from dsi_mqtt.sim.simulation import Simulation
from tests.sim.sites import NAME, deployment, run, scenario
from tests.sim.test_texts import chat
from tests.thoroughness import examples


def placed(made: Simulation, name: str = NAME) -> set[str]:
    table = made.outcome.serving(name)
    return {node for _, node in places(table)} if table is not None else set()


def lines(told: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in told.getvalue().splitlines()]


# --- brokers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize("forgets", [False, True])
@pytest.mark.parametrize("name", ["control", "both"])
def test_a_broker_that_comes_back_costs_no_input_and_no_move(
    name: BrokerName, forgets: bool, stops: bool
) -> None:
    gone = Fault(20.0, 4.0, broker=name, forgets=forgets, stops=stops)
    made = run(scenario(gone, rate_per_s=4.0, duration_s=40.0))
    answers = made.outcome.answers[NAME]
    assert answers.asked == len(answers.latencies_s) > 100
    assert made.outcome.moves(NAME) == 0
    assert made.broker.specs.keys() == made.broker.documents.keys() == {NAME}
    table = made.outcome.serving(NAME)
    assert table is not None
    assert table.state == "serving"


def test_what_was_on_its_way_over_the_data_broker_is_sent_again() -> None:
    told = io.StringIO()
    chosen = scenario(Fault(20.0, 2.0, broker="data"), rate_per_s=10.0, duration_s=30.0)
    made = run(chosen, Journal(told))
    answers = made.outcome.answers[NAME]
    assert answers.asked == len(answers.latencies_s)
    during = [
        line["t"] for line in lines(told) if line["event"] == "answered" and 20.1 < line["t"] < 22.0
    ]
    assert len(made.outcome.serving(NAME).segments) > 1  # type: ignore[union-attr]  # it serves
    assert during == []


def test_nothing_is_answered_while_the_control_broker_is_away() -> None:
    told = io.StringIO()
    run(
        scenario(Fault(20.0, 5.0, broker="control"), rate_per_s=10.0, duration_s=30.0),
        Journal(told),
    )
    answered = [line["t"] for line in lines(told) if line["event"] == "answered"]
    assert any(t < 20.0 for t in answered)
    assert any(t > 25.0 for t in answered)
    assert not any(20.0 < t < 25.0 for t in answered)


def test_an_answer_whose_confirmation_was_lost_comes_twice_and_is_dropped() -> None:
    """At QoS 1 whoever does not know that it came sends it again."""
    repeated = 0
    for seed in range(6):
        gone = Fault(20.0, 1.0, broker="control")
        made = run(scenario(gone, rate_per_s=40.0, duration_s=24.0, memory_mib=70.0, seed=seed))
        answers = made.outcome.answers[NAME]
        assert answers.asked == len(answers.latencies_s)
        repeated += answers.repeated
    assert repeated > 0


def test_a_node_that_died_while_the_broker_was_away_is_missed() -> None:
    """No will tells of it, and what is retained says that it lives."""
    before = run(scenario(rate_per_s=2.0, duration_s=20.0))
    victim = min(placed(before))
    gone = Fault(20.0, 6.0, broker="control"), Fault(22.0, None, kill=victim)
    made = run(scenario(*gone, rate_per_s=2.0, duration_s=60.0))
    answers = made.outcome.answers[NAME]
    assert victim not in placed(made)
    assert made.outcome.moves(NAME) == 1
    assert answers.abandoned == 0
    assert answers.asked == answers.settled


# --- draining ---------------------------------------------------------------------------------


def test_a_drained_node_is_left_and_takes_part_again() -> None:
    before = placed(run(scenario(rate_per_s=4.0, duration_s=20.0, nodes=8)))
    operations = tuple(Operation(20.0, 20.0, drain=name) for name in before)
    chosen = scenario(rate_per_s=4.0, duration_s=60.0, nodes=8)
    made = Simulation(replace(chosen, operations=operations))
    made.clock.run(35.0)
    assert not placed(made) & before
    assert {made.broker.statuses[name].state for name in before} == {"draining"}
    assert all(made.broker.statuses[name].holdings == () for name in before)
    made.run()
    assert {made.broker.statuses[name].state for name in before} == {"online"}
    answers = made.outcome.answers[NAME]
    assert answers.asked == len(answers.latencies_s)


def test_a_node_that_is_cut_off_when_its_drain_is_undone_takes_part_again() -> None:
    chosen = scenario(Fault(18.0, 15.0, cut="gw-1"), duration_s=40.0)
    made = run(replace(chosen, operations=(Operation(12.0, 10.0, drain="gw-1"),)))
    assert made.broker.statuses["gw-1"].state == "online"


# --- deployments ------------------------------------------------------------------------------


def test_a_deployment_comes_and_goes() -> None:
    later = deployment("later", rate_per_s=4.0, seed=1)
    operations = Operation(20.0, deploy=later), Operation(40.0, undeploy="later")
    asked = Requests("later", rate_per_s=4.0, from_s=25.0, until_s=39.0)
    chosen = scenario(memory_mib=64.0, rate_per_s=2.0)
    made = run(replace(chosen, operations=operations, requests=(*chosen.requests, asked)))
    for name in (NAME, "later"):
        answers = made.outcome.answers[name]
        assert answers.asked == len(answers.latencies_s) > 30
    assert made.broker.specs.keys() == made.broker.documents.keys() == {NAME}
    assert made.broker.sessions["later"] == {}
    assert all(node.engines.graph("later") is None for node in made.nodes.values())


def test_inputs_for_what_is_not_deployed_are_told_so() -> None:
    operations = (Operation(20.0, undeploy=NAME),)
    made = run(replace(scenario(rate_per_s=4.0, duration_s=40.0), operations=operations))
    answers = made.outcome.answers[NAME]
    assert answers.settled == answers.asked
    assert answers.abandoned == 0
    assert answers.errors["unknown_deployment"] > 50


def test_the_model_of_a_deployment_changes_while_it_is_asked() -> None:
    other = deployment(rate_per_s=4.0, units=5)
    operations = (Operation(20.0, deploy=other),)
    made = run(replace(scenario(rate_per_s=4.0, duration_s=40.0), operations=operations))
    answers, table = made.outcome.answers[NAME], made.outcome.serving(NAME)
    assert table is not None
    assert table.segments[-1].units.stop == 5
    assert answers.asked == len(answers.latencies_s)


def test_a_fallback_serves_while_the_model_does_not_fit() -> None:
    small = {"units": 2, "unit_ms": 10.0, "weight_mib": 8.0, "hidden": 4096}
    spec = replace(deployment(rate_per_s=3.0), fallback=Fallback("small", small))
    chosen = scenario(
        Fault(20.0, 15.0, kill="gw-1"), memory_mib=22.0, nodes=3, rate_per_s=3.0, duration_s=60.0
    )
    made = run(replace(chosen, deployments=(spec,)))
    answers = made.outcome.answers[NAME]
    assert [decision.kind for decision in made.outcome.decisions] == ["place", "fallback", "place"]
    assert answers.asked == len(answers.latencies_s)


# --- what holds whatever happens --------------------------------------------------------------

# By then everything is as it was, and by then the site has come to rest.
MENDED_S, CALM_S, ASKED_S = 55.0, 85.0, 95.0
UNDEPLOYED_S = 240.0
_NODES = st.sampled_from([f"gw-{n}" for n in range(1, 5)])


@st.composite
def faults(draw: st.DrawFn, first: float, last: float, *, forgets: bool) -> Fault:
    at_s, for_s = draw(st.floats(first, last)), draw(st.floats(0.2, 12.0))
    kinds = ["broker", "broker", "kill", "freeze", "cut", "throttle", "orchestrator"]
    kind = draw(st.sampled_from(kinds))
    if kind == "orchestrator":
        return Fault(at_s, for_s, orchestrator=True)
    if kind == "broker":
        name: BrokerName = draw(st.sampled_from(["control", "data", "both"]))
        lost, stops = (name != "data" and draw(st.booleans()) for _ in range(2))
        return Fault(at_s, for_s, broker=name, forgets=lost and forgets, stops=stops)
    named: dict[str, Any] = {kind: draw(_NODES)}
    return replace(Fault(at_s, for_s, factor=draw(st.floats(0.05, 0.9))), **named)


@st.composite
def operations(draw: st.DrawFn, versions: tuple[Deployment, ...]) -> Operation:
    at_s = draw(st.floats(11.0, 40.0))
    kind = draw(st.sampled_from(["drain", "deploy", "undeploy"]))
    if kind == "drain":
        return Operation(at_s, draw(st.floats(0.5, 12.0)), drain=draw(_NODES))
    if kind == "undeploy":
        return Operation(at_s, undeploy=versions[0].name)
    return Operation(at_s, deploy=draw(st.sampled_from(versions)))


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """What befalls it ends before it is mended; then it is asked again, and undeployed at last,
    while other things befall it.
    """
    seed = draw(st.integers(0, 1000))
    one_pass = draw(st.booleans())
    base = scenario(rate_per_s=3.0, spread=0.2, seed=seed) if one_pass else chat(seed=seed)
    (spec,), (asked,) = base.deployments, base.requests
    assert spec.model.options is not None
    units = {**spec.model.options, "units": 5 if one_pass else 7}
    versions = spec, replace(spec, model=replace(spec.model, options=units))
    early = draw(st.lists(faults(11.0, 40.0, forgets=True), max_size=5))
    late = draw(st.lists(faults(232.0, 243.0, forgets=False), max_size=2))
    done = draw(st.lists(operations(versions), max_size=3))
    ends = Operation(MENDED_S, deploy=spec), Operation(UNDEPLOYED_S, undeploy=spec.name)
    return replace(
        base,
        faults=(*early, *late),
        operations=(*done, *ends),
        requests=(
            replace(asked, until_s=45.0),
            replace(asked, from_s=CALM_S, until_s=ASKED_S),
        ),
        duration_s=ASKED_S,
        orchestrators=draw(st.sampled_from([1, 2])),
    )


class Watched(Simulation):
    """Checks every document that is published, and keeps what is told."""

    def __init__(self, chosen: Scenario) -> None:
        self.told = io.StringIO()
        super().__init__(chosen, journal=Journal(self.told))
        self._published = self.broker.publish_document
        self._orders: list[tuple[Stamp, Stamp]] = []
        self.broker.publish_document = self._publishes  # type: ignore[method-assign]  # watched

    def _publishes(self, deployment: str, document: TableDocument) -> None:
        assert not self._orders or document.order >= self._orders[-1], "epochs only grow"
        self._orders.append(document.order)
        self._published(deployment, document)


def is_at_rest(made: Simulation, spec: Deployment) -> None:
    """One table serves; nodes hold what it says, and no session's caches."""
    document = made.broker.documents[spec.name]
    assert document.prepare is None
    assert document.serve is not None
    assert document.serve.state == "serving"
    for node in made.nodes.values():
        assert node.machine is not None
        status = node.machine.status()
        assert status.state == "online"
        assert {held.stamp for held in status.holdings} <= {document.serve.stamp}
        assert {held.state for held in status.holdings} <= {"ready"}
        assert node.engines.sessions(spec.name) == 0
    assert not made.broker.records.get(spec.name)


def is_gone(made: Simulation, spec: Deployment) -> None:
    """Nothing of it is retained, and nobody holds anything."""
    assert not made.broker.specs
    assert not made.broker.documents
    for node in made.nodes.values():
        assert node.machine is not None
        status = node.machine.status()
        assert (status.holdings, status.models, status.doors) == ((), (), ())
        assert node.engines.graph(spec.name) is None


@settings(max_examples=examples(12))
@given(scenarios())
def test_whatever_befalls_a_site_its_inputs_are_answered_and_nothing_is_left(
    chosen: Scenario,
) -> None:
    (spec,) = chosen.deployments
    made = Watched(chosen)
    made.run()
    answers = made.outcome.answers[spec.name]
    answered = [line for line in lines(made.told) if line["event"] == "answered"]
    assert len({(line["device"], line["input"]) for line in answered}) == len(answered)
    assert len(answered) == answers.asked
    assert answers.wrong == 0
    calm = [line["outcome"] for line in answered if line["device"] == "device-2"]
    assert set(calm) <= {"ok"}
    assert not any(line["outcome"] == "abandoned" for line in answered)
    made.clock.run(230.0)
    is_at_rest(made, spec)
    made.clock.run(330.0)
    is_gone(made, spec)


@settings(max_examples=examples(4))
@given(scenarios())
def test_the_same_befalls_it_again(chosen: Scenario) -> None:
    digests = {run(chosen).journal.digest for _ in range(2)}
    assert len(digests) == 1
