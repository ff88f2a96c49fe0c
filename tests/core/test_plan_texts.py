"""Generations in the plan: whole texts, under their load."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from dsi_mqtt.core import texts_plan
from dsi_mqtt.core.aim import Texts
from dsi_mqtt.core.cadence import Times
from dsi_mqtt.core.deployment import Codecs, Deployment, Generation, Policy, Sla
from dsi_mqtt.core.formulation import question_of
from dsi_mqtt.core.model import ModelGraph, ModelSpec, Unit
from dsi_mqtt.core.offers import condition
from dsi_mqtt.core.plan import Infeasible, Plan, plan, promised
from dsi_mqtt.core.profile import Link, NodeView

MIB = 1 << 20
UNITS = 6
GRAPH = ModelGraph(
    "sha256:00", "layer", tuple(Unit(f"u{i}", 40 * MIB, 8e7, 2048, 1000) for i in range(UNITS))
)
LAN = Link(1000.0, 1000.0, 1.0)


def chat(limits: Generation | None = None, **sla: float) -> Deployment:
    told = Sla(**{"prompt_tokens": 200, "new_tokens": 101, **sla})  # type: ignore[arg-type]
    return Deployment(
        "chat", ModelSpec("/m"), kind="generation", sla=told, generation=limits or Generation()
    )


def node(
    name: str,
    *,
    step_ms: float = 10.0,
    prompt_ms: float = 50.0,
    each_ms: float = 1.0,
    mib: int = 400,
) -> NodeView:
    """Milliseconds that a unit takes for a step of one session, a prompt, and each more session."""
    return NodeView(
        name,
        "i",
        "edge",
        mib * MIB,
        (step_ms / 1e3,) * UNITS,
        LAN,
        prefill_s=(prompt_ms / 1e3,) * UNITS,
        batched=((0.0, each_ms / 1e3),) * UNITS,
    )


def planned(spec: Deployment, *nodes: NodeView) -> Plan:
    found = plan(spec, GRAPH, nodes, question=question_of(spec))
    assert isinstance(found, Plan)
    return found


def test_a_text_is_a_prompt_in_slices_and_a_step_for_each_token_after_the_first() -> None:
    prefill, decode = Texts.of(chat(prompt_tokens=600, new_tokens=50)).trips()
    assert (prefill.phase, prefill.count, prefill.rows) == ("prefill", 3, 200)
    assert (decode.phase, decode.count, decode.rows) == ("decode", 49, 1)
    assert Texts(600, 50).trips(8)[1].each == pytest.approx(49 / 8)


def test_the_node_that_is_quicker_for_the_whole_text_is_chosen() -> None:
    reader = node("reader", step_ms=12, prompt_ms=10)
    writer = node("writer", step_ms=10, prompt_ms=200)
    one = Policy(max_segments=1)
    short, long = (replace(chat(new_tokens=tokens), policy=one) for tokens in (20, 400))
    assert planned(short, reader, writer).nodes == {"reader"}
    assert planned(long, reader, writer).nodes == {"writer"}


def test_a_text_that_is_alone_takes_its_prompt_and_its_steps() -> None:
    found = planned(chat(), node("a"))
    cadence = found.cadence
    assert cadence is not None
    step_s, prompt_s = UNITS * 0.010 + 0.0003, UNITS * 0.050 + 0.0003
    assert cadence.token_s == pytest.approx(step_s)
    assert cadence.first_s == pytest.approx(prompt_s + found.access_s)
    assert found.latency_s == pytest.approx(cadence.first_s + 100 * step_s)
    assert found.wait_s == pytest.approx(0.0, abs=1e-9)


def test_a_long_prompt_pays_for_each_of_its_slices() -> None:
    one, three = (
        planned(chat(prompt_tokens=tokens), node("a"), node("b", mib=1)) for tokens in (256, 768)
    )
    assert one.cadence is not None
    assert three.cadence is not None
    assert three.cadence.first_s - three.access_s == pytest.approx(
        3 * (one.cadence.first_s - one.access_s)
    )


@pytest.mark.parametrize("rate_per_s", [0.5, 5.0, 50.0])
def test_few_widths_of_steps_tell_of_all(
    rate_per_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chain that bears less than what comes is looked at with every number of sessions."""
    spec = chat(Generation(sessions_max=64), rate_per_s=rate_per_s)
    nodes = (node("a"), node("b", step_ms=7.0, mib=100), node("c", each_ms=3.0, mib=200))
    asked: list[int] = []
    formulated = texts_plan._Rhythms._times

    def counted(self: texts_plan._Rhythms, texts: Texts, width: int) -> Times:
        asked.append(width)
        return formulated(self, texts, width)

    monkeypatch.setattr(texts_plan._Rhythms, "_times", counted)
    few, asked_few = planned(spec, *nodes).cadence, len(asked)
    monkeypatch.setattr(texts_plan, "_told_for", lambda width: (width, width))
    asked.clear()
    all_ = planned(spec, *nodes).cadence
    assert few is not None
    assert all_ is not None
    for name in ("first_s", "token_s", "token_within_s", "sessions", "width", "rate_per_s"):
        assert getattr(few, name) == pytest.approx(getattr(all_, name), rel=1e-3)
    assert asked_few < len(asked) * (1.0 if all_.sustained else 0.6)


