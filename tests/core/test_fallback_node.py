"""A node with two models of one deployment: what it opens, holds, computes and answers."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np

from dsi_mqtt.core import effects as fx
from dsi_mqtt.core import events as ev
from dsi_mqtt.core.activation import TOKENS, Row, Tensor, pack_body
from dsi_mqtt.core.deployment import FALLBACK_MARK, Fallback, Generation
from dsi_mqtt.core.effects import Effects
from dsi_mqtt.core.message import Activation, Header
from dsi_mqtt.core.model import Vocabulary
from dsi_mqtt.core.node import Capabilities
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.core.table import DOOR, BrokerUrls, ModelRef, Table
from dsi_mqtt.core.worker import Worker
from tests.core.build import NAME, A, document, make_done, make_graph, make_input, make_spec
from tests.core.build import make_table as table_of

SMALL = NAME + FALLBACK_MARK
SPEC = replace(make_spec(), fallback=Fallback("/tiny"))
E = TypeVar("E", bound=fx.Effect)


def own(epoch: int) -> Table:
    return table_of((A, (0, 6)), epoch=epoch)


def fallback(epoch: int) -> Table:
    table = table_of((A, (0, 2)), epoch=epoch, digest="m2")
    return replace(table, state="fallback", model=ModelRef("m2", 2, "fake", fallback=True))


class Node:
    """Node a with both models open; engines load at once. room: in bytes, 10 a unit."""

    def __init__(self, room: int = 1000) -> None:
        self.now = 0.0
        self.effects: Effects = []
        self.worker = Worker(
            *A,
            zone="zone",
            capabilities=Capabilities(weight_bytes=room),
            brokers=BrokerUrls("mqtt://control", "mqtt://data"),
        )

    def ready(self) -> Node:
        self.on(ev.SpecArrived(SPEC))
        self.on(ev.ModelOpened(NAME, make_graph(6)))
        return self.on(ev.ModelOpened(SMALL, make_graph(2, digest="m2")))

    def on(self, event: ev.Event) -> Node:
        effects = self.worker.handle(event, self.now)
        self.effects += effects
        for load in [e for e in effects if isinstance(e, fx.LoadUnits)]:
            self.on(ev.UnitsLoaded(load.deployment, load.units, 1.0))
        return self

    def serve(self, serve: Table | None, prepare: Table | None = None) -> Node:
        return self.on(ev.TableArrived(NAME, document(serve, prepare)))

    def took(self, kind: type[E]) -> list[E]:
        found: list[E] = [e for e in self.effects if isinstance(e, kind)]
        self.effects = [e for e in self.effects if not isinstance(e, kind)]
        return found

    def holds(self) -> set[tuple[str, str]]:
        return {(h.deployment, h.state) for h in self.worker.status().holdings}

    def ask(self, number: int) -> Header:
        self.on(ev.InputArrived(NAME, make_input(number)))
        (sent,) = self.took(fx.Transmit)
        self.on(ev.ActivationArrived(sent.activation))
        return sent.activation.header


def test_both_models_are_opened_and_described_apart() -> None:
    node = Node().ready()
    assert {e.deployment.name for e in node.took(fx.OpenModel)} == {NAME, SMALL}
    told = {m.deployment: m for m in node.worker.status().models}
    assert {name: m.graph and m.graph.digest for name, m in told.items()} == {
        NAME: "m1",
        SMALL: "m2",
    }
    assert told[NAME].opening != told[SMALL].opening
    assert node.worker.status().seen.keys() == {NAME}


def test_results_of_the_fallback_are_computed_by_its_engine_and_marked() -> None:
    node = Node().ready().serve(fallback(1)).on(ev.IngressOpened(NAME))
    assert [e.deployment for e in node.took(fx.LoadUnits)] == [SMALL]
    assert node.holds() == {(SMALL, "ready")}
    header = node.ask(1)
    (job,) = node.took(fx.Compute)
    assert (job.deployment, job.units) == (SMALL, (0, 2))
    assert [load.requests for load in node.worker.segment_loads()] == [1]
    node.on(ev.Computed(job.job, pack_body("text/plain", b"cat"), 0.01))
    (answer,) = node.took(fx.Transmit)
    node.on(ev.ActivationArrived(answer.activation))
    (published,) = node.took(fx.PublishReply)
    assert (published.deployment, published.reply.body) == (NAME, b"cat")
    assert published.reply.fallback
    assert header.deployment == SMALL


def test_the_way_back_is_made_before_the_fallback_is_let_go_of() -> None:
    node = Node().ready().serve(fallback(1)).on(ev.IngressOpened(NAME))
    under_way = node.ask(1)
    node.took(fx.Compute)
    node.serve(fallback(1), own(2))
    assert node.holds() == {(SMALL, "ready"), (NAME, "ready")}
    node.serve(own(2))
    assert node.holds() == {(SMALL, "ready"), (NAME, "ready")}
    own_header = node.ask(2)
    assert own_header.deployment == NAME
    node.on(ev.ActivationArrived(make_done(under_way, b"old")))
    node.on(ev.ActivationArrived(make_done(own_header, b"new")))
    replies = [e.reply for e in node.took(fx.PublishReply)]
    assert [(r.body, r.fallback) for r in replies] == [(b"old", True), (b"new", False)]
    node.now += 1.0
    node.on(ev.Ticked())
    assert node.holds() == {(NAME, "ready")}
    assert [(e.deployment, e.units) for e in node.took(fx.DropUnits)] == [(SMALL, (0, 2))]


def test_what_does_not_fit_beside_the_other_waits_for_its_room() -> None:
    node = Node(room=60).ready().serve(fallback(1)).on(ev.IngressOpened(NAME))
    gone = replace(fallback(2), state="unavailable", segments=(), hops=(), model=None)
    node.serve(gone, own(3)).on(ev.Ticked())
    assert (NAME, "ready") in node.holds()
    assert [e.deployment for e in node.took(fx.DropUnits)] == [SMALL]


def test_a_table_that_comes_before_its_deployment_is_held_all_the_same() -> None:
    node = Node().serve(fallback(1)).ready()
    assert node.holds() == {(SMALL, "ready")}


def test_a_fallback_that_is_taken_out_of_the_file_is_closed() -> None:
    node = Node().ready().serve(own(1)).on(ev.IngressOpened(NAME))
    node.on(ev.SpecArrived(replace(SPEC, fallback=None)))
    assert [e.deployment for e in node.took(fx.CloseModel)] == [SMALL]
    assert [m.deployment for m in node.worker.status().models] == [NAME]


def test_with_the_deployment_both_are_closed() -> None:
    node = Node().ready()
    node.on(ev.SpecGone(NAME))
    assert {e.deployment for e in node.took(fx.CloseModel)} == {NAME, SMALL}


def test_caches_of_either_model_are_counted_on_its_own_tables() -> None:
    """The own model has units that the fallback has not, and both have tables in use here."""
    node = Node(room=10 * MIB)
    limits = Generation(context=64, kv_mib_max=1)
    node.on(ev.SpecArrived(replace(SPEC, kind="generation", generation=limits)))
    for name, graph in ((NAME, make_graph(6)), (SMALL, make_graph(2, digest="m2"))):
        units = tuple(replace(unit, state_bytes=16) for unit in graph.units)
        generates = replace(graph, units=units, vocabulary=Vocabulary(64, 100))
        node.on(ev.ModelOpened(name, generates))
    node.serve(own(1)).serve(own(1), fallback(2))
    node.on(ev.ActivationArrived(prefill(fallback(2)))).on(ev.ActivationArrived(prefill(own(1))))
    assert [e.deployment for e in node.took(fx.Compute)] == [SMALL, NAME]


def prefill(table: Table) -> Activation:
    header = Header(
        "prefill",
        table.model_name,
        table.stamp,
        DOOR,
        table.segments[0].id,
        bytes(16),
        1,
        door="a",
        rows=(Row("a1.1", 0, 2),),
        sampling=(None,),
    )
    tokens = np.array([[5, 6]], "<i8")
    return Activation(header, (Tensor(TOKENS, "int64", tokens.shape, tokens.tobytes()),))
