"""A deployment: one served model with its service-level target, privacy rules and policy.

The dataclasses here are the file format (`schema: dsi.deployment/1`); `wire.files` validates
YAML into them. Unit ranges in keys and values are written "start:stop", half-open.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Final, Literal

from dsi_mqtt.core.model import ModelSpec, UnitRange
from dsi_mqtt.errors import ConfigError

SCHEMA: Final = "dsi.deployment/1"
UNITS_TEXT_MAX: Final = 40

# Deadlines where the file names none.
ONE_PASS_S: Final = 10.0
GENERATION_S: Final = 120.0

Kind = Literal["one-pass", "generation"]

# Nodes keep the fallback of a deployment apart under a name of its own, which no deployment can
# have.
FALLBACK_MARK: Final = "~fallback"

_TOLD_MAX: Final = 40


@dataclass(frozen=True, slots=True)
class InputLimits:
    """max_bytes: of one input; batch_max: rows in it; dedupe_s: how long an answer is kept.

    queue_max: inputs of a one-pass model that wait for their turn. high: patterns of the names of
    devices whose inputs may be of high priority.
    """

    max_bytes: int = 1_000_000
    batch_max: int = 8
    dedupe_s: float = 600.0
    queue_max: int = 256
    high: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sla:
    """The service-level target. deadline_ms: after it the answer is an error; rate_per_s: requests
    that are expected; None: by the kind.
    """

    latency_ms: float | None = None
    percentile: float = 95.0
    deadline_ms: float | None = None
    rate_per_s: float | None = None
    first_token_ms: float | None = None
    token_ms: float | None = None
    prompt_tokens: int | None = None
    new_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Privacy:
    """units: range → zones that may compute it, and see what enters it."""

    units: dict[str, tuple[str, ...]] = field(default_factory=dict)
    max_exposure: float = 1.0


@dataclass(frozen=True, slots=True)
class Prices:
    currency: str = "EUR"
    node_hour: dict[str, float] = field(default_factory=dict)
    gib: dict[str, float] = field(default_factory=dict)
    kwh: float = 0.0


@dataclass(frozen=True, slots=True)
class Objective:
    """Weights of what a placement is chosen by; `core.aim` says of what."""

    latency: float = 1.0
    throughput: float = 0.0
    cost: float = 0.0
    exposure: float = 0.0


@dataclass(frozen=True, slots=True)
class Policy:
    """use: whose rules (`core.policy`). cooldown_s: least time between moves. min_gain: share of
    the score that one must save. horizon_s: for how long what it saves is counted. replicas: nodes
    that may serve one segment; None: as many as help.
    """

    use: str = "builtin"
    cooldown_s: float = 5.0
    min_gain: float = 0.15
    horizon_s: float = 60.0
    max_segments: int | None = None
    replicas: int | None = None
    standbys: int = 0
    pin: dict[str, str] = field(default_factory=dict)
    forbid: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CodecError:
    metric: str
    min: float | None = None
    max: float | None = None
    samples: str | None = None


@dataclass(frozen=True, slots=True)
class Codecs:
    allow: tuple[str, ...] = ("raw",)
    error: CodecError | None = None


@dataclass(frozen=True, slots=True)
class SplitPart:
    units: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fallback:
    """What serves while the deployment's own model cannot.

    model: the folder of a smaller model of the same tier. options: of its factory, where they are
    others.
    """

    model: str
    options: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """Limits of a generating deployment, and what is taken where an input says nothing.

    context: positions of a session. sessions_max: that run; queue_max: inputs that wait.
    kv_mib_max: of caches on a node, which keeps so much free for them. idle_s: how long a cache is
    kept for its device's next input.
    """

    context: int = 2048
    sessions_max: int = 64
    kv_mib_max: int = 512
    idle_s: float = 60.0
    queue_max: int = 200
    temperature: float = 1.0
    max_tokens: int = 256


@dataclass(frozen=True, slots=True)
class Deployment:
    name: str
    model: ModelSpec
    kind: Kind = "one-pass"
    input: InputLimits = InputLimits()
    sla: Sla = Sla()
    privacy: Privacy = field(default_factory=Privacy)
    prices: Prices = field(default_factory=Prices)
    objective: Objective = Objective()
    policy: Policy = field(default_factory=Policy)
    codecs: Codecs = Codecs()
    generation: Generation | None = None
    split: tuple[SplitPart, ...] | None = None
    fallback: Fallback | None = None
    schema: str = SCHEMA

    @property
    def rate_per_s(self) -> float:
        """Requests that are expected. Where the file names none, one a second; of generations, that
        take many times as long, none, and what comes is all that counts.
        """
        if self.sla.rate_per_s is not None:
            return self.sla.rate_per_s
        return 1.0 if self.kind == "one-pass" else 0.0

    @property
    def deadline_s(self) -> float:
        """How long an input may take. A generation of a few hundred tokens takes minutes."""
        if self.sla.deadline_ms is not None:
            return self.sla.deadline_ms / 1000
        return ONE_PASS_S if self.kind == "one-pass" else GENERATION_S

    @property
    def falls_back_to(self) -> Deployment | None:
        """The same with the model that serves while its own cannot, under the name by which nodes
        know that; None: there is none.

        Rules for units of the one model say nothing of units of the other: `core.fallback`.
        """
        fallback = self.fallback
        if fallback is None:
            return None
        options = self.model.options if fallback.options is None else fallback.options
        return replace(
            self,
            name=self.name + FALLBACK_MARK,
            model=replace(self.model, path=fallback.model, options=options),
            privacy=Privacy(max_exposure=self.privacy.max_exposure),
            policy=replace(self.policy, use="builtin", pin={}, standbys=0),
            codecs=Codecs(),
            split=None,
            fallback=None,
        )

    @property
    def limits(self) -> Generation:
        """Of its sessions, also where the file says nothing."""
        return self.generation or Generation()

    @property
    def may_wait(self) -> int:
        """Inputs that a door may have beside those in the chain: that wait, and generations run."""
        if self.kind == "one-pass":
            return self.input.queue_max
        return self.limits.sessions_max + self.limits.queue_max

    @property
    def opens(self) -> tuple[ModelSpec, int | None]:
        """All that an engine is opened by: the model, and a generating one's context."""
        return self.model, self.limits.context if self.kind == "generation" else None

    @property
    def opening(self) -> str:
        """A short name for `opens`: nodes tell with it which model they describe."""
        return hashlib.blake2b(repr(self.opens).encode(), digest_size=8).hexdigest()


