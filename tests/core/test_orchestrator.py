"""The whole orchestrator: who leads, who is heard, and what a site sees of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from dsi_mqtt.core.decisions import PublishDocument
from dsi_mqtt.core.deployment import Deployment, Policy, Privacy
from dsi_mqtt.core.leadership import DropLead, PublishLeader
from dsi_mqtt.core.node import Leader, NodeStatus
from dsi_mqtt.core.orchestrator import LONG_S, Orchestrator
from dsi_mqtt.core.table import Stamp, TableDocument
from tests.core.orchestra import NAME, SPEC, Node, Site, placed, serving
from tests.thoroughness import examples

EMPTY = TableDocument(None)


def serving_nodes(document: TableDocument) -> set[str]:
    return {node for node, _ in placed(document.serve)} if document.serve is not None else set()


def test_whoever_does_not_lead_publishes_nothing() -> None:
    site = Site(Node("a", "a1"))
    site.deploy()
    other = Leader(1_800_000_000, "other", 1)
    for beat in range(100):
        site.orchestrator.leader_seen(replace(other, beat=beat + 1), site.now)
        site.run(0.5)
    assert site.published == []
    assert not site.orchestrator.leading


def test_who_takes_over_goes_on_where_the_other_ended() -> None:
    site = serving(Node("a", "a1"), Node("b", "b1", room=3))
    before = site.document
    site.restart()
    site.run(10.0)
    assert site.orchestrator.leading
    assert site.document == before
    site.kill(placed(site.serve)[0][0])
    site.until(lambda: site.serve.state == "unavailable")
    assert site.document.order > before.order
    assert site.serve.term > before.order[0].term


def test_who_takes_over_prepares_what_was_not_ready() -> None:
    site = serving(Node("a", "a1", gflops=1), spec=replace(SPEC, policy=Policy(cooldown_s=0)))
    site.join(Node("b", "b1", gflops=100, loads=6.0))
    site.until(lambda: site.document.prepare is not None)
    old = site.serve
    site.restart()
    while site.document.prepare is not None:
        assert site.serve == old
        site.run(0.05)
    assert site.serves("b")


def test_what_one_deployment_decides_goes_out_before_the_next_is_looked_at() -> None:
    """Where a look takes long. None of them is kept from its turn by that."""
    watch = iter(range(10**9))
    site = Site(Node("a", "a1", room=30, gflops=100.0), Node("b", "b1", room=30, gflops=1.0))
    site.orchestrator = Orchestrator("m", lambda: "secret", stopwatch=lambda: float(next(watch)))
    site.reconnect()
    names = (NAME, "another", "third")
    for name in names:
        site.deploy(replace(SPEC, name=name))

    def served_by(node: str) -> bool:
        tables = [site.documents[name].serve for name in names if name in site.documents]
        return len(tables) == len(names) and all(
            table is not None and table.serves and placed(table)[0][0] == node for table in tables
        )

    site.until(lambda: served_by("a"))
    site.kill("a")
    at_once = []
    while not served_by("b"):
        before = len(site.decided)
        site.run(0.05)
        at_once.append(len(site.decided) - before)
        assert len(at_once) < 100, "somebody has no turn"
    assert max(at_once) == 1
    assert sum(at_once) == len(names)


@pytest.mark.parametrize("took_s", [0.01, 1.0])
def test_a_long_look_waits_for_a_table_that_is_nearly_ready(took_s: float) -> None:
    """Two that break at once: the first serves before the second is thought about for long."""
    watch = iter(range(10**9))
    site = Site(
        Node("a", "a1", room=30, gflops=100.0, loads=0.1), Node("b", "b1", room=30, loads=0.1)
    )
    site.orchestrator = Orchestrator("m", lambda: "x", stopwatch=lambda: next(watch) * took_s)
    site.reconnect()
    names = (NAME, "another")
    for name in names:
        site.deploy(replace(SPEC, name=name))
    site.until(lambda: all((site.documents.get(n) or EMPTY).serve is not None for n in names))
    site.run(20.0)
    site.kill("a")
    before = len(site.published)
    site.until(lambda: all({"b"} == serving_nodes(site.documents[n]) for n in names))
    told = [d.serve.deployment for d in site.published[before:] if d.serve is not None]
    first = told[0]
    apart = [name == first for name in told] == sorted((n == first for n in told), reverse=True)
    assert apart == (took_s >= LONG_S), "one behind the other, where looks take long"


def test_after_its_own_absence_it_takes_nobody_for_dead() -> None:
    site = serving(Node("a", "a1", room=3), Node("b", "b1", room=3))
    before = site.document
    nodes, site.nodes = site.nodes, {}
    site.orchestrator.disconnected()
    site.orchestrator.lead_lost(site.now)
    site.run(20.0)
    # A clean stop of the broker left the will of everybody.
    live = {name: site.statuses[name] for name in nodes}
    for name, status in live.items():
        site.statuses[name] = NodeStatus(name, status.incarnation, "offline")
    site.reconnect()
    site.run(3.0)
    site.nodes = nodes
    site.run(20.0)
    assert site.document == before


def test_a_restart_with_its_broker_does_not_end_the_chain_before_nodes_are_back() -> None:
    site = serving(Node("a", "a1", room=3), Node("b", "b1", room=3))
    before = site.document
    nodes, site.nodes = site.nodes, {}
    for name, status in site.statuses.items():
        site.statuses[name] = NodeStatus(name, status.incarnation, "offline")
    site.restart()
    site.run(3.0)
    site.nodes = nodes
    site.run(20.0)
    assert site.document == before


def test_who_is_displaced_stops_at_once() -> None:
    site = serving(Node("a", "a1"))
    count = len(site.published)
    newer = Leader(site.serve.term + 1, "z", 1)
    assert site.orchestrator.leader_seen(newer, site.now) == [DropLead()]
    site.kill("a")
    for beat in range(20):
        site.orchestrator.leader_seen(replace(newer, beat=beat + 2), site.now)
        site.run(0.5)
    assert len(site.published) == count


@pytest.mark.parametrize("what", ["table", "status"])
def test_a_newer_term_seen_anywhere_ends_the_lead(what: str) -> None:
    site = serving(Node("a", "a1"))
    term = site.serve.term + 5
    if what == "table":
        table = replace(site.serve, term=term, leader="z")
        effects = site.orchestrator.document_seen(NAME, TableDocument(table), site.now)
    else:
        status = replace(site.statuses["a"], seen={NAME: Stamp(term, "z", 1)})
        effects = site.orchestrator.status_arrived(status, site.now)
    assert effects == [DropLead()]


def test_a_new_leader_writes_every_document_again() -> None:
    site = serving(Node("a", "a1"))
    kept = site.document
    site.documents.clear()
    site.leader = None  # the broker has forgotten everything
    site.orchestrator.disconnected()
    site.orchestrator.lead_lost(site.now)
    site.reconnect()
    site.until(lambda: NAME in site.documents)
    assert site.document == kept


def test_a_broker_and_an_orchestrator_that_forgot_everything_begin_above_the_nodes() -> None:
    site = serving(Node("a", "a1"))
    before = site.document
    site.documents.clear()
    site.leader = None
    site.restart()
    site.until(lambda: site.serves() and site.document.order > before.order)
    assert site.nodes["a"].seen == site.document.order


def test_deployments_are_kept_apart() -> None:
    site = serving(Node("a", "a1"))
    site.deploy(replace(SPEC, name="other"))
    site.until(lambda: "other" in site.documents)
    first = site.document
    site.orchestrator.spec_gone("other")
    site.run(5.0)
    assert site.document == first


def test_nothing_comes_of_removing_what_was_never_there() -> None:
    machine = Orchestrator("n", lambda: "secret")
    machine.spec_gone("never")
    machine.connected(0.0)
    machine.retained_read(0.0)
    machine.tick(1.0, 5)
    (began,) = machine.lead_taken(1.0)
    assert isinstance(began, PublishLeader)
    machine.leader_seen(began.leader, 1.0)
    assert [type(effect) for effect in machine.tick(2.0, 5)] == [PublishLeader]


# --- random sites -----------------------------------------------------------------------------

PRIVATE = replace(SPEC, privacy=Privacy({"0:1": ("plant",)}))
SPECS: dict[str, Deployment] = {
    "plain": SPEC,
    "private": PRIVATE,
    "one segment": replace(SPEC, policy=Policy(max_segments=1)),
    "quick": replace(SPEC, policy=Policy(cooldown_s=0.0, min_gain=0.01)),
    "wrong": replace(SPEC, privacy=Privacy({"0:99": ("plant",)})),
    "absent": replace(PRIVATE, policy=Policy(pin={"3:4": "nobody"})),
    "forbidden": replace(SPEC, policy=Policy(pin={"3:4": "nobody"}, forbid=("a",))),
}


class AnySite(RuleBasedStateMachine):
    """Nodes come, go, fail and drain, deployments change, orchestrators and brokers restart."""

    def __init__(self) -> None:
        super().__init__()
        self.lives = 0
        self.highest: tuple[Stamp, Stamp] = (Stamp(0, "", 0), Stamp(0, "", 0))
        self.site = Site(check=self.check)

    def check(self, site: Site, document: TableDocument) -> None:
        """What must hold of every document, as it is published."""
        known = site.documents.get(NAME)
        if document == known or (known is None and document in site.published):
            return  # written again
        assert document.order >= self.highest
        self.highest = document.order
        serve, prepare = document.serve, document.prepare
        if serve is not None and prepare is not None:
            assert prepare.stamp > serve.stamp
        before = site.documents.get(NAME)
        if serve is None or serve.state != "serving" or before is None:
            return
        ready = before.prepare is not None and serve.stamp == before.prepare.stamp
        kept = before.serve is not None and placed(serve) == placed(before.serve)
        assert ready or kept, "what serves was prepared, or served before"
        if ready:
            self.check_ready(site, document)
        if document.refused is not None:
            self.check_allowed(site, document)

    def check_allowed(self, site: Site, document: TableDocument) -> None:
        """What serves on although the deployment cannot be placed breaks no rule that protects."""
        assert document.serve is not None
        assert document.serve.door is not None
        spec = site.specs[NAME]
        bound = {document.serve.door.node}
        bound |= {s.replicas[0].node for s in document.serve.segments if s.units.start == 0}
        if spec.privacy.units:
            assert {site.statuses[node].zone for node in bound} == {"plant"}
        assert not {node for node, _ in document.serve.members()} & set(spec.policy.forbid)

    def check_ready(self, site: Site, document: TableDocument) -> None:
        assert document.serve is not None
        reported = {
            (name, holding.segment)
            for name, status in site.statuses.items()
            for holding in status.holdings
            if holding.stamp == document.serve.stamp and holding.state == "ready"
        }
        assert {(s.replicas[0].node, s.id) for s in document.serve.segments} <= reported

    @initialize(names=st.sampled_from(["a", "ab", "abc", "abcd"]))
    def begin(self, names: str) -> None:
        for name in names:
            self.join(name=name, room=3, gflops=10.0, zone="plant", spare=False, sound=True)
        self.site.deploy()

    @rule(
        name=st.sampled_from("abcde"),
        room=st.integers(1, 6),
        gflops=st.sampled_from([1.0, 10.0, 100.0]),
        zone=st.sampled_from(["plant", "edge"]),
        spare=st.booleans(),
        sound=st.booleans(),
    )
    def join(
        self, *, name: str, room: int, gflops: float, zone: str, spare: bool, sound: bool
    ) -> None:
        """Also a restart, with another life."""
        self.lives += 1
        fails = None if sound else "the disk is full"
        self.site.join(
            Node(name, f"{name}{self.lives}", room, gflops, zone, spare=spare, fails=fails)
        )

    @precondition(lambda self: self.site.nodes)
    @rule(data=st.data(), how=st.sampled_from(["kill", "vanish", "drain", "resume"]))
    def leave(self, data: st.DataObject, how: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.site.nodes)))
        note(f"{how} {name}")
        if how in ("kill", "vanish"):
            getattr(self.site, how)(name)
        else:
            self.site.nodes[name].state = "draining" if how == "drain" else "online"

    @rule(which=st.sampled_from(sorted(SPECS)))
    def deploy(self, which: str) -> None:
        self.site.deploy(SPECS[which])

    @precondition(lambda self: NAME in self.site.specs)
    @rule()
    def undeploy(self) -> None:
        self.site.undeploy()

    @rule()
    def restart(self) -> None:
        self.site.restart()

    @precondition(lambda self: len(self.site.published) > 1)
    @rule(data=st.data())
    def fall_back(self, data: st.DataObject) -> None:
        """The broker was killed, and retains an older document."""
        if NAME in self.site.documents:
            self.site.documents[NAME] = data.draw(st.sampled_from(self.site.published))
        self.site.restart()

    @precondition(lambda self: NAME in self.site.documents)
    @rule()
    def clear(self) -> None:
        """Somebody removes the retained table."""
        del self.site.documents[NAME]
        self.site.orchestrator.document_lost(NAME, self.site.now)

    @precondition(lambda self: self.site.orchestrator.leading)
    @rule()
    def forget(self) -> None:
        """The broker comes back with nothing; the orchestrator lives on."""
        site, specs = self.site, dict(self.site.specs)
        site.orchestrator.disconnected()
        site.orchestrator.lead_lost(site.now)
        site.specs, site.documents, site.statuses, site.leader = {}, {}, {}, None
        site.reconnect()
        site.run(10.0)
        assert site.specs == specs

    @rule(seconds=st.sampled_from([0.1, 0.5, 2.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.site.run(seconds)

    @invariant()
    def nodes_follow(self) -> None:
        """No node has seen anything that was not published."""
        assert all(node.seen <= self.highest for node in self.site.nodes.values())

    def teardown(self) -> None:
        """In the end it rests, and serves where it can."""
        site = self.site
        for name in "xy":
            self.join(name=name, room=6, gflops=10.0, zone="plant", spare=False, sound=True)
        for node in site.nodes.values():
            node.fails = None
        site.deploy(PRIVATE)
        site.run(90.0)
        assert site.serves(), (site.documents.get(NAME), site.decided[-3:])
        online = {node.key for node in site.nodes.values() if node.state == "online"}
        assert site.serve.members() <= online
        assert site.serve.door is not None
        assert site.nodes[site.serve.door.node].zone == "plant"
        assert all(node.seen == site.document.order for node in site.nodes.values())
        count = len(site.published)
        site.run(20.0)
        assert len(site.published) == count
        site.undeploy()
        site.run(5.0)
        assert NAME not in site.documents
        assert not any(node.parts for node in site.nodes.values())


TestAnySite = AnySite.TestCase
TestAnySite.settings = settings(
    max_examples=examples(30),
    stateful_step_count=15,
)


def test_what_leads_is_a_leader_only_over_its_own_connection() -> None:
    """Documents leave only between the lead taken and the lead lost."""
    site = serving(Node("a", "a1"))
    machine = site.orchestrator
    machine.lead_lost(site.now)
    site.kill("a")
    effects = []
    for i in range(10):
        effects += machine.tick(site.now + i * 0.05, 1)
    assert not [effect for effect in effects if isinstance(effect, PublishDocument)]
