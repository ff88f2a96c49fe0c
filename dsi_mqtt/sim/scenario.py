"""A scenario: the nodes, links, deployments, requests, faults and operations of one simulation.

The dataclasses here are the file format (`schema: dsi.scenario/1`); `scenario_file` validates
YAML into them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from dsi_mqtt.core.deployment import Deployment

SCHEMA: Final = "dsi.scenario/1"

Pattern = Literal["poisson", "bursts", "diurnal"]
BrokerName = Literal["control", "data", "both"]


@dataclass(frozen=True, slots=True)
class Line:
    """The link of each node of a group. trace: a CSV file of the folder of traces, or one of
    `traces.SYNTHETIC`, in place of the figures, from a second on that the seed draws.
    """

    up_mbit_s: float = 100.0
    down_mbit_s: float = 100.0
    rtt_ms: float = 2.0
    trace: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """`count` nodes, named `id`-1, `id`-2, …, or `id` where it is one.

    gflops, memory_gib_s, overhead_ms: as a worker measures them. slowdown: what a unit really takes
    over what these figures let expect. spread: the standard deviation of one computation over its
    mean. load_mib_s: at which it reads weights.
    """

    id: str
    count: int = 1
    zone: str = "edge"
    memory_mib: float = 1024.0
    spare: bool = False
    gflops: float = 10.0
    memory_gib_s: float = 10.0
    overhead_ms: float = 0.2
    slowdown: float = 1.0
    spread: float = 0.0
    load_mib_s: float = 200.0
    link: Line = field(default_factory=Line)

    def names(self) -> tuple[str, ...]:
        if self.count == 1:
            return (self.id,)
        return tuple(f"{self.id}-{number + 1}" for number in range(self.count))


@dataclass(frozen=True, slots=True)
class Requests:
    """Inputs for one deployment, from `from_s` to `until_s` (the end, where it is not given).

    rate_per_s: the mean, whatever the pattern. bursts: `burst` inputs at once, at random times.
    diurnal: the rate follows a sine of `period_s` between 1 - `swing` and 1 + `swing` of the mean.
    bytes: of an input; None: as the model's reference input, or by the length of the prompt.
    prompt_tokens, new_tokens: of a generation, on the mean; None: as the deployment's target says.
    text_spread: the standard deviation of both over their means.
    """

    deployment: str
    arrivals: Pattern = "poisson"
    rate_per_s: float = 1.0
    from_s: float = 15.0
    until_s: float | None = None
    bytes: int | None = None
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    text_spread: float = 0.0
    burst: int = 8
    period_s: float = 86_400.0
    swing: float = 0.8


@dataclass(frozen=True, slots=True)
class Fault:
    """Exactly one of `kill`, `freeze`, `cut`, `throttle` (a node), `orchestrator` and `broker`.

    kill: its process ends, and begins anew after `for_s` (never, where it is not given); freeze: it
    stands still; cut: nothing passes its link; throttle: its link has `factor` of its rate.
    orchestrator: the one that leads ends. broker: it is killed, and there again after `for_s`;
    forgets: without all that it kept; stops: it is stopped, so that it publishes all wills first.
    """

    at_s: float
    for_s: float | None = None
    kill: str | None = None
    freeze: str | None = None
    cut: str | None = None
    throttle: str | None = None
    factor: float = 0.1
    orchestrator: bool = False
    broker: BrokerName | None = None
    forgets: bool = False
    stops: bool = False

    @property
    def kind(self) -> str:
        kinds = ("kill", "freeze", "cut", "throttle", "broker")
        return next((name for name in kinds if getattr(self, name)), "orchestrator")

    @property
    def node(self) -> str:
        """The one it befalls; empty: none of them."""
        return self.kill or self.freeze or self.cut or self.throttle or ""


@dataclass(frozen=True, slots=True)
class Operation:
    """What an operator does: exactly one of `drain`, `deploy` and `undeploy`.

    drain: a node, and that is undone after `for_s` (never, where it is not given). deploy: what
    comes, or takes the place of the deployment of its name. undeploy: a deployment's name.
    """

    at_s: float
    for_s: float | None = None
    drain: str | None = None
    deploy: Deployment | None = None
    undeploy: str | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """duration_s: of the requests; what is in the chain then is still answered.

    deployments: those that are there from the beginning. orchestrators: one leads, the others stand
    by. open_s: a node takes to look at a model.
    """

    nodes: tuple[Group, ...]
    deployments: tuple[Deployment, ...]
    requests: tuple[Requests, ...] = ()
    faults: tuple[Fault, ...] = ()
    operations: tuple[Operation, ...] = ()
    duration_s: float = 60.0
    seed: int = 1
    orchestrators: int = 1
    open_s: float = 0.5
    schema: str = SCHEMA

    def all_deployments(self) -> tuple[Deployment, ...]:
        """Those from the beginning and all that operations deploy, in the order of their coming."""
        later = sorted(self.operations, key=lambda operation: operation.at_s)
        deployed = (each.deploy for each in later if each.deploy is not None)
        return (*self.deployments, *deployed)

    def first_deployments(self) -> dict[str, Deployment]:
        """By name, as each is deployed first."""
        found: dict[str, Deployment] = {}
        for spec in self.all_deployments():
            found.setdefault(spec.name, spec)
        return found
