"""Figures out of range: the message is refused by the name of its field, before it is used."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.core.model import UNITS_MAX
from dsi_mqtt.errors import MESSAGE_MAX, WireError
from dsi_mqtt.wire.ranges import WITH_CREDENTIALS
from dsi_mqtt.wire.topics import Topic, Topics
from tests.core.orchestra import NAME, SPEC, Node, Site
from tests.thoroughness import examples

TOPICS = Topics()
STAMP = [1_700_000_000, "n1", 1]

Path = tuple[str | int, ...]


def unit(weight_bytes: int = 10) -> dict[str, Any]:
    return {"name": "u", "weight_bytes": weight_bytes, "flops": 1e8, "output_bytes": 4096}


def status() -> dict[str, Any]:
    graph = {
        "digest": "sha256:1",
        "tier": "fake",
        "units": [unit(), unit(), unit()],
        "ties": [{"units": [0, 2], "weight_bytes": 5}],
    }
    return {
        "node": "rogue",
        "incarnation": "r1",
        "state": "online",
        "zone": "edge",
        "brokers": {"control": "mqtt://c", "data": "mqtt://d"},
        "capabilities": {"weight_bytes": 30, "gflops": 10.0, "memory_gib_s": 10.0},
        "models": [{"deployment": NAME, "graph": graph}],
        "holdings": [
            {
                "deployment": NAME,
                "stamp": STAMP,
                "segment": "s0",
                "units": [0, 3],
                "state": "ready",
            }
        ],
        "seen": {NAME: STAMP},
    }


def document() -> dict[str, Any]:
    def segment(name: str, start: int, stop: int) -> dict[str, Any]:
        replicas = [{"node": "a", "incarnation": "a1", "weight": 1.0}]
        return {"id": name, "units": [start, stop], "dtype": "float32", "replicas": replicas}

    credit = {"credit_bytes": 1000, "credit_messages": 4}
    serve = {
        "deployment": NAME,
        "term": 1,
        "leader": "n1",
        "epoch": 1,
        "state": "serving",
        "reason": None,
        "decision": "d-1",
        "model": {"digest": "sha256:1", "units": 6, "tier": "fake"},
        "door": {
            "node": "a",
            "incarnation": "a1",
            "ingress": "mqtt://c",
            "session": "s",
            "window": 16,
        },
        "segments": [segment("s0", 0, 3), segment("s1", 3, 6)],
        "hops": [{"from": "s0", "to": "s1", "codec": {"request": "raw"}, **credit}],
        "brokers": {"a": {"control": "mqtt://c", "data": "mqtt://d"}},
        "forecast": {"p50_ms": 1.0, "p95_ms": 1.0, "rate_per_s": 1.0},
    }
    return {"serve": serve}


def spec() -> dict[str, Any]:
    return {"name": NAME, "model": {"tier": "fake"}}


def changed(whole: Any, path: Path, value: Any) -> Any:
    """The same with `value` at `path`."""
    if not path:
        return value
    inner = whole.get(path[0], {}) if isinstance(whole, dict) else whole[path[0]]
    part = changed(inner, path[1:], value)
    if isinstance(whole, dict):
        return whole | {path[0]: part}
    return [part if i == path[0] else old for i, old in enumerate(whole)]


def complaint(topic: Topic[Any], message: Any) -> str:
    """The sentence that refuses it."""
    with pytest.raises(WireError) as refused:
        topic.payload.decode(json.dumps(message).encode())
    assert len(str(refused.value)) <= MESSAGE_MAX
    return str(refused.value)


@pytest.mark.parametrize(
    ("topic", "message"),
    [(TOPICS.status, status()), (TOPICS.table, document()), (TOPICS.spec, spec())],
    ids=["status", "table", "spec"],
)
def test_sound_messages_are_read(topic: Topic[Any], message: Any) -> None:
    topic.payload.decode(json.dumps(message).encode())


GRAPH: Path = ("models", 0, "graph")
ODD = (-1, 10**30, math.nan, math.inf, -math.inf)


def each(path: Path, values: Iterable[Any] = ODD) -> list[tuple[Path, Any]]:
    return [(path, value) for value in values]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *each(("capabilities", "gflops"), (*ODD, 0)),
        *each(("capabilities", "memory_gib_s"), (*ODD, 0)),
        *each(("capabilities", "overhead_ms")),
        *each(("capabilities", "weight_bytes"), (-1, 10**30)),
        *each((*GRAPH, "units", 1, "weight_bytes"), (-1, 10**30)),
        *each((*GRAPH, "units", 1, "flops")),
        *each((*GRAPH, "units", 1, "output_bytes"), (-1, 10**30)),
        *each((*GRAPH, "ties", 0, "weight_bytes"), (-1, 10**30)),
        *each((*GRAPH, "ties", 0, "units"), ([0, 3], [-1, 0], [10**30, 0], [1, 1])),
        *each((*GRAPH, "input_bytes"), (-1, 10**30)),
        *each((*GRAPH, "result_bytes"), (-1, 10**30)),
        *each(("holdings", 0, "units"), ([-5, 10**7], [2, 2], [3, 1], [0, UNITS_MAX + 1])),
        *each(("holdings", 0, "weight_bytes"), (-1, 10**30)),
        *each(("holdings", 0, "stamp"), ([-1, "n", 1], [2**53, "n", 1], [1, "n", 10**30])),
        *each(("seen", NAME), ([-1, "n", 1], [1, "n", -1], [10**30, "n", 1])),
    ],
)
def test_a_status_is_refused_by_the_name_of_its_field(path: Path, value: Any) -> None:
    written = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)[1:]
    assert complaint(TOPICS.status, changed(status(), path, value)).startswith(
        f"NodeStatus: {written}"
    )


def test_a_unit_weighs_at_least_what_it_shares() -> None:
    said = complaint(TOPICS.status, changed(status(), (*GRAPH, "ties", 0, "weight_bytes"), 11))
    assert said == (
        "NodeStatus: models[0].graph.units[0].weight_bytes: is less than what ties say that the "
        "unit shares"
    )


def test_more_units_than_can_be_placed_are_refused_by_their_number() -> None:
    many = changed(status(), (*GRAPH, "units"), [unit()] * (UNITS_MAX + 1))
    assert complaint(TOPICS.status, many) == (
        "NodeStatus: models[0].graph.units: has 257 entries, at most 256 are read"
    )


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("term",), -1, "term: -1 must be 0 or more"),
        (("epoch",), 2**53, "epoch: 9007199254740992 must be less than 8,589,934,592"),
        (("segments",), [], "segments: a table that serves must have one"),
        (("segments", 0, "units"), [-5, 3], "segments[0].units.start: -5 must be 0 or more"),
        (("segments", 0, "units"), [1, 3], "segments[0].units: must begin at 0"),
        (("segments", 1, "units"), [2, 6], "segments[1].units: must begin at 3, where the last"),
        (("segments", 1, "units"), [3, 10**7], "segments[1].units.stop: 10000000 must be at most"),
        (("segments", 1, "id"), "s0", "segments: two have the same id"),
        (("segments", 0, "replicas"), [], "segments[0].replicas: names no node"),
        (("model", "units"), 7, "model.units: must be where the last segment ends"),
        (("door", "window"), 0, "door.window: 0 must be 1 or more"),
        (("door", "window"), 10**9, "door.window: 1000000000 must be at most 1,024"),
        (("hops", 0, "credit_bytes"), 0, "hops[0].credit_bytes: 0 must be 1 or more"),
        (
            ("hops", 0, "codec"),
            {"request": "zip"},
            "hops[0].codec.request: 'zip' is no codec; known are raw, fp16, int8g32, int8g64",
        ),
        (("forecast", "p50_ms"), math.nan, "forecast.p50_ms: nan must be 0 or more"),
        (("door", "ingress"), "mqtt://u:secret@c", f"door.ingress: {WITH_CREDENTIALS}"),
        (("brokers", "a", "data"), "mqtt://u:secret@c", f"brokers.a.data: {WITH_CREDENTIALS}"),
    ],
)
def test_a_table_is_refused_by_the_name_of_its_field(path: Path, value: Any, said: str) -> None:
    told = complaint(TOPICS.table, changed(document(), ("serve", *path), value))
    assert "secret" not in told
    assert told.startswith(f"TableDocument: serve.{said}")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("sla", "deadline_ms"), -1, "sla.deadline_ms: -1.0 must be greater than 0"),
        (("sla", "deadline_ms"), 1e300, "sla.deadline_ms: 1e+300 must be at most"),
        (("input", "batch_max"), 0, "input.batch_max: 0 must be greater than 0"),
        (("policy", "cooldown_s"), math.nan, "policy.cooldown_s: nan must be 0 or more"),
        (("policy", "max_segments"), -3, "policy.max_segments: -3 must be greater than 0"),
        (("codecs", "allow"), ["raw", "gzip"], "codecs.allow: 'gzip' is no codec; known are raw"),
        (
            ("codecs", "error"),
            {"metric": "bleu"},
            "codecs.error.metric: 'bleu' is no metric; known are cosine, perplexity_increase",
        ),
        (("prices", "gib", "cloud"), -1, "prices.gib.cloud: -1.0 must be 0 or more"),
        (
            ("privacy", "units"),
            {f"{i}:{i + 1}": ["x"] for i in range(300)},
            "privacy.units: has 300 entries",
        ),
    ],
)
def test_a_deployment_is_refused_by_the_name_of_its_field(
    path: Path, value: Any, said: str
) -> None:
    assert complaint(TOPICS.spec, changed(spec(), path, value)).startswith(f"Deployment: {said}")


@pytest.mark.parametrize("which", ["control", "data"])
def test_a_status_with_a_password_in_a_url_is_refused_without_showing_it(which: str) -> None:
    said = complaint(TOPICS.status, changed(status(), ("brokers", which), "mqtt://u:secret@h"))
    assert said == f"NodeStatus: brokers.{which}: {WITH_CREDENTIALS}"


@pytest.mark.parametrize("port", [-1, 0, 65536, 10**30])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    assert complaint(TOPICS.site, {"data_port": port}).startswith(
        f"DataBroker: data_port: {port} must"
    )


@pytest.mark.parametrize(("field", "value"), [("term", -1), ("term", 2**53), ("beat", -1)])
def test_a_leader_s_numbers(field: str, value: int) -> None:
    leader = {"term": 1, "nonce": "n", "beat": 1} | {field: value}
    assert complaint(TOPICS.leader, leader).startswith(f"Leader: {field}: {value} must be")


# --- whatever is read can be worked with ------------------------------------------------------

FIGURES = st.one_of(
    st.integers(-3, 20),
    st.sampled_from([0, 2**31, 2**50, 2**53, 10**18, 10**30, -1, -(10**30)]),
    st.floats(),
)
PATHS: tuple[Path, ...] = (
    *(("capabilities", name) for name in ("weight_bytes", "gflops", "memory_gib_s", "overhead_ms")),
    *((*GRAPH, "units", 0, name) for name in ("weight_bytes", "flops", "output_bytes")),
    *((*GRAPH, name) for name in ("input_bytes", "result_bytes")),
    (*GRAPH, "ties", 0, "weight_bytes"),
    (*GRAPH, "ties", 0, "units", 0),
    *(("holdings", 0, name) for name in ("weight_bytes", "warm_ms")),
    *(("holdings", 0, "units", i) for i in range(2)),
    *(("holdings", 0, "stamp", i) for i in (0, 2)),
    *(("seen", NAME, i) for i in (0, 2)),
)


@given(
    st.lists(st.tuples(st.sampled_from(PATHS), FIGURES), max_size=4),
    st.sampled_from([NAME, "another"]),
)
@settings(max_examples=examples(150))
def test_whatever_a_status_says_the_others_are_planned_with(
    odd: list[tuple[Path, Any]], deployment: str
) -> None:
    message = changed(status(), ("models", 0, "deployment"), deployment)
    message = changed(message, ("holdings", 0, "deployment"), deployment)
    for path, value in odd:
        message = changed(message, path, value)
    site = Site(Node("a", "a1"), Node("b", "b1"))
    try:
        rogue = TOPICS.status.payload.decode(json.dumps(message).encode())
    except WireError:
        return
    site.orchestrator.status_arrived(rogue, site.now)
    site.deploy(SPEC)
    site.until(site.serves, within=90.0)
    assert site.serve.members() <= {("a", "a1"), ("b", "b1")}
