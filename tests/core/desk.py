"""A door to try things on, with what it asks for sorted by kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.door import Door
from dsi_mqtt.core.effects import (
    Acknowledge,
    Effects,
    PublishReply,
    Transmit,
    WriteRecord,
)
from dsi_mqtt.core.message import Activation, Failure, Header, MessageKind
from dsi_mqtt.core.node import NodeState
from dsi_mqtt.core.peers import Peers
from dsi_mqtt.core.request import Input, Reply
from dsi_mqtt.core.table import Table
from tests.core.build import (
    A,
    B,
    C,
    Member,
    make_done,
    make_spec,
    make_status,
    make_table,
)

ON_B = make_table((A, (0, 3)), (B, (3, 6)), epoch=1)
ON_C = make_table((A, (0, 3)), (C, (3, 6)), epoch=2)


class Desk:
    """A door on node a, with what it asked for sorted by kind, since the last look."""

    def __init__(
        self, table: Table | None = ON_B, spec: Deployment | None = None, door: Member = A
    ) -> None:
        self.peers = Peers()
        self.door = Door(*door, spec or make_spec(), self.peers, count(1))
        self.now = 0.0
        self.effects: Effects = []
        if table is not None:
            self.serve(table)

    def do(self, effects: Effects) -> Desk:
        self.effects += effects
        return self

    def serve(self, table: Table) -> Desk:
        return self.do(self.door.named(table, self.now))

    def give(self, *inputs: Input) -> Desk:
        for given in inputs:
            self.do(self.door.input_arrived(given, self.now))
        return self

    def wait(self, seconds: float) -> Desk:
        self.now += seconds
        return self.do(self.door.tick(self.now))

    def hear(self, member: Member, state: NodeState = "online") -> Desk:
        self.peers.heard(make_status(member, state))
        return self.do(self.door.peers_changed(self.now))

    def say(self, kind: MessageKind, about: Header) -> Desk:
        return self.do(self.door.broke(replace(about, kind=kind), self.now))

    def done(self, about: Header, body: bytes = b"result") -> Desk:
        return self.do(self.door.done(make_done(about, body), self.now))

    def failed(self, about: Header, failure: Failure) -> Desk:
        done = replace(make_done(about).header, failure=failure)
        return self.do(self.door.done(Activation(done), self.now))

    def take(self) -> Desk:
        """The broker takes every answer that is out."""
        for effect in [e for e in self.effects if isinstance(e, PublishReply)]:
            self.do(self.door.reply_published(effect.request, self.now))
        return self

    def retain(self) -> Desk:
        """The broker takes every record that is out."""
        for effect in [e for e in self.effects if isinstance(e, WriteRecord)]:
            if not effect.record.void:
                self.do(self.door.record_written(effect.record, self.now))
        return self

    # --- what it asked for --------------------------------------------------------------------

    def look(self) -> Effects:
        effects, self.effects = self.effects, []
        return effects

    def sent(self, kind: MessageKind = "request") -> list[Header]:
        found = [e.activation.header for e in self.effects if isinstance(e, Transmit)]
        self.effects = [
            e
            for e in self.effects
            if not (isinstance(e, Transmit) and e.activation.header.kind == kind)
        ]
        return [header for header in found if header.kind == kind]

    def replies(self) -> list[Reply]:
        return [e.reply for e in self.effects if isinstance(e, PublishReply)]

    def codes(self) -> list[str]:
        return [reply.failure.code if reply.failure else "ok" for reply in self.replies()]

    def acknowledged(self) -> list[int]:
        return [e.receipt for e in self.effects if isinstance(e, Acknowledge)]

    def records(self) -> list[str]:
        """Each as its count, and a + where a door has the input in the chain."""
        records = [e.record for e in self.effects if isinstance(e, WriteRecord)]
        return [f"{record.count}{'+' if record.door else ''}" for record in records]


def numbers(headers: Sequence[Header]) -> list[int]:
    """Which inputs, by their receipts."""
    return [int.from_bytes(header.request, "big") - 1 for header in headers]
