"""The door of one deployment: admits inputs, has them run, answers each one.

Life of an input:

    arrives ─► (repeats an answered one: the kept answer goes out again)
       │       (repeats one in progress: attached to it)
       ▼
    waiting ─► running: one attempt is in the chain ─► answering ─► acknowledged
       ▲          │ evidence that the attempt broke (`attempts`)
       └──────────┘ while tries, budget and time are left; else an error answer

Only an answer counts. The input stays unacknowledged until the broker has taken its answer, so
that a dead door's inputs go to the next door. What was handed out again, or was in a chain when
a node of it died, is a *suspect* and runs alone (`line`), so that a poisonous input is found by
its own deaths, those at which it was alone, and answered with an error at the third. That it runs
here is retained first, for the next death may be this door's, and taken back afterwards.

A door that is named no more finishes what it holds, on whichever table serves by then. What comes
meanwhile is the next door's (`hand_over`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Final

from dsi_mqtt.core.admission import complaint
from dsi_mqtt.core.answers import Cancelled, KeptAnswers
from dsi_mqtt.core.attempts import POISON, POISON_AT, Attempts
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.door_figures import DoorFigures
from dsi_mqtt.core.effects import (
    Acknowledge,
    ClearRetained,
    Effects,
    PublishReply,
    ReportStatus,
    WriteRecord,
)
from dsi_mqtt.core.hand_over import HandOver, as_input
from dsi_mqtt.core.line import AGAIN_FIRST_S, Request
from dsi_mqtt.core.message import Activation, Failure, Header
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.node import DoorLoad
from dsi_mqtt.core.overload import priority_of
from dsi_mqtt.core.peers import Member, Peers
from dsi_mqtt.core.request import Input, Redelivery, Reply
from dsi_mqtt.core.runs import Calls, Runs, TextEvent
from dsi_mqtt.core.suspects import Suspects
from dsi_mqtt.core.table import Stamp, Table
from dsi_mqtt.core.two_models import TwoModels
from dsi_mqtt.core.unserved import Unserved, why_unserved

AGAIN_MAX_S: Final = 30.0
# Errors that say nothing about their input.
PASSING: Final = frozenset({"cancelled", "deadline", "overloaded", "unavailable"})

CANCELLED: Final = Failure("cancelled", "cancelled by its device")
_REPLACED: Final = Failure("unavailable", "the deployment is of another kind now; ask again")


class Door:
    """State machine. `node` and `incarnation` are this node's; events come with `now` (s).

    numbers: whole numbers, none twice in this incarnation.
    """

    def __init__(
        self,
        node: str,
        incarnation: str,
        spec: Deployment,
        peers: Peers,
        numbers: Iterator[int],
    ) -> None:
        self._spec = spec
        self._numbers = numbers
        self._me = (node, incarnation)
        self._peers = peers
        self._figures = DoorFigures()
        self._suspects = Suspects(spec.name, incarnation, peers)
        self._runs = self._fresh_runs()
        self._requests: dict[bytes, Request] = {}
        self._by_key: dict[str, Request] = {}
        self._kept = KeptAnswers()
        self._cancelled = Cancelled()
        self._unserved = Unserved()
        self._hand_over = HandOver(spec.name, (node, incarnation), peers)
        self._refusal: Failure | None = None
        self._leaving = False
        self._another = False
        self._told_oldest = Stamp(0, "", 0)

    # --- questions ----------------------------------------------------------------------------

    @property
    def deployment(self) -> str:
        return self._spec.name

    @property
    def idle(self) -> bool:
        return not self._requests

    @property
    def answering(self) -> bool:
        """Whether an answer is on its way to the broker."""
        return any(request.reply is not None for request in self._requests.values())

    @property
    def leaving(self) -> bool:
        """Named no more: this door only finishes what it holds."""
        return self._leaving

    @property
    def lets_go(self) -> bool:
        """The next door has spoken and may take the ingress, for all that is held is answered."""
        return (
            self._leaving
            and self._hand_over.next_has_spoken
            and self.idle
            and not self._hand_over.lends
        )

    def oldest(self) -> Stamp:
        """The oldest table that an attempt in flight uses, or the serving one."""
        return self._runs.oldest()

    def load(self) -> DoorLoad:
        return self._figures.load(self.deployment, len(self._requests), self._runs)

    # --- tables and nodes ---------------------------------------------------------------------

    def spec_changed(self, spec: Deployment, now: float) -> Effects:
        """What is held goes on, unless it was for another kind of deployment."""
        before, self._spec = self._spec, spec
        if spec.kind != before.kind:
            effects = self._give_up_all(_REPLACED, now)
            table, self._runs = self._runs.table, self._fresh_runs()
            return [*effects, *(self._runs.table_changed(table, now) if table else [])]
        self._runs.spec_changed(spec)
        return []

    def model_is(self, graph: ModelGraph | None, now: float, *, fallback: bool = False) -> Effects:
        """The model, or the fallback, as it is open on this node; None: it is not."""
        return self._runs.model_is(graph, now, fallback=fallback)

    def named(
        self,
        table: Table,
        now: float,
        *,
        coming: bool = False,
        before: Member | None = None,
        beside: bool = False,
    ) -> Effects:
        """The table that counts names this door. coming: the next one is being prepared.

        before: whose the door was until then; None: nobody knows. beside: see `is_beside`.
        """
        self._leaving, self._refusal = False, None
        self._hand_over.heir = None
        self._suspects.before = before
        self.is_beside(another=beside)
        if self._runs.table is None or self._runs.table.stamp != table.stamp:
            self._figures.other_table()
        self._unserved.table_is(table, now, coming=coming)
        self._runs.starting = True
        return [*self._runs.table_changed(table, now), *self._take_back(now)]

    def is_beside(self, *, another: bool) -> None:
        """Whether another door has inputs in the chain too: then nothing is alone there."""
        self._another = another
        self._runs.beside = another or self._hand_over.lends

    def replaced(self, table: Table | None, now: float) -> Effects:
        """Another door is named, or none: what is held is finished, by the table that serves."""
        self._leaving = True
        self._hand_over.heir = table if table is not None and table.door is not None else None
        effects: Effects = []
        if self._hand_over.next_has_spoken and self._may_pass_on:
            unbegun = [r for r in self._unanswered() if not self._runs.has_begun(r)]
            effects += self._leave_all(unbegun, now)
            for request in unbegun:
                effects += self._pass_on(request)
        if table is None or table == self._runs.table:
            return effects
        return [*effects, *self._runs.table_changed(table, now)]

    def refuse_all(self, failure: Failure, now: float) -> Effects:
        """The deployment is gone: everything held, and everything to come, gets `failure`."""
        self._leaving, self._refusal = True, failure
        borrowers = self._hand_over.borrowers()
        return [*self._give_up_all(failure, now), *self._admit_left({None, *borrowers}, now)]

    def forget_deaths(self) -> Effects:
        """Nobody will ask: what is retained of suspects goes with the deployment."""
        return self._suspects.forget()

    def peers_changed(self, now: float) -> Effects:
        """Another node came, went, or lives as another incarnation."""
        return self._runs.peers_changed(now)

    def data_reconnected(self, now: float) -> Effects:
        return self._runs.data_reconnected(now)

    # --- inputs -------------------------------------------------------------------------------

    def input_arrived(self, given: Input, now: float) -> Effects:
        """Admits one delivery, attaches it to its first one, or answers it at once."""
        if self._hand_over.is_over(given):
            return [Acknowledge(self.deployment, given.receipt)]
        borrower = None if given.anonymous else self._hand_over.is_with(given.key)
        if borrower is not None and self._refusal is None:
            self._hand_over.leaves(given, [given.receipt], borrower)
            return []
        if self._leaving and self._refusal is None and self._is_next_doors(given, now):
            return self._leave(given)
        return self._received(given, now)

    def _received(self, given: Input, now: float) -> Effects:
        request = Request(given.request, given, now + self._life_s(given), [given.receipt])
        refusal = self._refusal or complaint(given, self._spec)
        if given.retained and refusal is not None:
            clear = ClearRetained(self.deployment, given.device)
            return [clear, *self._refuse(request, refusal, now)]
        # Without an id, equal inputs are different requests unless the broker says: again.
        same = given.duplicate or not given.anonymous
        kept = self._kept.get(given.key, now) if same else None
        if kept is not None:
            self._figures.repetitions += 1
            self._requests[request.id] = request
            return self._publish(request, kept.readdressed(given), now)
        known = self._by_key.get(given.key) if same else None
        if known is not None:
            self._figures.repetitions += 1
            known.receipts.append(given.receipt)
            return self._runs.repeated(known)
        if same and self._cancelled.holds(given.key, now):
            refusal = CANCELLED
        if refusal is not None:
            return self._refuse(request, refusal, now)
        return self._admit(request, now)

    def input_passed_on(self, activation: Activation, now: float) -> Effects:
        """A copy of what came to the door before, which holds the ingress; or word from the next
        one that it has answered a copy.

        What is known already waits for the input itself.
        """
        if activation.header.passed is None:
            over = self._hand_over.answered_there(activation.header.request)
            return [Acknowledge(self.deployment, receipt) for receipt in over]
        given = as_input(activation, next(self._numbers))
        if given is None or self._leaving or self._knows(given, now):
            return []
        self._hand_over.came(given.key, activation.header)
        return self._admit(Request(given.request, given, now + self._life_s(given)), now)

    def record_found(self, record: Redelivery, now: float) -> Effects:
        """A record from before this door."""
        return self._suspects.found(record, now)

    def record_written(self, record: Redelivery, now: float) -> Effects:
        """It is retained that the input runs here, so it may."""
        request = self._by_key.get(record.key)
        newest = record == self._suspects.of(record.key)
        if request is None or not self._runs.is_recording(request) or not newest:
            return []
        return self._runs.retained(request, now)

    def cancelled(self, key: str, now: float) -> Effects:
        """Its device wants an input no more; a cancel may overtake what it is about."""
        request = self._by_key.get(key)
        if request is None:
            self._cancelled.note(key, now)
            return []
        if request.reply is not None:
            return []
        return [*self._give_up(request, CANCELLED, now), *self._runs.pump(now)]

    def device_spoke(self, device: str, now: float) -> Effects:
        """It says that it still waits for its answers."""
        self._runs.device_spoke(device, now)
        return []

    def hearing(self, *, hears: bool) -> Effects:
        """Whether what devices say is heard; else their silence is nothing to go by."""
        self._runs.hearing(hears=hears)
        return []

    def hearing_proven(self, asked_at: float, now: float) -> Effects:
        """An echo has come, so what devices say does too."""
        self._runs.hearing_proven(asked_at, now)
        return []

    def ingress_lost(self, now: float) -> Effects:
        """Receipts of that connection mean nothing any more; the broker will repeat the inputs."""
        self._hand_over.ingress_lost()
        for request in self._requests.values():
            request.receipts.clear()
        if not self._leaving:
            return []
        self.is_beside(another=False)
        return self.let_go(now)

    def let_go(self, now: float) -> Effects:
        """Named no more and without ingress: what is not in the chain is left to the next door."""
        self._runs.starting = False
        left = [r for r in self._unanswered() if self._runs.may_be_left(r)]
        return self._leave_all(left, now)

    def _unanswered(self) -> list[Request]:
        return [request for request in self._requests.values() if request.reply is None]

    def _leave_all(self, requests: Iterable[Request], now: float) -> Effects:
        """They are the next door's."""
        effects: Effects = []
        for request in requests:
            effects += self._runs.end(request, now, cancel=False)
            effects += self._suspects.settle(request, now)
            self._hand_over.forget(request.key)
            self._forget(request)
        return effects

    def _knows(self, given: Input, now: float) -> bool:
        """Whether something has become of it here, be it that it was cancelled."""
        key = given.key
        if key in self._by_key or self._cancelled.holds(key, now):
            return True
        return self._kept.get(key, now) is not None

    def _is_next_doors(self, given: Input, now: float) -> bool:
        """Whether that is to run it, or refuse it: nothing has become of it here, and the next door
        is there. While it is not, this one goes on.
        """
        if self._knows(given, now) or given.retained or complaint(given, self._spec) is not None:
            return False
        return self._hand_over.may_take

    @property
    def _may_pass_on(self) -> bool:
        """Not while suspects are held, unless the next door has inputs in the chain already: then
        they are for that one, too.
        """
        return self._runs.beside or not any(r.suspect for r in self._requests.values())

    def _leave(self, given: Input) -> Effects:
        """It stays unacknowledged, so that the next door gets it; a copy goes ahead.

        Not of what may be a suspect by what is retained, which the next door reads.
        """
        is_new = not given.duplicate and self._suspects.of(given.key).void
        if is_new and self._may_pass_on:
            return self._pass_on(Request(given.request, given, 0.0, [given.receipt]))
        self._hand_over.leaves(given, [given.receipt])
        return []

    def _pass_on(self, request: Request) -> Effects:
        deaths = request.deaths if request.suspect else None
        effects = self._hand_over.pass_on(request.given, request.receipts, deaths)
        self.is_beside(another=self._another or bool(effects))
        return effects

    def _forget(self, request: Request) -> None:
        del self._requests[request.id]
        self._unserved.over(request.id)
        if self._by_key.get(request.key) is request:
            del self._by_key[request.key]

    def _life_s(self, given: Input) -> float:
        life = self._spec.deadline_s
        return life if given.expiry_s is None else min(life, float(given.expiry_s))

    def _take_back(self, now: float) -> Effects:
        """What nobody runs. Copies stay with whoever says that it is a door, and is not gone."""
        table = self._runs.table
        silent = table.gone if table is not None else ()
        return self._admit_left({None, *self._hand_over.gone(), *silent}, now)

    def _admit_left(self, gone: set[Member | None], now: float) -> Effects:
        left = self._hand_over.take_back(gone, self._numbers)
        self.is_beside(another=self._another)
        return [effect for given in left for effect in self.input_arrived(given, now)]

    def _refuse(self, request: Request, failure: Failure, now: float) -> Effects:
        self._requests[request.id] = request
        return self._give_up(request, failure, now)

    def _admit(self, request: Request, now: float) -> Effects:
        self._requests[request.id] = self._by_key[request.key] = request
        request.admitted, request.priority = now, priority_of(request.given, self._spec.input)
        self._unserved.came(request.id, self._runs.table)
        self._suspects.judge(request, self._runs.table)
        if request.deaths >= POISON_AT:
            return self._give_up(request, POISON, now)
        return self._runs.join(request, now)

    def _retain(self, request: Request, now: float) -> Effects:
        """A suspect is about to run."""
        self._suspects.counts(request)
        if request.deaths >= POISON_AT:
            return self._give_up(request, POISON, now)
        return [*self._suspects.retain(request, now), *self._tell(request, now)]

    # --- the chain ----------------------------------------------------------------------------

    def done(self, activation: Activation, now: float) -> Effects:
        """A `done` from the chain: what came of it, or why nothing did."""
        return self._runs.done(activation, now)

    def broke(self, header: Header, now: float) -> Effects:
        """A `lost` or `stale` from the chain."""
        return self._runs.broke(header, now)

    def alive(self, header: Header, now: float) -> None:
        """Somebody in the chain has the attempt."""
        self._runs.alive(header, now)

    def text_event(self, event: TextEvent, now: float) -> Effects:
        """Something became of a prompt, or of a text."""
        return self._runs.text_event(event, now)

    def _fresh_runs(self) -> Runs:
        calls = Calls(
            self._give_up,
            self._conclude,
            self._retain,
            self._suspects.settle,
            self._took,
            self._figures.steps.add,
            self._figures.lengths.add,
        )
        if self._spec.kind == "one-pass":
            return Attempts(self._me, self._spec.input, self._peers, calls)
        return TwoModels(self._me, self._spec, self._peers, self._numbers, calls)

    # --- answers ------------------------------------------------------------------------------

    def reply_published(self, request_id: bytes, now: float) -> Effects:
        """The broker has the answer: the input is acknowledged and forgotten."""
        request = self._requests.get(request_id)
        if request is None or request.reply is None:
            return []
        self._forget(request)
        told = self._hand_over.answered(request.key, self.oldest())
        return [*told, *self._reply_taken(request, request.reply, now)]

    def _reply_taken(self, request: Request, reply: Reply, now: float) -> Effects:
        failure = reply.failure
        if failure is None and self._spec.kind == "one-pass":
            self._took(request, now)
        # Other errors may pass, so their input may be tried again.
        if failure is None or failure == POISON:
            self._kept.keep(request.key, reply, now + self._spec.input.dedupe_s)
        effects: Effects = [Acknowledge(self.deployment, r) for r in request.receipts]
        if request.key in self._by_key:
            return effects  # what is retained is about another delivery, which goes on
        passing = failure is not None and failure.code in PASSING and request.deaths
        if passing or failure == POISON:
            effects += self._suspects.settle(
                request, now
            )  # sent again, it is as suspect, or poison
        elif not self._suspects.of(request.key).void:
            effects += self._suspects.clear(request.key)
        return effects

    def _took(self, request: Request, now: float) -> None:
        """It has what is forecast: from the broker that had the input to the one that is told."""
        if request.admitted is not None:
            self._figures.latencies.add(now - request.admitted)

    def tick(self, now: float) -> Effects:
        effects = self._tell_unserved(now)
        if not self._leaving and self._hand_over.leaves_any:
            effects += self._take_back(now)
        for request in list(self._requests.values()):
            unanswered = request.reply is None
            if unanswered and request.deadline <= now:
                effects += self._give_up(request, self._too_late(request), now)
            elif unanswered and not self._runs.is_recording(request):
                continue
            elif request.again_at <= now:
                effects += self._tell(request, now)
        effects += self._runs.tick(now)
        self._kept.expire(now)
        self._cancelled.expire(now)
        effects += self._suspects.tidy(now, self._spec.input.dedupe_s, self._by_key)
        if self.oldest() != self._told_oldest:
            self._told_oldest = self.oldest()
            effects.append(ReportStatus())
        return effects

    def next_tick(self) -> float:
        """The earliest time at which a tick does anything, unless an event comes before.

        What it would only forget waits for the next one.
        """
        if (
            self._leaving
            or self._hand_over.leaves_any
            or self.oldest() != self._told_oldest
            or self._suspects.any
        ):
            return -math.inf
        due = [self._runs.next_tick(), self._unserved.next_tick()]
        for request in self._requests.values():
            if request.reply is None:
                due.append(request.deadline)
            if request.reply is not None or self._runs.is_recording(request):
                due.append(request.again_at)
        return min(due)

    def _give_up_all(self, failure: Failure, now: float) -> Effects:
        effects: Effects = []
        for request in list(self._requests.values()):
            if request.reply is None:
                effects += self._give_up(request, failure, now)
        return effects

    def _give_up(self, request: Request, failure: Failure, now: float) -> Effects:
        """The request ends without a result, wherever it is."""
        self._figures.refused += failure.code == "overloaded"
        effects = self._runs.end(request, now, cancel=True)
        return [*effects, *self._conclude(request, Reply.error(request.given, failure), now)]

    def _conclude(self, request: Request, reply: Reply, now: float) -> Effects:
        """Nothing more happens to the request than that its answer goes out."""
        self._figures.answered(reply.failure)
        self._runs.earn()
        return self._publish(request, reply, now)

    def _publish(self, request: Request, reply: Reply, now: float) -> Effects:
        request.reply = reply
        request.again_s = AGAIN_FIRST_S
        return self._tell(request, now)

    def _tell(self, request: Request, now: float) -> Effects:
        """Has the deaths or the answer written; again, later and later, until it is confirmed."""
        request.again_at = now + request.again_s
        request.again_s = min(request.again_s * 2, AGAIN_MAX_S)
        if request.reply is not None:
            return [PublishReply(self.deployment, request.id, request.reply)]
        return [WriteRecord(self.deployment, self._suspects.of(request.key))]

    def _tell_unserved(self, now: float) -> Effects:
        effects: Effects = []
        for request in [self._requests[id_] for id_ in self._unserved.hopeless(now)]:
            self._unserved.over(request.id)
            if request.reply is None:
                effects += self._give_up(request, why_unserved(self._runs.table), now)
        return effects

    def _too_late(self, request: Request) -> Failure:
        table = self._runs.table
        if request.attempts == 0 and (table is None or not table.serves):
            return why_unserved(table)
        limit = f"{self._spec.deadline_s * 1000:g} ms (sla.deadline_ms)"
        return Failure("deadline", f"no result within {limit}; try again")
