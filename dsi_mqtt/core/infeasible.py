"""Why there is no placement, and what would make one possible.

Every remedy has been tried: the situation it describes was searched, and has a placement. Memory
is asked for in tenths of a MiB, the least that suffices: the smallest increase on a single node,
or on every node where no single one is enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from dsi_mqtt.core.aim import Aim
from dsi_mqtt.core.demand import busiest_ns, latency_ns
from dsi_mqtt.core.deployment import Prices, Sla
from dsi_mqtt.core.formulation import Question, formulate
from dsi_mqtt.core.gaps import Constraint, Gap, Newcomer, first_gap, joined, newcomers
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.placement import Plan
from dsi_mqtt.core.pressure import Pressure
from dsi_mqtt.core.problem import Held, Problem
from dsi_mqtt.core.profile import NodeView
from dsi_mqtt.core.rules import Rules
from dsi_mqtt.core.search import best, feasible
from dsi_mqtt.errors import one_sentence

# Expansions for one question. A placement that is not found within them does not count, so that
# a remedy stays true, and may ask for more than the least.
_EXPANSIONS: Final = 150
# For the best that could be had in the place of what was asked.
_TARGET_EXPANSIONS: Final = 2_000
# Nodes for which more memory is tried.
_CANDIDATES: Final = 8
_STEPS_PER_MIB: Final = 10


@dataclass(frozen=True, slots=True)
class Infeasible:
    """No placement satisfies the deployment.

    field: of the deployment file, or a node, or "nodes". message: what is missing. remedy: what
    would make a placement possible. proven: False where the search gave up before it had seen
    everything; a placement may then exist.
    """

    constraint: Constraint
    field: str
    message: str
    remedy: str
    proven: bool = True

    @property
    def sentence(self) -> str:
        """What is missing and what would help, as a person may read it."""
        return one_sentence(f"{self.message}; {self.remedy}")


@dataclass(frozen=True, slots=True)
class Situation:
    """What is to be placed, by which rules, on which nodes. held: units each node keeps."""

    graph: ModelGraph
    rules: Rules
    nodes: tuple[NodeView, ...]
    held: Held
    question: Question = field(default_factory=Question)

    def problem(self, *, every: bool = False) -> Problem:
        asked = self.question
        return formulate(self.graph, self.rules, self.nodes, self.held, asked, every=every)

    def possible(self) -> bool:
        """Whatever it costs: nobody has priced nodes that there might be."""
        unpriced = replace(self, question=replace(self.question, prices=Prices()))
        return feasible(unpriced.problem(), _EXPANSIONS).path is not None


def explain(situation: Situation, *, proven: bool) -> Infeasible:
    """Why `situation`, for which no placement was found, has none."""
    gap = first_gap(situation.rules, situation.nodes)
    if gap is not None:
        return _infeasible(gap, _close_gaps(situation), proven=True)
    if not situation.question.plain:
        asked = replace(situation, question=situation.question.without_limits())
        if asked.possible():
            return unmet(situation, proven=proven)
        situation = asked
    if _with_segments(situation, situation.rules.units).possible():
        remedy = _more_segments(situation)
        limit = situation.rules.max_segments
        message = "no placement has " + (
            "1 segment" if limit == 1 else f"{limit} segments or fewer"
        )
        gap = Gap("segments", "policy.max_segments", message)
        return _infeasible(gap, remedy + _beside(situation), proven=proven)
    node, remedy = _more_memory(situation)
    gap = Gap("memory", node, _memory_message(situation))
    return _infeasible(gap, remedy + _beside(situation), proven=proven)


def unmet(situation: Situation, *, proven: bool) -> Infeasible:
    """Why a placement that fits misses what was asked of it: each limit is taken away in turn."""
    for look in (_too_slow, _too_slow_trip, _too_many, _too_exposed):
        found = look(situation)
        if found is not None:
            gap, remedy = found
            return _infeasible(gap, remedy, proven=proven)
    message = "no placement meets all that is asked of it: time, load, error and exposure together"
    gap = Gap("targets", "sla", message)
    return _infeasible(gap, "raise the limit that matters least", proven=proven)


def _too_many(situation: Situation) -> tuple[Gap, str] | None:
    """More requests than any placement can bear."""
    asked, rate = situation.question, situation.question.aim.rate_per_s
    widest = replace(asked, aim=Aim(latency=0.0, busiest=1.0))
    problem = replace(situation, question=widest).problem()
    path = best(problem, widest.aim, _TARGET_EXPANSIONS).path
    if path is None or not rate:
        return None
    most = 1e9 / busiest_ns(problem, path)
    if rate < most:
        return None
    message = f"{rate:g} requests a second come, and no chain bears more than {most:.3g}"
    return Gap("rate", "sla.rate_per_s", message), "lower sla.rate_per_s, or start more nodes"


def _too_slow(situation: Situation) -> tuple[Gap, str] | None:
    asked, aim = situation.question, situation.question.aim
    if aim.latency_max_s is None:
        return None
    fastest = replace(asked, aim=Aim(rate_per_s=aim.rate_per_s, share=aim.share))
    problem = replace(situation, question=fastest).problem()
    path = best(problem, fastest.aim, _TARGET_EXPANSIONS).path
    if path is None:
        return None
    wait = Pressure(fastest.aim).wait_ns(busiest_ns(problem, path))
    least = math.ceil((latency_ns(problem, path) + wait) / 1e5) / 10
    if least <= aim.latency_max_s * 1000:
        return None
    message = (
        f"{aim.share * 100:g} % of requests are to take {aim.latency_max_s * 1000:g} ms at most, "
        f"and the fastest placement takes {least:g} ms at {aim.rate_per_s:g} requests a second"
    )
    return Gap("latency", "sla.latency_ms", message), f"raise sla.latency_ms to {least:g}"


def _too_slow_trip(situation: Situation) -> tuple[Gap, str] | None:
    """A prompt, or a step of decoding, takes longer than asked wherever it is computed."""
    asked = situation.question
    for phase, limit_s in asked.trip_max_s:
        trips = tuple(trip for trip in asked.trips if trip.phase == phase)
        alone = replace(
            asked, aim=Aim(), trips=trips, busy=(), trip_max_s=((phase, limit_s),), texts=None
        )
        free = replace(situation, question=replace(alone, trip_max_s=())).problem()
        path = best(free, Aim(), _TARGET_EXPANSIONS).path
        if path is None:
            continue
        problem = replace(situation, question=alone).problem()
        least = math.ceil(problem.budgets[-1].sums.along(*path) / 1e5) / 10
        if least > limit_s * 1000:
            field = problem.budgets[-1].field
            message = f"{_MEANS[field]} takes {least:g} ms at best, {field} is {limit_s * 1000:g}"
            return Gap("latency", field, message), f"raise {field} to {least:g}"
    return None


_MEANS: Final = {"sla.first_token_ms": "a first token", "sla.token_ms": "a token"}


def unpunctual(found: Plan, sla: Sla, question: Question) -> Infeasible:
    """Of texts, whose times are a condition: the best placement misses it under their load."""
    cadence, rate = found.cadence, question.aim.rate_per_s
    assert cadence is not None  # noqa: S101 - it is of texts
    if not cadence.sustained:
        message = (
            f"{rate:g} texts a second come, and the placement found bears {found.rate_per_s:.3g}"
        )
        gap = Gap("rate", "sla.rate_per_s", message)
        return _unproven(gap, "lower sla.rate_per_s, or start more nodes")
    first_ms = math.ceil(cadence.first_within_s * 1e3)
    late = sla.first_token_ms is not None and first_ms > sla.first_token_ms
    field = "sla.first_token_ms" if late else "sla.token_ms"
    limit = sla.first_token_ms if late else sla.token_ms
    takes = first_ms if late else math.ceil(cadence.token_within_s * 1e4) / 10
    message = (
        f"at {rate:g} texts a second {sla.percentile:g} % of what {field} limits to {limit:g} ms "
        f"take up to {takes:g} ms by the best placement found"
    )
    gap = Gap("latency", field, message)
    return _unproven(gap, f"raise {field} to {takes:g}, or start more nodes")


def _too_exposed(situation: Situation) -> tuple[Gap, str] | None:
    asked = situation.question
    if asked.exposure_max is None:
        return None
    closest = replace(asked, aim=Aim(latency=0.0, exposure=1.0), exposure_max=None)
    problem = replace(situation, question=closest).problem()
    path = best(problem, closest.aim, _TARGET_EXPANSIONS).path
    if path is None:
        return None
    start, outside = 0, 0
    for node, stop, _ in path[1]:
        if not situation.rules.trusts(problem.nodes[node]):
            outside += stop - start
        start = stop
    share = outside / problem.units
    if share <= asked.exposure_max:
        return None
    message = (
        f"at least {share:.2g} of the units must be computed outside of the trusted zones, "
        f"privacy.max_exposure is {asked.exposure_max:g}"
    )
    remedy = f"raise privacy.max_exposure to {share:.2g}, or start nodes in trusted zones"
    return Gap("exposure", "privacy.max_exposure", message), remedy


def _beside(situation: Situation) -> str:
    """Who is there and takes no part, for what lacks might be there."""
    unfit = [n for n in situation.nodes if n.unfit and n.node not in situation.rules.forbidden]
    return f" (node {unfit[0].node} {unfit[0].unfit})" if unfit else ""


def _infeasible(gap: Gap, remedy: str, *, proven: bool) -> Infeasible:
    """proven: False where the search was cut off."""
    if not proven:
        cut_off = f"the search was cut off before it found a placement: {gap.message}"
        return _unproven(replace(gap, message=cut_off), remedy)
    return replace(_unproven(gap, remedy), proven=True)


def _unproven(gap: Gap, remedy: str) -> Infeasible:
    message, remedy = one_sentence(gap.message), one_sentence(remedy)
    return Infeasible(gap.constraint, gap.field, message, remedy, proven=False)


def _close_gaps(situation: Situation) -> str:
    total = _steps(situation)
    added = newcomers(situation.rules, situation.nodes, _nbytes(total))
    if added is None:
        free = replace(situation, rules=situation.rules.without_split())
        return _then("set split to null", free)
    whole = _joined(situation, added)
    if not whole.possible():
        return _then(_deeds(situation, added, total), whole)

    def suffices(steps: int) -> bool:
        views = newcomers(situation.rules, situation.nodes, _nbytes(steps))
        return views is not None and _joined(situation, views).possible()

    return _deeds(situation, added, _least(suffices, total))


def _deeds(situation: Situation, added: Sequence[Newcomer], steps: int) -> str:
    deeds = "; ".join(new.deed for new in added)
    if not steps:
        return deeds
    who = "it" if len(added) == 1 else "each"
    caches = _tenths(_cache_bytes(situation))
    what = "weights and caches" if caches else "weights"
    return f"{deeds}; let {who} hold {_mib(steps + caches)} MiB of {what} at least"


def _then(deeds: str, situation: Situation) -> str:
    if situation.possible():
        return deeds
    return f"{deeds}; then {explain(situation, proven=True).remedy}"


def _joined(situation: Situation, added: Sequence[Newcomer]) -> Situation:
    return replace(situation, nodes=joined(situation.nodes, added))


def _with_segments(situation: Situation, limit: int) -> Situation:
    return replace(situation, rules=replace(situation.rules, max_segments=limit))


def _more_segments(situation: Situation) -> str:
    limit = situation.rules.max_segments
    more = _least(
        lambda more: _with_segments(situation, limit + more).possible(),
        situation.rules.units - limit,
    )
    return f"set policy.max_segments to {limit + more}"


def _more_memory(situation: Situation) -> tuple[str, str]:
    """The node and the remedy that asks for the least; "nodes" where no single one is enough."""
    total = _steps(situation)
    least, best = total + 1, ""
    for name in _worth_growing(situation):
        if _grown(situation, least - 1, name).possible():

            def suffices(steps: int, name: str = name) -> bool:
                return _grown(situation, steps, name).possible()

            least, best = _least(suffices, least - 1), name
    if best:
        return (
            best,
            f"{_mib(least + _overdrawn(situation, best))} MiB more of weights on node {best}",
        )
    owed = _overdrawn(situation)
    if _grown(situation, total).possible():
        steps = _least(lambda steps: _grown(situation, steps).possible(), total)
        return "nodes", f"{_mib(steps + owed)} MiB more of weights on every node"
    whole = _grown(situation, total)
    further = _more_segments(whole)
    return "nodes", f"{_mib(total + owed)} MiB more of weights on every node; {further}"


def _overdrawn(situation: Situation, name: str | None = None) -> int:
    """Tenths of a MiB that a node, or the worst of all, lacks before it can hold anything."""
    owed = [node.overdrawn_bytes for node in situation.nodes if name in (None, node.node)]
    return _tenths(max(owed, default=0))


def _worth_growing(situation: Situation) -> list[str]:
    """The roomiest nodes, of those without which no growth helps."""
    problem = situation.problem()
    useful = set(range(len(problem.nodes)))
    for group in problem.memory.short():
        useful &= group.nodes
    free = problem.memory.free
    roomiest = sorted(useful, key=lambda node: (-free[node], node))
    return [problem.nodes[node].node for node in roomiest[:_CANDIDATES]]


def _grown(situation: Situation, steps: int, name: str | None = None) -> Situation:
    """With more memory on one node, or on all."""
    nodes = tuple(
        replace(node, weight_bytes=node.weight_bytes + _nbytes(steps))
        if name in (None, node.node)
        else node
        for node in situation.nodes
    )
    return replace(situation, nodes=nodes)


def _memory_message(situation: Situation) -> str:
    message = _weights_message(situation)
    caches = _cache_bytes(situation)
    if not caches:
        return message
    return f"{message}; {caches / 2**20:.1f} MiB on each are for caches (generation.kv_mib_max)"


def _cache_bytes(situation: Situation) -> int:
    """What each node keeps free for caches."""
    return max((node.cache_bytes for node in situation.nodes), default=0)


def _weights_message(situation: Situation) -> str:
    problem = situation.problem()
    for unit, size in enumerate(problem.memory.weights):
        rooms = [
            problem.memory.caps[node]
            for node in range(len(problem.nodes))
            if problem.allowed[unit, node]
        ]
        if size > max(rooms):
            return (
                f"unit {unit} weighs {size / 2**20:.1f} MiB, and no node that may compute it can "
                f"hold more than {max(rooms) / 2**20:.1f} MiB"
            )
    for group in problem.memory.short():
        names = ", ".join(problem.nodes[node].node for node in sorted(group.nodes))
        return (
            f"{group.need[0] / 2**20:.1f} MiB of weights must be on nodes that have "
            f"{group.have / 2**20:.1f} MiB free: {names}"
        )
    total = situation.graph.weight_bytes(situation.graph.whole)
    return (
        f"no cut of the {total / 2**20:.1f} MiB of weights fits the {len(problem.nodes)} nodes "
        "that may take part"
    )


def _steps(situation: Situation) -> int:
    """Tenths of a MiB that are enough for the whole model."""
    return _tenths(situation.graph.weight_bytes(situation.graph.whole))


def _tenths(nbytes: int) -> int:
    return -(-nbytes * _STEPS_PER_MIB // 2**20)


def _nbytes(steps: int) -> int:
    return -(-steps * 2**20 // _STEPS_PER_MIB)


def _mib(steps: int) -> str:
    return f"{steps / _STEPS_PER_MIB:.1f}"


def _least(suffices: Callable[[int], bool], most: int) -> int:
    """The least number that suffices, given that `most` does."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if suffices(middle):
            high = middle
        else:
            low = middle + 1
    return low
