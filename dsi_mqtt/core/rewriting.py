"""The same chain, its hops written otherwise so that it keeps within the budgets.

What is over a budget is written in another way hop by hop, always where that costs the least for
what it spares. So chains that bounds stand for, which forget budgets, become placements.
"""

from __future__ import annotations

from itertools import pairwise

from dsi_mqtt.core.bounds import Steps
from dsi_mqtt.core.problem import Budget, Problem


def rewritten(problem: Problem, door: int, steps: Steps) -> Steps:
    """As far as writing can mend it."""
    for budget in problem.budgets:
        over = budget.sums.along(door, steps) - budget.limit
        if over <= 0:
            continue
        written = list(steps)
        for _, place, other in sorted(_swaps(problem, budget, steps)):
            node, stop, coding = written[place]
            hop = steps[place - 1][0], node, steps[place - 1][1]
            spared = budget.sums.hop_of(*hop, coding) - budget.sums.hop_of(*hop, other)
            if spared > 0 and over > 0:
                written[place] = node, stop, other
                over -= spared
        steps = tuple(written)
    return steps


def _swaps(problem: Problem, budget: Budget, steps: Steps) -> list[tuple[float, int, int]]:
    """(score for each part of the budget that is spared, which step, its coding instead)."""
    swaps = []
    for place, ((source, cut, _), (target, _, coding)) in enumerate(pairwise(steps), 1):
        used = budget.sums.hop_of(source, target, cut, coding)
        spent = problem.score.hop_of(source, target, cut, coding)
        for other in range(len(problem.codings)):
            spared = used - budget.sums.hop_of(source, target, cut, other)
            if spared > 0:
                more = problem.score.hop_of(source, target, cut, other) - spent
                swaps.append((more / spared, place, other))
    return swaps
