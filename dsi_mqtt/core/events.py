"""What a shell tells a node's state machine: facts, in the past tense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dsi_mqtt.core.activation import Tensors
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.generation import Ask
from dsi_mqtt.core.message import Activation, Failure, Header
from dsi_mqtt.core.model import ModelGraph, UnitRange
from dsi_mqtt.core.node import Desired, NodeStatus
from dsi_mqtt.core.request import Input, Redelivery
from dsi_mqtt.core.table import BrokerUrls, TableDocument


@dataclass(frozen=True, slots=True)
class SpecArrived:
    deployment: Deployment


@dataclass(frozen=True, slots=True)
class SpecGone:
    deployment: str


@dataclass(frozen=True, slots=True)
class TableArrived:
    deployment: str
    document: TableDocument


@dataclass(frozen=True, slots=True)
class StatusArrived:
    """A node's status, or its will; its own comes back to it as well."""

    status: NodeStatus


@dataclass(frozen=True, slots=True)
class StatusRemoved:
    """Somebody has cleared what was retained of a node."""

    node: str


@dataclass(frozen=True, slots=True)
class DesiredArrived:
    desired: Desired


@dataclass(frozen=True, slots=True)
class ModelOpened:
    """codec_errors: as measured on the deployment's samples, where it has any."""

    deployment: str
    graph: ModelGraph
    codec_errors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelRefused:
    deployment: str
    reason: str


@dataclass(frozen=True, slots=True)
class UnitsLoaded:
    """warm_ms: a warm pass of one reference row through `units`."""

    deployment: str
    units: UnitRange
    warm_ms: float


@dataclass(frozen=True, slots=True)
class UnitsFailed:
    deployment: str
    units: UnitRange
    reason: str


@dataclass(frozen=True, slots=True)
class ActivationArrived:
    activation: Activation


@dataclass(frozen=True, slots=True)
class ActivationBroke:
    """An activation for this node arrived damaged, or with a gap, or not to its end."""

    header: Header


@dataclass(frozen=True, slots=True)
class Computed:
    """tensors: encoded for the hop they go over. codec_s: that took, with decoding what came."""

    job: int
    tensors: Tensors
    seconds: float
    codec_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ComputeFailed:
    job: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class ComputeStale:
    """Sessions of a step lack positions here. have: how many they have."""

    job: int
    have: dict[str, int]


@dataclass(frozen=True, slots=True)
class StateExported:
    job: int
    blob: bytes


@dataclass(frozen=True, slots=True)
class StateImported:
    job: int


@dataclass(frozen=True, slots=True)
class StateStale:
    """No state was read, or taken in. have: positions that the session has, if it is that."""

    job: int
    have: int | None = None


@dataclass(frozen=True, slots=True)
class PromptRead:
    """tokens: of the prompt in `ask`."""

    deployment: str
    request: bytes
    ask: Ask
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PromptRefused:
    deployment: str
    request: bytes
    failure: Failure


@dataclass(frozen=True, slots=True)
class TextWritten:
    """text: of so many further tokens of a generation; last: all that was still held back."""

    deployment: str
    request: bytes
    tokens: int
    text: str
    last: bool


@dataclass(frozen=True, slots=True)
class PartialTaken:
    """The broker has a part of a stream. heard: False: it says that nobody has subscribed to it."""

    deployment: str
    request: bytes
    heard: bool


@dataclass(frozen=True, slots=True)
class CancelArrived:
    """A device wants an input of its own no more. key: as `Input.key`."""

    deployment: str
    key: str


@dataclass(frozen=True, slots=True)
class DeviceSpoke:
    """A device says that it still waits for its generations."""

    deployment: str
    device: str


@dataclass(frozen=True, slots=True)
class HearingChanged:
    """Whether this node's door hears what devices say beside their inputs."""

    deployment: str
    hears: bool


@dataclass(frozen=True, slots=True)
class HearingProven:
    """The door's own word has come back. asked_at: of the EchoHearing."""

    deployment: str
    asked_at: float


@dataclass(frozen=True, slots=True)
class DataReconnected:
    """The data connection is back; what was on the wire may be lost."""


@dataclass(frozen=True, slots=True)
class BrokersMoved:
    """Tensors go to another broker from now on; `DataReconnected` follows."""

    brokers: BrokerUrls


@dataclass(frozen=True, slots=True)
class ControlReconnected:
    """The control connection is (again) there: retained state has to be written anew."""


@dataclass(frozen=True, slots=True)
class RetainedRead:
    """All that the broker retained when the control connection came has arrived."""


@dataclass(frozen=True, slots=True)
class IngressOpened:
    deployment: str


@dataclass(frozen=True, slots=True)
class IngressLost:
    """The ingress connection ended or could not be opened."""

    deployment: str


@dataclass(frozen=True, slots=True)
class NonceReturned:
    deployment: str


@dataclass(frozen=True, slots=True)
class InputArrived:
    deployment: str
    input: Input


@dataclass(frozen=True, slots=True)
class RecordFound:
    """A retained record from before."""

    deployment: str
    record: Redelivery


@dataclass(frozen=True, slots=True)
class RecordWritten:
    deployment: str
    record: Redelivery


@dataclass(frozen=True, slots=True)
class ReplyPublished:
    deployment: str
    request: bytes


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed. Due about every 50 ms."""


Event = (
    SpecArrived
    | SpecGone
    | TableArrived
    | StatusArrived
    | StatusRemoved
    | DesiredArrived
    | ModelOpened
    | ModelRefused
    | UnitsLoaded
    | UnitsFailed
    | ActivationArrived
    | ActivationBroke
    | Computed
    | ComputeFailed
    | ComputeStale
    | StateExported
    | StateImported
    | StateStale
    | PromptRead
    | PromptRefused
    | TextWritten
    | PartialTaken
    | CancelArrived
    | DeviceSpoke
    | HearingChanged
    | HearingProven
    | DataReconnected
    | BrokersMoved
    | ControlReconnected
    | RetainedRead
    | IngressOpened
    | IngressLost
    | NonceReturned
    | InputArrived
    | RecordFound
    | RecordWritten
    | ReplyPublished
    | Ticked
)
