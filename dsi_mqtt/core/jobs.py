"""The attempts a node has in hand, and the ones it remembers so that it can answer probes.

    queued ──► computing ──► sent (on to the next segment)
       │           │   └───► answered (told the door: a result or a failure)
       └───────────┴───────► cancelled

Jobs that are queued or computing are bounded by what doors and credits admit. Of the others each
deployment's newest are remembered: a repetition of one is recognised, and a probe is told the
truth. What a cancel names is remembered even if it never came, for a cancel may overtake its
activation. What is remembered of them is what tells them apart, whatever else their headers bore.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final, Literal

from dsi_mqtt.core.edges import IncomingEdge, OutgoingEdge
from dsi_mqtt.core.level import Level
from dsi_mqtt.core.message import Activation, Header
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.sizes import MIB

# Of each deployment: one with many short attempts must not push another's out.
REMEMBERED: Final = 2048
# Those that had an attempt last, for anybody may send a cancel that names another.
DEPLOYMENTS_REMEMBERED: Final = 64
ANSWERS_KEPT: Final = 256
ANSWER_BYTES_KEPT: Final = 32 * MIB
# Of an answer beside its tensors: the objects it consists of, and one for each row and stamp.
ANSWER_BYTES: Final = 2048
ENTRY_BYTES: Final = 192

NO_UNITS: Final = UnitRange(0, 0)

Phase = Literal["queued", "computing", "sent", "answered", "cancelled"]
JobKey = tuple[str, str, bytes, int]


def job_key(header: Header) -> JobKey:
    """One attempt at one segment."""
    return header.deployment, header.target, header.request, header.attempt


@dataclass(slots=True)
class Totals:
    """Traffic of one segment since the node started, and how long it takes: `SegmentLoad`."""

    requests: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    prefills: int = 0
    prefill_tokens: int = 0
    row_ms: Level = field(default_factory=Level)
    token_ms: Level = field(default_factory=Level)

    def computed(self, header: Header, seconds: float) -> None:
        """Each kind of work apart. A step for several sessions says nothing of one alone."""
        if header.kind == "prefill":
            tokens = sum(row.tokens for row in header.rows)
            self.prefills += 1
            self.prefill_tokens += tokens
            self.token_ms.saw(seconds * 1000 / max(1, tokens))
        elif len(header.rows) <= 1:
            self.row_ms.saw(seconds * 1000)


@dataclass(slots=True, eq=False)
class Job:
    """number: what an engine answers with. edge: where its room is freed; None: none is taken.

    nbytes: of the activation, which is let go of once it is computed. sent_to: where it went on.
    """

    number: int
    activation: Activation
    deadline: float
    arrived: float = 0.0
    units: UnitRange = NO_UNITS
    totals: Totals = field(default_factory=Totals)
    nbytes: int = 0
    phase: Phase = "queued"
    started: float = 0.0
    edge: IncomingEdge | None = None
    sent_to: OutgoingEdge | None = None
    answer: Activation | None = None

    @property
    def header(self) -> Header:
        return self.activation.header

    @property
    def live(self) -> bool:
        return self.phase in ("queued", "computing")


class Jobs:
    """Jobs by attempt: all live ones, and the newest of the others."""

    def __init__(self) -> None:
        self._live: dict[JobKey, Job] = {}
        self._ended: OrderedDict[str, OrderedDict[JobKey, Job]] = OrderedDict()
        self._answers: deque[Job] = deque()
        self._answer_bytes = 0

    def get(self, header: Header) -> Job | None:
        key = job_key(header)
        ended = self._ended.get(header.deployment)
        return self._live.get(key) or (ended.get(key) if ended is not None else None)

    def live(self, deployment: str) -> list[Job]:
        return [job for key, job in self._live.items() if key[0] == deployment]

    def add(self, job: Job) -> None:
        self._live[job_key(job.header)] = job

    def end(self, job: Job, phase: Phase) -> None:
        """The job is over here; its tensors are let go of."""
        key = job_key(job.header)
        self._live.pop(key, None)
        job.phase, job.activation = phase, Activation(_essence(job.header))
        ended = self._ended.setdefault(job.header.deployment, OrderedDict())
        self._ended.move_to_end(job.header.deployment)
        ended[key] = job
        while len(ended) > REMEMBERED:
            ended.popitem(last=False)
        while len(self._ended) > DEPLOYMENTS_REMEMBERED:
            self._ended.popitem(last=False)

    def forget(self, job: Job) -> None:
        """As if it had never come: a probe for it will say `lost`."""
        self._live.pop(job_key(job.header), None)

    def keep_answer(self, job: Job, answer: Activation) -> None:
        """Until newer ones take its place, a probe gets the answer itself."""
        job.answer = answer
        self._answers.append(job)
        self._answer_bytes += _held_bytes(answer)
        while len(self._answers) > ANSWERS_KEPT or self._answer_bytes > ANSWER_BYTES_KEPT:
            oldest = self._answers.popleft()
            if oldest.answer is not None:
                self._answer_bytes -= _held_bytes(oldest.answer)
                oldest.answer = None


def _essence(header: Header) -> Header:
    """What tells one attempt at one segment from all others, and where it belongs."""
    return Header(
        header.kind,
        header.deployment,
        header.stamp,
        header.source,
        header.target,
        header.request,
        header.attempt,
        header.door,
    )


def _held_bytes(answer: Activation) -> int:
    """A header has no tensors and may be long all the same."""
    header = answer.header
    entries = len(header.rows) + len(header.stamps)
    return ANSWER_BYTES + answer.nbytes + ENTRY_BYTES * entries + len(header.trace or "")
