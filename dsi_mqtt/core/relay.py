"""Traffic through the segments of one node: receive, queue, compute, hand on.

An attempt is looked at four times: is its table and segment held here (else `stale`), is there
time left (else an error to the door), is it cancelled, and is there credit on the next edge. An
engine computes one job at a time; the others wait here, where they can still be dropped.

A probe follows an attempt along the same ordered edges. Whoever holds the attempt tells the door
`alive`; who has handed it on passes the probe behind it; who does not know it says `lost`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, replace
from typing import Final, Literal

from dsi_mqtt.core.activation import Tensors
from dsi_mqtt.core.edges import EdgeKey, IncomingEdge, OutgoingEdge
from dsi_mqtt.core.effects import Compute, Effects, Transmit
from dsi_mqtt.core.holdings import Holdings
from dsi_mqtt.core.message import Activation, Credit, Failure, Header, HopStamp, MessageKind
from dsi_mqtt.core.node import SegmentLoad
from dsi_mqtt.core.table import DOOR, Table

REMEMBERED: Final = 2048
RESULTS_KEPT: Final = 256
SMOOTHING: Final = 0.2
QUEUE_MAX: Final = 1024

Phase = Literal["queued", "computing", "sent", "cancelled"]
JobKey = tuple[str, str, bytes, int]


@dataclass(slots=True)
class _Job:
    number: int
    activation: Activation
    nbytes: int
    arrived: float
    deadline: float
    phase: Phase = "queued"
    started: float = 0.0
    edge: IncomingEdge | None = None
    sent_to: OutgoingEdge | None = None
    answer: Activation | None = None


@dataclass(slots=True)
class _Totals:
    requests: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    compute_ms: float | None = None


class Relay:
    """State machine of everything that passes this node's segments."""

    def __init__(self, node: str, incarnation: str, holdings: Holdings) -> None:
        self._node = node
        self._incarnation = incarnation
        self._holdings = holdings
        self._numbers = 0
        self._jobs: OrderedDict[JobKey, _Job] = OrderedDict()
        self._by_number: dict[int, _Job] = {}
        self._queues: dict[str, deque[_Job]] = {}
        self._computing: dict[str, _Job] = {}
        self._outgoing: dict[EdgeKey, OutgoingEdge] = {}
        self._incoming: dict[EdgeKey, IncomingEdge] = {}
        self._totals: dict[tuple[str, str], _Totals] = {}
        self._kept_answers: deque[_Job] = deque()

    # --- questions ----------------------------------------------------------------------------

    def loads(self) -> tuple[SegmentLoad, ...]:
        found = []
        for report in self._holdings.holding_reports():
            key = (report.deployment, report.segment)
            totals = self._totals.get(key, _Totals())
            queued = sum(
                1
                for job in self._queues.get(report.deployment, ())
                if job.activation.header.target == report.segment
            )
            load = SegmentLoad(
                report.deployment,
                report.segment,
                report.units,
                totals.requests,
                totals.bytes_in,
                totals.bytes_out,
                totals.compute_ms,
                queued,
            )
            found.append(load)
        return tuple(found)

    # --- events -------------------------------------------------------------------------------

    def work_arrived(self, activation: Activation, now: float) -> Effects:
        """A request, prefill or decode for one of this node's segments."""
        header = activation.header
        holding = self._holdings.ready(header.deployment, header.stamp, header.target)
        if holding is None or not self._addressed(header):
            return [self._to_door(header, "stale")]
        key = _job_key(header)
        if key in self._jobs:
            return []
        self._numbers += 1
        budget = header.budget_ms if header.budget_ms is not None else 600_000
        job = _Job(self._numbers, activation, activation.nbytes, now, now + budget / 1000)
        job.edge = self._arrive(header, activation.nbytes, now)
        totals = self._totals.setdefault((header.deployment, header.target), _Totals())
        totals.requests += 1
        totals.bytes_in += activation.nbytes
        queue = self._queues.setdefault(header.deployment, deque())
        if len(queue) >= QUEUE_MAX:
            self._remember(key, job)
            return self._fail(job, Failure("overloaded", "this node's queue is full"), now)
        self._remember(key, job)
        queue.append(job)
        return self._next(header.deployment, now)

    def computed(self, number: int, tensors: Tensors, now: float, seconds: float) -> Effects:
        job = self._by_number.pop(number, None)
        if job is None:
            return []
        header = job.activation.header
        deployment = header.deployment
        self._computing.pop(deployment, None)
        self._measure(job, seconds)
        effects = self._release(job, now)
        if job.phase != "cancelled":
            effects += self._hand_on(job, tensors, now, seconds)
        return effects + self._next(deployment, now)

    def compute_failed(self, number: int, failure: Failure, now: float) -> Effects:
        job = self._by_number.pop(number, None)
        if job is None:
            return []
        deployment = job.activation.header.deployment
        self._computing.pop(deployment, None)
        effects: Effects = []
        if job.phase == "cancelled":
            effects += self._release(job, now)
        else:
            effects += self._fail(job, failure, now)
        return effects + self._next(deployment, now)

    def cancelled(self, header: Header, now: float) -> Effects:
        effects: Effects = []
        for key, job in list(self._jobs.items()):
            if key[0] != header.deployment or key[2:] != (header.request, header.attempt):
                continue
            if job.phase == "queued":
                self._queues[header.deployment].remove(job)
                effects += self._release(job, now)
            if job.sent_to is not None:
                job.sent_to.forget(header.try_key)
            job.phase = "cancelled"
            job.activation = Activation(job.activation.header)
            job.answer = None
        return effects

    def credit_arrived(self, header: Header, now: float) -> Effects:
        """A grant from the next segment, or a probe from the one before (or the door)."""
        credit = header.credit
        if credit is None:
            return []
        effects: Effects = []
        if credit.probe:
            if credit.receiver != self._incarnation:
                return [self._to_door(header, "stale")] if header.door else []
            edge = self._incoming_edge(header, credit.sender)
            if edge is not None and header.source != DOOR:
                effects += edge.probed(credit, now)
            if any(header.request):
                effects += self._asked(header)
            return effects
        key = EdgeKey(
            header.deployment,
            header.stamp,
            header.target,
            header.source,
            credit.sender,
            credit.receiver,
        )
        outgoing = self._outgoing.get(key)
        return outgoing.grant(credit) if outgoing else []

    def broke(self, header: Header) -> Effects:
        """An activation for this node arrived damaged or with a gap."""
        return [self._to_door(header, "lost")] if header.door else []

    def tick(self, now: float) -> Effects:
        effects: Effects = []
        for deployment in list(self._queues):
            effects += self._drop_late(deployment, now)
        for outgoing in list(self._outgoing.values()):
            probes, late = outgoing.tick(now)
            effects += probes
            effects += [self._to_door(a.header, "done", _TOO_LATE) for a in late]
        for incoming in list(self._incoming.values()):
            effects += incoming.tick(now)
        self._forget_old_edges()
        return effects

    # --- queue and compute --------------------------------------------------------------------

    def _next(self, deployment: str, now: float) -> Effects:
        effects = self._drop_late(deployment, now)
        queue = self._queues.get(deployment)
        while queue and deployment not in self._computing:
            job = queue.popleft()
            header = job.activation.header
            holding = self._holdings.ready(deployment, header.stamp, header.target)
            if holding is None:
                effects += [*self._release(job, now), self._to_door(header, "stale")]
                continue
            job.phase, job.started = "computing", now
            self._computing[deployment] = job
            self._by_number[job.number] = job
            tensors = job.activation.tensors
            effects.append(
                Compute(job.number, deployment, holding.segment.units, header.rows, tensors)
            )
        return effects

    def _drop_late(self, deployment: str, now: float) -> Effects:
        queue = self._queues.get(deployment)
        late = [job for job in queue or () if job.deadline <= now]
        effects: Effects = []
        for job in late:
            self._queues[deployment].remove(job)
            effects += self._fail(job, _TOO_LATE, now)
        return effects

    def _hand_on(self, job: _Job, tensors: Tensors, now: float, seconds: float) -> Effects:
        header = job.activation.header
        table = self._holdings.table(header.deployment, header.stamp)
        if table is None:
            return [self._to_door(header, "stale")]
        stamp = HopStamp(
            header.target,
            max(0, int((job.started - job.arrived) * 1e6)),
            max(0, int(seconds * 1e6)),
            0,
        )
        onward = replace(
            header,
            source=header.target,
            budget_ms=max(0, int((job.deadline - now) * 1000)),
            stamps=(*header.stamps, stamp),
            edge=None,
        )
        job.phase = "sent"
        job.activation = Activation(header)  # the input's memory is free now
        nbytes = sum(tensor.nbytes for tensor in tensors)
        self._totals[(header.deployment, header.target)].bytes_out += nbytes
        following = table.after(header.target)
        if following is None:
            done = Activation(replace(onward, kind="done", target=DOOR), tensors)
            self._keep_answer(job, done)
            return [Transmit(header.door, done)]
        activation = Activation(replace(onward, target=following.id), tensors)
        return self._send(job, table, activation, now)

    def _send(self, job: _Job, table: Table, activation: Activation, now: float) -> Effects:
        header = activation.header
        segment = table.segment(header.target)
        hop = table.hop(header.source, header.target)
        if segment is None or hop is None:
            return [self._to_door(header, "stale")]
        receiver = segment.replicas[0]
        key = EdgeKey(
            header.deployment,
            header.stamp,
            header.source,
            header.target,
            self._incarnation,
            receiver.incarnation,
        )
        edge = self._outgoing.get(key)
        if edge is None:
            edge = self._outgoing[key] = OutgoingEdge(key, receiver.node, hop)
        job.sent_to = edge
        return edge.send(activation, job.deadline, now)

    def _fail(self, job: _Job, failure: Failure, now: float) -> Effects:
        header = job.activation.header
        job.phase = "sent"
        done = self._to_door(header, "done", failure)
        self._keep_answer(job, done.activation)
        effects = self._release(job, now)
        job.activation = Activation(header)
        return [*effects, done]

    def _measure(self, job: _Job, seconds: float) -> None:
        header = job.activation.header
        totals = self._totals.setdefault((header.deployment, header.target), _Totals())
        before = totals.compute_ms
        spent = seconds * 1000
        totals.compute_ms = spent if before is None else before + SMOOTHING * (spent - before)

    # --- edges --------------------------------------------------------------------------------

    def _arrive(self, header: Header, nbytes: int, now: float) -> IncomingEdge | None:
        if header.edge is None:
            return None
        edge = self._incoming_edge(header, header.edge.sender)
        if edge is not None:
            edge.arrived(header.edge, nbytes, now)
        return edge

    def _incoming_edge(self, header: Header, sender: str) -> IncomingEdge | None:
        key = EdgeKey(
            header.deployment, header.stamp, header.source, header.target, sender, self._incarnation
        )
        edge = self._incoming.get(key)
        if edge is None:
            table = self._holdings.table(header.deployment, header.stamp)
            hop = table.hop(header.source, header.target) if table else None
            node = self._node_of(table, header.source, sender) if table else None
            if hop is None or node is None:
                return None
            edge = self._incoming[key] = IncomingEdge(key, node, hop)
        return edge

    def _node_of(self, table: Table, segment_id: str, incarnation: str) -> str | None:
        segment = table.segment(segment_id)
        replicas = segment.replicas if segment else ()
        return next((r.node for r in replicas if r.incarnation == incarnation), None)

    def _release(self, job: _Job, now: float) -> Effects:
        edge, job.edge = job.edge, None
        return edge.finished(job.nbytes, now) if edge is not None else []

    def _forget_old_edges(self) -> None:
        known = self._holdings.table
        for key in [*self._outgoing, *self._incoming]:
            if known(key.deployment, key.stamp) is None:
                self._outgoing.pop(key, None)
                self._incoming.pop(key, None)

    # --- probes and answers -------------------------------------------------------------------

    def _asked(self, header: Header) -> Effects:
        """A probe for one attempt has come along the chain."""
        job = self._jobs.get(_job_key(header))
        if job is None:
            return [self._to_door(header, "lost")]
        if job.answer is not None:
            return [Transmit(header.door, job.answer)]
        if job.phase == "cancelled":
            return []
        if job.sent_to is not None and not job.sent_to.waiting:
            probe = job.sent_to.probe(header.request, header.attempt)
            onward = replace(probe.activation.header, door=header.door)
            return [Transmit(probe.receiver, Activation(onward))]
        if job.phase == "sent" and job.sent_to is None:
            return [self._to_door(header, "lost")]  # its answer is no longer kept
        return [self._alive(header)]

    def _alive(self, header: Header) -> Transmit:
        credit = Credit(self._incarnation, "", 0, 0)
        told = replace(header, source=header.target, target=DOOR, credit=credit, rows=())
        return Transmit(header.door, Activation(told))

    def _to_door(
        self, header: Header, kind: MessageKind, failure: Failure | None = None
    ) -> Transmit:
        told = Header(
            kind,
            header.deployment,
            header.stamp,
            header.target,
            DOOR,
            header.request,
            header.attempt,
            door=header.door,
            stamps=header.stamps,
            failure=failure,
        )
        return Transmit(header.door, Activation(told))

    def _addressed(self, header: Header) -> bool:
        return header.edge is None or header.edge.receiver == self._incarnation

    def _remember(self, key: JobKey, job: _Job) -> None:
        self._jobs[key] = job
        while len(self._jobs) > REMEMBERED and next(iter(self._jobs.values())).phase not in (
            "queued",
            "computing",
        ):
            self._jobs.popitem(last=False)

    def _keep_answer(self, job: _Job, answer: Activation) -> None:
        job.answer = answer
        self._kept_answers.append(job)
        while len(self._kept_answers) > RESULTS_KEPT:
            self._kept_answers.popleft().answer = None


_TOO_LATE: Final = Failure("deadline", "time ran out inside the chain; try again")


def _job_key(header: Header) -> JobKey:
    return header.deployment, header.target, header.request, header.attempt
