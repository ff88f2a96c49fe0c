"""Traffic through the segments of one node: receive, queue, compute, hand on.

An attempt is looked at five times: is its table and segment held here (else `stale`), is there
time left (else an error to the door), is it cancelled, is there room for the caches of its sessions
(else `stale`), and is there credit on the next edge. An engine computes one job at a time; the
others wait here, where they can still be dropped.

A probe follows an attempt along the same ordered edges:

| the attempt is here | the probe is answered by |
|---|---|
| queued, computing, or waiting for credit | `credit` to the door: alive |
| sent on | the next segment: the probe goes on behind it |
| answered | the answer again, or `lost` when it is no longer kept |
| cancelled | nothing: the door knows |
| unknown | `lost`: what was sent before the probe and is not here never comes |
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from dsi_mqtt.core.activation import RAW, Row
from dsi_mqtt.core.caches import Caches, room_for
from dsi_mqtt.core.drawn import DrawnTexts, as_tensor
from dsi_mqtt.core.edges import Edges, IncomingEdge
from dsi_mqtt.core.effects import Compute, Effects, Transmit
from dsi_mqtt.core.events import Computed
from dsi_mqtt.core.holdings import Holdings
from dsi_mqtt.core.jobs import Job, Jobs, Totals
from dsi_mqtt.core.leases import HeldSessions
from dsi_mqtt.core.message import Activation, Credit, Failure, Header, HopStamp, MessageKind
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.node import SegmentLoad
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.core.table import DOOR

QUEUE_MAX: Final = 1024
QUEUE_BYTES_MAX: Final = 256 * MIB
UNLIMITED_S: Final = 600.0

_TOO_LATE: Final = Failure("deadline", "time ran out inside the chain; try again")
_FULL: Final = Failure("overloaded", "this node's queue is full; try again later")


class Relay:
    """State machine of everything that passes this node's segments. caches: copies of them."""

    def __init__(self, incarnation: str, holdings: Holdings) -> None:
        self._incarnation = incarnation
        self._holdings = holdings
        self._edges = Edges(incarnation, holdings.table)
        self._jobs = Jobs()
        self._numbers = 0
        self._by_number: dict[int, Job] = {}
        self._queues: dict[str, deque[Job]] = {}
        self._computing: dict[str, Job] = {}
        self._totals: dict[tuple[str, str, UnitRange], Totals] = {}
        self._sessions = HeldSessions()
        self._drawn = DrawnTexts()
        self.caches = Caches(incarnation, holdings, self._sessions)

    # --- questions ----------------------------------------------------------------------------

    def loads(self) -> tuple[SegmentLoad, ...]:
        """One for each segment held, whether one table or two name it."""
        found: dict[tuple[str, str, UnitRange], SegmentLoad] = {}
        for report in self._holdings.holding_reports():
            key = (report.deployment, report.segment, report.units)
            totals = self._totals.get(key, Totals())
            found[key] = SegmentLoad(
                *key,
                totals.requests,
                totals.bytes_in,
                totals.bytes_out,
                totals.row_ms.value,
                prefills=totals.prefills,
                prefill_tokens=totals.prefill_tokens,
                prefill_token_ms=totals.token_ms.value,
                queued=sum(
                    (job.header.target, job.units) == key[1:]
                    for job in self._queues.get(report.deployment, ())
                ),
            )
        return tuple(found.values())

    def sessions(self) -> dict[str, int]:
        """Caches of generations kept here, by deployment."""
        return self._sessions.counts()

    # --- work ---------------------------------------------------------------------------------

    def work_arrived(self, activation: Activation, now: float) -> Effects:
        """A request, prefill or decode for one of this node's segments."""
        header = activation.header
        holding = self._holdings.ready(header.deployment, header.stamp, header.target)
        if holding is None or not self._addressed(header):
            return [_to_door(header, "stale")]
        edge = self._arrive(activation, now)
        if self._jobs.get(header) is not None:
            return edge.finished(activation.nbytes, now) if edge else []
        self._numbers += 1
        budget_s = UNLIMITED_S if header.budget_ms is None else header.budget_ms / 1000
        units = holding.segment.units
        totals = self._totals.setdefault((header.deployment, header.target, units), Totals())
        totals.requests += 1
        totals.bytes_in += activation.nbytes
        job = Job(
            self._numbers,
            activation,
            deadline=now + budget_s,
            arrived=now,
            units=units,
            totals=totals,
            nbytes=activation.nbytes,
            edge=edge,
        )
        queue = self._queues.setdefault(header.deployment, deque())
        queued = sum(waiting.nbytes for waiting in queue)
        if len(queue) >= QUEUE_MAX or (queue and queued + job.nbytes > QUEUE_BYTES_MAX):
            return self._fail(job, _FULL, now)
        self._jobs.add(job)
        queue.append(job)
        return self._next(header.deployment, now)

    def computed(self, event: Computed, now: float) -> Effects:
        job = self._by_number.pop(event.job, None)
        if job is None:
            return []
        deployment = job.header.deployment
        self._computing.pop(deployment, None)
        job.totals.computed(job.header, event.seconds)
        effects = self._free(job, now)
        if job.phase != "cancelled":
            effects += self._hand_on(job, event, now)
        return effects + self._next(deployment, now)

    def compute_failed(self, number: int, failure: Failure, now: float) -> Effects:
        job = self._by_number.pop(number, None)
        if job is None:
            return []
        deployment = job.header.deployment
        self._computing.pop(deployment, None)
        effects = self._free(job, now)
        if job.phase != "cancelled":
            effects += self._fail(job, failure, now)
        return effects + self._next(deployment, now)

    def compute_stale(self, number: int, have: Mapping[str, int], now: float) -> Effects:
        """Sessions of a step lack positions here: the door feeds them again."""
        job = self._by_number.pop(number, None)
        if job is None:
            return []
        header = job.header
        self._computing.pop(header.deployment, None)
        effects = self._free(job, now)
        if job.phase != "cancelled":
            self._jobs.forget(job)
            rows = tuple(Row(session, n, 0) for session, n in have.items())
            effects.append(_to_door(header, "stale", rows=rows))
        return effects + self._next(header.deployment, now)

    def state_arrived(self, activation: Activation, now: float) -> Effects:
        """Of sessions: a copy, a question about a text, or a door's roll of those that live."""
        header = activation.header
        if header.copy is not None:
            return self.caches.asked(activation, now)
        if not self._addressed(header):
            return []
        if header.recall:
            return self._recalled(activation, now)
        return self._sessions.called(header, now)

    def _recalled(self, activation: Activation, now: float) -> Effects:
        """A door tells what was drawn of a text, or asks: the one that is named, or one that was
        and goes on with what it has. Who has no part in a text cannot name it.
        """
        header = activation.header
        if activation.tensors:
            self._drawn.known(header, activation.tensors, now)
            return []
        text = self._drawn.of(header.deployment, header.recall)
        rows = (Row("", text.first, len(text.tokens), text.take),) if text is not None else ()
        tensors = (as_tensor(text.tokens),) if text is not None else ()
        return [Transmit(header.door, Activation(header.told_door("done", rows), tensors))]

    def cancelled(self, header: Header, now: float) -> Effects:
        """The door wants no more of this attempt, be it here, on its way, or gone on."""
        job = self._jobs.get(header)
        if job is None:
            self._jobs.end(Job(0, Activation(header), now), "cancelled")
            return []
        effects: Effects = []
        if job.phase == "queued":
            self._queues[header.deployment].remove(job)
            effects += self._free(job, now)
        elif job.sent_to is not None:
            effects += job.sent_to.forget(header.try_key, now)
        self._jobs.end(job, "cancelled")
        return effects

    def broke(self, header: Header) -> Effects:
        """An activation for this node arrived damaged or with a gap."""
        return [_to_door(header, "lost")] if header.door else []

    def model_closed(self, deployment: str, now: float) -> Effects:
        """Its engine is gone, and with it the job it had: nothing of it will be computed."""
        effects = self.caches.model_closed(deployment)
        for job in self._jobs.live(deployment):
            self._by_number.pop(job.number, None)
            effects += self._refuse(job, now)
        self._computing.pop(deployment, None)
        self._queues.pop(deployment, None)
        self._sessions.forget(deployment)
        self._drawn.forget(deployment)
        self._totals = {key: kept for key, kept in self._totals.items() if key[0] != deployment}
        return effects

    # --- credits and probes -------------------------------------------------------------------

    def credit_arrived(self, header: Header, now: float) -> Effects:
        """A grant from the next segment, or a probe from the one before (or the door)."""
        credit = header.credit
        if credit is None:
            return []
        if not credit.probe:
            return self._edges.granted(header, credit, now)
        if credit.receiver != self._incarnation:
            return [_to_door(header, "stale")] if header.door else []
        edge = self._edges.incoming(header, credit.sender)
        effects = edge.probed(credit, now) if edge is not None else []
        return effects + self._asked(header) if header.door else effects

    def reconnected(self, now: float) -> Effects:
        """What was on the wire may be gone, grants among it."""
        return self._edges.reconnected(now)

    def tick(self, now: float) -> Effects:
        effects: Effects = []
        for deployment in list(self._queues):
            effects += self._drop_late(deployment, now)
        probes, late = self._edges.tick(now)
        effects += probes
        for activation in late:
            effects.append(_to_door(activation.header, "done", _TOO_LATE))
        for activation in self._edges.forget_gone():
            effects.append(_to_door(activation.header, "stale"))
        self._drawn.expire(now)
        return effects + self._sessions.tick(now)

    def next_tick(self, now: float) -> float:
        """The earliest time at which a tick does anything, unless an event comes before."""
        late = [job.deadline for queue in self._queues.values() for job in queue]
        return min([self._edges.next_tick(now), self._sessions.next_tick(), *late])

    def _asked(self, header: Header) -> Effects:
        """A probe for one attempt has come along the chain."""
        job = self._jobs.get(header)
        if job is None:
            return [_to_door(header, "lost")]
        if job.phase == "cancelled":
            return []
        if job.phase == "answered":
            told = Transmit(header.door, job.answer) if job.answer is not None else None
            return [told or _to_door(header, "lost")]
        # What waits here for credit lives as long as whoever is to give it.
        onward_edge = job.sent_to
        if onward_edge is not None and (
            onward_edge.is_silent or not onward_edge.holds(header.try_key)
        ):
            probe = onward_edge.probe(header.request, header.attempt)
            onward = replace(probe.activation.header, door=header.door)
            return [Transmit(probe.receiver, Activation(onward))]
        credit = Credit(self._incarnation, "", 0, 0)
        alive = replace(header, source=header.target, target=DOOR, credit=credit, rows=())
        return [Transmit(header.door, Activation(alive))]

    # --- queue and compute --------------------------------------------------------------------

    def _next(self, deployment: str, now: float) -> Effects:
        effects = self._drop_late(deployment, now)
        queue = self._queues.get(deployment)
        while queue and deployment not in self._computing:
            job = queue.popleft()
            header = job.header
            if self._holdings.ready(deployment, header.stamp, header.target) is None:
                effects += self._refuse(job, now)
                continue
            room = partial(room_for, self._holdings, self._incarnation, header)
            freed = self._sessions.begun(header, job.units, room, now)
            if freed is None:
                effects += self._refuse(job, now)
                continue
            job.phase, job.started = "computing", now
            self._computing[deployment] = job
            self._by_number[job.number] = job
            effects += [*freed, self._compute(job)]
        return effects

    def _compute(self, job: Job) -> Compute:
        header, spec = job.header, self._holdings.spec(job.header.deployment)
        return Compute(
            job.number,
            header.deployment,
            job.units,
            header.rows,
            job.activation.tensors,
            header.sampling,
            spec.input.batch_max if spec is not None else None,
            self._codec(header),
        )

    def _codec(self, header: Header) -> str:
        """Of what goes on from this node's segment; what goes to the door is raw."""
        table = self._holdings.table(header.deployment, header.stamp)
        following = table.after(header.target) if table else None
        hop = table.hop(header.target, following.id) if table and following else None
        return hop.codec.get(header.kind, RAW) if hop else RAW

    def _drop_late(self, deployment: str, now: float) -> Effects:
        queue = self._queues.get(deployment)
        effects: Effects = []
        if not queue:
            return effects
        for job in [job for job in queue if job.deadline <= now]:
            queue.remove(job)
            effects += self._fail(job, _TOO_LATE, now)
        return effects

    def _hand_on(self, job: Job, event: Computed, now: float) -> Effects:
        header, tensors = job.header, event.tensors
        table = self._holdings.table(header.deployment, header.stamp)
        if table is None:
            return self._refuse(job, now)
        stamp = HopStamp(
            header.target,
            max(0, int((job.started - job.arrived) * 1e6)),
            max(0, int(event.seconds * 1e6)),
            max(0, int(event.codec_s * 1e6)),
        )
        budget_ms = max(0, int((job.deadline - now) * 1000))
        job.totals.bytes_out += sum(tensor.nbytes for tensor in tensors)
        following = table.after(header.target)
        if following is None:
            self._drawn.drew(header, tensors, now)
            told = header.handed_on("done", DOOR, budget_ms=budget_ms, stamp=stamp, sampling=())
            done = Activation(told, tensors)
            self._jobs.end(job, "answered")
            self._jobs.keep_answer(job, done)
            return [Transmit(header.door, done)]
        onward = header.handed_on(
            header.kind,
            following.id,
            budget_ms=budget_ms,
            stamp=stamp,
            sampling=header.sampling,
        )
        edge = self._edges.outgoing(onward)
        if edge is None:
            return self._refuse(job, now)
        job.sent_to = edge
        self._jobs.end(job, "sent")
        return edge.send(Activation(onward, tensors), job.deadline, now)

    def _fail(self, job: Job, failure: Failure, now: float) -> Effects:
        """Tells the door why there is no result."""
        done = _to_door(job.header, "done", failure)
        self._jobs.end(job, "answered")
        self._jobs.keep_answer(job, done.activation)
        return [*self._free(job, now), done]

    def _refuse(self, job: Job, now: float) -> Effects:
        """This node does not hold the job's segment any more, or has no room for its caches."""
        self._jobs.forget(job)
        return [*self._free(job, now), _to_door(job.header, "stale")]

    # --- parts --------------------------------------------------------------------------------

    def _arrive(self, activation: Activation, now: float) -> IncomingEdge | None:
        """The edge on which the activation takes room until it is computed."""
        header = activation.header
        if header.edge is None:
            return None
        edge = self._edges.incoming(header, header.edge.sender)
        fresh = edge is not None and edge.arrived(header.edge, activation.nbytes, now)
        return edge if fresh else None

    def _free(self, job: Job, now: float) -> Effects:
        edge, job.edge = job.edge, None
        return edge.finished(job.nbytes, now) if edge is not None else []

    def _addressed(self, header: Header) -> bool:
        return header.edge is None or header.edge.receiver == self._incarnation


def _to_door(
    header: Header,
    kind: MessageKind,
    failure: Failure | None = None,
    rows: tuple[Row, ...] = (),
) -> Transmit:
    return Transmit(
        header.door, Activation(header.told_door(kind, rows, stamps=header.stamps, failure=failure))
    )
