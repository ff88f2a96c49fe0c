"""Rules of one's own: what the planner is asked, and whether a better placement is worth a move.

A deployment names its policy (`policy.use`). `builtin` asks what the file says and moves when that
pays. Another one is an object of the same two methods, which a package offers under the entry point
group `GROUP`; the orchestrator finds it where it is installed. It decides within the deployment's
rules: what protects (privacy, zones) it cannot change, and a placement that it forbids nobody can
have. It is asked on the orchestrator's thread, so it should answer within milliseconds.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final, Protocol

from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.moving import Move
from dsi_mqtt.core.profile import NodeView
from dsi_mqtt.errors import ConfigError, one_sentence

GROUP: Final = "dsi_mqtt.policies"
BUILTIN: Final = "builtin"

# What a policy may change of a deployment before it is planned.
MAY_CHANGE: Final = frozenset({"policy", "objective", "sla", "codecs", "split"})


class Policy(Protocol):
    """Both methods may raise: the chain that serves goes on, and the reason is told. Where none is
    left that could, the deployment is placed again as its file says.
    """

    def asks(self, deployment: Deployment, nodes: Sequence[NodeView]) -> Deployment:
        """The deployment as the planner is to be asked: with other weights, pins, forbidden nodes,
        cuts (the fields in `MAY_CHANGE`), or as it is.

        nodes: those that can be planned with, as the planner sees them.
        """
        ...

    def moves(self, move: Move) -> bool:
        """Whether what was found replaces what serves; both are in `move`.

        Not asked where the chain must go (a node is gone, drains, or breaks a rule). A move that it
        wants waits for the cooldown, unless it mends the target.
        """
        ...


class Builtin:
    """What the file says; a move that pays."""

    def asks(self, deployment: Deployment, nodes: Sequence[NodeView]) -> Deployment:  # noqa: ARG002 - others look at them
        return deployment

    def moves(self, move: Move) -> bool:
        return move.pays


@dataclass(frozen=True, slots=True)
class Broken:
    """One that is installed and cannot be loaded."""

    why: str


Policies = Mapping[str, Policy | Broken]
BUILTIN_ONLY: Final[Policies] = {BUILTIN: Builtin()}


def asked(policies: Policies, deployment: Deployment, nodes: Sequence[NodeView]) -> Deployment:
    """What the deployment's policy makes of it. Raises ConfigError."""
    policy = _policy(policies, deployment)
    try:
        found = policy.asks(copy.deepcopy(deployment), nodes)
    except Exception as error:
        raise ConfigError(_failed(deployment, error)) from error
    if not isinstance(found, Deployment):
        raise ConfigError(_failed(deployment, "it gave no deployment"))
    for name in (field.name for field in fields(Deployment)):
        if name not in MAY_CHANGE and getattr(found, name) != getattr(deployment, name):
            raise ConfigError(_failed(deployment, f"it changed {name}, which no policy may"))
    if found.policy.use != deployment.policy.use:
        raise ConfigError(_failed(deployment, "it changed policy.use, which no policy may"))
    return found


def moves(policies: Policies, deployment: Deployment, move: Move) -> bool:
    """What the deployment's policy says to `move`. Raises ConfigError."""
    policy = _policy(policies, deployment)
    try:
        return bool(policy.moves(move))
    except Exception as error:
        raise ConfigError(_failed(deployment, error)) from error


def _policy(policies: Policies, deployment: Deployment) -> Policy:
    found = policies.get(deployment.policy.use)
    if found is None:
        known = ", ".join(sorted(policies))
        raise ConfigError(
            f"policy.use: no policy {deployment.policy.use!r:.40} is installed where the "
            f"orchestrator runs; known are {known}"
        )
    if isinstance(found, Broken):
        raise ConfigError(_failed(deployment, found.why))
    return found


def _failed(deployment: Deployment, why: object) -> str:
    reason = f"{type(why).__name__}: {why}" if isinstance(why, Exception) else why
    return one_sentence(f"policy.use: {deployment.policy.use} failed: {reason}")
