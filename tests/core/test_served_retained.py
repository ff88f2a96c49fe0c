"""What the broker retains, against what it should: cleared, overwritten, forgotten, withdrawn."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsi_mqtt.core.decisions import PublishDocument, PublishSpec
from dsi_mqtt.core.kept import REPEAT_S
from dsi_mqtt.core.leadership import GONE
from dsi_mqtt.core.node import Leader
from dsi_mqtt.core.orchestrator import Orchestrator
from dsi_mqtt.core.table import Stamp, TableDocument
from tests.core.orchestra import NAME, SPEC, Node, Site, placed, serving, three

SOON_S = 2 * REPEAT_S


def clear(site: Site) -> None:
    """Somebody removes the retained table."""
    del site.documents[NAME]
    site.orchestrator.document_lost(NAME, site.now)


def away(site: Site) -> None:
    """The orchestrator's connections end."""
    site.orchestrator.disconnected()
    site.orchestrator.lead_lost(site.now)


# --- tables -----------------------------------------------------------------------------------


def test_a_table_that_was_cleared_is_written_again_by_the_leader() -> None:
    site = serving(Node("a", "a1"))
    kept = site.document
    clear(site)
    site.run(SOON_S)
    assert site.documents == {NAME: kept}
    assert [noticed.sentence for noticed in site.noticed] == [
        "its retained table was lost; it is written again"
    ]
    assert site.kinds() == ["place"]


def test_a_table_in_preparation_is_kept_too() -> None:
    a, b, _ = three()
    b.loads = 20.0
    site = Site(a, b)
    site.deploy()
    site.until(lambda: NAME in site.documents)
    kept = site.document
    clear(site)
    site.run(SOON_S)
    assert site.document == kept
    site.until(site.serves)


def test_an_older_table_that_somebody_writes_is_overwritten() -> None:
    site = serving(*three())
    old = site.document
    site.kill(placed(site.serve)[0][0])
    kept = site.until(site.serves).document
    site.documents[NAME] = old
    site.orchestrator.document_seen(NAME, old, site.now)
    site.run(SOON_S)
    assert site.document == kept


def test_a_table_of_the_same_stamp_that_says_something_else_is_overwritten() -> None:
    site = serving(Node("a", "a1"))
    kept = site.document
    assert kept.serve is not None
    forged = TableDocument(replace(kept.serve, door=None))
    site.documents[NAME] = forged
    site.orchestrator.document_seen(NAME, forged, site.now)
    site.run(SOON_S)
    assert site.document == kept


def test_ones_own_older_message_that_comes_back_late_is_no_loss() -> None:
    a, b, _ = three()
    site = Site(a, b)
    site.deploy()
    site.until(lambda: NAME in site.documents)
    prepared = site.document
    site.until(site.serves)
    count = len(site.published)
    site.orchestrator.document_seen(NAME, prepared, site.now)
    site.orchestrator.document_seen(NAME, site.document, site.now)
    site.run(5.0)
    assert len(site.published) == count
    assert site.noticed == []


def test_whoever_does_not_lead_writes_nothing_again() -> None:
    site = serving(Node("a", "a1"))
    newer = Leader(site.serve.term + 1, "z", 1)
    site.orchestrator.leader_seen(newer, site.now)
    count = len(site.published)
    clear(site)
    for beat in range(20):
        site.orchestrator.leader_seen(replace(newer, beat=beat + 2), site.now)
        site.run(0.5)
    assert len(site.published) == count
    assert NAME not in site.documents


def test_the_table_of_a_newer_leader_is_not_fought() -> None:
    site = serving(Node("a", "a1"))
    table = replace(site.serve, term=site.serve.term + 1, leader="z")
    theirs = TableDocument(table)
    site.documents[NAME] = theirs
    site.orchestrator.document_seen(NAME, theirs, site.now)
    newer = Leader(table.term, "z", 1)
    for beat in range(20):
        site.orchestrator.leader_seen(replace(newer, beat=beat + 2), site.now)
        site.run(0.5)
    assert site.document == theirs


def test_somebody_who_goes_on_clearing_is_not_raced() -> None:
    site = serving(Node("a", "a1"))
    count = len(site.published)
    for _ in range(round(120 / 0.05)):
        if NAME in site.documents:
            clear(site)
        site.run(0.05)
    assert len(site.published) - count <= 8


def test_an_undeployed_table_is_not_written_again() -> None:
    site = serving(*three())
    site.undeploy()
    site.until(lambda: NAME not in site.documents)
    count = len(site.published)
    site.run(5.0)
    assert len(site.published) == count
    assert site.noticed == []


# --- deployments ------------------------------------------------------------------------------


def test_a_broker_that_forgot_everything_is_told_deployments_and_tables_again() -> None:
    site = serving(*three())
    kept = site.document
    away(site)
    site.run(1.0)
    site.specs, site.documents, site.leader = {}, {}, None
    site.reconnect()
    site.run(5.0)
    assert site.specs == {NAME: SPEC}
    assert site.document == kept
    assert "the broker has forgotten it; it is told again" in [n.sentence for n in site.noticed]


def test_also_a_deployment_without_any_table_yet() -> None:
    site = Site(Node("a", "a1", describes=None))
    site.deploy()
    site.run(2.0)
    away(site)
    site.specs, site.leader = {}, None
    site.reconnect()
    site.run(5.0)
    assert site.specs == {NAME: SPEC}


