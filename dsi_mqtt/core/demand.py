"""How long placements keep stations busy: of one that is known, and of the best there can be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from dsi_mqtt.core.bounds import Steps
from dsi_mqtt.core.duties import busy_along
from dsi_mqtt.core.problem import Chain, Cuts, Nanoseconds, Problem
from dsi_mqtt.core.programme import elsewhere

# The door, and what it leads to.
Laid = tuple[int, Chain]

# Of weighing nodes against each other; so many in which little was won end it.
ROUNDS: Final = 20
_IN_VAIN: Final = 4
_LITTLE: Final = 1e-3
# Segments of which the least demand is known at once.
HALVES: Final = 2


def busiest_ns(problem: Problem, path: Laid) -> float:
    """How long one request keeps the station busy that it keeps busy for longest."""
    return float(busy_along(problem, *path).max())


def latency_ns(problem: Problem, path: Laid) -> float:
    """Of one request that waits for none."""
    return problem.latency.along(*path)


def least_demand(problem: Problem, rounds: int = ROUNDS) -> tuple[float, Nanoseconds]:
    """In ns: no placement within the cap keeps its busiest station busy for less; and why: [node],
    weights whose sum is 1.

    Whatever weights nodes have, the busiest works no less than those that are used on the weighted
    mean, and these no less together than if each unit were where it weighs the least. Each that is
    used has a segment besides. Weights are raised where too much would go, and lowered elsewhere.
    What a budget allows is credited with its own weight.
    """
    nodes, segment = len(problem.nodes), problem.demands.segment
    each = np.diff(problem.demands.compute, axis=0)
    each = np.where(problem.allowed & (each + segment <= problem.cap), each, np.inf)
    least = each.min(axis=1, initial=np.inf)
    if not np.isfinite(least).all():
        return 0.0, np.full(nodes, 1 / max(nodes, 1))
    means = np.where(np.isfinite(each), each, 0.0).sum(axis=0) / problem.units
    weights = 1 / np.maximum(means, 1.0)
    used = min(nodes, problem.units, problem.max_segments)
    best, highest, length = weights / weights.sum(), 0.0, 0.8
    units, scarce, in_vain = np.arange(problem.units), _Scarce.of(problem), 0
    patience = (1 + len(scarce.uses)) * _IN_VAIN
    for _ in range(rounds):
        there = scarce.charged(weights * each).argmin(axis=1)
        works = np.bincount(there, each[units, there], nodes)
        heaviest = float(np.partition(weights, nodes - used)[nodes - used :].sum())
        together = float(weights @ works)
        bound = (together + scarce.beyond(there)) / heaviest
        in_vain = 0 if bound > highest * (1 + _LITTLE) else in_vain + 1
        if bound > highest:
            best, highest = weights / weights.sum(), bound
        else:
            length *= 0.7
        if not together or in_vain == patience:
            break
        scarce.weigh(there, together, length)
        weights = weights * (works * (heaviest / together)).clip(0.1, 10.0) ** length
    alone = float(least.max())
    if problem.max_segments == HALVES:
        alone = max(alone, halved(problem)[0] - segment)
    return max(math.floor(highest), alone) + segment, best


@dataclass(slots=True, eq=False)
class _Scarce:
    """Budgets that units use up. uses[budget, unit, node]: share of its limit. weights: of the
    whole of it, beside the works that are weighed.
    """

    uses: Nanoseconds
    weights: Nanoseconds

    @classmethod
    def of(cls, problem: Problem) -> _Scarce:
        budgets = [b for b in problem.budgets if b.limit > 0 and b.sums.compute.any()]
        shape = (len(budgets), problem.units, len(problem.nodes))
        uses = np.array([np.diff(b.sums.compute, axis=0) / b.limit for b in budgets])
        return cls(uses.reshape(shape), np.zeros(len(budgets)))

    def charged(self, works: Nanoseconds) -> Nanoseconds:
        for weight, use in zip(self.weights, self.uses, strict=True):
            if weight:
                works = works + weight * use
        return works

    def _used(self, there: Cuts) -> Nanoseconds:
        used: Nanoseconds = self.uses[:, np.arange(len(there)), there].sum(axis=1)
        return used

    def beyond(self, there: Cuts) -> float:
        """Of what is used beyond the limits, the weight."""
        return float(self.weights @ (self._used(there) - 1.0)) if len(self.weights) else 0.0

    def weigh(self, there: Cuts, together: float, length: float) -> None:
        """together: what all work weighs."""
        if not len(self.weights):
            return
        used = self._used(there)
        begun = np.where((used > 1) & (self.weights == 0), together / 4, self.weights)
        self.weights = begun * used.clip(0.1, 10.0) ** length


def halved(problem: Problem) -> tuple[float, Steps]:
    """The least demand of chains of one segment or two, in ns; and a chain of two with the least of
    those, none where there is none.

    Codecs count for nothing but what they make of the bytes, nor do the door's hops: of a chain of
    two the least is most often true.
    """
    demands, reach, units = problem.demands, problem.reach, problem.units
    work, sends, gets = demands.compute, demands.sends[:, 1:-1], demands.gets[:, 1:-1]
    cuts, inner = np.arange(1, units)[:, None], work[1:-1]
    first = np.maximum(inner + demands.segment, sends.min(axis=0))
    first[cuts > reach[0]] = np.inf
    last = np.maximum(work[-1] - inner + demands.segment, gets.min(axis=0))
    last[reach[1:] < units] = np.inf
    both = np.maximum(first, elsewhere(last))
    alone = float(work[-1, reach[0] >= units].min(initial=np.inf)) + demands.segment
    if not both.size or np.isinf(both.min()):
        return alone, ()
    place, source = divmod(int(both.argmin()), both.shape[1])
    last[place, source] = np.inf
    target = int(last[place].argmin())
    coding = int(np.maximum(sends[:, place, source], gets[:, place, target]).argmin())
    steps = (source, place + 1, 0), (target, units, coding)
    return min(alone, float(both[place, source])), steps
