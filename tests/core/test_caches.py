"""Copies of caches at one node: what it sends, takes in, and refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsi_mqtt.core import caches
from dsi_mqtt.core.activation import Row, Tensor
from dsi_mqtt.core.effects import CloseSessions, Effects, ExportState, ImportState, Transmit
from dsi_mqtt.core.events import StateExported, StateImported, StateStale
from dsi_mqtt.core.holdings import Holdings
from dsi_mqtt.core.message import Activation, Copy, EdgeMark, Header
from dsi_mqtt.core.model import ModelGraph, UnitRange
from dsi_mqtt.core.relay import Relay
from dsi_mqtt.core.table import DOOR, TableDocument
from tests.core.build import NAME, A, B, make_table
from tests.core.desk_generation import GRAPH, spec

OLD = make_table((A, (0, 3)), (B, (3, 6)), epoch=1)
NEW = make_table((A, (0, 4)), (B, (4, 6)), epoch=2)
# Unit 3 goes from b to a.
UNITS = UnitRange(3, 4)
ID = bytes(15) + b"\7"


class Bench:
    """The relay of one node, holding its parts of both tables."""

    def __init__(self, me: tuple[str, str], *, graph: ModelGraph = GRAPH, **limits: object) -> None:
        self.holdings = Holdings(*me, 10**12)
        self.holdings.spec_arrived(spec(**limits))
        self.holdings.model_opened(NAME, graph)
        self.holdings.document_arrived(NAME, TableDocument(OLD, NEW))
        for table in (OLD, NEW):
            for segment in table.segments:
                self.holdings.units_loaded(NAME, segment.units, 1.0)
        self.relay = Relay(me[1], self.holdings)
        self.caches = self.relay.caches

    def asked(self, header: Header, *tensors: Tensor) -> Effects:
        return self.caches.asked(Activation(header, tensors), 0.0)

    def call(self, newest: int, *rows: Row) -> Effects:
        """The door a.1 calls out its roll."""
        edge = EdgeMark("a1", "a1", 0, 0)
        roll = Header("state", NAME, OLD.stamp, DOOR, "s0", attempt=newest, rows=rows, edge=edge)
        return self.relay.state_arrived(Activation(roll), 0.0)


def order(position: int = 0, tokens: int = 5, take: int = 1) -> Header:
    return Header(
        "state", NAME, OLD.stamp, DOOR, "s1", ID, 1, "a",
        rows=(Row("a1.1", position, tokens, take),),
        edge=EdgeMark("a1", "b1", 0, 0),
        copy=Copy(UNITS, NEW.stamp, "s0"),
    )  # fmt: skip


def copy(position: int = 0, tokens: int = 5, take: int = 1, session: str = "a1.1") -> Header:
    """What comes of it."""
    return replace(
        order(position, tokens, take),
        stamp=NEW.stamp,
        source="s1",
        target="s0",
        edge=EdgeMark("b1", "a1", 0, 0),
        rows=(Row(session, position, tokens, take),),
    )


STATE = Tensor("state", "uint8", (4,), b"kept")


def only(effects: Effects) -> Header:
    (effect,) = effects
    assert isinstance(effect, Transmit)
    return effect.activation.header


def test_a_copy_is_read_by_the_engine_and_sent_to_who_computes_the_units_next() -> None:
    bench = Bench(B)
    (read,) = bench.asked(order(2, 5))
    assert read == ExportState(1, NAME, "a1.1", UNITS, 2, 7)
    (sent,) = bench.caches.exported(StateExported(1, b"kept"))
    assert isinstance(sent, Transmit)
    assert sent.receiver == "a"
    assert sent.activation == Activation(copy(2, 5), (STATE,))
    assert not bench.caches.exported(StateExported(1, b"kept")), "it is sent twice"


def test_what_has_come_is_taken_in_and_the_door_is_told_how_far() -> None:
    bench = Bench(A)
    (taken,) = bench.asked(copy(2, 5), STATE)
    assert taken == ImportState(1, NAME, "a1.1", UNITS, 2, 7, b"kept")
    (told,) = bench.caches.imported(StateImported(1))
    assert isinstance(told, Transmit)
    header = told.activation.header
    assert told.receiver == "a"
    assert (header.kind, header.target, header.request) == ("done", DOOR, ID)
    assert header.rows == (Row("a1.1", 7, 0, 1),)
    assert bench.relay.sessions() == {NAME: 1}


def test_what_lacks_positions_says_how_many_it_has() -> None:
    bench = Bench(A)
    bench.asked(copy(9, 5), STATE)
    told = only(bench.caches.stale(StateStale(1, 4)))
    assert (told.kind, told.rows) == ("stale", (Row("a1.1", 4, 0, 1),))
    bench.asked(copy(), STATE)
    assert only(bench.caches.stale(StateStale(2))).rows == ()


@pytest.mark.parametrize(
    "wrong",
    [
        order(0, 0),
        replace(order(), target="s0"),
        replace(order(), copy=Copy(UnitRange(2, 4), NEW.stamp, "s0")),
        replace(order(), copy=Copy(UNITS, NEW.stamp, "s1")),
        replace(order(), copy=Copy(UNITS, NEW.stamp._replace(epoch=9), "s0")),
        replace(order(), stamp=OLD.stamp._replace(epoch=9)),
        order(0, 9 * caches.COPY_BYTES_MAX // 1024),
    ],
)
def test_what_a_node_cannot_send_it_refuses(wrong: Header) -> None:
    told = only(Bench(B).asked(wrong))
    assert (told.kind, told.rows, told.request) == ("stale", (), ID)


def test_what_is_for_another_life_of_the_node_is_let_pass() -> None:
    assert Bench(("b", "b2")).asked(order()) == []
    assert Bench(A).asked(replace(copy(), edge=None), STATE) == []
    assert Bench(A).asked(replace(copy(), rows=()), STATE) == []


def test_what_is_no_state_is_lost() -> None:
    assert only(Bench(A).asked(copy())).kind == "lost"
    assert only(Bench(A).asked(copy(), replace(STATE, name="h"))).kind == "lost"


def test_what_is_longer_than_it_says_is_lost() -> None:
    """Its room is charged by its positions."""
    bench, nbytes = Bench(A), caches.copy_bytes_max(GRAPH, UNITS, 5)
    state = replace(STATE, shape=(nbytes,), data=bytes(nbytes))
    assert isinstance(bench.asked(copy(), state)[-1], ImportState)
    longer = replace(STATE, shape=(nbytes + 1,), data=bytes(nbytes + 1))
    assert only(bench.asked(copy(), longer)).kind == "lost"
    assert only(bench.asked(copy(0, 0), STATE)).kind == "stale"


def test_copies_take_no_more_room_than_steps() -> None:
    bench = Bench(A, kv_mib_max=1, sessions_max=1)
    told: Effects = []
    for number in range(1, 20):
        told += bench.asked(copy(0, 200, session=f"a1.{number}"), STATE)
    kinds = [type(effect) for effect in told]
    assert kinds.count(ImportState) < 19
    refused = [effect for effect in told if isinstance(effect, Transmit)]
    assert {effect.activation.header.kind for effect in refused} == {"stale"}


def test_a_copy_for_a_session_that_has_ended_is_dropped() -> None:
    bench = Bench(A)
    bench.call(3, Row("a1.3"))
    assert bench.asked(copy(session="a1.2"), STATE) == []
    assert bench.asked(copy(session="a1.3"), STATE) != []
    assert bench.asked(copy(session="a1.4"), STATE) != [], "it began after the roll"


def test_a_copy_of_an_earlier_take_is_dropped() -> None:
    bench = Bench(A)
    assert bench.asked(copy(take=5), STATE) != []
    assert bench.asked(copy(take=4), STATE) == []
    other = Bench(A)
    other.call(1, Row("a1.1", 0, 1, 5))
    assert other.asked(copy(take=4), STATE) == []


def test_what_is_held_of_an_earlier_take_goes_first() -> None:
    bench = Bench(A)
    bench.asked(copy(take=4), STATE)
    closed, taken = bench.asked(copy(take=5), STATE)
    assert closed == CloseSessions(NAME, ("a1.1",))
    assert isinstance(taken, ImportState)


def test_few_are_in_the_engines_hands_at_once() -> None:
    bench = Bench(B)
    for _ in range(caches.JOBS_MAX):
        assert isinstance(bench.asked(order())[0], ExportState)
    assert only(bench.asked(order())).kind == "stale"


def test_little_is_in_the_engines_hands_at_once() -> None:
    bench, most = Bench(B), caches.COPY_BYTES_MAX // 1024 // 3
    orders = [bench.asked(order(0, most)) for _ in range(4)]
    assert [type(effect) for (effect,) in orders] == [ExportState] * 2 + [Transmit] * 2
    bench.caches.exported(StateExported(1, b"kept"))
    assert isinstance(bench.asked(order(0, most))[0], ExportState)


def test_a_single_position_may_be_large_where_nothing_else_is() -> None:
    large = replace(GRAPH.units[3], state_bytes=2 * caches.COPY_BYTES_MAX)
    bench = Bench(B, graph=replace(GRAPH, units=(*GRAPH.units[:3], large, *GRAPH.units[4:])))
    assert only(bench.asked(order(0, 2))).kind == "stale"
    assert isinstance(bench.asked(order(0, 1))[0], ExportState)
    assert only(bench.asked(order(1, 1))).kind == "stale"


def test_when_the_model_closes_who_waits_is_told() -> None:
    bench = Bench(B)
    bench.asked(order())
    assert only(bench.relay.model_closed(NAME, 0.0)).kind == "stale"
    assert not bench.caches.exported(StateExported(1, b""))


def test_when_the_target_is_known_no_more_nothing_is_sent() -> None:
    bench = Bench(B)
    bench.asked(order())
    third = make_table((A, (0, 1)), (B, (1, 6)), epoch=3)
    bench.holdings.document_arrived(NAME, TableDocument(OLD, third))
    assert only(bench.caches.exported(StateExported(1, b"kept"))).kind == "stale"