def parse_units(text: str, field_name: str) -> UnitRange:
    """Reads "2:5" as [2, 5). Raises ConfigError naming `field_name`."""
    start, colon, stop = text.partition(":")
    if (
        len(text) <= UNITS_TEXT_MAX
        and text.isascii()
        and colon
        and start.isdecimal()
        and stop.isdecimal()
        and int(start) < int(stop)
    ):
        return UnitRange(int(start), int(stop))
    raise ConfigError(
        f'{field_name}: {text!r:.40} is no unit range; write "start:stop" with start < stop, quoted'
    )


def without_effect(deployment: Deployment) -> tuple[str, ...]:
    """Fields that are set and that this version accepts but does not act on yet."""
    found = []
    error = deployment.codecs.error
    if error is not None and error.metric != "cosine" and error.samples is None:
        found.append("codecs")  # what they do to a perplexity is known by samples alone
    return tuple(found)


def differences(old: Deployment, new: Deployment) -> tuple[str, ...]:
    """What another deployment of the same name changes, as "field old → new"."""
    return tuple(_differences("", old, new))


def _differences(path: str, old: Any, new: Any) -> Iterator[str]:  # noqa: ANN401 — any field's
    if old == new:
        return
    if is_dataclass(old) and type(old) is type(new):
        for part in fields(old):
            inner = f"{path}.{part.name}" if path else part.name
            yield from _differences(inner, getattr(old, part.name), getattr(new, part.name))
    else:
        yield f"{path} {_told(old)} → {_told(new)}"


def _told(value: Any) -> str:  # noqa: ANN401 — any field's
    """As in a file, and short enough for several to fit a sentence."""
    if value is None:
        return "none"
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {_told(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, tuple):
        text = "[" + ", ".join(map(_told, value)) + "]"
    elif isinstance(value, SplitPart):
        text = f"{value.units} on {'/'.join(value.nodes)}"
    else:
        text = str(value)
    return text if len(text) <= _TOLD_MAX else f"…{text[1 - _TOLD_MAX :]}"  # ends tell paths apart
