"""What travels between doors and segments: a header and, for most kinds, tensors.

| kind | from → to | means |
|---|---|---|
| request, prefill, decode | door → first, segment → next | compute this |
| done | last → door, any → door with `error` | the answer, or why there is none |
| stale | segment → door | I do not hold this segment of this table (any more), or these sessions |
| lost | segment → door | this attempt broke here; its message or its record is gone |
| cancel | door → every segment | forget this attempt |
| credit | receiver → sender | how much may be on this edge; also asks, and tells, of life |
| input | door → next door | this came while I hold the ingress: run it (`core.hand_over`) |
| state | door → every segment | which sessions live; with `copy`, to one: copy this of a cache |
| | | with `recall`: what have you drawn of this text? `done` answers |
| | segment → segment | with `copy`: that copy |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from dsi_mqtt.core.activation import Row, Tensors
from dsi_mqtt.core.generation import Sampling
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.table import DOOR, Stamp

VERSION: Final = 1

MessageKind = Literal[
    "request", "prefill", "decode", "cancel", "credit", "done", "stale", "lost", "input", "state"
]
Priority = Literal["low", "normal", "high"]
KINDS: Final[frozenset[str]] = frozenset(get_args(MessageKind))
WORK: Final[frozenset[str]] = frozenset({"request", "prefill", "decode"})


@dataclass(frozen=True, slots=True)
class HopStamp:
    """Where a request's time went on one segment, in microseconds."""

    segment: str
    queue_us: int
    compute_us: int
    codec_us: int


# More is told to nobody, and believed of nobody.
RETRY_AFTER_MAX_S: Final = 3600


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request has no result.

    code: one of `errors.REQUEST_ERRORS`; where no door sees the input, `unknown_deployment` too.
    retry_after_s: seconds after which it may be worth another try, where that can be told; at most
    `RETRY_AFTER_MAX_S`.
    """

    code: str
    message: str
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class EdgeMark:
    """Who talks to whom, and how much was sent on this edge, this activation included."""

    sender: str
    receiver: str
    sent_bytes: int
    sent_messages: int


@dataclass(frozen=True, slots=True)
class Credit:
    """Cumulative credit of one edge, keyed by both incarnations and the header's stamp.

    A grant carries how much the sender may have sent since the edge began. A probe (`probe`
    True) goes with the stream and carries what was sent: whatever of it the receiver has not
    seen by then is lost. With a request named in the header a probe asks whether it is alive.
    """

    sender: str
    receiver: str
    nbytes: int
    messages: int
    probe: bool = False


@dataclass(frozen=True, slots=True)
class Copy:
    """Of the cache of the header's one row what `units` keep; `segment` of the table `stamp` gets
    it.
    """

    units: UnitRange
    stamp: Stamp
    segment: str


@dataclass(frozen=True, slots=True)
class Passed:
    """Of an input that one door passes on to the next, what is not its body; as `request.Input`."""

    device: str
    digest: str
    nbytes: int
    identity: str | None = None
    correlation: bytes | None = None
    response_topic: str | None = None
    priority: Priority = "normal"
    expiry_s: int | None = None
    deaths: int | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """`source` and `target` are segment ids or "door" (`from` and `to` on the wire).

    request: 16 bytes, the same through all attempts. budget_ms: time left at sending; a wall
    clock never travels. door: the node that waits for the answer. sampling: one for each row of a
    step, None where nothing is drawn. lane: by which replicas are chosen (`Segment.replica`).
    recall: a text, as `Sampling` names it.
    """

    kind: MessageKind
    deployment: str
    stamp: Stamp
    source: str
    target: str
    request: bytes = bytes(16)
    attempt: int = 0
    door: str = ""
    rows: tuple[Row, ...] = ()
    budget_ms: int | None = None
    trace: str | None = None
    stamps: tuple[HopStamp, ...] = ()
    edge: EdgeMark | None = None
    credit: Credit | None = None
    failure: Failure | None = None
    sampling: tuple[Sampling | None, ...] = ()
    lane: int = 0
    copy: Copy | None = None
    passed: Passed | None = None
    recall: bytes = b""

    @property
    def try_key(self) -> tuple[bytes, int]:
        """What tells one attempt of one request from all others."""
        return self.request, self.attempt

    def told_door(
        self,
        kind: MessageKind,
        rows: tuple[Row, ...] = (),
        *,
        stamps: tuple[HopStamp, ...] = (),
        failure: Failure | None = None,
    ) -> Header:
        """What its target tells the door about it."""
        return Header(
            kind,
            self.deployment,
            self.stamp,
            self.target,
            DOOR,
            self.request,
            self.attempt,
            door=self.door,
            rows=rows,
            stamps=stamps,
            failure=failure,
        )

    # By hand, for `dataclasses.replace` takes twice the time, and these are made on every hop.

    def handed_on(
        self,
        kind: MessageKind,
        target: str,
        *,
        budget_ms: int,
        stamp: HopStamp,
        sampling: tuple[Sampling | None, ...],
    ) -> Header:
        """What its target, which has computed it, hands on to `target`."""
        return Header(
            kind,
            self.deployment,
            self.stamp,
            self.target,
            target,
            self.request,
            self.attempt,
            self.door,
            self.rows,
            budget_ms,
            self.trace,
            (*self.stamps, stamp),
            None,
            self.credit,
            self.failure,
            sampling,
            self.lane,
            self.copy,
            self.passed,
            self.recall,
        )

    def on_edge(self, edge: EdgeMark, budget_ms: int) -> Header:
        """As it is sent."""
        return Header(
            self.kind,
            self.deployment,
            self.stamp,
            self.source,
            self.target,
            self.request,
            self.attempt,
            self.door,
            self.rows,
            budget_ms,
            self.trace,
            self.stamps,
            edge,
            self.credit,
            self.failure,
            self.sampling,
            self.lane,
            self.copy,
            self.passed,
            self.recall,
        )


def of_state(
    deployment: str, stamp: Stamp, segment: str, door: tuple[str, str], incarnation: str
) -> Header:
    """From a door (node, incarnation) to that of a replica; what it is about is yet to be said."""
    return Header(
        "state",
        deployment,
        stamp,
        DOOR,
        segment,
        door=door[0],
        edge=EdgeMark(door[1], incarnation, 0, 0),
    )


@dataclass(frozen=True, slots=True)
class Activation:
    header: Header
    tensors: Tensors = field(default=())

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)
