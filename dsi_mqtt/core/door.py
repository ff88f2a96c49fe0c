"""The door of one deployment: admits inputs, keeps the window, answers each one.

Life of an input:

    arrives ─► (repeats an answered one: the kept answer goes out again)
       │       (repeats one in progress: attached to it)
       │       (handed out again by the broker: its count is retained first)
       ▼
    waiting ─► running: one attempt is in the chain ─► answering ─► acknowledged
       ▲          │ stale, lost, a node of it gone, probes without reply
       └──────────┘ while tries, budget and time are left; else an error answer

Only an answer counts. The input stays unacknowledged until the broker has taken its answer, so
that a dead door's inputs go to the next door. What was handed out again, or was in a chain when
a node of it died, is a *suspect* and runs alone, so that a poisonous input is found by its own
deaths and answered with an error at the third.

A broken chain is not mended hop by hop: the door sends again on the current table, only on
evidence. A probe runs along the chain behind the attempt on the same ordered edges; whoever
does not know the attempt when the probe comes never will, and says `lost`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final, Literal

from dsi_mqtt.core.activation import Row, pack_body, unpack_body
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.effects import (
    Acknowledge,
    ClearRetained,
    Effects,
    PublishReply,
    ReportStatus,
    Transmit,
    WriteRecord,
)
from dsi_mqtt.core.message import Activation, Credit, Failure, Header
from dsi_mqtt.core.node import DoorLoad
from dsi_mqtt.core.request import Input, Redelivery, Reply
from dsi_mqtt.core.table import DOOR, Stamp, Table
from dsi_mqtt.errors import WireError

POISON_AT: Final = 3
ATTEMPTS_MAX: Final = 5
PROBE_AFTER_MS: Final = 500.0
PROBES_UNANSWERED_MAX: Final = 4
RESEND_S: Final = 0.2
REPLY_AGAIN_S: Final = 2.0
ANSWERS_KEPT: Final = 4096
ANSWER_BYTES_KEPT: Final = 32 * 1024 * 1024
RETRY_SHARE: Final = 0.2

State = Literal["recording", "waiting", "running", "answering"]


@dataclass(slots=True)
class _Request:
    id: bytes
    key: str
    input: Input
    deadline: float
    state: State = "waiting"
    receipts: list[int] = field(default_factory=list)
    attempt: int = 0
    table: Table | None = None
    not_before: float = 0.0
    newer_than: Stamp | None = None
    probe_at: float = 0.0
    probes: int = 0
    deaths: int = 0
    suspect: bool = False
    recorded: int = 0
    reply: Reply | None = None
    reply_at: float = 0.0


@dataclass(slots=True)
class _Kept:
    reply: Reply
    until: float


class RetryBudget:
    """Retries may be at most a share of the answers, with room for one full window."""

    def __init__(self, window: int) -> None:
        self._most = float(max(window, 10) * 2)
        self._left = self._most

    def earn(self) -> None:
        self._left = min(self._most, self._left + RETRY_SHARE)

    def spend(self) -> bool:
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Door:
    """State machine. `node` and `incarnation` are this node's; events come with `now` (s)."""

    def __init__(self, node: str, incarnation: str, spec: Deployment) -> None:
        self._node = node
        self._incarnation = incarnation
        self._spec = spec
        self._table: Table | None = None
        self._requests: dict[bytes, _Request] = {}
        self._by_key: dict[str, bytes] = {}
        self._queue: deque[bytes] = deque()
        self._suspects: deque[bytes] = deque()
        self._running: set[bytes] = set()
        self._answers: OrderedDict[str, _Kept] = OrderedDict()
        self._answer_bytes = 0
        self._records: dict[str, int] = {}
        self._offline: set[tuple[str, str]] = set()
        self._budget = RetryBudget(16)
        self._counts = {"answered": 0, "errors": 0, "retried": 0, "duplicates": 0}
        self._oldest = Stamp(0, "", 0)
        self._leaving = False

    # --- questions ----------------------------------------------------------------------------

    @property
    def deployment(self) -> str:
        return self._spec.name

    @property
    def idle(self) -> bool:
        return not self._requests

    def oldest(self) -> Stamp:
        """The oldest table that an attempt in flight uses, or the serving one."""
        used = [r.table.stamp for r in self._requests.values() if r.table and r.id in self._running]
        if self._table is not None:
            used.append(self._table.stamp)
        return min(used, default=Stamp(0, "", 0))

    def load(self) -> DoorLoad:
        return DoorLoad(
            self.deployment, held=len(self._requests), in_flight=len(self._running), **self._counts
        )

    @property
    def leaving(self) -> bool:
        """Another door is named: this one only finishes what it holds."""
        return self._leaving

    # --- events -------------------------------------------------------------------------------

    def stop_admitting(self) -> None:
        self._leaving = True

    def peer_found(self, node: str, incarnation: str, alive: bool) -> None:
        """What was known of another node before this door was opened."""
        if not alive:
            self._offline.add((node, incarnation))

    def spec_changed(self, spec: Deployment) -> None:
        self._spec = spec

    def table_changed(self, table: Table, now: float) -> Effects:
        """A new table serves. Attempts on the old one go on; new ones use this one."""
        self._table = table
        self._leaving = False
        self._budget = RetryBudget(table.door.window if table.door else 1)
        return [*self._leave_the_dead(now), *self._pump(now)]

    def record_found(self, record: Redelivery) -> None:
        """A retained count from before this door."""
        self._records[record.key] = max(record.count, self._records.get(record.key, 0))

    def record_written(self, record: Redelivery, now: float) -> Effects:
        """The count is retained, so the input may run now; or is refused as poison."""
        effects: Effects = []
        request = self._requests.get(self._by_key.get(record.key, b""))
        if request is not None and request.state == "recording":
            request.state = "waiting"
            self._suspects.append(request.id)
            effects += self._pump(now)
        return effects

    def input_arrived(self, given: Input, now: float) -> Effects:
        """Admits one delivery, or answers it at once."""
        if self._leaving:
            return []  # unacknowledged, so that the next door gets it
        if given.retained:
            return self._refuse_retained(given, now)
        kept = None if given.anonymous else self._answers.get(given.key)
        if kept is not None and kept.until > now:
            self._counts["duplicates"] += 1
            return self._again(given, kept.reply, now)
        known = self._by_key.get(given.key)
        if known is not None and (given.duplicate or not given.anonymous):
            self._counts["duplicates"] += 1
            self._requests[known].receipts.append(given.receipt)
            return []
        return self._admit(given, now)

    def answered(self, activation: Activation, now: float) -> Effects:
        """A `done` from the chain: a result or why there is none."""
        request = self._current(activation.header)
        if request is None:
            return []
        failure = activation.header.failure
        if failure is not None:
            return self._reply(request, self._failed(request, failure), now)
        try:
            content_type, body = unpack_body(activation.tensors)
        except WireError as error:
            return self._reply(request, self._failed(request, _wire_failure(error)), now)
        reply = self._reply_to(request.input, content_type=content_type, body=body)
        return self._reply(request, reply, now)

    def broke(self, header: Header, now: float) -> Effects:
        """A `lost` or `stale` from the chain."""
        request = self._current(header)
        if request is None:
            return []
        if header.kind == "stale":
            # That node has left this table, or has not taken it up yet.
            return self._retry(request, now, wait_s=RESEND_S)
        return self._retry(request, now)

    def alive(self, header: Header, now: float) -> Effects:
        """Somebody in the chain has the attempt."""
        request = self._current(header)
        if request is not None:
            request.probes = 0
            request.probe_at = now + self._probe_after(request)
        return []

    def node_offline(self, node: str, incarnation: str, now: float) -> Effects:
        """A will or a farewell. A hint only: a broker that stops sends the will of everybody.

        Together with a newer table it is evidence.
        """
        self._offline.add((node, incarnation))
        return self._leave_the_dead(now)

    def node_online(self, node: str, incarnation: str, now: float) -> Effects:
        """A status. Another incarnation than a table names proves that the named one is dead."""
        self._offline.discard((node, incarnation))
        effects: Effects = []
        for request in self._in_flight():
            table = request.table
            named = {i for n, i in table.members() if n == node} if table else set()
            if table and named and incarnation not in named:
                request.deaths += 1
                request.suspect = True
                effects += self._retry(request, now, newer_than=table.stamp)
        return effects

    def _leave_the_dead(self, now: float) -> Effects:
        """Retries attempts whose old table has a member that is gone."""
        effects: Effects = []
        for request in self._in_flight():
            old = request.table
            newer = old is not None and self._table is not None and old.stamp < self._table.stamp
            if old is not None and newer and old.members() & self._offline:
                request.deaths += 1
                request.suspect = True
                effects += self._retry(request, now)
        return effects

    def _in_flight(self) -> list[_Request]:
        return [self._requests[i] for i in sorted(self._running)]

    def data_reconnected(self, now: float) -> Effects:
        """What was on the wire may be gone: ask for every attempt at once."""
        for request_id in self._running:
            self._requests[request_id].probe_at = now
        return self.tick(now)

    def reply_published(self, request_id: bytes, now: float) -> Effects:
        request = self._requests.get(request_id)
        if request is None or request.state != "answering" or request.reply is None:
            return []
        self._forget(request)
        self._keep(request, request.reply, now)
        effects: Effects = [Acknowledge(self.deployment, r) for r in request.receipts]
        if request.recorded:
            self._records.pop(request.key, None)
            effects.append(WriteRecord(self.deployment, Redelivery(request.key, 0)))
        return effects + self._pump(now)

    def ingress_lost(self) -> None:
        """Receipts of that connection mean nothing any more; the broker will repeat the inputs."""
        for request in self._requests.values():
            request.receipts.clear()

    def refuse_all(self, failure: Failure, now: float) -> Effects:
        """Answers everything held with `failure`: the deployment is gone."""
        effects: Effects = []
        for request in list(self._requests.values()):
            if request.state != "answering":
                effects += self._reply(request, self._failed(request, failure), now)
        return effects

    def tick(self, now: float) -> Effects:
        effects: Effects = []
        for request in list(self._requests.values()):
            if request.state == "answering":
                effects += self._reply_again(request, now)
            elif request.deadline <= now:
                effects += self._reply(request, self._too_late(request), now)
            elif request.state == "running" and request.probe_at <= now:
                effects += self._probe(request, now)
        while self._answers and next(iter(self._answers.values())).until <= now:
            self._drop_answer()
        effects += self._pump(now)
        oldest = self.oldest()
        if oldest != self._oldest:
            self._oldest = oldest
            effects.append(ReportStatus())
        return effects

    # --- admission ----------------------------------------------------------------------------

    def _admit(self, given: Input, now: float) -> Effects:
        life = self._spec.sla.deadline_ms / 1000
        if given.expiry_s is not None:
            life = min(life, float(given.expiry_s))
        request = _Request(given.request, given.key, given, now + life, receipts=[given.receipt])
        self._requests[request.id] = request
        self._by_key[request.key] = request.id
        complaint = self._complaint(given)
        if complaint is not None:
            return self._reply(request, self._failed(request, complaint), now)
        earlier = self._records.get(request.key, 0)
        if not given.duplicate and not earlier:
            self._queue.append(request.id)
            return self._pump(now)
        return self._record(request, earlier + 1, now)

    def _record(self, request: _Request, count: int, now: float) -> Effects:
        """The broker repeats it because a door died holding it. Count before it runs, alone."""
        request.suspect = True
        request.recorded = self._records[request.key] = count
        if count >= POISON_AT:
            return self._reply(request, self._failed(request, _POISON), now)
        request.state = "recording"
        return [WriteRecord(self.deployment, Redelivery(request.key, count))]

    def _complaint(self, given: Input) -> Failure | None:
        if given.parsed.complaint is not None:
            return Failure("invalid_input", given.parsed.complaint)
        if given.nbytes > self._spec.input.max_bytes:
            return Failure(
                "invalid_input",
                f"input of {given.nbytes} bytes is over input.max_bytes "
                f"{self._spec.input.max_bytes}; send less",
            )
        if given.foreign_topic:
            return Failure(
                "invalid_input",
                "the Response Topic is not below this device's own "
                f"…/out/{given.device[:60]}/; use one that is, or none",
            )
        return None

    def _refuse_retained(self, given: Input, now: float) -> Effects:
        request = _Request(given.request, given.key, given, now, receipts=[given.receipt])
        self._requests[request.id] = request
        failure = Failure(
            "invalid_input", "inputs must not be retained; publish without the retain flag"
        )
        reply = self._reply_to(given, failure=failure)
        return [
            ClearRetained(self.deployment, given.device),
            *self._reply(request, reply, now),
        ]

    def _again(self, given: Input, reply: Reply, now: float) -> Effects:
        """Publishes a kept answer once more, to where this delivery asks for it."""
        request = _Request(given.request, given.key, given, now, receipts=[given.receipt])
        self._requests[request.id] = request
        fresh = self._reply_to(
            given, content_type=reply.content_type, body=reply.body, failure=reply.failure
        )
        request.state, request.reply, request.reply_at = "answering", fresh, now + REPLY_AGAIN_S
        return [PublishReply(self.deployment, request.id, fresh)]

    # --- attempts -----------------------------------------------------------------------------

    def _pump(self, now: float) -> Effects:
        """Starts what may: suspects one at a time and alone, the others up to the window."""
        table = self._table
        if table is None or table.state != "serving" or table.door is None:
            return []
        if table.members() & self._offline:
            return []  # it will be replaced, or its node will speak again
        if self._suspects:
            effects = self._pump_suspects(table, now)
            if self._suspects or effects:
                return effects
        return self._pump_queue(table, table.door.window, now)

    def _pump_suspects(self, table: Table, now: float) -> Effects:
        while self._suspects and not self._running:
            request = self._requests.get(self._suspects[0])
            if request is not None and request.state == "waiting":
                if self._held_back(request, table, now):
                    return []
                self._suspects.popleft()
                return self._start(request, table, now)
            self._suspects.popleft()
        return []

    def _pump_queue(self, table: Table, window: int, now: float) -> Effects:
        effects: Effects = []
        for _ in range(len(self._queue)):
            if len(self._running) >= window:
                break
            request = self._requests.get(self._queue.popleft())
            if request is None or request.state != "waiting":
                continue
            if self._held_back(request, table, now):
                self._queue.append(request.id)
            else:
                effects += self._start(request, table, now)
        return effects

    def _held_back(self, request: _Request, table: Table, now: float) -> bool:
        older = request.newer_than is not None and table.stamp <= request.newer_than
        return older or request.not_before > now

    def _start(self, request: _Request, table: Table, now: float) -> Effects:
        first = table.segments[0]
        request.attempt += 1
        request.state, request.table = "running", table
        request.probes, request.newer_than = 0, None
        request.probe_at = now + self._probe_after(request)
        self._running.add(request.id)
        header = Header(
            "request",
            self.deployment,
            table.stamp,
            DOOR,
            first.id,
            request.id,
            request.attempt,
            door=self._node,
            rows=(Row(),),
            budget_ms=max(1, int((request.deadline - now) * 1000)),
        )
        body = pack_body(request.input.parsed.content_type, request.input.parsed.body)
        return [Transmit(first.replicas[0].node, Activation(header, body))]

    def _retry(
        self,
        request: _Request,
        now: float,
        *,
        wait_s: float = 0.0,
        newer_than: Stamp | None = None,
    ) -> Effects:
        """Ends the attempt on evidence, and lets the request run again if it may."""
        effects = self._cancel(request)
        if request.deaths >= POISON_AT:
            return effects + self._reply(request, self._failed(request, _POISON), now)
        if request.attempt >= ATTEMPTS_MAX or not self._budget.spend():
            failure = Failure("unavailable", "the chain broke repeatedly; try again later")
            return effects + self._reply(request, self._failed(request, failure), now)
        self._counts["retried"] += 1
        request.state = "waiting"
        request.not_before, request.newer_than = now + wait_s, newer_than
        (self._suspects if request.suspect else self._queue).appendleft(request.id)
        return effects + self._pump(now)

    def _cancel(self, request: _Request) -> Effects:
        """Tells every segment of the attempt to forget it."""
        self._running.discard(request.id)
        table = request.table
        if table is None:
            return []
        return [
            Transmit(
                segment.replicas[0].node,
                Activation(
                    Header(
                        "cancel",
                        self.deployment,
                        table.stamp,
                        DOOR,
                        segment.id,
                        request.id,
                        request.attempt,
                        door=self._node,
                    )
                ),
            )
            for segment in table.segments
        ]

    def _probe(self, request: _Request, now: float) -> Effects:
        table = request.table
        if table is None:
            return []
        if request.probes >= PROBES_UNANSWERED_MAX:
            return self._retry(request, now)
        request.probes += 1
        request.probe_at = now + PROBE_AFTER_MS / 1000
        first = table.segments[0]
        header = Header(
            "credit",
            self.deployment,
            table.stamp,
            DOOR,
            first.id,
            request.id,
            request.attempt,
            door=self._node,
            credit=Credit(self._incarnation, first.replicas[0].incarnation, 0, 0, probe=True),
        )
        return [Transmit(first.replicas[0].node, Activation(header))]

    def _probe_after(self, request: _Request) -> float:
        forecast = request.table.forecast if request.table else None
        expected = forecast.p95_ms * 2 if forecast else 0.0
        return max(PROBE_AFTER_MS, expected) / 1000

    def _current(self, header: Header) -> _Request | None:
        """The request this message is about, if it is about its present attempt."""
        request = self._requests.get(header.request)
        if request is None or request.state != "running" or request.attempt != header.attempt:
            return None
        return request

    # --- answers ------------------------------------------------------------------------------

    def _reply(self, request: _Request, reply: Reply, now: float) -> Effects:
        effects: Effects = []
        if request.id in self._running and reply.failure and reply.failure.code == "deadline":
            effects += self._cancel(request)
        self._running.discard(request.id)
        request.state, request.reply = "answering", reply
        request.reply_at = now + REPLY_AGAIN_S
        self._counts["answered"] += 1
        self._counts["errors"] += reply.failure is not None
        self._budget.earn()
        effects.append(PublishReply(self.deployment, request.id, reply))
        return effects + self._pump(now)

    def _reply_again(self, request: _Request, now: float) -> Effects:
        if request.reply is None or request.reply_at > now:
            return []
        request.reply_at = now + REPLY_AGAIN_S
        return [PublishReply(self.deployment, request.id, request.reply)]

    def _failed(self, request: _Request, failure: Failure) -> Reply:
        return self._reply_to(request.input, failure=failure)

    def _too_late(self, request: _Request) -> Reply:
        if request.attempt == 0 and (self._table is None or self._table.state != "serving"):
            reason = self._table.reason if self._table else None
            message = reason or "no chain serves this deployment now; try again later"
            return self._failed(request, Failure("unavailable", message))
        limit = f"{self._spec.sla.deadline_ms:g} ms (sla.deadline_ms)"
        return self._failed(request, Failure("deadline", f"no result within {limit}; try again"))

    def _reply_to(
        self,
        given: Input,
        *,
        content_type: str = "",
        body: bytes = b"",
        failure: Failure | None = None,
    ) -> Reply:
        return Reply(
            given.device,
            given.parsed.identity,
            given.correlation,
            given.response_topic,
            content_type,
            body,
            failure,
        )

    def _keep(self, request: _Request, reply: Reply, now: float) -> None:
        # An error may pass, so only a repetition of a result is answered from here.
        if request.input.anonymous or reply.failure is not None:
            return
        self._answers.pop(request.key, None)
        self._answers[request.key] = _Kept(reply, now + self._spec.input.dedupe_s)
        self._answer_bytes += len(reply.body)
        while len(self._answers) > ANSWERS_KEPT or self._answer_bytes > ANSWER_BYTES_KEPT:
            self._drop_answer()

    def _drop_answer(self) -> None:
        _, kept = self._answers.popitem(last=False)
        self._answer_bytes -= len(kept.reply.body)

    def _forget(self, request: _Request) -> None:
        del self._requests[request.id]
        self._running.discard(request.id)
        if self._by_key.get(request.key) == request.id:
            del self._by_key[request.key]


_POISON: Final = Failure(
    "poison", "this input has ended its worker three times and is not tried again"
)


def _wire_failure(error: WireError) -> Failure:
    return Failure("model_failed", f"the head made no readable result: {error}")
