"""From a plan to a table: names, incarnations, credits, brokers, forecast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from dsi_mqtt.core.activation import RAW
from dsi_mqtt.core.aim import Phase
from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.explanation import DecisionKind
from dsi_mqtt.core.model import ModelGraph, UnitRange
from dsi_mqtt.core.node import NodeStatus
from dsi_mqtt.core.plan import Chain, Plan
from dsi_mqtt.core.queueing import waiting_s
from dsi_mqtt.core.schedule import BATCH_MAX
from dsi_mqtt.core.session import SLICE_TOKENS
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.core.table import (
    BrokerUrls,
    DoorPlace,
    Forecast,
    Hop,
    ModelRef,
    Replica,
    Segment,
    Stamp,
    Standby,
    Table,
)

WINDOW: Final = 16
# Of requests, that the forecast's slower time holds for.
_SHARE: Final = 0.95
CREDIT_BYTES: Final = 8 * MIB
# All grants to one node must stay under half of what a broker queues for it (256 MiB); a larger
# activation passes alone.
CREDIT_BYTES_MAX: Final = 32 * MIB
# As many as a door has in its chain: bytes are what bounds an edge, and a grant, which costs its
# nodes about as much as a small activation, goes out with every eighth of them at most.
CREDIT_MESSAGES: Final = WINDOW


@dataclass(frozen=True, slots=True)
class Draft:
    """What a table is made from. standbys: nodes by segment; empty: none."""

    spec: Deployment
    graph: ModelGraph
    plan: Plan
    decision: str
    reason: str
    standbys: tuple[tuple[str, ...], ...] = ()


def draft_table(draft: Draft, stamp: Stamp, nodes: Mapping[str, NodeStatus], session: str) -> Table:
    """The table to prepare for `draft.plan`. `session` is the ingress session's secret id."""
    plan, graph = draft.plan, draft.graph
    standbys = draft.standbys or ((),) * len(plan.segments)
    segments = tuple(
        Segment(
            f"s{i}",
            planned.units,
            draft.spec.model.dtype,
            tuple(
                Replica(name, nodes[name].incarnation, weight)
                for name, weight in planned.replicas or ((planned.node, 1.0),)
            ),
            tuple(Standby(name, nodes[name].incarnation) for name in beside),
        )
        for i, (planned, beside) in enumerate(zip(plan.segments, standbys, strict=True))
    )
    keeper = nodes[plan.door]
    brokers = {name: _brokers(nodes[name]) for name in sorted(plan.nodes)}
    return Table(
        draft.spec.name,
        *stamp,
        "preparing",
        draft.reason,
        draft.decision,
        ModelRef(graph.digest, len(graph.units), graph.tier),
        DoorPlace(plan.door, keeper.incarnation, brokers[plan.door].control, session, WINDOW),
        segments,
        tuple(
            _hop(before, after, dict(planned.codecs), draft)
            for (before, after), planned in zip(pairwise(segments), plan.hops[1:-1], strict=True)
        ),
        brokers,
        forecast=forecast(plan, draft.spec),
    )


def _hop(before: Segment, after: Segment, codecs: Mapping[Phase, str], draft: Draft) -> Hop:
    """codecs: as planned, by phase. Within a node nothing is encoded, whatever they say."""
    crossing = draft.graph.boundary_bytes(after.units.start)
    phases: tuple[Phase, ...] = ("request",)
    if draft.graph.vocabulary is not None:
        phases = ("prefill", "decode")
        largest = crossing * max(SLICE_TOKENS, BATCH_MAX)
    else:
        largest = crossing * draft.spec.input.batch_max
    if len({replica.node for replica in (*before.replicas, *after.replicas)}) == 1:
        codecs = {}
    codec: dict[str, str] = {phase: codecs.get(phase, RAW) for phase in phases}
    return Hop(before.id, after.id, codec, *credit_window(largest))


def credit_window(largest: int) -> tuple[int, int]:
    """Bytes and messages: a few of the largest activations, so that none waits for each grant."""
    return min(max(CREDIT_BYTES, 2 * largest), CREDIT_BYTES_MAX), CREDIT_MESSAGES


def _brokers(status: NodeStatus) -> BrokerUrls:
    return status.brokers or BrokerUrls("", "")


def forecast(plan: Plan, spec: Deployment) -> Forecast:
    """p50: of a request that waits for none. p95: when they come at random, as many as the
    deployment expects; of generations as many as the plan was made for.

    Where more come than the placement can sustain, p95 is the deadline.
    """
    cadence, rate = plan.cadence, plan.rate_per_s if plan.busiest_s > 0 else 0.0
    if cadence is not None:
        slow_s = max(cadence.first_s, min(cadence.first_within_s, spec.deadline_s))
        token_ms, token_slow_ms = cadence.token_s * 1e3, cadence.token_within_s * 1e3
        return Forecast(cadence.first_s * 1e3, slow_s * 1e3, rate, token_ms, token_slow_ms)
    wait_s = waiting_s(spec.rate_per_s, plan.busiest_s, _SHARE)
    longest_s = max(plan.latency_s, spec.deadline_s)
    return Forecast(plan.latency_s * 1000, min(plan.latency_s + wait_s, longest_s) * 1000, rate)


def places(table: Table) -> tuple[tuple[UnitRange, str], ...]:
    """What serves where: (units, node) in order."""
    return tuple((s.units, s.replicas[0].node) for s in table.segments)


def chain_of(table: Table) -> Chain | None:
    """What serves, as the planner is asked about it; None: nothing does."""
    if table.door is None or not table.segments:
        return None
    replicas = tuple(
        tuple((r.node, r.weight) for r in s.replicas) if len(s.replicas) > 1 else ()
        for s in table.segments
    )
    codecs = tuple(hop.codec for hop in table.hops)
    return Chain(table.door.node, places(table), codecs, replicas if any(replicas) else ())


def same_chain(one: Table, other: Table) -> bool:
    """Whether they differ in who stands by at most."""
    bare = [tuple((s.units, s.replicas) for s in table.segments) for table in (one, other)]
    doors = [t.keeper for t in (one, other)]
    return bare[0] == bare[1] and doors[0] == doors[1] and one.hops == other.hops


def does(table: Table, plan: Plan) -> bool:
    """Whether the table is what is planned: door, segments, nodes and codecs."""
    chain = chain_of(table)
    planned = plan.chain
    if chain is None or (chain.door, chain.segments) != (planned.door, planned.segments):
        return False
    if chain.replicas != planned.replicas:
        return False
    for codec, hop in zip(chain.codecs, plan.hops[1:-1], strict=True):
        asked: dict[str, str] = dict(hop.codecs)
        if hop.source != hop.target and any(
            name != asked.get(phase, RAW) for phase, name in codec.items()
        ):
            return False
    return True


def planned_places(plan: Plan) -> tuple[tuple[UnitRange, str], ...]:
    return tuple((s.units, s.node) for s in plan.segments)


def kind_of(old: Table | None, found: Plan) -> DecisionKind:
    """What it is to replace `old` by `found`."""
    if old is None or not old.segments:
        return "place"
    same_cuts = [s.units for s in old.segments] == [s.units for s in found.segments]
    return "remap" if same_cuts else "resplit"
