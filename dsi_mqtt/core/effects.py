"""What a node's state machines ask of their shell. Each is done once, in order."""

from __future__ import annotations

from dataclasses import dataclass

from dsi_mqtt.core.activation import Row, Tensors
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.message import Activation
from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.request import Redelivery, Reply
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
class Compute:
    """Run a segment; answer with Computed or ComputeFailed carrying the same job number.

    batch_max: rows that an input may bring, where `units` read one; None: any number.
    """

    job: int
    deployment: str
    units: UnitRange
    rows: tuple[Row, ...]
    tensors: Tensors
    batch_max: int | None = None


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
    | Compute
    | Transmit
    | OpenIngress
    | CloseIngress
    | EchoNonce
    | PublishReply
    | Acknowledge
    | WriteRecord
    | ClearRetained
)
Effects = list[Effect]
