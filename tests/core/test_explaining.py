"""Decisions, explained: what is retained of them, by whom, and what is measured afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsi_mqtt.core.decisions import Decided
from dsi_mqtt.core.deployment import Policy
from dsi_mqtt.core.explaining import KEPT, WRITE_S, Effort, Explaining, Moment
from dsi_mqtt.core.explanation import Explanation, Explanations, Measured, Outline, Rejected
from dsi_mqtt.core.explanation_text import outline
from dsi_mqtt.core.kept import REPEAT_MAX_S, REPEAT_S
from dsi_mqtt.core.latencies import P95_MIN
from dsi_mqtt.core.moving import Move
from dsi_mqtt.core.node import DoorLoad, Leader, LinkSample
from dsi_mqtt.core.orchestrator import Orchestrator
from dsi_mqtt.core.policy import Builtin
from dsi_mqtt.core.table import DoorPlace, Table
from tests.core.orchestra import NAME, SPEC, TICK_S, Node, Site, moving, placed, serving, three
from tests.thoroughness import examples

SOON_S = 2 * WRITE_S


def told(site: Site) -> tuple[Explanation, ...]:
    return site.explanations[NAME].explanations


def newest(site: Site) -> Explanation:
    return told(site)[-1]


def rejected(explanation: Explanation, what: str) -> Rejected:
    (found,) = (each for each in explanation.rejected if each.what == what)
    return found


def where(outline: Outline | None) -> list[tuple[str, str]]:
    assert outline is not None
    return [(place.node, str(place.units)) for place in outline.segments]


def door_of(table: Table) -> DoorPlace:
    assert table.door is not None
    return table.door


def measures(site: Site, p50_ms: float, samples: int, p95_ms: float | None = None) -> None:
    """What the door tells from now on, of the table that serves."""
    for node in site.nodes.values():
        node.doors = ()
    load = DoorLoad(NAME, 0, 0, 0, 0, 0, 0, p50_ms, p95_ms, samples, table=site.serve.stamp)
    site.nodes[door_of(site.serve).node].doors = (load,)
    site.run(1.0)


# --- what is told -----------------------------------------------------------------------------


def test_a_placement_says_by_what_it_was_chosen() -> None:
    site = serving(*three(link=LinkSample(3.0, 40.0, 50.0)))
    (place,) = told(site)
    (decided,) = site.decided
    assert (place.id, place.kind, place.reason) == (decided.id, "place", decided.reason)
    assert decided.explanation == replace(place, after=None)
    assert place.when == 1_700_000_000
    assert where(place.chosen) == placed(site.serve)
    assert place.chosen is not None
    assert site.serve.forecast is not None
    assert place.chosen.idle_ms == pytest.approx(site.serve.forecast.p50_ms, rel=1e-4)
    assert place.present is None
    assert place.inputs is not None
    assert place.inputs.rate_per_s == SPEC.rate_per_s
    figures = {node.node: node for node in place.inputs.nodes}
    assert figures.keys() == {"a", "b", "c"}
    known = figures["c"]
    assert (known.rtt_ms, known.up_mbit_s, known.down_mbit_s) == (3.0, 40.0, 50.0)
    assert known.free_bytes == 3 * 10 * (1 << 20)
    assert rejected(place, "alone").why.startswith("no node may hold everything")


def test_of_a_split_the_best_node_alone_is_told_with_its_latency() -> None:
    a, b = Node("a", "a1", gflops=1.0), Node("b", "b1", gflops=1.0)
    split = replace(SPEC, policy=Policy(pin={"0:1": "a", "5:6": "b"}))
    site = serving(a, b, spec=split)
    assert rejected(newest(site), "alone").idle_ms is None  # pins let no node do it alone
    one_each = Policy(replicas=1)
    free = replace(SPEC, sla=replace(SPEC.sla, rate_per_s=90.0), policy=one_each)
    site = serving(a, b, spec=free)
    chosen, alone = newest(site).chosen, rejected(newest(site), "alone")
    assert chosen is not None
    assert len(chosen.segments) == 2
    assert alone.idle_ms is not None


def test_replicas_are_told_with_the_node_beside_which_they_serve() -> None:
    a, b = Node("a", "a1", gflops=1.0), Node("b", "b1", gflops=1.0)
    free = replace(SPEC, sla=replace(SPEC.sla, rate_per_s=90.0))
    chosen = newest(serving(a, b, spec=free)).chosen
    assert chosen is not None
    assert [sorted(place.nodes) for place in chosen.segments] == [["a", "b"]]
    assert f"0:6 on {' + '.join(chosen.segments[0].nodes)}" in outline(chosen)


def test_a_chain_that_is_broken_is_rejected_without_figures() -> None:
    site = serving(*three())
    gone = placed(site.serve)[0][0]
    before = placed(site.serve)
    site.kill(gone)
    site.until(site.serves).run(SOON_S)
    remap = newest(site)
    assert remap.kind in ("remap", "resplit")
    assert where(remap.present) == before
    present = rejected(remap, "present")
    assert present.why == f"it is broken or breaks the rules: node {gone} is gone"
    assert present.placement is not None
    assert present.placement.idle_ms is None
    assert remap.expected is None


def better(spec_gain: float = 0.15, cooldown_s: float = 0.0) -> Site:
    """One node serves, and a faster one has come; with what that brings."""
    site = serving(Node("a", "a1"), spec=moving(cooldown_s, min_gain=spec_gain))
    site.join(Node("b", "b1", gflops=40.0))
    return site


def test_a_move_says_what_it_was_to_bring() -> None:
    site = better()
    site.until(lambda: site.serves("b")).run(SOON_S)
    move = newest(site)
    assert (where(move.present), where(move.chosen)) == ([("a", "0:6")], [("b", "0:6")])
    assert rejected(move, "present").why == "what was found is worth the way there"
    assert move.expected is not None
    assert move.expected.share > 0.15
    assert move.expected.saved_s > move.expected.paid_s


@pytest.mark.parametrize(
    ("made", "rule"),
    [
        (lambda: better(0.99), "saves no more than policy.min_gain (0.99)"),
        (lambda: better(cooldown_s=1e6), "policy.cooldown_s (1e+06) holds back what was found"),
    ],
    ids=["gain", "cooldown"],
)
def test_a_chain_that_is_kept_says_by_which_rule_and_what_was_found(
    made: Callable[[], Site], rule: str
) -> None:
    keep = newest(made().run(30.0))
    assert keep.kind == "keep"
    assert rule in keep.reason
    assert where(keep.chosen) == where(keep.present) == [("a", "0:6")]
    found = rejected(keep, "found")
    assert (found.why, where(found.placement)) == (keep.reason, [("b", "0:6")])
    assert keep.expected is not None
    assert keep.expected.share > 0


def test_a_policy_that_fails_keeps_the_chain_and_what_was_found_is_told() -> None:
    class Fails(Builtin):
        def moves(self, move: Move) -> bool:
            raise ZeroDivisionError("nobody has thought of this")

    site = Site(Node("a", "a1"), policies={"own": Fails()})
    site.deploy(replace(SPEC, policy=Policy(use="own")))
    site.until(site.serves)
    site.join(Node("b", "b1", gflops=40.0))
    site.run(10.0)
    keep = newest(site)
    assert keep.reason.startswith("policy.use: own failed: ZeroDivisionError")
    assert where(rejected(keep, "found").placement) == [("b", "0:6")]


def test_a_policy_that_keeps_the_chain_is_named() -> None:
    class Stays(Builtin):
        def moves(self, move: Move) -> bool:
            return False

    site = Site(Node("a", "a1"), policies={"own": Stays()})
    site.deploy(replace(SPEC, policy=Policy(use="own")))
    site.until(site.serves)
    site.join(Node("b", "b1", gflops=40.0))
    site.run(10.0)
    assert newest(site).reason == "policy own keeps the chain"


def test_the_same_rule_is_told_once_however_often_it_is_looked_at() -> None:
    site = better(0.99)
    for number, rtt_ms in enumerate((2.0, 3000.0, 1.0, 3000.0, 2.0)):
        site.nodes["b"].link = LinkSample(rtt_ms, 100.0, 100.0)
        site.run(2.0)
        site.join(Node(f"slow-{number}", "s1", gflops=0.1))  # calls for a look
        site.run(2.0)
    assert site.kinds() == ["place", "keep"]


def test_what_cannot_be_placed_says_why_nothing_else_would_do() -> None:
    site = serving(*three())
    site.kill(placed(site.serve)[0][0])
    site.kill(placed(site.serve)[1][0])
    site.until(lambda: site.serve.state == "unavailable").run(SOON_S)
    refusal = newest(site)
    assert refusal.kind == "unavailable"
    assert refusal.id == site.serve.decision
    assert rejected(refusal, "others").why in refusal.reason
    assert refusal.chosen is None


def test_a_chain_that_makes_room_for_the_next_bears_the_decision_that_it_does() -> None:
    a, b = Node("a", "a1", room=6), Node("b", "b1", room=2)
    site = serving(a, b)
    pinned = replace(SPEC, policy=Policy(pin={"0:1": "b"}))
    site.deploy(pinned)
    site.until(lambda: site.serves("a", "b")).run(SOON_S)
    ids = {explanation.id for explanation in told(site)}
    tables = [table for document in site.published for table in document.tables()]
    assert {table.decision for table in tables} <= ids


# --- what is measured -------------------------------------------------------------------------


def test_what_the_door_measures_is_told_once_it_is_enough() -> None:
    site = serving(Node("a", "a1"))
    measures(site, 40.0, P95_MIN - 1)
    site.run(SOON_S)
    assert newest(site).after is None
    measures(site, 41.0, P95_MIN, 60.0)
    site.run(SOON_S)
    assert newest(site).after == Measured(41.0, 60.0, P95_MIN)


def test_the_gain_stands_beside_what_was_measured_before() -> None:
    site = better()
    measures(site, 80.0, 100, 90.0)
    site.until(lambda: site.serves("b")).run(SOON_S)
    measures(site, 20.0, 50, 30.0)
    site.run(SOON_S)
    place, move = told(site)
    assert place.after == move.before == Measured(80.0, 90.0, 100)
    assert move.after == Measured(20.0, 30.0, 50)


def test_what_is_measured_while_the_next_chain_loads_counts_as_before() -> None:
    site = serving(Node("a", "a1"), spec=moving())
    measures(site, 80.0, 100)
    site.join(Node("b", "b1", gflops=40.0, loads=5.0))
    site.until(lambda: site.document.prepare is not None)
    measures(site, 90.0, 150)
    site.until(lambda: site.serves("b")).run(SOON_S)
    assert newest(site).before == Measured(90.0, None, 150)


def test_a_table_that_goes_early_is_told_with_as_much_as_was_measured() -> None:
    site = serving(Node("a", "a1"), Node("b", "b1"))
    measures(site, 30.0, 3)
    site.kill(placed(site.serve)[0][0])
    site.until(site.serves).run(SOON_S)
    assert told(site)[0].after == Measured(30.0, None, 3)


def test_figures_of_another_table_or_node_do_not_count() -> None:
    site = serving(Node("a", "a1"), Node("b", "b1"))
    other = site.serve.stamp._replace(epoch=site.serve.epoch - 1)
    door = door_of(site.serve).node
    stale = DoorLoad(NAME, 0, 0, 0, 0, 0, 0, 1.0, 1.0, 100, table=other)
    site.nodes[door].doors = (stale, replace(stale, table=None))
    (rival,) = site.nodes.keys() - {door}
    site.nodes[rival].doors = (replace(stale, table=site.serve.stamp),)
    site.run(SOON_S)
    assert newest(site).after is None


@pytest.mark.parametrize("p50_ms", [-1.0, float("nan"), float("inf"), 1e300])
def test_figures_that_cannot_be_true_do_not_count(p50_ms: float) -> None:
    site = serving(Node("a", "a1"))
    measures(site, p50_ms, 100)
    site.run(SOON_S)
    assert newest(site).after is None


# --- the topic --------------------------------------------------------------------------------


def clear(site: Site) -> None:
    del site.explanations[NAME]
    site.orchestrator.explanations_lost(NAME, site.now)


def test_what_was_cleared_is_written_again() -> None:
    site = serving(Node("a", "a1"))
    kept = told(site)
    clear(site)
    site.run(2 * REPEAT_S)
    assert told(site) == kept


def test_what_somebody_else_has_written_is_written_over() -> None:
    site = serving(Node("a", "a1"))
    kept = site.explanations[NAME]
    forged = replace(kept, number=kept.number + 7, explanations=())
    site.explanations[NAME] = forged
    site.orchestrator.explanations_seen(NAME, forged, site.now)
    site.run(2 * REPEAT_S)
    assert told(site) == kept.explanations


def test_what_a_broker_has_forgotten_is_written_again_after_the_reconnection() -> None:
    site = serving(Node("a", "a1"))
    kept = told(site)
    site.orchestrator.disconnected()
    site.orchestrator.lead_lost(site.now)
    site.run(1.0)
    site.explanations = {}
    site.reconnect()
    site.run(8.0)
    assert told(site) == kept


def test_the_next_leader_goes_on_with_what_is_retained() -> None:
    site = serving(Node("a", "a1"), Node("b", "b1"))
    (place,) = told(site)
    site.restart()
    site.run(8.0)
    measures(site, 40.0, 100, 50.0)
    site.kill(placed(site.serve)[0][0])
    site.until(site.serves).run(SOON_S)
    first, second = told(site)
    assert first == replace(place, after=Measured(40.0, 50.0, 100))
    assert second.before == first.after
    assert site.explanations[NAME].leader == "n2"


def test_whoever_does_not_lead_writes_nothing_and_knows_what_the_leader_tells() -> None:
    site = serving(Node("a", "a1"))
    standby = Orchestrator("b", lambda: "secret")
    standby.connected(0.0)
    standby.explanations_seen(NAME, site.explanations[NAME], 0.0)
    standby.leader_seen(Leader(2_000_000_000, "z", 1), 0.0)
    standby.retained_read(0.0)
    assert standby.tick(1.0, 0) == []
    assert standby._explainer.of(NAME).explanations == told(site)


def test_undeploying_clears_it() -> None:
    site = serving(Node("a", "a1"))
    assert NAME in site.explanations
    site.undeploy()
    site.until(lambda: NAME not in site.documents).run(SOON_S)
    assert site.explanations == {}


def test_what_is_retained_of_a_deployment_that_is_gone_is_cleared_by_the_next_leader() -> None:
    site = serving(Node("a", "a1"))
    site.explanations["gone"] = site.explanations[NAME]
    site.restart()
    site.run(8.0)
    assert site.explanations.keys() == {NAME}


def test_many_decisions_in_a_row_are_few_documents_of_bounded_length() -> None:
    site = serving(Node("a", "a1"), Node("b", "b1"), Node("c", "c1"))
    began, count = site.now, len(site.explained)
    for number in range(2 * KEPT):
        site.deploy(replace(SPEC, policy=Policy(pin={"0:6": "abc"[number % 3]})))
        site.run(0.8)
    site.run(SOON_S)
    assert len(site.decided) > KEPT + 2
    assert len(told(site)) == KEPT
    assert told(site)[-1].id == site.decided[-1].id
    assert len(site.explained) - count <= (site.now - began) / WRITE_S + 1


def test_a_broker_that_fell_back_loses_nothing_of_what_the_leader_knows() -> None:
    known = tuple(Explanation(f"d-{i}", i, "keep", "") for i in range(3))
    explaining = Explaining(NAME)
    effort = Effort()
    explaining.seen(Explanations("n", 1, effort.told, known), 0.0)
    explaining.seen(Explanations("n", 0, effort.told, known[:1]), 1.0)
    assert explaining.explanations == known
    explaining.takes_over()
    due = explaining.due("m", effort, 2.0)
    assert due is not None
    assert due.document.explanations == known
    assert explaining.due("m", effort, 3.0) is None


@given(data=st.data())
@settings(max_examples=examples(50), deadline=None)
def test_whatever_others_do_to_the_topic_it_comes_to_hold_what_the_leader_knows(
    data: st.DataObject,
) -> None:
    topic = Topic()
    for number in range(data.draw(st.integers(0, 60))):
        topic.happens(data.draw(st.sampled_from(HAPPENS)), number)
    topic.happens("takes over", 1000)
    for _ in range(round(3 * REPEAT_MAX_S / TICK_S)):
        topic.passes()
    known = topic.explaining.explanations
    assert len(known) <= KEPT
    retained = topic.retained.explanations if topic.retained is not None else ()
    assert retained == known
    ids = [explanation.id for explanation in known]
    assert len(set(ids)) == len(ids)
    for earlier, later in pairwise(topic.written):
        assert later - earlier >= min(WRITE_S, REPEAT_S)


HAPPENS = ("decided", "cleared", "forged", "forgotten", "lets go", "takes over", "passes")


class Topic:
    """What a broker retains, and one who may lead."""

    def __init__(self) -> None:
        self.explaining = Explaining(NAME)
        self.retained: Explanations | None = None
        self.written: list[float] = []
        self._now = 100.0
        self._leads = True
        self._effort = Effort()

    def passes(self) -> None:
        self._now += TICK_S
        due = self.explaining.due("n", self._effort, self._now) if self._leads else None
        if due is not None:
            self.written.append(self._now)
            self.retained = due.document
            self.explaining.seen(due.document, self._now)

    def happens(self, what: str, number: int) -> None:
        explaining, now = self.explaining, self._now
        if what == "decided" and self._leads:
            explaining.decided(Decided(f"d-{number}", NAME, "keep", "r"), Moment(now, 1), 0.0)
        elif what == "cleared":
            self.retained = None
            explaining.lost(now)
        elif what == "forged":
            self.retained = Explanations("z", number, self._effort.told)
            explaining.seen(self.retained, now)
        elif what == "forgotten":
            self.retained = None
            explaining.forgotten(now)
        elif what == "lets go" and self._leads:
            self._leads = False
            explaining.lets_go()
        elif what == "takes over" and not self._leads:
            self._leads = True
            explaining.takes_over()
        for _ in range(number % 7):
            self.passes()


# --- what deciding costs ----------------------------------------------------------------------


def test_looks_are_measured_and_published_bytes_are_counted() -> None:
    seconds = iter(range(10**6))
    machine = Orchestrator("m", lambda: "secret", stopwatch=lambda: next(seconds) * 0.001)
    site = Site(Node("a", "a1"))
    site.orchestrator = machine
    machine.published(5000)
    site.reconnect()
    site.deploy()
    site.until(site.serves).run(SOON_S)
    deciding = site.explanations[NAME].deciding
    assert deciding.looks >= 1
    assert (deciding.p50_ms, deciding.published_bytes) == (1.0, 5000)
    assert newest(site).took_ms == 1.0


def test_a_decision_that_cannot_be_explained_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("nobody has thought of this")

    monkeypatch.setattr(Explaining, "decided", fails)
    site = serving(Node("a", "a1"))
    assert site.kinds() == ["place"]
    assert any("it cannot be explained" in noticed.sentence for noticed in site.noticed)


def test_effort_forgets_what_was_looked_at_before_it_leads() -> None:
    effort = Effort()
    effort.looked(0.5)
    effort.begins()
    effort.looked(0.1)
    assert (effort.told.p50_ms, effort.told.looks) == (100.0, 1)
