"""What the orchestrator decides, as effects: what is published, and what a log is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.explanation import DecisionKind, Explanation, Explanations
from dsi_mqtt.core.grounds import Grounds
from dsi_mqtt.core.plan import Plan
from dsi_mqtt.core.table import TableDocument


@dataclass(frozen=True, slots=True)
class PublishDocument:
    deployment: str
    document: TableDocument


@dataclass(frozen=True, slots=True)
class ClearDocument:
    """The deployment is gone and released everywhere: nothing is retained any more.

    session: of its inputs, to be ended, where that is known: its last door may have died.
    """

    deployment: str
    session: str | None = None


@dataclass(frozen=True, slots=True)
class PublishSpec:
    """The broker has forgotten what an operator deployed, and is told again."""

    spec: Deployment


@dataclass(frozen=True, slots=True)
class PublishExplanations:
    """Of the deployment's newest decisions. Nobody waits for it: tables go first."""

    deployment: str
    document: Explanations


@dataclass(frozen=True, slots=True)
class Decided:
    """For the log: what was decided and why. explanation: of `grounds`, once the time that it took
    is known.
    """

    id: str
    deployment: str
    kind: DecisionKind
    reason: str
    plan: Plan | None = None
    grounds: Grounds | None = None
    explanation: Explanation | None = None


@dataclass(frozen=True, slots=True)
class Noticed:
    """For the log: something about a deployment that a person should know, told once."""

    deployment: str
    sentence: str


ServedEffects = list[PublishDocument | ClearDocument | PublishSpec | Decided | Noticed]


@dataclass(frozen=True, slots=True)
class Authority:
    """In whose name tables are made: the leader's term and nonce, and a source of secrets.

    numbers: of its decisions. epochs: its newest of each deployment, also of those removed.
    """

    term: int
    nonce: str
    secret: Callable[[], str]
    numbers: Iterator[int]
    epochs: dict[str, int]
