"""By what a decision is made, as the machines know it, and as it is explained to a person."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dsi_mqtt.core.explanation import (
    DecisionKind,
    Explanation,
    Gain,
    Inputs,
    NodeFigures,
    Outline,
    Rejected,
    limited,
    rounded,
)
from dsi_mqtt.core.infeasible import Infeasible
from dsi_mqtt.core.moving import Move
from dsi_mqtt.core.offered import Coming
from dsi_mqtt.core.placement import Chain, Plan
from dsi_mqtt.core.profile import NodeView
from dsi_mqtt.errors import one_sentence

# Nodes beyond these are left out, but for those of the chains.
NODES_MAX: Final = 64
# A verdict.
DRAINS: Final = "a node of it drains"


@dataclass(frozen=True, slots=True)
class Grounds:
    """Of one look. nodes: as they were planned with. chain: what serves, whole or broken. found,
    present: as in `choosing.Alternatives`. move: from one to the other, where both are there.
    verdict: by which rule the chain is kept, or must go.
    """

    nodes: tuple[NodeView, ...]
    coming: Coming
    chain: Chain | None
    found: Plan | Infeasible
    present: Plan | None
    move: Move | None = None
    verdict: str = ""


def explained(
    decision: str, kind: DecisionKind, reason: str, plan: Plan | None, grounds: Grounds | None
) -> Explanation:
    """What is known when it is decided. plan: what was decided on, where that is a placement."""
    if grounds is None:
        return Explanation(decision, 0, kind, one_sentence(reason))
    present = _present(grounds)
    chosen = None if plan is None else Outline.of(plan)
    if kind == "keep" and chosen is None:
        chosen = present
    move = grounds.move
    return Explanation(
        decision,
        0,
        kind,
        one_sentence(reason),
        _inputs(grounds, (present, chosen)),
        present,
        chosen,
        tuple(_rejected(kind, reason, chosen, grounds)),
        None if move is None else Gain(*map(limited, (move.gain, move.saved_s, move.paid_s))),
    )


def _present(grounds: Grounds) -> Outline | None:
    if grounds.present is not None:
        return Outline.of(grounds.present)
    return None if grounds.chain is None else Outline.of_chain(grounds.chain)


def _inputs(grounds: Grounds, chains: Iterable[Outline | None]) -> Inputs:
    named = frozenset().union(*(chain.nodes for chain in chains if chain is not None))
    told = _nearest(grounds.nodes, named)
    texts = grounds.coming.texts
    return Inputs(
        limited(grounds.coming.rate_per_s),
        tuple(NodeFigures.of(view) for view in told),
        None if texts is None else texts.prompt_tokens,
        None if texts is None else texts.new_tokens,
        len(grounds.nodes) - len(told),
    )


def _nearest(views: Sequence[NodeView], named: frozenset[str]) -> list[NodeView]:
    """Those of the chains, and the nearest others as far as there is room; in the given order."""
    order = sorted(views, key=lambda view: (view.node not in named, view.link.rtt_ms, view.node))
    chosen = {view.node for view in order[: max(NODES_MAX, len(named))]}
    return [view for view in views if view.node in chosen]


def _rejected(
    kind: DecisionKind, reason: str, chosen: Outline | None, grounds: Grounds
) -> Iterable[Rejected]:
    found, present = grounds.found, _present(grounds)
    if isinstance(found, Infeasible):
        yield Rejected("others", found.sentence)
        return
    if kind == "keep":
        offered = Outline.of(found)
        if grounds.verdict or not _alike(offered, chosen):
            yield Rejected("found", grounds.verdict or one_sentence(reason), offered)
    elif present is not None:
        yield Rejected("present", _why_left(reason, grounds), present)
    yield from _alone(found)


def _alike(one: Outline, other: Outline | None) -> bool:
    """Whether both do the same in the same places, whatever they promise."""
    return other is not None and (one.door, one.segments) == (other.door, other.segments)


def _why_left(reason: str, grounds: Grounds) -> str:
    """Why the chain that served does so no more."""
    if grounds.verdict:
        return grounds.verdict
    if grounds.move is None:
        return one_sentence(f"it is broken or breaks the rules: {reason}")
    return "what was found is worth the way there"


def _alone(found: Plan) -> Iterable[Rejected]:
    """The best node that could do it alone, where several do."""
    if len(found.nodes) == 1:
        return
    alone = found.single_node_latency_s
    if alone is None:
        yield Rejected("alone", "no node may hold everything, or has room for it")
        return
    slower = alone > found.latency_s
    why = "it is slower" if slower else "under the load, by its price or exposure, it is no better"
    yield Rejected("alone", why, idle_ms=rounded(alone * 1e3))
