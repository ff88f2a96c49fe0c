"""Where one chain is not enough: segments that several nodes serve, each for a share of requests.

A chain bears no more than its busiest station. A segment of that station is then given to another
node as well, with weights that leave less to do there, and so on while that
helps: beginning with the best chain, and with all of the model on one node, which several may
serve whole. It is a search by steepest descent, and no proof: a chain without replicas is exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np

from dsi_mqtt.core.aim import Aim
from dsi_mqtt.core.duties import busy_along
from dsi_mqtt.core.model import ModelGraph
from dsi_mqtt.core.path import Path, Step
from dsi_mqtt.core.pressure import Pressure
from dsi_mqtt.core.problem import Nanoseconds, Problem
from dsi_mqtt.core.ways import Way, Weights, busy, nodes_of, ways_of

# Nodes that may be tried as the next replica: those that are least busy.
CANDIDATES: Final = 8
# A step that saves less is none.
LEAST: Final = 0.01
_POWER: Final = 12
# Shares of what a replica has that it may hand on to another.
_SHARES: Final = (0.0625, 0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True)
class Replicated:
    """A chain and, of each step, its replicas with weights; none: its own node alone."""

    path: Path
    weights: tuple[Weights, ...]

    @property
    def ways(self) -> tuple[Way, ...]:
        return ways_of(self.path, self.weights)


class Rank(NamedTuple):
    """overloaded: more come than it bears. score: or then, how long stations are busy."""

    overloaded: bool
    score: float

    def saves(self, before: Rank) -> bool:
        if self.overloaded != before.overloaded:
            return before.overloaded
        return self.score < before.score * (1 - LEAST)


@dataclass(frozen=True, slots=True)
class Replicating:
    """replicas_max: of one segment."""

    problem: Problem
    graph: ModelGraph
    aim: Aim
    replicas_max: int
    _known: dict[Path, tuple[Nanoseconds, float]] = field(default_factory=dict)

    def best(self, path: Path) -> Replicated | None:
        """The best that was found; None: nothing is better than the chain itself."""
        found = [self._descend(_plain(start)) for start in self._starts(path)]
        best = min(found, key=self._rank)
        return best if self._rank(best) < self._rank(_plain(path)) and any(best.weights) else None

    def _starts(self, path: Path) -> Iterator[Path]:
        yield path
        alone = self.problem.alone(self.problem.score, self.problem.fees)
        if alone is not None and len(path[1]) > 1:
            _, door, node = alone
            yield door, (Step(node, self.problem.units, 0),)

    def _descend(self, shared: Replicated) -> Replicated:
        while True:
            following = min(self._steps(shared), key=self._potential, default=None)
            known = self._potential(shared)
            if following is None or not self._potential(following).saves(known):
                return shared
            shared = following

    def _potential(self, shared: Replicated) -> Rank:
        return self._rank(shared, _POWER)

    def _rank(self, shared: Replicated, power: float = math.inf) -> Rank:
        """power: less than infinity counts other busy stations besides the busiest of all. Where
        several are as busy, relief for one is none for the busiest, and a step on the way.
        """
        ways, pressure = shared.ways, Pressure(self.aim)
        told = [self._along(way.path) for way in ways]
        stations = sum(
            (way.share * kept for way, (kept, _) in zip(ways, told, strict=True)),
            start=np.zeros((3, len(self.problem.nodes))),
        )
        load = most = float(stations.max())
        if most and power < math.inf:
            load = most * float(((stations / most) ** power).sum()) ** (1 / power)
        if load >= pressure.most:
            return Rank(True, load)
        fees = sum(float(self.problem.fees[node]) for node in nodes_of(ways))
        score = sum(way.share * score for way, (_, score) in zip(ways, told, strict=True))
        return Rank(False, score + fees + pressure.adds(load))

    def _along(self, path: Path) -> tuple[Nanoseconds, float]:
        """How long it keeps stations busy, and its score: the same chains come again and again."""
        known = self._known.get(path)
        if known is None:
            kept = busy_along(self.problem, *path)
            known = self._known[path] = kept, self.problem.score.along(*path)
        return known

    def _steps(self, shared: Replicated) -> Iterator[Replicated]:
        """One replica more, or other weights, of a segment at the busiest station."""
        stations = busy(self.problem, shared.ways).max(axis=0)
        busiest = int(stations.argmax())
        order = [int(node) for node in stations.argsort(kind="stable")]
        for place, step in enumerate(shared.path[1]):
            replicas = shared.weights[place] or ((step.node, 1.0),)
            if busiest not in {node for node, _ in replicas}:
                continue
            there = {node for node, _ in replicas}
            tried = [node for node in order if node != busiest and self._may(shared, place, node)]
            for node in tried[: CANDIDATES + len(there)]:
                if node in there or len(there) < self.replicas_max:
                    yield from self._handed(shared, place, busiest, node)

    def _handed(
        self, shared: Replicated, place: int, giver: int, taker: int
    ) -> Iterator[Replicated]:
        step = shared.path[1][place]
        weights = dict(shared.weights[place] or ((step.node, 1.0),))
        for share in _SHARES:
            handed = share * weights[giver]
            changed = dict(weights)
            changed[giver] -= handed
            changed[taker] = changed.get(taker, 0.0) + handed
            given = list(shared.weights)
            given[place] = tuple(changed.items())
            found = replace(shared, weights=tuple(given))
            if self._within_budgets(found):
                yield found

    def _may(self, shared: Replicated, place: int, node: int) -> bool:
        problem, steps = self.problem, shared.path[1]
        start = steps[place - 1].stop if place else 0
        units = range(start, steps[place].stop)
        if not problem.allowed[list(units), node].all():
            return False
        held = set(problem.memory.kept[node]) | set(units)
        before = 0
        for other, step in enumerate(steps):
            replicas = shared.weights[other] or ((step.node, 1.0),)
            if node in {name for name, _ in replicas}:
                held |= set(range(before, step.stop))
            before = step.stop
        return self.graph.held_bytes(held) <= problem.nodes[node].weight_bytes

    def _within_budgets(self, shared: Replicated) -> bool:
        """Each chain of it: an error is not made good by another's."""
        return all(
            budget.sums.along(*way.path) <= budget.limit
            for budget in self.problem.budgets
            for way in shared.ways
        )


def _plain(path: Path) -> Replicated:
    return Replicated(path, ((),) * len(path[1]))
