"""What `explain` shows of decisions, and says where there is nothing to show."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from dsi_mqtt.cli.common import control_connection
from dsi_mqtt.cli.explain import Told, choose, view
from dsi_mqtt.core.explanation import Deciding, Explanation, Explanations, Measured
from dsi_mqtt.core.node import DoorLoad, Leader
from dsi_mqtt.errors import ConfigError, InfeasibleError, UnknownDeploymentError
from dsi_mqtt.transport.base import Message
from dsi_mqtt.wire.topics import Topics
from tests.cli.running import Run
from tests.core.orchestra import NAME, SPEC, Node, Site, moving, serving

SHOWS_ALL = "`dsi-mqtt explain --last 32` shows them"
DECIDING = Deciding(12.34, 40.0, 34, 2048)


def moved() -> Explanations:
    """A faster node has come and was moved to, while the door measured; then looked at in vain."""
    site = serving(Node("a", "a1"), spec=moving())
    measures(site, 80.0)
    site.join(Node("b", "b1", gflops=40.0))
    site.until(lambda: site.serves("b"))
    measures(site, 20.0)
    return replace(site.explanations[NAME], deciding=DECIDING)


def measures(site: Site, p50_ms: float) -> None:
    door = site.serve.door
    assert door is not None
    load = DoorLoad(NAME, 0, 0, 0, 0, 0, 0, p50_ms, 2 * p50_ms, 50, table=site.serve.stamp)
    site.nodes[door.node].doors = (load,)
    site.run(5.0)


def shown(told: Told, decision: str | None = None, last: int = 3) -> str:
    text = "\n".join(view(told, choose(told, None, decision, last)))
    assert max(map(len, text.splitlines())) <= 80
    return text


def told(explanations: Explanations) -> Told:
    return Told({NAME}, {NAME: explanations}, led=True)


def test_a_move_is_explained_with_what_it_was_to_bring_and_what_it_brought() -> None:
    explanations = moved()
    place, move = explanations.explanations
    text = " ".join(shown(told(explanations)).split())
    assert f"{NAME}: 34 looks at placements, 12.3 ms in the middle" in text
    assert "95 % within 40.0 ms; 2.0 KiB published" in text
    assert text.index(place.id) < text.index(move.id)
    for line in (
        f"{move.kind} ({move.id}) because node b changed",
        "chosen: 0:6 on b, door on b: ",
        "rejected: the present chain (0:6 on a, door on a: ",
        "for what was found is worth the way there",
        "expected gain: ",
        "measured before: 80.0 ms in the middle, 95 % within 160.0 ms, of 50",
        "measured since: 20.0 ms in the middle, 95 % within 40.0 ms, of 50",
        "measured gain: 75 % in the middle",
        "by: 0.01 requests/s come",
        "by: b: ↑100 ↓100 Mbit/s, 2.0 ms away, model ",
    ):
        assert line in text


def test_one_decision_or_the_newest_ones_are_chosen() -> None:
    explanations = moved()
    place, move = explanations.explanations
    alone = shown(told(explanations), decision=place.id)
    assert place.id in alone
    assert move.id not in alone
    newest = shown(told(explanations), last=1)
    assert move.id in newest
    assert place.id not in newest


def test_what_is_worse_than_before_is_told_as_such() -> None:
    worse = Explanation(
        "d-1", 1, "remap", "r", before=Measured(10.0, None, 5), after=Measured(15.0, None, 7)
    )
    text = shown(told(Explanations("n", 1, DECIDING, (worse,))))
    assert "measured gain: none, it takes 50 % more in the middle" in text


def test_names_as_long_as_they_may_be_fit_80_columns() -> None:
    long = Explanation(f"{'d' * 64}-12345678-999", 1, "keep", "reason-" * 28)
    assert "d" * 60 in shown(told(Explanations("n", 1, DECIDING, (long,))))


def test_where_nobody_leads_what_the_last_one_has_told_is_shown() -> None:
    known = told(moved())
    known.led = False
    first = shown(known).splitlines()[0]
    assert first == "no orchestrator leads now; this is what the last one has told"


def test_a_deployment_without_decisions_says_so() -> None:
    waits = Told({NAME}, led=True)
    assert shown(waits) == f"{NAME}: nothing is decided yet"
    assert shown(Told(led=True)) == "nothing is deployed, so nothing is decided"


def test_rubbish_of_one_deployment_hides_no_other() -> None:
    known = told(moved())
    known.deployments.add("other")
    known.unreadable["other"] = "Explanations: leader: Field required"
    text = " ".join(shown(known).split())
    assert "other: what is retained of its decisions cannot be read: Explanations" in text
    assert f"{NAME}: 34 looks" in text


@pytest.mark.parametrize(
    ("known", "asked", "error", "sentence"),
    [
        (
            Told({"other"}, led=True),
            (NAME, None),
            UnknownDeploymentError,
            "there is no deployment 'hazards' at this broker; `dsi-mqtt status` lists them",
        ),
        (
            Told({NAME}),
            (NAME, None),
            InfeasibleError,
            "nothing is decided, for no orchestrator leads; start `dsi-mqtt orchestrator`",
        ),
        (
            told(Explanations("n", 1, DECIDING, (Explanation("d-1", 1, "keep", "r"),))),
            (None, "d-2"),
            ConfigError,
            f"--decision: 'd-2' is not among the newest 1 that are kept; {SHOWS_ALL}",
        ),
    ],
    ids=["deployment", "orchestrator", "decision"],
)
def test_what_is_not_there_is_said_in_a_sentence(
    known: Told, asked: tuple[str | None, str | None], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error) as said:
        choose(known, *asked, 3)
    assert str(said.value) == sentence


def test_from_a_broker_for_people_and_programs(run: Run, control_broker: str) -> None:
    topics = Topics("test/explain")
    explanations = moved()

    async def retain() -> None:
        async with control_connection(control_broker) as connection:
            for topic, value in (
                (topics.spec, SPEC),
                (topics.explanations, explanations),
                (topics.leader, Leader(1, "n", 5)),
            ):
                name = topic.filter(deployment=NAME)
                payload = topic.payload.encode(value)  # type: ignore[arg-type] # each its own
                await connection.publish(Message(name, payload, qos=1, retain=True))

    asyncio.run(retain())
    where = ("--broker", control_broker, "--root", topics.root)
    ended = run("explain", NAME, *where)
    assert (ended.code, ended.err) == (0, "")
    assert explanations.explanations[-1].id in ended.out
    machine = run("explain", "--json", "--last", "1", *where)
    document = json.loads(machine.out)
    assert (document["schema"], document["command"]) == ("dsi.explain/1", "explain")
    found = document["deployments"][NAME]
    assert found["deciding"] == {
        "p50_ms": 12.34, "p95_ms": 40.0, "looks": 34, "published_bytes": 2048,
    }  # fmt: skip
    (newest,) = found["explanations"]
    assert newest["id"] == explanations.explanations[-1].id
    assert newest["after"]["p50_ms"] == 20.0
    nobody = run("explain", "nobody", *where)
    assert nobody.code == 3
    assert nobody.sentence().startswith("there is no deployment 'nobody'")
