"""The generations of a deployment's own model, and those of its fallback, at one door.

Token ids, caches and texts of the one mean nothing to the other, so each has `Generations` of its
own, and a session never goes over: where it cannot end on its model, it begins anew on the other,
unless its device has been told a part of it already.

| what serves | sessions of the own model | those of the fallback |
|---|---|---|
| the own model | run | who runs ends on its table, while all of that is there; others go over |
| the fallback | go over | run |
| nothing | wait | wait |

*Go over*: who has been told nothing begins anew on what serves, the others end as `unavailable`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from dsi_mqtt.core.deployment import FALLBACK_MARK, Deployment
from dsi_mqtt.core.effects import Effects
from dsi_mqtt.core.events import PartialTaken
from dsi_mqtt.core.generations import Generations
from dsi_mqtt.core.line import Request
from dsi_mqtt.core.message import Activation, Header
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.peers import Member, Peers
from dsi_mqtt.core.runs import Calls, Runs, TextEvent
from dsi_mqtt.core.table import Stamp, Table


class TwoModels(Runs):
    """State machine of all sessions of one door; see `Runs`.

    numbers: for sessions and steps; none twice in this incarnation of the node.
    """

    def __init__(
        self, door: Member, spec: Deployment, peers: Peers, numbers: Iterator[int], calls: Calls
    ) -> None:
        self._peers = peers
        self._table: Table | None = None
        self.own, self.other = (
            Generations(door, spec, peers, numbers, self._calls(calls, fallback), fallback=fallback)
            for fallback in (False, True)
        )
        self._both = (self.own, self.other)

    def _calls(self, calls: Calls, fallback: bool) -> Calls:
        """What is measured says something of the table that serves alone."""

        def counts() -> bool:
            return self._table is not None and self._table.is_fallback == fallback

        return replace(
            calls,
            began=lambda request, now: calls.began(request, now) if counts() else None,
            timed=lambda seconds: calls.timed(seconds) if counts() else None,
            told=lambda prompt, new: calls.told(prompt, new) if counts() else None,
        )

    # --- questions ----------------------------------------------------------------------------

    @property
    def starting(self) -> bool:
        return self.own.starting

    @starting.setter
    def starting(self, starting: bool) -> None:
        self.own.starting = self.other.starting = starting

    @property
    def beside(self) -> bool:
        return self.own.beside

    @beside.setter
    def beside(self, beside: bool) -> None:
        self.own.beside = self.other.beside = beside

    @property
    def table(self) -> Table | None:
        return self._table

    @property
    def retried(self) -> int:
        return self.own.retried + self.other.retried

    @property
    def in_flight(self) -> int:
        return self.own.in_flight + self.other.in_flight

    def oldest(self) -> Stamp:
        return min(each.oldest() for each in self._both)

    def is_recording(self, request: Request) -> bool:
        return self._of(request.id).is_recording(request)

    def may_be_left(self, request: Request) -> bool:
        return self._of(request.id).may_be_left(request)

    def has_begun(self, request: Request) -> bool:
        return self._of(request.id).has_begun(request)

    # --- what is there ------------------------------------------------------------------------

    def spec_changed(self, spec: Deployment) -> None:
        for each in self._both:
            each.spec_changed(spec)

    def model_is(self, graph: ModelGraph | None, now: float, *, fallback: bool = False) -> Effects:
        return (self.other if fallback else self.own).model_is(graph, now)

    def table_changed(self, table: Table, now: float) -> Effects:
        self._table = table
        if table.is_fallback:
            effects = self.other.table_changed(table, now)
            return [*effects, *self._go_over(self.own, self.other, now)]
        effects = self.own.table_changed(table, now)
        if not table.serves:
            return [*effects, *self.other.table_changed(table, now)]
        return [*effects, *self._make_way(now)]

    def peers_changed(self, now: float) -> Effects:
        effects = [effect for each in self._both for effect in each.peers_changed(now)]
        return [*effects, *self._make_way(now)]

    def data_reconnected(self, now: float) -> Effects:
        return [effect for each in self._both for effect in each.data_reconnected(now)]

    # --- requests -----------------------------------------------------------------------------

    def join(self, request: Request, now: float) -> Effects:
        by_fallback = self._table is not None and self._table.is_fallback
        return (self.other if by_fallback else self.own).join(request, now)

    def retained(self, request: Request, now: float) -> Effects:
        return self._of(request.id).retained(request, now)

    def end(self, request: Request, now: float, *, cancel: bool) -> Effects:
        return self._of(request.id).end(request, now, cancel=cancel)

    def earn(self) -> None:
        """Nothing is measured by answers here."""

    def repeated(self, request: Request) -> Effects:
        return self._of(request.id).repeated(request)

    def device_spoke(self, device: str, now: float) -> None:
        for each in self._both:
            each.device_spoke(device, now)

    def hearing(self, *, hears: bool) -> None:
        for each in self._both:
            each.hearing(hears=hears)

    def hearing_proven(self, asked_at: float, now: float) -> None:
        for each in self._both:
            each.hearing_proven(asked_at, now)

    # --- the chain ----------------------------------------------------------------------------

    def done(self, activation: Activation, now: float) -> Effects:
        return self._named(activation.header.deployment).done(activation, now)

    def broke(self, header: Header, now: float) -> Effects:
        return self._named(header.deployment).broke(header, now)

    def alive(self, header: Header, now: float) -> None:
        self._named(header.deployment).alive(header, now)

    def text_event(self, event: TextEvent, now: float) -> Effects:
        """Of a text that has gone over, what is still said by its former model is no matter."""
        known = isinstance(event, PartialTaken)
        about = self._of(event.request) if known else self._named(event.deployment)
        return about.text_event(event, now)

    def tick(self, now: float) -> Effects:
        effects = [effect for each in self._both for effect in each.tick(now)]
        return [*effects, *self._make_way(now)]

    def next_tick(self) -> float:
        return -math.inf

    def pump(self, now: float) -> Effects:
        return [effect for each in self._both for effect in each.pump(now)]

    # --- parts --------------------------------------------------------------------------------

    def _of(self, request: bytes) -> Generations:
        """Whose session it is."""
        return self.other if self.other.has(request) else self.own

    def _named(self, model: str) -> Generations:
        return self.other if model.endswith(FALLBACK_MARK) else self.own

    def _make_way(self, now: float) -> Effects:
        """The own model serves: the fallback finishes what runs there, if it can, and rests."""
        if self._table is None or not self._table.serves or self._table.is_fallback:
            return []
        last = self.other.table
        if last is not None and last.serves and not self._peers.lacks(last):
            effects = self._handed(self.other, self.own, now, running=False)
            if self.other.in_flight:
                return effects
            return [*effects, *self._go_over(self.other, self.own, now)]
        return self._go_over(self.other, self.own, now)

    def _go_over(self, left: Generations, taking: Generations, now: float) -> Effects:
        """Nothing of `left` runs any more."""
        table, last = self._table, left.table
        if table is None or (last and (last.stamp, last.serves) == (table.stamp, False)):
            return []
        effects = left.table_changed(_resting(table), now)
        return [*effects, *self._handed(left, taking, now, running=True)]

    def _handed(
        self, left: Generations, taking: Generations, now: float, *, running: bool
    ) -> Effects:
        effects, requests = left.hand_over(now, running=running)
        for request in requests:
            effects += taking.join(request, now)
        return effects


def _resting(table: Table) -> Table:
    """For the model that does not serve while `table`, of the other one, does."""
    return replace(table, state="unavailable", segments=(), hops=(), transfers=(), forecast=None)