def test_also_when_the_broker_fell_back_to_before_the_deployment() -> None:
    site = Site(Node("a", "a1"))
    site.run(3.0)
    before = site.leader
    site.deploy()
    site.until(site.serves).run(5.0)
    away(site)
    site.specs, site.documents, site.leader = {}, {}, before
    site.reconnect()
    site.run(8.0)
    assert site.specs == {NAME: SPEC}
    assert site.serves("a")


def test_what_was_undeployed_while_the_leader_was_away_is_not_brought_back() -> None:
    site = serving(*three())
    assert site.leader is not None
    away(site)
    site.leader = replace(site.leader, beat=GONE)  # its will
    del site.specs[NAME]
    for node in site.nodes.values():
        node.known.clear()
    site.run(1.0)
    site.reconnect()
    site.until(lambda: NAME not in site.documents)
    site.run(5.0)
    assert site.specs == {}
    assert site.kinds()[-1] == "remove"


def test_nor_what_another_leader_has_removed_meanwhile() -> None:
    """The observing connection was away; another one led, and cleared the table."""
    machine = Orchestrator("b", lambda: "secret")
    other = Leader(1_800_000_000, "z", 5)
    machine.connected(0.0)
    machine.spec_arrived(SPEC)
    site = serving(Node("a", "a1"))
    table = replace(site.serve, term=other.term, leader="z")
    machine.document_seen(NAME, TableDocument(table), 0.0)
    machine.leader_seen(other, 0.0)
    machine.retained_read(0.0)
    machine.disconnected()
    machine.connected(10.0)
    machine.leader_seen(replace(other, beat=9), 10.0)
    machine.retained_read(10.0)
    machine.leader_seen(replace(other, beat=GONE), 10.5)
    effects = machine.tick(10.6, 1_700_000_000)
    effects += machine.lead_taken(10.7)
    machine.leader_seen(Leader(other.term + 1, "b", 1), 10.8)
    for tick in range(100):
        effects += machine.tick(11.0 + tick * 0.05, 1_700_000_000)
    assert machine.leading
    assert not [effect for effect in effects if isinstance(effect, PublishSpec)]
    states = [
        effect.document.serve.state
        for effect in effects
        if isinstance(effect, PublishDocument) and effect.document.serve is not None
    ]
    assert set(states) <= {"unavailable"}


def test_what_is_withdrawn_in_the_leaders_sight_stays_withdrawn_when_the_broker_forgets() -> None:
    site = serving(*three())
    site.undeploy()
    site.until(lambda: NAME not in site.documents)
    away(site)
    site.leader = None
    site.reconnect()
    site.run(8.0)
    assert site.specs == {}
    assert site.documents == {}


def test_a_deployment_that_cannot_be_read_changes_nothing() -> None:
    site = serving(*three())
    kept = site.document
    site.orchestrator.spec_unreadable(NAME)
    site.run(5.0)
    away(site)
    machine = site.orchestrator
    machine.connected(site.now)
    machine.spec_unreadable(NAME)
    machine.document_seen(NAME, kept, site.now)
    assert site.leader is not None
    machine.leader_seen(replace(site.leader, beat=GONE), site.now)
    machine.retained_read(site.now)
    site.run(8.0)
    assert site.document == kept


def test_nor_does_a_leader_remove_what_it_has_only_seen_unreadable() -> None:
    site = serving(*three())
    kept = site.document
    del site.specs[NAME]
    site.restart()
    site.orchestrator.spec_unreadable(NAME)
    site.run(8.0)
    assert site.orchestrator.leading
    assert site.document == kept
    site.deploy()
    site.run(3.0)
    assert site.document == kept


# --- stamps that are nobody's -----------------------------------------------------------------


@pytest.mark.parametrize(
    "stamp", [Stamp(2**39, "z", 1), Stamp(1, "z", 2**39), Stamp(1, "z", 2**53)]
)
def test_a_node_that_claims_to_have_seen_nonsense_moves_nothing(stamp: Stamp) -> None:
    site = serving(*three())
    kept = site.document
    rogue = replace(site.statuses["a"], node="rogue", incarnation="r1", seen={NAME: stamp})
    site.orchestrator.status_arrived(rogue, site.now)
    site.run(1.0)
    site.kill(placed(site.serve)[0][0])
    site.until(site.serves)
    assert site.serve.epoch == kept.order[0].epoch + 1


def test_an_epoch_beyond_all_is_outdone_by_the_term_alone() -> None:
    site = serving(*three())
    rogue = replace(
        site.statuses["a"],
        node="rogue",
        incarnation="r1",
        seen={NAME: Stamp(site.serve.term, "z", 2**39)},
    )
    site._act(site.orchestrator.status_arrived(rogue, site.now))
    site.until(lambda: site.orchestrator.leading and site.serve.term > rogue.seen[NAME].term)
    site.until(site.serves)
    assert site.serve.epoch < 10


def test_a_leader_with_a_term_beyond_all_is_not_believed() -> None:
    site = serving(Node("a", "a1"))
    assert site.orchestrator.leader_seen(Leader(2**39, "z", 1), site.now) == []
    site.run(5.0)
    assert site.orchestrator.leading
