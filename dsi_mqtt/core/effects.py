"""What a node's state machines ask of their shell. Each is done once, in order."""

from __future__ import annotations

from dataclasses import dataclass

from dsi_mqtt.core.activation import RAW, Row, Tensors
from dsi_mqtt.core.deployment import Deployment, Generation
from dsi_mqtt.core.generation import Partial, Sampling
from dsi_mqtt.core.message import Activation
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.request import Input, ParsedInput, Redelivery, Reply
from dsi_mqtt.core.table import DoorPlace


@dataclass(frozen=True, slots=True)
class OpenModel:
    """Describe and verify this model; answer with ModelOpened or ModelRefused."""

    deployment: Deployment


@dataclass(frozen=True, slots=True)
class CloseModel:
    deployment: str


@dataclass(frozen=True, slots=True)
class LoadUnits:
    """Answer with UnitsLoaded or UnitsFailed."""

    deployment: str
    units: UnitRange


@dataclass(frozen=True, slots=True)
class DropUnits:
    deployment: str
    units: UnitRange


@dataclass(frozen=True, slots=True)
class ReportStatus:
    """The status has changed: publish it."""


@dataclass(frozen=True, slots=True)
class GiveWay:
    """Another node of this name stays, if it lives: end then, and say nothing meanwhile."""


@dataclass(frozen=True, slots=True)
class Compute:
    """Run a segment; answer with Computed, ComputeFailed or ComputeStale and the same job number.

    tensors: to be decoded first, as each says. sampling: one for each row of a step, which sessions
    have. batch_max: rows that an input may bring, where `units` read one; None: any number. codec:
    of the hop that what is computed goes over.
    """

    job: int
    deployment: str
    units: UnitRange
    rows: tuple[Row, ...]
    tensors: Tensors
    sampling: tuple[Sampling | None, ...] = ()
    batch_max: int | None = None
    codec: str = RAW


@dataclass(frozen=True, slots=True)
class CloseSessions:
    """Free what the engine keeps of these sessions."""

    deployment: str
    sessions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExportState:
    """Read positions `[first, last)` of a session's cache; answer with StateExported or StateStale
    and the same job number.
    """

    job: int
    deployment: str
    session: str
    units: UnitRange
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class ImportState:
    """Put positions `[first, last)`, as another engine exported them, into a session's cache;
    answer with StateImported or StateStale and the same job number.
    """

    job: int
    deployment: str
    session: str
    units: UnitRange
    first: int
    last: int
    blob: bytes | memoryview


@dataclass(frozen=True, slots=True)
class ReadPrompt:
    """Read what a generation is asked for; answer with PromptRead or PromptRefused."""

    deployment: str
    request: bytes
    parsed: ParsedInput
    limits: Generation


@dataclass(frozen=True, slots=True)
class WriteText:
    """Turn further tokens of a generation into text; answer with TextWritten or PromptRefused.

    last: no tokens follow, so that nothing is held back.
    """

    deployment: str
    request: bytes
    tokens: tuple[int, ...]
    last: bool


@dataclass(frozen=True, slots=True)
class ForgetText:
    """No more text of this generation is wanted."""

    deployment: str
    request: bytes


@dataclass(frozen=True, slots=True)
class PublishPartial:
    """Publish a part of a stream.

    ask: at QoS 1, and answer with PartialTaken. Else at QoS 0: a broker that keeps its state safe
    writes at each message of QoS 1, and what of a stream is lost comes with the answer.
    """

    deployment: str
    request: bytes
    given: Input
    partial: Partial
    ask: bool = True


@dataclass(frozen=True, slots=True)
class EchoHearing:
    """Send the door a word by the way that devices' words come; answer with HearingProven."""

    deployment: str
    asked_at: float


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send to a node over the data connection (or hand over at once when it is this node)."""

    receiver: str
    activation: Activation


@dataclass(frozen=True, slots=True)
class OpenIngress:
    """Take the durable MQTT session and subscribe; answer with IngressOpened or IngressLost.

    An earlier connection of this deployment is left first, without a word.
    """

    deployment: str
    door: DoorPlace
    hold_count: int
    hold_bytes: int


@dataclass(frozen=True, slots=True)
class OpenAnswers:
    """Connect what answers leave by, at the broker of the ingress, which is to be opened later."""

    deployment: str
    door: DoorPlace


@dataclass(frozen=True, slots=True)
class CloseIngress:
    """Leave the session to the next door; `forget` ends it at the broker as well."""

    deployment: str
    forget: bool


@dataclass(frozen=True, slots=True)
class EchoNonce:
    """Send a nonce to oneself over the control connection; answer with NonceReturned."""

    deployment: str


@dataclass(frozen=True, slots=True)
class PublishReply:
    """Publish at QoS 1; answer with ReplyPublished when the broker has acknowledged."""

    deployment: str
    request: bytes
    reply: Reply


@dataclass(frozen=True, slots=True)
class Acknowledge:
    deployment: str
    receipt: int


@dataclass(frozen=True, slots=True)
class WriteRecord:
    """Retain a record; answer with RecordWritten. A void one clears it, without an answer."""

    deployment: str
    record: Redelivery


@dataclass(frozen=True, slots=True)
class ClearRetained:
    """Remove a retained input, which would come back with every subscription."""

    deployment: str
    device: str


Effect = (
    OpenModel
    | CloseModel
    | LoadUnits
    | DropUnits
    | ReportStatus
    | GiveWay
    | Compute
    | CloseSessions
    | ExportState
    | ImportState
    | ReadPrompt
    | WriteText
    | ForgetText
    | PublishPartial
    | EchoHearing
    | Transmit
    | OpenIngress
    | OpenAnswers
    | CloseIngress
    | EchoNonce
    | PublishReply
    | Acknowledge
    | WriteRecord
    | ClearRetained
)
Effects = list[Effect]