def test_sessions_that_share_steps_make_a_load_bearable() -> None:
    """One session keeps the node busy for 6.3 s, sixteen at once for 12.8 s."""
    spec = chat(Generation(sessions_max=16), rate_per_s=0.5)
    found = planned(spec, node("a"))
    assert found.cadence is not None
    assert found.cadence.sustained
    assert found.cadence.sessions > 2
    alone = planned(replace(spec, generation=Generation(sessions_max=1)), node("a"))
    assert alone.cadence is not None
    assert not alone.cadence.sustained
    assert math.isinf(alone.wait_s)


def test_where_many_texts_come_the_model_is_split_between_nodes() -> None:
    pair = node("a", each_ms=8), node("b", each_ms=8)
    few, many = (planned(chat(rate_per_s=rate), *pair) for rate in (0.01, 0.28))
    assert few.nodes == {"a"}
    assert many.nodes == {"a", "b"}
    assert few.cadence is not None
    assert many.cadence is not None
    assert few.rate_per_s < 0.28 < many.rate_per_s


def test_where_one_chain_does_not_bear_the_texts_several_nodes_serve_a_segment() -> None:
    nodes = [node(f"n{i}", each_ms=8, mib=1600) for i in range(4)]
    spec = chat(rate_per_s=0.7)
    alone = planned(replace(spec, policy=Policy(replicas=1)), *nodes)
    assert alone.cadence is not None
    assert not alone.cadence.sustained
    found = planned(spec, *nodes)
    assert found.cadence is not None
    assert found.cadence.sustained
    assert any(found.chain.replicas)
    told = promised(spec, GRAPH, nodes, found.chain, question=question_of(spec))
    assert told is not None
    assert told.cadence == found.cadence
    assert not any(planned(chat(rate_per_s=0.01), *nodes).chain.replicas)


def test_of_placements_that_bear_too_little_the_one_that_bears_most_is_chosen() -> None:
    nodes = [node(f"n{i}", each_ms=8, mib=1600) for i in range(2)]
    found = planned(chat(rate_per_s=5.0), *nodes)
    alone = planned(replace(chat(rate_per_s=5.0), policy=Policy(replicas=1)), *nodes)
    assert found.rate_per_s >= alone.rate_per_s


def test_what_serves_is_promised_the_same_as_when_it_was_planned() -> None:
    spec = chat(rate_per_s=0.28)
    nodes = node("a", each_ms=8), node("b", each_ms=8)
    found = planned(spec, *nodes)
    told = promised(spec, GRAPH, nodes, found.chain, question=question_of(spec))
    assert told is not None
    same = replace(
        told,
        optimal=found.optimal,
        bound=found.bound,
        considered=found.considered,
        single_node_latency_s=found.single_node_latency_s,
    )
    assert same == found


def test_a_target_is_a_wish_while_serving() -> None:
    found = planned(chat(token_ms=5.0), node("a"))
    assert not found.meets_sla
    assert planned(chat(token_ms=500.0, first_token_ms=5000.0), node("a")).meets_sla


@pytest.mark.parametrize(
    ("target", "remedy"),
    [
        ({"token_ms": 5.0}, "raise sla.token_ms to 60.3"),
        ({"first_token_ms": 100.0}, "raise sla.first_token_ms to 3"),
    ],
)
def test_a_target_that_no_node_meets_is_named_with_what_could_be_had(
    target: dict[str, float], remedy: str
) -> None:
    spec = chat(None, **target)
    found = plan(spec, GRAPH, [node("a")], question=condition(spec))
    assert isinstance(found, Infeasible)
    assert (found.constraint, found.field) == ("latency", f"sla.{next(iter(target))}")
    assert found.remedy.startswith(remedy)


def test_a_target_missed_under_load_is_named_with_what_was_found() -> None:
    spec = chat(token_ms=65.0, rate_per_s=0.2)
    found = plan(spec, GRAPH, [node("a", each_ms=5)], question=condition(spec))
    assert isinstance(found, Infeasible)
    assert (found.field, found.proven) == ("sla.token_ms", False)
    assert found.message.startswith("at 0.2 texts a second")
    assert found.message.endswith("by the best placement found")


def test_more_texts_than_can_be_borne_are_named_where_times_are_a_condition() -> None:
    spec = chat(token_ms=5000.0, rate_per_s=50.0)
    found = plan(spec, GRAPH, [node("a")], question=condition(spec))
    assert isinstance(found, Infeasible)
    assert (found.constraint, found.field) == ("rate", "sla.rate_per_s")


def test_prompts_and_steps_may_be_written_differently_on_a_hop() -> None:
    """Writing a step smaller costs more than it saves on this link; of a prompt it saves."""
    slow = Link(20.0, 20.0, 10.0)
    nodes = [replace(node(name, mib=120), link=slow) for name in "ab"]
    spec = replace(chat(), codecs=Codecs(allow=("raw", "fp16", "int8g32")))
    found = planned(spec, *nodes)
    crossing = dict(found.hops[1].codecs)
    assert crossing["prefill"] == "int8g32"
    assert crossing.keys() == {"prefill", "decode"}
    plain = planned(chat(), *nodes)
    assert found.latency_s < plain.latency_s
