"""A door's attempts: which requests are in the chain, and what ends an attempt.

A broken chain is not mended hop by hop: the door sends again on the current table, only on
evidence, with one attempt of a request in flight at most.

| evidence | what follows |
|---|---|
| `lost` from a segment | again at once |
| `stale` from a segment | again, later and later: that node left the table, or is behind it |
| a member lives as another incarnation | dead: a suspect; again, once a table without it serves |
| a member is said to be offline, and a newer table serves | the same; again on that table |
| a newer table says that a member is gone | again on that table |
| four probes without a reply | again |

A death is counted for a request that was alone in the chain, by chance or as a suspect: beside
others nobody can say whose it was.

A probe runs along the chain behind the attempt on the same ordered edges; whoever does not know
the attempt when the probe comes never will, and says `lost`.

A request ends with an error when nodes died with it alone three times (`poison`), when five other
attempts broke or the retry budget, which deaths do not touch, is spent (`unavailable`), or when the
time left does not cover another attempt (`deadline`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count
from typing import Final

from dsi_mqtt.core.activation import unpack_body
from dsi_mqtt.core.answers import RetryBudget
from dsi_mqtt.core.attempt import Attempt
from dsi_mqtt.core.deployment import Deployment, InputLimits
from dsi_mqtt.core.effects import Effects, Transmit
from dsi_mqtt.core.line import Line, Request
from dsi_mqtt.core.message import Activation, Failure, Header
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.overload import WAITING_BYTES_MAX, Pace
from dsi_mqtt.core.peers import Member, Peers
from dsi_mqtt.core.request import Input, Reply
from dsi_mqtt.core.runs import Calls, Runs, TextEvent
from dsi_mqtt.core.table import Stamp, Table
from dsi_mqtt.core.tally import Tally
from dsi_mqtt.errors import WireError, one_sentence

POISON_AT: Final = 3
BROKEN_MAX: Final = 5
PROBE_AFTER_S: Final = 0.5
PROBES_UNANSWERED_MAX: Final = 4
STALE_FIRST_S: Final = 0.2
STALE_MAX_S: Final = 2.0

POISON: Final = Failure(
    "poison", "this input has ended its worker three times and is not tried again"
)
BROKEN: Final = Failure("unavailable", "the chain broke repeatedly; try again later")
NO_TIME: Final = Failure("deadline", "the time left does not cover another attempt; try again")


class Attempts(Runs):
    """State machine of the requests that wait or run; see `Runs`."""

    def __init__(self, door: Member, limits: InputLimits, peers: Peers, calls: Calls) -> None:
        self._door = door
        self._limits = limits
        self._peers = peers
        self._calls = calls
        self._table: Table | None = None
        self._line = Line()
        self._unbegun = Tally()
        self._running: dict[bytes, Request] = {}
        self._budget = RetryBudget()
        self._pace = Pace()
        self._lanes = count()
        self._quickest_s = math.inf  # of attempts on this table
        self.starting = True
        self._beside = False
        self._retried = 0

    # --- questions ----------------------------------------------------------------------------

    @property
    def beside(self) -> bool:
        return self._beside

    @beside.setter
    def beside(self, beside: bool) -> None:
        self._beside = beside
        for request in self._running.values():
            request.alone = request.alone and not beside

    @property
    def table(self) -> Table | None:
        return self._table

    @property
    def retried(self) -> int:
        return self._retried

    @property
    def in_flight(self) -> int:
        return len(self._running)

    def is_recording(self, request: Request) -> bool:
        return request.state == "recording"

    def may_be_left(self, request: Request) -> bool:
        return not self.has_begun(request)

    def has_begun(self, request: Request) -> bool:
        return request.state == "running"

    def oldest(self) -> Stamp:
        used = [r.attempt.table.stamp for r in self._running.values() if r.attempt]
        if self._table is not None:
            used.append(self._table.stamp)
        return min(used, default=Stamp(0, "", 0))

    # --- events -------------------------------------------------------------------------------

    def spec_changed(self, spec: Deployment) -> None:
        self._limits = spec.input

    def model_is(
        self,
        graph: ModelGraph | None,  # noqa: ARG002 - nothing of it is used here
        now: float,  # noqa: ARG002 - the same
        *,
        fallback: bool = False,  # noqa: ARG002 - the same
    ) -> Effects:
        return []

    def table_changed(self, table: Table, now: float) -> Effects:
        """What is under way on nodes that are gone breaks off; on those that have been left it is
        asked for at once, and but once: they may have gone silent since.
        """
        if self._table is None or table.stamp != self._table.stamp:
            self._pace.clear()
            self._quickest_s = math.inf
        self._table = table
        if table.door is not None:
            self._budget.window_is(table.door.window)
        effects = self._mourned(now)
        for request in reversed(list(self._running.values())):  # each goes to the front again
            attempt = request.attempt
            if attempt is None:
                continue
            if attempt.is_lost(table):
                effects += self._break_off(request, now, death=True)
            elif table.leaves(attempt.table) and request.probes < PROBES_UNANSWERED_MAX:
                request.probes = PROBES_UNANSWERED_MAX - 1  # else an answer is due
                effects += self._probe(request, now)
        return [*effects, *self.pump(now)]

    def peers_changed(self, now: float) -> Effects:
        return [*self._mourned(now), *self.pump(now)]

    def _mourned(self, now: float) -> Effects:
        """What is under way on nodes that are dead, by proof or hint, breaks off: suspects."""
        effects: Effects = []
        for request in reversed(list(self._running.values())):  # each goes to the front again
            used = request.attempt.table if request.attempt else None
            if used is None:
                continue
            superseded = self._table is not None and used.stamp < self._table.stamp
            if self._peers.disproves(used) or (superseded and self._peers.lacks(used)):
                request.suspect = True
                request.deaths += request.alone
                effects += self._break_off(request, now, death=True, counted=request.alone)
        return effects

    def join(self, request: Request, now: float) -> Effects:
        request.state = "waiting"
        fresh = self._line.fresh
        if not request.suspect:
            device, left_s = request.given.device, request.deadline - now
            refusal = self._pace.refuses(
                lambda: fresh.ahead(device, request.priority), len(fresh), left_s
            )
            if refusal is not None:
                return self._calls.give_up(request, refusal, now)
            self._unbegun.add(request)
        self._line.join(request)
        return [*self.pump(now), *self._make_room(request, now)]

    def retained(self, request: Request, now: float) -> Effects:
        self._running.pop(request.id, None)
        request.state = "waiting"
        self._line.join(request, first=True)
        return self.pump(now)

    def end(self, request: Request, now: float, *, cancel: bool) -> Effects:
        self._line.leave(request)
        self._unbegun.discard(request)
        if self._running.pop(request.id, None) is not None:
            self._pace.through(now, others_wait=bool(self._line.fresh))
        attempt, request.attempt = request.attempt, None
        return attempt.cancel() if cancel and attempt is not None else []

    def earn(self) -> None:
        self._budget.earn()

    def repeated(self, request: Request) -> Effects:  # noqa: ARG002 - nothing is told before the answer
        return []

    def device_spoke(self, device: str, now: float) -> None:
        """Its silence would end nothing."""

    def hearing(self, *, hears: bool) -> None:
        """Nobody is listened to."""

    def hearing_proven(self, asked_at: float, now: float) -> None:
        """Nobody is listened to."""

    def text_event(self, event: TextEvent, now: float) -> Effects:  # noqa: ARG002 - from before the deployment changed its kind
        return []

    def done(self, activation: Activation, now: float) -> Effects:
        """Results count from whichever attempt they come; failures only from the present one."""
        header = activation.header
        request = self._running.get(header.request) or self._line.find(header.request)
        if request is None or request.state == "recording":
            return []
        present = request.attempt is not None and request.attempt.number == header.attempt
        if header.failure is None:
            fallback = header.attempt in request.on_fallback
            reply = replace(_result(request.given, activation), fallback=fallback)
        elif present:
            reply = Reply.error(request.given, header.failure)
        else:
            return []
        effects = self.end(request, now, cancel=not present)
        if present and header.failure is None:
            self._quickest_s = min(self._quickest_s, now - request.started)
        if request.suspect:
            self._pace.interrupted()
        return [*effects, *self._calls.conclude(request, reply, now), *self.pump(now)]

    def broke(self, header: Header, now: float) -> Effects:
        request = self._present(header)
        if request is None:
            return []
        if header.kind == "stale":
            effects = self._wait_for_table(request, now)
        else:
            effects = self._break_off(request, now)
        return [*effects, *self.pump(now)]

    def alive(self, header: Header, now: float) -> None:
        request = self._present(header)
        if request is not None and request.attempt is not None:
            request.probes = 0
            request.probe_at = now + probe_after_s(request.attempt.table)

    def data_reconnected(self, now: float) -> Effects:
        effects: Effects = []
        for request in list(self._running.values()):
            effects += self._probe(request, now)
        return [*effects, *self.pump(now)]

    def tick(self, now: float) -> Effects:
        effects: Effects = []
        for request in list(self._running.values()):
            if request.probe_at <= now:
                effects += self._probe(request, now)
        return [*effects, *self.pump(now)]

    def next_tick(self) -> float:
        probes = [r.probe_at for r in self._running.values() if r.attempt is not None]
        return min([self._line.next_due(), *probes])

    def pump(self, now: float) -> Effects:
        table = self._table
        if table is None or not table.serves or table.door is None or not self.starting:
            return []
        if self._peers.lacks(table):
            self._pace.interrupted()
            return []  # it will be replaced, or its node will speak again
        effects: Effects = []
        window = table.door.window
        running = self._running.values()
        while (
            request := self._line.next_up(running, window, now, beside=self._beside)
        ) is not None:
            self._unbegun.discard(request)
            # A first attempt is always worth it; another only where what is left is enough for it,
            # by the forecast or, as that may be wrong, by what one has taken.
            needed_s = min(_forecast_s(table), self._quickest_s)
            if request.attempts and request.deadline - now < needed_s:
                effects += self._calls.give_up(request, NO_TIME, now)
            elif request.suspect and not request.recorded:
                request.state = "recording"
                self._running[request.id] = request  # nothing runs beside it from here on
                effects += self._calls.retain(request, now)
            else:
                effects.append(self._start(request, table, now))
        return effects

    # --- parts --------------------------------------------------------------------------------

    def _make_room(self, came: Request, now: float) -> Effects:
        """Refuses what is too much, of what has never been in the chain."""
        unbegun = self._unbegun
        effects: Effects = []
        while (many := len(unbegun) > self._limits.queue_max) or (
            len(unbegun) > 1 and unbegun.nbytes > WAITING_BYTES_MAX
        ):
            found = unbegun.surplus(came, by_bytes=not many)
            if found is None:
                break
            effects += self._calls.give_up(found[0], self._pace.full(found[1]), now)
        return effects

    def _present(self, header: Header) -> Request | None:
        """The request whose attempt in the chain this message is about."""
        request = self._running.get(header.request)
        if request is None or request.attempt is None:
            return None
        return request if request.attempt.number == header.attempt else None

    def _start(self, request: Request, table: Table, now: float) -> Transmit:
        request.attempts += 1
        if table.is_fallback:
            request.on_fallback = (*request.on_fallback, request.attempts)
        request.state, request.probes = "running", 0
        request.attempt = Attempt(
            request.id, request.attempts, table, self._door, next(self._lanes)
        )
        request.probe_at = now + probe_after_s(table)
        request.started = now
        request.alone = not self._running and not self._beside
        for other in self._running.values():
            other.alone = False
        self._running[request.id] = request
        return request.attempt.start(request.given, request.deadline - now)

    def _break_off(
        self, request: Request, now: float, *, death: bool = False, counted: bool = False
    ) -> Effects:
        """Ends the attempt on evidence, and lets the request run again if it may.

        death: of a node, which spends nothing of the budget: a table without that node serves, so
        that no more comes of it than one attempt each. counted: what has a bound of its own spends
        no other.
        """
        effects = [*self.end(request, now, cancel=True), *self._calls.settle(request, now)]
        self._pace.interrupted()
        request.broken += not counted
        if request.deaths >= POISON_AT:
            return effects + self._calls.give_up(request, POISON, now)
        if request.broken >= BROKEN_MAX or not (death or self._budget.spend()):
            return effects + self._calls.give_up(request, BROKEN, now)
        self._line_up(request, now)
        return effects

    def _wait_for_table(self, request: Request, now: float) -> Effects:
        """A node refused it: it has left this table, or is behind it. Nothing is broken by that."""
        used = request.attempt.table if request.attempt else None
        effects = [*self.end(request, now, cancel=True), *self._calls.settle(request, now)]
        self._pace.interrupted()
        wait_s = 0.0
        if used is not None and self._table is not None and used.stamp >= self._table.stamp:
            wait_s = min(STALE_FIRST_S * 2**request.stale, STALE_MAX_S)
            request.stale += 1
        self._line_up(request, now + wait_s)
        return effects

    def _line_up(self, request: Request, not_before: float) -> None:
        self._retried += 1
        request.state, request.not_before = "waiting", not_before
        self._line.join(request, first=True)

    def _probe(self, request: Request, now: float) -> Effects:
        if request.attempt is None:
            return []
        if request.probes >= PROBES_UNANSWERED_MAX:
            return self._break_off(request, now)
        request.probes += 1
        request.probe_at = now + PROBE_AFTER_S
        return [request.attempt.probe()]


def probe_after_s(table: Table, *, decodes: bool = False) -> float:
    """An attempt that takes twice what one takes that waits for none is asked for."""
    forecast = table.forecast
    if decodes and forecast is not None and forecast.token_p50_ms is not None:
        return max(PROBE_AFTER_S, 2 * forecast.token_p50_ms / 1000)
    return max(PROBE_AFTER_S, 2 * _forecast_s(table))


def _result(given: Input, activation: Activation) -> Reply:
    try:
        return Reply.result(given, *unpack_body(activation.tensors))
    except WireError as error:
        message = one_sentence(f"the head made no readable result: {error}")
        return Reply.error(given, Failure("model_failed", message))


def _forecast_s(table: Table) -> float:
    return table.forecast.p50_ms / 1000 if table.forecast else 0.0
