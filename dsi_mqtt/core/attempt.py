"""One attempt: a way through the chain of one table, and what a door says about it.

Of a one-pass request, or of a *step* of generations: then `request` is the step's own id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dsi_mqtt.core.activation import TOKENS, Row, Tensor, Tensors, pack_body
from dsi_mqtt.core.effects import Effects, Transmit
from dsi_mqtt.core.generation import Sampling
from dsi_mqtt.core.message import Activation, Credit, Header, MessageKind
from dsi_mqtt.core.request import Input
from dsi_mqtt.core.table import DOOR, Segment, Table


@dataclass(frozen=True, slots=True)
class Attempt:
    """door: node and incarnation that wait for the answer; number: 1 for the first attempt. lane:
    by which replicas are chosen.
    """

    request: bytes
    number: int
    table: Table
    door: tuple[str, str]
    lane: int = 0

    def start(self, given: Input, time_left_s: float) -> Transmit:
        """Into the first segment. No credit: the door's window bounds this edge."""
        parsed = given.parsed
        header = self._header(
            "request", self._first, rows=(Row(),), budget_ms=max(1, int(time_left_s * 1000))
        )
        return self._transmit(header, self._first, pack_body(parsed.content_type, parsed.body))

    def step(
        self,
        rows: tuple[Row, ...],
        tokens: Sequence[int],
        sampling: tuple[Sampling | None, ...],
        time_left_s: float,
    ) -> Transmit:
        """tokens: of all rows, one row's behind the other's."""
        count = rows[0].tokens
        header = self._header(
            "decode" if count == 1 else "prefill",
            self._first,
            rows=rows,
            sampling=sampling,
            budget_ms=max(1, int(time_left_s * 1000)),
        )
        data = np.array(tokens, "<i8").tobytes()
        fed = Tensor(TOKENS, "int64", (len(rows), count), data)
        return self._transmit(header, self._first, (fed,))

    def probe(self) -> Transmit:
        """Behind the attempt, along the same edges: who has it?"""
        credit = Credit(self.door[1], self._first.replica(self.lane).incarnation, 0, 0, probe=True)
        header = self._header("credit", self._first, credit=credit)
        return self._transmit(header, self._first)

    def cancel(self) -> Effects:
        """Tells every segment to forget it."""
        return [
            self._transmit(self._header("cancel", segment), segment)
            for segment in self.table.segments
        ]

    def is_lost(self, table: Table) -> bool:
        """Whether `table`, which serves, says that somebody on its way is gone."""
        on_its_way = [segment.replica(self.lane) for segment in self.table.segments]
        return table.lost(self.table, [(r.node, r.incarnation) for r in on_its_way])

    @property
    def _first(self) -> Segment:
        return self.table.segments[0]

    def _header(
        self,
        kind: MessageKind,
        target: Segment,
        *,
        rows: tuple[Row, ...] = (),
        budget_ms: int | None = None,
        credit: Credit | None = None,
        sampling: tuple[Sampling | None, ...] = (),
    ) -> Header:
        return Header(
            kind,
            self.table.model_name,
            self.table.stamp,
            DOOR,
            target.id,
            self.request,
            self.number,
            door=self.door[0],
            rows=rows,
            budget_ms=budget_ms,
            credit=credit,
            sampling=sampling,
            lane=self.lane,
        )

    def _transmit(self, header: Header, target: Segment, tensors: Tensors = ()) -> Transmit:
        return Transmit(target.replica(self.lane).node, Activation(header, tensors))
