"""A decision, explained: what it was made by, what was rejected and why, and what came of it.

The leader keeps the newest of each deployment on a topic of their own (`core/explaining.py`); words
for a person are made of them by `core/explanation_text.py`. Figures are rounded: they explain, and
nothing is computed with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from dsi_mqtt.core.model import UnitRange
from dsi_mqtt.core.node import DoorLoad
from dsi_mqtt.core.placement import Chain, Plan
from dsi_mqtt.core.profile import NodeView

SCHEMA: Final = 1
# A figure beyond says nothing.
FIGURE_MAX: Final = 10**12
DecisionKind = Literal["place", "keep", "remap", "resplit", "fallback", "unavailable", "remove"]
# What was not chosen: the chain that serves, what was found instead, one node alone, all others.
Alternative = Literal["present", "found", "alone", "others"]


class Taken(NamedTuple):
    """Shares of a node that other deployments keep busy."""

    compute: float
    up: float
    down: float


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """What a node was planned with. Rates: None where nothing limits them. model_s: that the whole
    model takes there, for one reference row. free_bytes: of weights that it may hold.
    """

    node: str
    up_mbit_s: float | None
    down_mbit_s: float | None
    rtt_ms: float
    model_s: float
    free_bytes: int
    taken: Taken

    @classmethod
    def of(cls, view: NodeView) -> NodeFigures:
        return cls(
            view.node,
            rounded(view.link.up_mbit_s),
            rounded(view.link.down_mbit_s),
            limited(view.link.rtt_ms),
            limited(sum(view.unit_s)),
            view.weight_bytes,
            Taken(*(round(share, 3) for share in view.taken)),
        )


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a decision was made by. rate_per_s: requests that come, or were announced.
    prompt_tokens, new_tokens: of texts, where it is known what they are like. left_out: nodes that
    are not told, being further away than those that are.
    """

    rate_per_s: float
    nodes: tuple[NodeFigures, ...]
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """others: that serve it as well."""

    units: UnitRange
    node: str
    others: tuple[str, ...] = ()

    @property
    def nodes(self) -> tuple[str, ...]:
        return (self.node, *self.others)


@dataclass(frozen=True, slots=True)
class Outline:
    """A placement in short; its figures where the planner has told them.

    idle_ms: of a request that waits for none, of generations until the first token; within_ms: most
    stay within, None where they would wait ever longer. token_ms: of generations, from one token to
    the next. rate_per_s: the most that can be served for long; None: without limit.
    cost_per_hour, request_bytes: that an hour costs, and a request sends.
    """

    door: str
    segments: tuple[Place, ...]
    idle_ms: float | None = None
    within_ms: float | None = None
    token_ms: float | None = None
    rate_per_s: float | None = None
    cost_per_hour: float | None = None
    request_bytes: int | None = None

    @classmethod
    def of(cls, plan: Plan) -> Outline:
        cadence, account = plan.cadence, plan.account
        first = plan.latency_s if cadence is None else cadence.first_s
        within = plan.within_s if cadence is None else cadence.first_within_s
        return cls(
            plan.door,
            tuple(
                Place(s.units, s.node, tuple(n for n in s.nodes if n != s.node))
                for s in plan.segments
            ),
            rounded(first * 1e3),
            rounded(within * 1e3),
            None if cadence is None else rounded(cadence.token_s * 1e3),
            rounded(plan.rate_per_s),
            None if account is None else rounded(account.cost_per_hour),
            None if account is None else account.request_bytes,
        )

    @classmethod
    def of_chain(cls, chain: Chain) -> Outline:
        """One that promises nothing: a node of it is gone, or it breaks the rules."""
        return cls(chain.door, tuple(Place(units, node) for units, node in chain.segments))

    @property
    def nodes(self) -> frozenset[str]:
        return frozenset({self.door, *(node for place in self.segments for node in place.nodes)})


@dataclass(frozen=True, slots=True)
class Rejected:
    """idle_ms: of one node alone, whose other figures nobody has asked for; None: none can."""

    what: Alternative
    why: str
    placement: Outline | None = None
    idle_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Gain:
    """That a move was to bring: `share` of the score, `saved_s` of service within the horizon, for
    `paid_s` that the way there costs (`core/moving.py`).
    """

    share: float
    saved_s: float
    paid_s: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What a door has measured on one table; of generations until the first token, and by token."""

    p50_ms: float
    p95_ms: float | None
    samples: int
    token_p50_ms: float | None = None
    token_p95_ms: float | None = None

    @classmethod
    def of(cls, load: DoorLoad) -> Measured | None:
        """None: nothing yet, or nothing that can be true."""
        p50_ms = rounded(load.p50_ms)
        if p50_ms is None or not 0 < load.samples <= 2**31:
            return None
        figures = (load.p95_ms, load.token_p50_ms, load.token_p95_ms)
        p95_ms, token_p50_ms, token_p95_ms = (rounded(figure) for figure in figures)
        return cls(p50_ms, p95_ms, load.samples, token_p50_ms, token_p95_ms)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Of one decision. when: in seconds since 1970. took_ms: that it took to decide.

    inputs: None where no placement was thought about. present: the chain at the time. chosen: the
    one that was decided on. expected: of a move, what it was to bring, made or not. before, after:
    what the door measured on the table before, and on this decision's own.
    """

    id: str
    when: int
    kind: DecisionKind
    reason: str
    inputs: Inputs | None = None
    present: Outline | None = None
    chosen: Outline | None = None
    rejected: tuple[Rejected, ...] = ()
    expected: Gain | None = None
    took_ms: float | None = None
    before: Measured | None = None
    after: Measured | None = None


@dataclass(frozen=True, slots=True)
class Deciding:
    """What the leading orchestrator itself costs, until this was written. p50_ms, p95_ms: of its
    newest looks at a deployment, of all deployments; looks: since it leads; published_bytes: topics
    and payloads, since it started.
    """

    p50_ms: float | None
    p95_ms: float | None
    looks: int
    published_bytes: int


@dataclass(frozen=True, slots=True)
class Explanations:
    """What is retained on `deploy/{d}/explanations`: of the newest decisions, the oldest first.

    leader, number: who has written it, and how many before.
    """

    leader: str
    number: int
    deciding: Deciding
    explanations: tuple[Explanation, ...] = ()
    schema: int = SCHEMA

    @property
    def version(self) -> tuple[str, int]:
        return self.leader, self.number


def rounded(figure: float | None) -> float | None:
    """Five digits say enough; None: unlimited, unknown or below 0."""
    if figure is None or not 0 <= figure <= FIGURE_MAX:
        return None
    return float(f"{figure:.5g}")


def limited(figure: float) -> float:
    """The same of what is no number only by mistake."""
    if math.isnan(figure):
        return 0.0
    return float(f"{max(-FIGURE_MAX, min(figure, FIGURE_MAX)):.5g}")
