"""Best-first search for the placement with the least score: exact, and it says when it was not.

Paths (`core.tree`) are expanded in the order of what the whole chain takes at least: the score so
far and the least that can follow (`core.bounds`). That least is never too high, so the first
complete path taken is optimal.

What keeps the search small, besides what a tree does for itself:

* the *ceiling*: the score of a placement that is known. Nothing above it is kept. The first one
  comes from a descent, depth first, which also decides feasibility;
* *prices* of what is used up (`core.prices`), once a short search without them has not sufficed.

Among equal scores fewer segments win, then the path whose door, nodes and stops come first in
the order of names: paths with equal bounds are taken in that order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from dsi_mqtt.core.bounds import Bounds, Prices, ends_of, exact, grouped, nearest
from dsi_mqtt.core.prices import tuned
from dsi_mqtt.core.problem import Problem
from dsi_mqtt.core.tree import Path, Tree

# Expansions without prices; tuning them costs about as much as this many.
UNPRICED: Final = 60
# Expansions of the second descent, which has prices to follow but may not find the way down.
_DESCENT: Final = 200
CEILING: Final = float(np.finfo(np.float64).max)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search found.

    path: the best, or None. score: its score, with what tells equal ones apart. complete:
    nothing was cut off by the limit, so that the path is optimal, or None means that there is
    none. lower: no placement has less.
    """

    path: Path | None
    score: float
    considered: int
    complete: bool
    lower: float


NOTHING: Final = Outcome(None, np.inf, 0, complete=True, lower=np.inf)


def cheapest(
    problem: Problem, limit: int, *, unpriced: int = UNPRICED, ceiling: float = CEILING
) -> Outcome:
    """The placement with the least score, within `limit` expansions.

    unpriced: how many of them before memory gets prices. ceiling: what costs more is of no use.
    """
    if not problem.doors:
        return NOTHING
    none = Prices.none(problem)
    roots = Bounds.of(problem, none, grouped(problem.doors)).roots()
    door = nearest(roots)
    alone = Bounds.of(problem, none, exact([door]))
    known = _descend(alone, door, ceiling, limit)
    if known.path is None:
        if not known.complete or _tells(problem, ceiling):
            return known
        known = Outcome(None, np.inf, known.considered, complete=False, lower=-np.inf)
    doors = _near(roots, min(known.score, ceiling))
    bounds = alone if doors == [door] else Bounds.of(problem, none, ends_of(doors))
    known = _ascend(bounds, known, min(limit, known.considered + unpriced), ceiling)
    if known.complete or known.considered >= limit:
        return known
    target = min(known.score, ceiling)
    if target == CEILING:
        target = 2 * known.lower
    priced = Bounds.of(problem, tuned(problem, doors, target), bounds.ends)
    roots = priced.roots()
    door = nearest(roots)
    most = min(_DESCENT, limit - known.considered)
    alone = Bounds.of(problem, priced.prices, exact([door]))
    better = _descend(alone, door, min(known.score, ceiling), most)
    return _ascend(priced, _merged(known, better), limit, ceiling)


def _near(roots: dict[int, float], ceiling: float) -> list[int]:
    """Doors that may be those of a better placement, the most promising first."""
    near = sorted((least, door) for door, least in roots.items() if least <= ceiling)
    return [door for _, door in near]


def feasible(problem: Problem, limit: int) -> Outcome:
    """Any placement; its score need not be the least."""
    if not problem.doors:
        return NOTHING
    bounds = Bounds.of(problem, Prices.none(problem), exact(problem.doors[:1]))
    return _descend(bounds, problem.doors[0], CEILING, limit)


def _tells(problem: Problem, ceiling: float) -> bool:
    """Whether one door that has no placement says that none has."""
    free = not problem.budgets and not np.isfinite(problem.cap)
    return free and ceiling == CEILING


def _merged(known: Outcome, other: Outcome) -> Outcome:
    considered = known.considered + other.considered
    best = known if other.path is None or known.score <= other.score else other
    return Outcome(best.path, best.score, considered, complete=False, lower=known.lower)


def _descend(bounds: Bounds, door: int, ceiling: float, limit: int) -> Outcome:
    """The first placement found depth first. What fits does not depend on the door."""
    tree = Tree(bounds, ceiling, deepest_first=True)
    tree.plant(0, door)
    while tree.heap and tree.best is None:
        if tree.considered >= limit:
            return Outcome(None, np.inf, tree.considered, complete=False, lower=-np.inf)
        tree.expand(tree.pop())
    if tree.best is None:
        return Outcome(None, np.inf, tree.considered, complete=True, lower=np.inf)
    best = tree.best
    return Outcome(best.path, best.least, tree.considered, complete=False, lower=-np.inf)


def _ascend(bounds: Bounds, known: Outcome, limit: int, ceiling: float) -> Outcome:
    """The best placement, given a known one; the best seen once `limit` is reached."""
    tree = Tree(bounds, min(known.score, ceiling), considered=known.considered)
    for row, end in enumerate(bounds.ends):
        for door in end.doors:
            tree.plant(row, door)
    while tree.heap and tree.considered < limit:
        entry = tree.pop()
        if entry.stop == bounds.problem.units:
            return Outcome(entry.path, entry.least, tree.considered, True, entry.least)
        tree.expand(entry)
    if not tree.heap:
        return Outcome(known.path, known.score, tree.considered, True, known.score)
    lower = max(known.lower, tree.heap[0].least)
    if tree.best is None:
        return Outcome(known.path, known.score, tree.considered, False, lower)
    return Outcome(tree.best.path, tree.best.least, tree.considered, False, lower)
