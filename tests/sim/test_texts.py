"""A simulated site generates: the tokens that were to be drawn, whatever befalls its nodes."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.core.activation import Row
from dsi_mqtt.core.aim import Texts
from dsi_mqtt.core.deployment import Deployment, Fallback, Generation, Sla
from dsi_mqtt.core.model import ModelSpec, UnitRange
from dsi_mqtt.sim.caches import Caches, Portion
from dsi_mqtt.sim.engine import graph_of
from dsi_mqtt.sim.journal import Journal
from dsi_mqtt.sim.report import report_of
from dsi_mqtt.sim.scenario import Fault, Group, Requests, Scenario
from dsi_mqtt.sim.texts import Wanted, lengths
from tests.sim.sites import run
from tests.thoroughness import examples

NAME = "chat"


def chat(*faults: Fault, seed: int = 1, rate_per_s: float = 0.4, spread: float = 0.3) -> Scenario:
    """Eight units on nodes that hold half of them."""
    options = {"units": 8, "unit_ms": 1.0, "weight_mib": 50.0, "hidden": 256}
    spec = Deployment(
        NAME,
        ModelSpec(tier="fake", options=options),
        kind="generation",
        generation=Generation(context=512, sessions_max=16, kv_mib_max=100),
        sla=Sla(rate_per_s=rate_per_s, prompt_tokens=60, new_tokens=30, deadline_ms=60_000.0),
    )
    return Scenario(
        (Group("gw", 4, memory_mib=310.0),),
        (spec,),
        (Requests(NAME, rate_per_s=rate_per_s, from_s=10.0, text_spread=spread),),
        faults,
        duration_s=60.0,
        seed=seed,
    )


def test_an_undisturbed_site_takes_what_its_table_forecasts() -> None:
    made = run(chat(rate_per_s=0.15, spread=0.0))
    table, found = made.outcome.serving(NAME), report_of(made).deployments[0].texts
    assert table is not None
    assert table.forecast is not None
    assert found is not None
    assert found.wrong == 0
    assert found.first_token is not None
    assert found.token is not None
    assert table.forecast.token_p50_ms is not None
    assert found.first_token.p50_ms == pytest.approx(table.forecast.p50_ms, rel=0.1)
    assert found.token.p50_ms == pytest.approx(table.forecast.token_p50_ms, rel=0.2)


@settings(max_examples=examples(4))
@given(
    st.integers(0, 1000),
    st.sampled_from(["gw-1", "gw-2", "gw-3", "gw-4"]),
    st.sampled_from(["kill", "freeze", "cut", "throttle"]),
    st.floats(15.0, 40.0),
)
def test_no_text_is_lost_or_wrong(seed: int, node: str, kind: str, at_s: float) -> None:
    fault = Fault(at_s, 8.0, factor=0.05, **{kind: node})  # type: ignore[arg-type]  # a node's name
    made = run(chat(fault, seed=seed))
    answers = made.outcome.answers[NAME]
    assert answers.asked > 5
    assert len(answers.latencies_s) == answers.asked
    assert answers.wrong == 0
    assert answers.tokens >= answers.asked


def test_caches_are_copied_when_a_link_has_fallen() -> None:
    faults = [Fault(20.0, 15.0, factor=0.02, throttle=name) for name in ("gw-1", "gw-2")]
    made = run(chat(*faults, rate_per_s=0.6))
    answers = made.outcome.answers[NAME]
    assert "remap" in {decision.kind for decision in made.outcome.decisions}
    assert sum(node.engines.positions_copied for node in made.nodes.values()) > 100
    assert len(answers.latencies_s) == answers.asked
    assert answers.wrong == 0


def test_a_load_that_one_chain_does_not_bear_is_shared() -> None:
    base = chat(rate_per_s=4.0, spread=0.0)
    (spec,) = base.deployments
    few = {"units": 4, "unit_ms": 1.0, "weight_mib": 50.0, "hidden": 256}
    spec = replace(spec, model=ModelSpec(tier="fake", options=few))
    asked = (Requests(NAME, rate_per_s=7.0, from_s=10.0),)
    spec = replace(spec, sla=replace(spec.sla, rate_per_s=7.0))
    made = run(
        replace(
            base, nodes=(Group("gw", 4, memory_mib=3000.0),), deployments=(spec,), requests=asked
        )
    )
    table, answers = made.outcome.serving(NAME), made.outcome.answers[NAME]
    assert table is not None
    assert table.forecast is not None
    assert max(len(segment.replicas) for segment in table.segments) > 1
    found = report_of(made).deployments[0].texts
    assert found is not None
    assert answers.wrong == 0
    assert len(answers.latencies_s) == answers.asked
    assert found.token is not None
    assert found.token.p50_ms == pytest.approx(table.forecast.token_p50_ms, rel=0.25)


def test_caches_are_let_go_when_texts_are_told() -> None:
    made = run(chat(Fault(25.0, 5.0, kill="gw-1")))
    made.clock.run(made.clock.now + 120.0)
    assert all(node.engines.sessions(NAME) == 0 for node in made.nodes.values())


def test_two_runs_write_the_same() -> None:
    digests = [run(chat(Fault(25.0, 5.0, kill="gw-2")), Journal()) for _ in range(2)]
    assert digests[0].journal.digest == digests[1].journal.digest


def test_caches_say_what_a_session_lacks_in_any_of_the_units() -> None:
    caches, units = Caches(), UnitRange(0, 4)
    caches.grow((Row("s", 0, 5, 0),), units)
    assert not caches.lacking((Row("s", 5, 1, 0),), units)
    caches.drop(UnitRange(2, 3))
    assert caches.lacking((Row("s", 5, 1, 0), Row("new", 0, 3, 0)), units) == {"s": 0}
    assert not caches.lacking((Row("s", 5, 1, 0),), UnitRange(0, 2))
    caches.close("s")
    assert not len(caches)


def test_a_portion_is_put_behind_what_is_held() -> None:
    caches, units = Caches(), UnitRange(0, 4)
    caches.grow((Row("s", 0, 5, 0),), units)
    assert not caches.put("s", Portion(units, 6, 8))
    assert not caches.put("new", Portion(units, 1, 2))
    assert caches.put("s", Portion(units, 5, 8))
    assert caches.put("s", Portion(units, 0, 2))
    assert caches.has("s", units) == 8


def test_a_portion_is_as_long_as_what_is_kept() -> None:
    graph, portion = graph_of(chat().deployments[0]), Portion(UnitRange(2, 5), 10, 26)
    written = portion.written(graph)
    assert len(written) - len(Portion(UnitRange(2, 5), 10, 10).written(graph)) == 16 * sum(
        unit.state_bytes for unit in graph.units[2:5]
    )


@given(st.integers(0, 10_000), st.floats(0.0, 3.0), st.integers(2, 300))
def test_lengths_fit_the_context(seed: int, spread: float, context: int) -> None:
    asked = Requests(NAME, text_spread=spread)
    limits = Generation(context=context)
    found = lengths(asked, Texts(100, 200), limits, Random(seed))
    assert found.prompt_tokens >= 1
    assert found.new_tokens >= 1
    assert found.prompt_tokens + found.new_tokens <= context
    assert Wanted.read(found.written()) == found


def test_texts_begin_anew_on_the_fallback_and_none_is_wrong() -> None:
    site = chat(Fault(30.0, kill="big"))
    (spec,) = site.deployments
    options = {**(spec.model.options or {}), "units": 2}
    groups = (Group("big", memory_mib=600.0), Group("gw", memory_mib=310.0))
    site = replace(
        site,
        nodes=groups,
        deployments=(replace(spec, fallback=Fallback("/tiny", options)),),
    )
    (found,) = report_of(run(site)).deployments
    assert found.state == "fallback"
    assert {part.node for part in found.segments} == {"gw"}
    assert set(found.errors) <= {"unavailable"}
    assert found.results > found.inputs / 2
    assert found.texts is not None
    assert found.texts.wrong == 0
