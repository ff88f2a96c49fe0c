"""What a node says of itself: status (retained, with a will) and telemetry (now and then)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal

from dsi_mqtt.core.model import ModelGraph, UnitRange
from dsi_mqtt.core.table import BrokerUrls, Stamp

NodeState = Literal["online", "draining", "offline"]
HoldingState = Literal["waiting", "loading", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a node can do, measured when it starts.

    weight_bytes: how many bytes of weights it may hold; gflops: of a float32 matrix product on
    the threads it computes with; memory_gib_s: reading memory; overhead_ms: a unit's fixed cost.
    """

    cores: int = 1
    threads: int = 1
    weight_bytes: int = 0
    memory_bytes: int = 0
    gflops: float = 1.0
    memory_gib_s: float = 1.0
    overhead_ms: float = 0.2
    machine: str = ""
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelReport:
    """How a deployment's model looks from here: its graph once verified, or why it is refused.

    cache_bytes: what is kept free here for caches of its sessions, while a part of it is held.
    opening: `Deployment.opening` of what was opened, for a deployment's model may change.
    codec_errors: by codec, what one hop adds to the error that the deployment limits, as measured
    here on its samples; empty: it was not.
    """

    deployment: str
    graph: ModelGraph | None = None
    refused: str | None = None
    cache_bytes: int = 0
    opening: str = ""
    codec_errors: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HoldingReport:
    """A segment this node holds or is about to; `warm_ms`: a warm pass of one reference row."""

    deployment: str
    stamp: Stamp
    segment: str
    units: UnitRange
    state: HoldingState
    reason: str | None = None
    weight_bytes: int = 0
    warm_ms: float | None = None


@dataclass(frozen=True, slots=True)
class DoorReport:
    """A door on this node. oldest: the oldest table that requests in flight still use."""

    deployment: str
    oldest: Stamp
    ingress_open: bool


@dataclass(frozen=True, slots=True)
class Watts:
    """That a node draws when idle, and when it computes."""

    idle: float = 0.0
    busy: float = 0.0


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What using a node costs. price: its class in the prices of deployments."""

    price: str = "default"
    watts: Watts = Watts()


FREE: Final = Upkeep()


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """Retained on `node/{node}/status`. The will is the same incarnation, `offline`."""

    node: str
    incarnation: str
    state: NodeState
    zone: str = ""
    pid: int = 0
    spare: bool = False
    brokers: BrokerUrls | None = None
    capabilities: Capabilities | None = None
    models: tuple[ModelReport, ...] = ()
    holdings: tuple[HoldingReport, ...] = ()
    doors: tuple[DoorReport, ...] = ()
    seen: dict[str, Stamp] = field(default_factory=dict)
    upkeep: Upkeep = FREE

    def described(self, deployment: str, opening: str = "") -> ModelReport | None:
        """What it says of a deployment's model, once it speaks of this one. "": of any."""
        return next(
            (
                report
                for report in self.models
                if report.deployment == deployment
                and (not opening or report.opening in ("", opening))
            ),
            None,
        )

    def without(self, deployment: str) -> NodeStatus:
        """As if it held nothing of a deployment."""
        left = tuple(h for h in self.holdings if h.deployment != deployment)
        return self if len(left) == len(self.holdings) else replace(self, holdings=left)

    def graph(self, deployment: str) -> ModelGraph | None:
        return next((m.graph for m in self.models if m.deployment == deployment), None)

    def deployments(self) -> frozenset[str]:
        """Those of which it holds weights, or is about to."""
        return frozenset(h.deployment for h in self.holdings if h.state != "failed")

    def held_bytes(self, deployment: str) -> int:
        """Of weights. Segments share what they have in common, where the model's graph is known."""
        held = [h for h in self.holdings if h.deployment == deployment and h.state != "failed"]
        graph = self.graph(deployment)
        if graph is None:
            return sum(holding.weight_bytes for holding in held)
        return graph.held_bytes(unit for holding in held for unit in range(*holding.units))

    def cache_bytes(self, deployment: str) -> int:
        """Kept free for caches of its sessions."""
        return sum(model.cache_bytes for model in self.models if model.deployment == deployment)


@dataclass(frozen=True, slots=True)
class SegmentLoad:
    """Traffic of one segment since the node started.

    compute_ms: of a request, or of a step of decoding for one session alone, as it is now.
    prefills, prefill_tokens: steps that fed prompts, and their tokens; prefill_token_ms: of one.
    """

    deployment: str
    segment: str
    units: UnitRange
    requests: int
    bytes_in: int
    bytes_out: int
    compute_ms: float | None
    queued: int
    prefills: int = 0
    prefill_tokens: int = 0
    prefill_token_ms: float | None = None


@dataclass(frozen=True, slots=True)
class LinkSample:
    """The link to the home broker. Rates are None until they are measured (`core/link.py`).

    up_age_s, down_age_s: since a transfer or a probe last said something of that rate.
    up_usual_mbit_s, down_usual_mbit_s: the median of the last ten minutes.
    """

    rtt_ms: float | None = None
    up_mbit_s: float | None = None
    down_mbit_s: float | None = None
    up_age_s: float | None = None
    down_age_s: float | None = None
    up_usual_mbit_s: float | None = None
    down_usual_mbit_s: float | None = None


@dataclass(frozen=True, slots=True)
class DoorLoad:
    """held: inputs in the door's hands, those in_flight among them. answered: with results or
    errors. p50_ms, p95_ms: what the newest inputs with a result took on the present table, from
    their arrival until the broker had the answer, or of generations until their first token, as the
    table's forecast means them; None: too few yet. samples: how many they are. token_p50_ms,
    token_p95_ms: of the newest steps of decoding.
    texts: generations that have ended; prompt_tokens, new_tokens: of all of them.
    table: the one that these times were measured on. refused: of the errors, those of inputs that
    the door had too many of.
    """

    deployment: str
    held: int
    in_flight: int
    answered: int
    errors: int
    retried: int
    duplicates: int
    p50_ms: float | None = None
    p95_ms: float | None = None
    samples: int = 0
    token_p50_ms: float | None = None
    token_p95_ms: float | None = None
    texts: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    table: Stamp | None = None
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Telemetry:
    """QoS 0 on `node/{node}/telemetry`.

    sessions: caches of generations that this node keeps, by deployment.
    echo_age_s: age of the newest message to oneself that came back through the data connection;
    it grows while that connection is broken in silence. unreadable: messages for this node that
    no header could be read of, since it started; whoever sent them is not told.
    """

    node: str
    incarnation: str
    sequence: int
    cpu: float
    rss_bytes: int
    peak_rss_bytes: int
    memory_free_bytes: int
    echo_age_s: float | None
    link: LinkSample = LinkSample()
    segments: tuple[SegmentLoad, ...] = ()
    doors: tuple[DoorLoad, ...] = ()
    sessions: dict[str, int] = field(default_factory=dict)
    unreadable: int = 0


@dataclass(frozen=True, slots=True)
class Desired:
    """What an operator wants of a node, retained on `node/{node}/desired`."""

    drain: bool = False


@dataclass(frozen=True, slots=True)
class DataBroker:
    """Where tensors go, retained on `broker/site`, so that a node needs one URL only.

    data_port: of the broker for tensors, on the host of the control broker.
    """

    data_port: int | None = None


@dataclass(frozen=True, slots=True)
class Leader:
    """The leading orchestrator, retained on `orchestrator/leader`; `beat` grows while it lives."""

    term: int
    nonce: str
    beat: int
