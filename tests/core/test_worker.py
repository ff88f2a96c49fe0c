"""The whole node: how its parts are joined, by the events a shell would bring."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsi_mqtt.core import effects as fx
from dsi_mqtt.core import events as ev
from dsi_mqtt.core.answers import Deaths
from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.core.effects import Effects
from dsi_mqtt.core.ingress import HAND_OVER_S
from dsi_mqtt.core.message import Activation, Credit, Header
from dsi_mqtt.core.node import Capabilities, Desired, NodeStatus
from dsi_mqtt.core.overload import WAITING_BYTES_MAX
from dsi_mqtt.core.request import Redelivery
from dsi_mqtt.core.table import BrokerUrls, Stamp, Table
from dsi_mqtt.core.worker import Worker
from tests.core.build import (
    NAME,
    A,
    B,
    C,
    Member,
    document,
    make_done,
    make_graph,
    make_input,
    make_spec,
    make_status,
    make_table,
    no_route,
)

DOOR_HERE = make_table((B, (0, 6)), door=A)


class Node:
    """Node a, incarnation a1, with a model open and a clock."""

    def __init__(self, *, spec: bool = True) -> None:
        self.worker = Worker(
            *A,
            zone="zone",
            capabilities=Capabilities(weight_bytes=1000),
            brokers=BrokerUrls("mqtt://control", "mqtt://data"),
        )
        self.now = 0.0
        if spec:
            self.on(ev.SpecArrived(make_spec(deadline_ms=4000.0)))
            self.on(ev.ModelOpened(NAME, make_graph()))

    def on(self, event: ev.Event) -> Effects:
        effects = self.worker.handle(event, self.now)
        for load in [e for e in effects if isinstance(e, fx.LoadUnits)]:
            effects += self.on(ev.UnitsLoaded(NAME, load.units, 1.0))
        return effects

    def serve(self, table: Table) -> Effects:
        return self.on(ev.TableArrived(NAME, document(table)))

    def opened(self, table: Table = DOOR_HERE) -> Node:
        """Keeps the door, with its ingress open."""
        self.serve(table)
        self.on(ev.IngressOpened(NAME))
        return self

    def hear(self, status: NodeStatus) -> Effects:
        return self.on(ev.StatusArrived(status))

    def wait(self, seconds: float) -> Effects:
        self.now += seconds
        return self.on(ev.Ticked())

    def give(self, number: int) -> Header:
        """Admits an input; the header of its first attempt."""
        effects = self.on(ev.InputArrived(NAME, make_input(number)))
        (header,) = [e.activation.header for e in effects if isinstance(e, fx.Transmit)]
        return header

    def answer(self, header: Header) -> Effects:
        effects = self.on(ev.ActivationArrived(make_done(header)))
        for reply in [e for e in effects if isinstance(e, fx.PublishReply)]:
            effects += self.on(ev.ReplyPublished(NAME, reply.request))
        return effects

    def knows(self, table: Table) -> bool:
        return self.worker._holdings.table(NAME, table.stamp) is not None


def of(effects: Effects, kind: type[fx.Effect]) -> Effects:
    return [effect for effect in effects if isinstance(effect, kind)]


# --- the door ---------------------------------------------------------------------------------


def test_the_named_node_and_incarnation_opens_the_ingress() -> None:
    assert of(Node().serve(DOOR_HERE), fx.OpenIngress)
    for other in (("a", "a0"), B):
        assert not of(Node().serve(make_table((B, (0, 6)), door=other)), fx.OpenIngress)


def test_a_table_that_comes_before_its_deployment_opens_the_door_with_it() -> None:
    node = Node(spec=False)
    assert not of(node.serve(DOOR_HERE), fx.OpenIngress)
    assert of(node.on(ev.SpecArrived(make_spec())), fx.OpenIngress)


def test_a_generating_door_may_hold_all_it_serves_and_queues_whatever_its_file_says() -> None:
    spec = replace(make_spec(), kind="generation")
    assert spec.generation is None
    node = Node(spec=False)
    node.on(ev.SpecArrived(spec))
    (opening,) = [e for e in node.serve(DOOR_HERE) if isinstance(e, fx.OpenIngress)]
    assert opening.hold_count > Generation().sessions_max + Generation().queue_max


def test_a_door_may_hold_more_than_waits_so_that_it_reads_on_and_refuses() -> None:
    (opening,) = of(Node().serve(DOOR_HERE), fx.OpenIngress)
    assert isinstance(opening, fx.OpenIngress)
    assert opening.hold_count > make_spec().input.queue_max + 2 * 4
    assert opening.hold_bytes > WAITING_BYTES_MAX


def test_a_prepared_table_opens_no_door() -> None:
    effects = Node().on(ev.TableArrived(NAME, document(None, DOOR_HERE)))
    assert not of(effects, fx.OpenIngress)


def test_the_ingress_waits_for_the_door_before() -> None:
    node = Node()
    node.hear(make_status(B, oldest=Stamp(1, "leader", 0), ingress_open=True))
    assert not of(node.serve(DOOR_HERE), fx.OpenIngress)
    assert of(node.hear(make_status(B)), fx.OpenIngress)


def test_a_door_whose_status_was_cleared_is_not_waited_for() -> None:
    node = Node()
    node.hear(make_status(B, oldest=Stamp(1, "leader", 0), ingress_open=True))
    assert not of(node.on(ev.StatusRemoved("b")), fx.ReportStatus)
    assert of(node.serve(DOOR_HERE), fx.OpenIngress)


def test_a_status_of_its_own_that_somebody_cleared_is_written_again() -> None:
    assert Node().on(ev.StatusRemoved("a")) == [fx.ReportStatus()]


def test_records_that_make_room_for_others_are_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsi_mqtt.core.suspects.Deaths", lambda: Deaths(count_max=2))
    node = Node()
    node.serve(DOOR_HERE)
    effects = [node.on(ev.RecordFound(NAME, Redelivery(key, 1))) for key in "abc"]
    assert effects == [[], [], [fx.WriteRecord(NAME, Redelivery("a", 0))]]


def test_a_dead_door_is_not_waited_for() -> None:
    node = Node()
    node.hear(make_status(B, oldest=Stamp(1, "leader", 0), ingress_open=True))
    node.hear(make_status(B, "offline"))
    assert of(node.serve(DOOR_HERE), fx.OpenIngress)


def test_a_lost_ingress_is_opened_again_after_its_nonce() -> None:
    node = Node().opened()
    assert of(node.on(ev.IngressLost(NAME)), fx.EchoNonce)
    assert not node.worker.status().doors[0].ingress_open
    assert of(node.on(ev.NonceReturned(NAME)), fx.OpenIngress)


def test_a_replaced_door_answers_what_it_holds_and_then_lets_go() -> None:
    node = Node().opened()
    header = node.give(1)
    effects = node.serve(make_table((B, (0, 6)), epoch=2, door=C))
    assert not of(effects, fx.CloseIngress)
    assert node.worker.status().doors[0].ingress_open
    answer = node.answer(header)
    assert of(answer, fx.Acknowledge)
    assert not of(node.wait(0.05), fx.CloseIngress)
    assert node.worker.status().doors[0].ingress_open, "nobody is there to take it"
    node.hear(make_status(C, oldest=Stamp(1, "leader", 2)))
    assert of(node.wait(0.05), fx.ReportStatus)
    assert not node.worker.status().doors[0].ingress_open
    assert not of(node.wait(0.05), fx.CloseIngress), "what comes is passed on until it is taken"
    node.on(ev.IngressLost(NAME))
    node.wait(0.05)
    assert node.worker.status().doors == ()


def test_a_replaced_door_that_loses_its_ingress_does_not_take_it_back() -> None:
    node = Node().opened()
    header = node.give(1)
    node.serve(make_table((B, (0, 6)), epoch=2, door=C))
    assert not of(node.on(ev.IngressLost(NAME)), fx.EchoNonce)
    assert not of(node.on(ev.NonceReturned(NAME)), fx.OpenIngress)
    assert of(node.answer(header), fx.PublishReply), "what was in the chain is answered"
    assert not of(node.wait(0.05), fx.OpenIngress)
    assert node.worker.status().doors == ()


@pytest.mark.parametrize(
    ("session", "ended"), [("session", False), ("another", True)], ids=["the same", "another"]
)
def test_a_door_that_was_replaced_leaves_the_session_to_the_next(
    session: str, *, ended: bool
) -> None:
    """Which may reach the broker by another address: to end the session there would take it, and
    all inputs in it, from the next door.
    """
    node = Node().opened()
    elsewhere = make_table((B, (0, 6)), epoch=2, door=C)
    assert DOOR_HERE.door is not None
    assert elsewhere.door is not None
    assert elsewhere.door.session == DOOR_HERE.door.session == "session"
    place = replace(elsewhere.door, ingress="mqtt://the-same-by-another-name", session=session)
    closed = of(node.serve(replace(elsewhere, door=place)), fx.CloseIngress)
    assert closed == ([fx.CloseIngress(NAME, forget=True)] if ended else [])


def test_undeployed_the_door_answers_and_ends_the_session() -> None:
    node = Node().opened()
    node.give(1)
    effects = node.on(ev.SpecGone(NAME))
    (reply,) = [e for e in effects if isinstance(e, fx.PublishReply)]
    assert reply.reply.failure is not None
    assert reply.reply.failure.code == "unavailable"
    node.on(ev.ReplyPublished(NAME, reply.request))
    assert of(node.wait(0.05), fx.CloseIngress) == [fx.CloseIngress(NAME, forget=True)]


def test_another_ingress_session_makes_old_receipts_void() -> None:
    node = Node().opened()
    header = node.give(1)
    assert DOOR_HERE.door is not None
    moved = replace(DOOR_HERE, epoch=2, door=replace(DOOR_HERE.door, session="other"))
    assert of(node.serve(moved), fx.OpenIngress)
    assert not of(node.answer(header), fx.Acknowledge)


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("session", ["session", "other"])
def test_a_door_that_is_left_ends_a_session_that_the_next_one_does_not_take(
    session: str, prepared: bool
) -> None:
    node = Node().opened()
    table = make_table((B, (0, 6)), epoch=2, door=B)
    assert table.door is not None
    table = replace(table, door=replace(table.door, session=session))
    next_one = document(None, table) if prepared else document(table)
    effects = node.on(ev.TableArrived(NAME, next_one))
    taken = session == "session" and not prepared
    closes = [] if taken else [fx.CloseIngress(NAME, forget=session == "other")]
    assert of(effects, fx.CloseIngress) == closes


def test_counts_of_an_earlier_door_reach_this_one() -> None:
    node = Node()
    node.serve(DOOR_HERE)
    node.on(ev.RecordFound(NAME, Redelivery(make_input(1).key, 3)))
    node.on(ev.IngressOpened(NAME))
    effects = node.on(ev.InputArrived(NAME, make_input(1)))
    (reply,) = [e for e in effects if isinstance(e, fx.PublishReply)]
    assert reply.reply.failure is not None
    assert reply.reply.failure.code == "poison"


def test_what_is_retained_of_suspects_goes_with_the_deployment() -> None:
    node = Node()
    node.serve(DOOR_HERE)
    for number in (1, 2):
        node.on(ev.RecordFound(NAME, Redelivery(make_input(number).key, number)))
    node.on(ev.IngressOpened(NAME))
    effects = node.on(ev.SpecGone(NAME))
    cleared = [fx.WriteRecord(NAME, Redelivery(make_input(number).key, 0)) for number in (1, 2)]
    assert of(effects, fx.WriteRecord) == cleared
    assert effects.index(fx.CloseIngress(NAME, forget=True)) > effects.index(cleared[-1])


def test_events_of_a_door_that_is_gone_are_nothing() -> None:
    node = Node()
    header = Header("done", NAME, DOOR_HERE.stamp, "s0", "door")
    for event in (
        ev.InputArrived(NAME, make_input(1)),
        ev.IngressOpened(NAME),
        ev.IngressLost(NAME),
        ev.NonceReturned(NAME),
        ev.RecordFound(NAME, Redelivery("k", 1)),
        ev.RecordWritten(NAME, Redelivery("k", 1)),
        ev.ReplyPublished(NAME, bytes(16)),
        ev.ActivationArrived(Activation(header)),
    ):
        assert node.on(event) == []


# --- old tables -------------------------------------------------------------------------------

OLD = make_table((A, (0, 3)), (B, (3, 6)), epoch=1, door=B)
NEW = make_table((A, (3, 6)), (B, (0, 3)), epoch=2, door=C)


def moved() -> Node:
    """A node of a chain whose door was on b and is now on c."""
    node = Node()
    node.hear(make_status(B, oldest=OLD.stamp, ingress_open=True))
    node.serve(OLD)
    node.serve(NEW)
    return node


def test_an_old_table_stays_while_any_door_uses_it() -> None:
    node = moved()
    assert node.knows(OLD), "the new door has said nothing yet"
    node.hear(make_status(C, oldest=NEW.stamp))
    assert node.knows(OLD), "the old door still uses it"
    effects = node.hear(make_status(B))
    assert of(effects, fx.DropUnits)
    assert not node.knows(OLD)


def test_an_old_table_goes_with_its_dead_door() -> None:
    node = moved()
    node.hear(make_status(C, oldest=NEW.stamp))
    node.hear(make_status(B, "offline"))
    assert not node.knows(OLD)


def test_an_old_table_does_not_go_with_an_earlier_life_of_its_door() -> None:
    node = moved()
    node.hear(make_status(C, oldest=NEW.stamp))
    assert node.hear(make_status(("b", "b0"), "offline")) == []
    assert node.knows(OLD)


def test_a_door_that_fell_silent_keeps_an_old_table_for_one_deadline_only() -> None:
    node = moved()
    node.hear(make_status(C, oldest=NEW.stamp))
    node.wait(4.0 + HAND_OVER_S)
    assert node.knows(OLD)
    node.wait(0.1)
    assert not node.knows(OLD)


def test_an_earlier_life_of_the_door_does_not_speak_for_it() -> None:
    node = moved()
    node.hear(make_status(("c", "c0"), oldest=NEW.stamp))
    node.hear(make_status(B))
    assert node.knows(OLD)


def test_the_own_door_counts_too() -> None:
    node = Node().opened(make_table((A, (0, 3)), (B, (3, 6)), epoch=1))
    header = node.give(1)
    node.serve(make_table((A, (3, 6)), (B, (0, 3)), epoch=2))
    assert node.worker.status().doors[0].oldest.epoch == 1
    node.wait(0.05)
    assert {h.stamp.epoch for h in node.worker.status().holdings} == {1, 2}
    node.answer(header)
    assert of(node.wait(0.05), fx.DropUnits)
    assert {h.stamp.epoch for h in node.worker.status().holdings} == {2}


# --- the node itself --------------------------------------------------------------------------


def test_the_will_of_an_earlier_life_does_not_stand() -> None:
    node = Node()
    assert node.hear(make_status(("a", "a0"), "offline")) == [fx.ReportStatus()]
    assert node.hear(node.worker.status()) == []


def test_status_says_what_is_held_and_wanted_of_it() -> None:
    node = Node().opened(make_table((A, (0, 3)), (B, (3, 6))))
    status = node.worker.status()
    assert [(h.segment, h.state) for h in status.holdings] == [("s0", "ready")]
    assert [(d.deployment, d.ingress_open) for d in status.doors] == [(NAME, True)]
    assert status.seen == {NAME: Stamp(1, "leader", 1)}
    assert status.graph(NAME) == make_graph()
    assert node.worker.status(leaving=True).state == "offline"
    assert node.worker.will().incarnation == "a1"


def test_drain_is_reported_once() -> None:
    node = Node()
    assert node.on(ev.DesiredArrived(Desired(drain=True))) == [fx.ReportStatus()]
    assert node.on(ev.DesiredArrived(Desired(drain=True))) == []
    assert node.worker.status().state == "draining"


def test_a_control_reconnection_writes_the_status_again() -> None:
    assert Node().on(ev.ControlReconnected()) == [fx.ReportStatus()]


def test_where_tensors_go_by_now_stands_in_the_status() -> None:
    node = Node()
    moved = BrokerUrls("mqtt://control", "mqtt://elsewhere")
    assert node.on(ev.BrokersMoved(moved)) == [fx.ReportStatus()]
    assert node.worker.status().brokers == moved


def test_a_data_reconnection_repeats_grants_and_asks_for_attempts() -> None:
    chain = make_table((B, (0, 3)), (A, (3, 6)), door=A)
    node = Node().opened(chain)
    header = node.give(1)
    probe = Credit("b1", "a1", 0, 0, probe=True)
    node.on(
        ev.ActivationArrived(
            Activation(Header("credit", NAME, chain.stamp, "s0", "s1", credit=probe))
        )
    )
    sent = [
        e.activation.header for e in node.on(ev.DataReconnected()) if isinstance(e, fx.Transmit)
    ]
    assert [(h.kind, h.target, h.credit is not None and h.credit.probe) for h in sent] == [
        ("credit", "s0", False),
        ("credit", "s0", True),
    ]
    assert sent[1].request == header.request


def test_closing_a_model_drops_the_jobs_it_had() -> None:
    node = Node()
    node.serve(make_table((A, (0, 3)), (B, (3, 6)), door=B))
    stamp = Stamp(1, "leader", 1)
    work = Header("request", NAME, stamp, "door", "s0", bytes([1] * 16), 1, door="b")
    assert of(node.on(ev.ActivationArrived(Activation(work))), fx.Compute)
    effects = node.on(
        ev.SpecArrived(replace(make_spec(), model=replace(make_spec().model, path="/m")))
    )
    assert of(effects, fx.CloseModel)
    assert [e.activation.header.kind for e in effects if isinstance(e, fx.Transmit)] == ["stale"]


def test_kinds_this_version_has_no_use_for_are_ignored() -> None:
    node = Node().opened()
    for target in ("door", "s0"):
        state = Header("state", NAME, DOOR_HERE.stamp, "s0", target)
        assert node.on(ev.ActivationArrived(Activation(state))) == []


def test_a_whole_request_through_one_node() -> None:
    """Door and both segments on a: what it sends to itself comes back as it would on the wire."""
    node = Node().opened(make_table((A, (0, 3)), (A, (3, 6))))
    pending = node.on(ev.InputArrived(NAME, make_input(1)))
    seen: list[str] = []
    while pending:
        effect = pending.pop(0)
        seen.append(type(effect).__name__)
        if isinstance(effect, fx.Transmit):
            assert effect.receiver == "a"
            pending += node.on(ev.ActivationArrived(effect.activation))
        elif isinstance(effect, fx.Compute):
            pending += node.on(ev.Computed(effect.job, effect.tensors, 0.01))
        elif isinstance(effect, fx.PublishReply):
            assert effect.reply.body == b"input 1"
            pending += node.on(ev.ReplyPublished(NAME, effect.request))
    assert seen.count("Compute") == 2
    assert seen[-1] == "Acknowledge"
    assert all(load.requests == 1 for load in node.worker.segment_loads())
    assert node.worker.door_loads()[0].answered == 1


def test_no_route_keeps_the_door_and_says_why() -> None:
    node = Node().opened()
    header = node.give(1)
    member: Member = A
    node.serve(no_route(2, "no node fits", member))
    assert node.worker.status().doors[0].ingress_open
    assert of(node.answer(header), fx.Acknowledge)
    assert not of(node.on(ev.InputArrived(NAME, make_input(2))), fx.Transmit)
    effects = node.wait(4.0)
    (reply,) = [e for e in effects if isinstance(e, fx.PublishReply)]
    assert reply.reply.failure is not None
    assert reply.reply.failure.message == "no node fits"
